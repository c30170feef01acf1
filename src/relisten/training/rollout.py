"""Rollouts: answers that are sampled for training, their rewards and advantages, and files of samples to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from relisten import records
from relisten.engine.answering import Answering
from relisten.engine.generation import GenerationConfig
from relisten.files import make_folder
from relisten.segments import iou
from relisten.training import rewards
from relisten.training.losses import group_advantages
from relisten.training.rewards import RewardFunction, TracedResponse
from relisten.types import Example, Trace


@dataclass(slots=True)
class Rollout:
    """One sampled answer with its rewards."""

    example: Example
    trace: Trace
    response: TracedResponse
    rewards: dict[str, float]
    advantage: float = 0.0

    @property
    def reward(self) -> float:
        """The sum of all rewards."""
        return sum(self.rewards.values())


def roll_out(
    engine: Answering,
    examples: Sequence[Example],
    config: GenerationConfig,
    group_size: int,
    functions: Mapping[str, RewardFunction],
    seconds: dict[str, float],
) -> tuple[list[list[Rollout]], dict[str, str]]:
    """A group of answers to each example, rewarded, and why an example could not be asked, by its id.

    In place of such an example another one is asked once more, so that the number of groups stays the same.
    Raises ValueError if none can be asked. `seconds` gains the time of `rollout` and of `reward`; `engine.usage` is
    that of the whole rollout.
    """
    started = perf_counter()
    asked, failed = list(examples), dict[int, str]()
    groups = engine.generate(asked, config, group_size, failed.__setitem__)
    if failed:
        usage = engine.usage
        able = [example for index, example in enumerate(examples) if index not in failed]
        if not able:
            raise ValueError(
                f"none of a rollout's {len(examples)} questions can be asked; {next(iter(failed.values()))}"
            )
        for turn, index in enumerate(failed):
            other = able[turn % len(able)]
            asked[index] = replace(other, id=f"{other.id}#{index}")  # a row draws by its id: other answers
        for index, traces in zip(failed, engine.generate([asked[i] for i in failed], config, group_size), strict=True):
            groups[index] = traces
        engine.usage = usage.merged(engine.usage)
    sampled = perf_counter()
    rolled = []
    for example, traces in zip(asked, groups, strict=True):
        responses = [rewards.traced(engine.model, trace, config) for trace in traces]
        scores = [rewards.score(functions, response, example) for response in responses]
        rolled.append([Rollout(example, t, r, s) for t, r, s in zip(traces, responses, scores, strict=True)])
    seconds["rollout"] = seconds.get("rollout", 0.0) + sampled - started
    seconds["reward"] = seconds.get("reward", 0.0) + perf_counter() - sampled
    return rolled, {examples[index].id: reason for index, reason in failed.items()}


def set_advantages(groups: Sequence[Sequence[Rollout]], normalise: bool, leave_one_out: bool) -> None:
    """Set the advantage of each rollout by comparing it with its group."""
    earned = torch.tensor([[rollout.reward for rollout in group] for group in groups], dtype=torch.float64)
    for group, advantages in zip(groups, group_advantages(earned, normalise, leave_one_out).tolist(), strict=True):
        for rollout, advantage in zip(group, advantages, strict=True):
            rollout.advantage = advantage


def measure(rollout: Rollout) -> dict[str, float]:
    """Figures of one rollout. Those that do not exist, such as the mean length of no segments, are left out."""
    heard = rollout.response.heard
    figures = {
        "reward": rollout.reward,
        **{f"reward_{name}": value for name, value in rollout.rewards.items()},
        "well_formed": float(rollout.response.well_formed and rollout.response.complete),
        "over_limit": float(not rollout.response.complete),
        "segments": float(len(heard)),
        "heard_once": float(len(heard) >= 1),
        "heard_twice": float(len(heard) >= 2),
        "refusals": float(len(rollout.trace.refusals)),
        "tokens": float(sum(rollout.trace.sampled)),
        "heard_share": sum(one.duration for one in heard) / rollout.response.duration,
    }
    for name in rollout.trace.operations if len(rollout.trace.operations) > 1 else ():
        figures[f"heard_{name}"] = float(any(listen.operation == name for listen in rollout.trace.listens[1:]))
    if heard:
        figures["segment_seconds"] = float(np.mean([segment.duration for segment in heard]))
    if len(heard) > 1:
        figures["segment_overlap"] = float(np.mean([iou(a, b) for a, b in combinations(heard, 2)]))
    return figures


def averages(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the rollouts that have it."""
    names = dict.fromkeys(name for one in figures for name in one)
    return {name: float(np.mean([one[name] for one in figures if name in one])) for name in names}


def write_samples(path: Path, step: int, groups: Sequence[Sequence[Rollout]], num: int = 4) -> None:
    """Write some groups as text to read: each question, then its answers and what each earned at this step."""
    lines = [f"# Step {step}", ""]
    for group in groups[:num]:
        example = group[0].example
        choices = f" ({', '.join(example.choices)})" if example.choices else ""
        lines += [f"## {example.id}: {example.question}{choices}", "", f"Right: {example.answer}", ""]
        names = list(group[0].rewards)
        lines += [f"| | {' | '.join(names)} | advantage | tokens | heard | end |", "|--:|" + "--:|" * (len(names) + 4)]
        for index, one in enumerate(group, start=1):
            values = " | ".join(f"{value:g}" for value in one.rewards.values())
            cells = f"{one.advantage:+.2f} | {sum(one.trace.sampled)} | {len(one.response.heard)} | {one.trace.finish}"
            lines.append(f"| {index} | {values} | {cells} |")
        lines.append("")
        for index, one in enumerate(group, start=1):
            heard = ", ".join(f"{s.start:.1f}-{s.end:.1f}" for s in one.response.heard) or "nothing"
            refused = "".join(f"; refused {r.text} ({r.reason})" for r in one.trace.refusals)
            lines += [f"{index}. {one.trace.text!r}", f"   heard {heard}{refused}", ""]
    records.write_atomic(make_folder(path.parent) / path.name, "\n".join(lines) + "\n")
