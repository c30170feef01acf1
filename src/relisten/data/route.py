"""Divides questions into two sets: SFT if question and chain of thought are valid, RL if only the question is.

All other questions are rejected with stage and reason. Over the whole set, near-duplicates are removed and right
answers are spread evenly over the positions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relisten import tags
from relisten.data import checks
from relisten.data.checks import alike, words
from relisten.data.messages import digest
from relisten.data.near import Near
from relisten.types import Example

NEAR = 0.8
"""Jaccard similarity from which two questions count as the same. Within a recording it is that of the words, for
questions of one kind with one answer about the same sounds. Between recordings it is that of runs of three words in
question, choices and chain of thought."""
Asks = tuple[str, str, frozenset[str]]
"""What a question asks for: its answer, its kind, and the labels that it names."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A question that is kept (`set` is sft or rl), or one that is rejected, with stage and reason."""

    id: str
    set: str
    example: Example | None = None
    stage: str = ""
    reason: str = ""


@dataclass
class Funnel:
    """How many questions passed each stage; `clips` and `described` count clips."""

    clips: int = 0
    described: int = 0
    asked: int = 0
    composed: int = 0
    checked: int = 0
    judged: int = 0
    sft: int = 0
    rl: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Rejected questions and clips by "stage: reason", with N for numbers."""

    def count(self, one: Routed) -> None:
        """Count a question, or a clip that gave none."""
        passed = {"source": 0, "describe": 0, "compose": 1, "check": 2, "judge": 3, "route": 4}.get(one.stage, 5)
        for number, name in enumerate(("asked", "composed", "checked", "judged"), start=1):
            setattr(self, name, getattr(self, name) + (passed >= number))
        if one.set:
            setattr(self, one.set, getattr(self, one.set) + 1)
        else:
            short = re.sub(r"[0-9]+(\.[0-9]+)?", "N", one.reason.split(":")[0] if one.stage == "judge" else one.reason)
            reason = f"{one.stage}: {short[:80]}"
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


def route(outcomes: Iterable[tuple[str, dict[str, Any]]], source: str, seed: int, funnel: Funnel) -> Iterator[Routed]:
    """Every question of the outcomes, in their order, counted into the funnel. Equal outcomes give equal questions."""
    near = Near(NEAR)
    places = Places(seed)
    for clip, outcome in outcomes:
        funnel.clips += 1
        if "stage" in outcome:
            found = [Routed(clip, "", None, outcome["stage"], outcome["reason"])]
        else:
            funnel.described += 1
            before: list[tuple[set[str], Asks]] = []
            found = [
                _question(f"{clip}-{asked['number']}", source, outcome, asked, before, near, places)
                for asked in outcome["questions"]
            ]
        for one in found:
            funnel.count(one)
            yield one


def _question(
    id: str,
    source: str,
    outcome: dict[str, Any],
    asked: dict[str, Any],
    before: list[tuple[set[str], Asks]],
    near: Near,
    places: Places,
) -> Routed:
    if "route" not in asked:
        return Routed(id, "", None, asked["stage"], asked["reason"])
    draft = asked["draft"]
    said = set(words(draft["question"]))
    answer = draft["answer"].casefold()
    named = frozenset(label for label, *_ in outcome["events"] if set(words(checks.said(label))) <= said)
    asks = answer, draft["kind"], named
    if any(asks == other and alike(said, one) >= NEAR for one, other in before):
        return Routed(id, "", None, "route", "a question nearly the same was asked about this recording")
    told = [word for word in words(draft["cot"]) if not word[0].isdigit()]
    shown = [word for choice in sorted(draft["choices"]) for word in words(choice)]
    if near.again([*words(draft["question"]), *shown, *words(answer), *told]):
        return Routed(id, "", None, "route", "nearly the same question and chain of thought are in the set")
    before.append((said, asks))
    segments = tags.parse(draft["cot"], tags.EVERY).segments
    labels: dict[str, Any] = {"kind": draft["kind"], "source": source, "duration": outcome["duration"]}
    labels |= {"prompt": draft["prompt"], "events": outcome["events"]}
    if asked["route"] == "sft":
        labels["segments"] = [[s.start, s.end] for s in segments]
    else:
        labels["cot_fault"] = asked["cot_fault"]
    choices = places.spread(asked["route"], id, draft["choices"], draft["answer"])
    cot = draft["cot"] if asked["route"] == "sft" else None
    example = Example(id, Path(outcome["audio"]), draft["question"], choices, draft["answer"], cot, labels)
    return Routed(id, asked["route"], example)


class Places:
    """Puts right answers at each position equally often, for each set and number of choices."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._num: Counter[tuple[str, int]] = Counter()

    def spread(self, set: str, id: str, choices: Iterable[str], answer: str) -> tuple[str, ...]:
        wrong = [choice for choice in choices if choice != answer]
        num = len(wrong) + 1
        turn, place = divmod(self._num[set, num], num)
        self._num[set, num] += 1
        # A new order in each round: places in turn would be a pattern.
        order = np.random.default_rng([self._seed, num, turn]).permutation(num)
        rng = np.random.default_rng([self._seed, int.from_bytes(digest(id), "big")])
        shuffled = [wrong[int(n)] for n in rng.permutation(len(wrong))]
        shuffled.insert(int(order[place]), answer)
        return tuple(shuffled)
