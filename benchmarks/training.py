"""`python -m benchmarks.training`: what a step of GRPO and one of SFT cost, beside the usual ways to make them.

The model has random weights, and the answers are scripted, so that every side does equal work in one process.

- GRPO: our trainer, and the same trainer with the loop of the paper's release: one answer at a time, everything encoded
  and read again for each answer and at each pause. The update is ours on both sides.
- SFT: our trainer, and transformers' own with the model's own forward and loss, on the same rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from benchmarks.engine import random_model
from benchmarks.timing import clocks, median, noise, ratio, scripted, show, spread, with_threads
from relisten import plotting
from relisten.cli import main, standalone
from relisten.engine.engine import GenerationConfig
from relisten.engine.naive import Script, naive
from relisten.engine.operations import crop
from relisten.engine.scripted import ScriptedEngine
from relisten.models.base import AudioLM
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.reports.table import Table
from relisten.training import trainer as training
from relisten.training.batch import Encoded, replay
from relisten.training.config import GrpoConfig, SftConfig, TrainingConfig
from relisten.training.grpo import GrpoTrainer
from relisten.training.sft import SftTrainer
from relisten.types import Audio, Example, Trace

Size = Literal["tiny", "small", "large"]
LOOP, ENGINE = "one at a time", "engine"
PLAIN, OURS, SHARED = "plain Trainer", "SFT, every answer a row", "SFT, answers share their recording"
TAGS = [f"<seg>{tenth / 10}, {tenth / 10}</seg>" for tenth in range(600)]
"""Words of the models' vocabularies; they make a tag five tokens, with its `>` in the last."""


@dataclass(frozen=True)
class Work:
    """What a step of GRPO has to do: answers as long as the paper's, with as many segments."""

    questions: int = 1
    group_size: int = 8
    seconds: float = 10.0
    """Length of each recording."""
    segments: int = 2
    """Segments of 3 s heard again in each answer."""
    sampled: int = 128
    """Tokens of an answer, on average: the shortest of a group has 3/4 of that, the longest 5/4."""


QUICK = Work(group_size=2, seconds=4.0, segments=1, sampled=24)
GROWTH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "group_size": ("answers per question (G)", (2, 4, 8)),
    "questions": ("questions per step", (1, 2, 4)),
    "seconds": ("seconds of a recording", (5.0, 10.0, 20.0, 40.0)),
    "segments": ("segments heard per answer", (0, 2, 4)),
}
"""What of a step is varied. All else is as in `Work`, with half the group and answers half as long."""


def train(
    *, repeats: int = 3, threads: int = 1, size: Size = "small", questions: int = 4, quick: bool = False,
    out: Path | None = None, plot: Path | None = None,
) -> int:  # fmt: skip
    """Measure training on this machine's CPU, with a random model and scripted answers; about five minutes.

    Parameters
    ----------
    repeats
        How often every side is run. Tables show the median ratio, the lowest and the highest.
    threads
        Threads of torch. More threads than free cores make every figure worse.
    size
        Size of the random model: tiny, small (about 7 M parameters) or large (about 110 M, twenty times as slow).
    questions
        How many questions are rolled out side by side, 8 answers each, beside the rollout of one.
    quick
        A tiny model, little work, one repeat. It shows that the benchmark runs, and measures nothing.
    out
        A JSON file for all figures.
    plot
        A picture (.png or .svg) of how the cost of a step grows.
    """
    if min(repeats, threads, questions) < 1:
        raise ValueError(f"repeats ({repeats}), threads ({threads}) and questions ({questions}) must be at least 1")
    work, repeats, size = (QUICK, 1, "tiny") if quick else (Work(), repeats, size)
    transformers.logging.set_verbosity_error()
    with with_threads(threads), tempfile.TemporaryDirectory() as folder:
        steps = Steps(size, Path(folder))
        found = measure(steps, work, repeats, questions, list(GROWTH)[: 1 if quick else None])
    result: dict[str, Any] = {"repeats": repeats, "threads": threads, "parameters": steps.parameters}
    result |= {"work": asdict(work)} | found
    show(tables(result), result, out)
    if plot is not None:
        plotting.save(growth_figure(result["growth"]), plot)
    return 0


def measure(steps: Steps, work: Work, repeats: int, questions: int, varied: Sequence[str]) -> dict[str, Any]:
    """Every figure, ready for JSON. AssertionError where both rollouts did not do the same."""
    half = replace(work, group_size=max(2, work.group_size // 2), sampled=work.sampled // 2)
    more = f"engine, {questions} questions"
    grpo: dict[str, list[dict[str, float]]] = {LOOP: [], ENGINE: []}
    rollout: dict[str, list[dict[str, float]]] = {LOOP: grpo[LOOP], ENGINE: grpo[ENGINE], more: []}
    sft: dict[str, list[dict[str, float]]] = {PLAIN: [], OURS: []}
    steps.grpo(replace(work, group_size=2, sampled=16), ENGINE)  # what is done once in a process is done now
    for _ in range(repeats):
        for side in grpo:
            grpo[side].append(steps.grpo(work, side))
        rollout[more].append(steps.rollout(replace(work, questions=questions)))
        for side in sft:
            sft[side].append(steps.sft(half, side))
    points = [(name, value, replace(half, **{name: value})) for name in varied for value in GROWTH[name][1]]
    growth = [{"what": name, "value": value, "times": [steps.grpo(point, ENGINE) for _ in range(repeats)]}
              for name, value, point in points]  # fmt: skip
    loop, engine = ([t for group in steps.traces[side, work] for t in group] for side in (LOOP, ENGINE))
    assert [(t.token_ids, t.sampled) for t in loop] == [(t.token_ids, t.sampled) for t in engine], "unequal work"
    return {
        "answers": len(engine), "sampled": sum(sum(t.sampled) for t in engine),
        "heard": sum(len(t.listens) - 1 for t in engine), "rollout": rollout, "grpo": grpo, "sft": sft,
        "sft tokens": steps.tokens, "losses": steps.losses, "growth": growth,
        "memory": {side: steps.memory(work, side) for side in (PLAIN, OURS, SHARED, "GRPO")},
    }  # fmt: skip


class Steps:
    """Makes steps of training, and keeps what they did."""

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        self.num_runs = self.parameters = self.tokens = 0
        self.losses: dict[str, float] = {}
        """The loss of each side's first step of SFT."""
        self.traces: dict[tuple[str, Work], list[list[Trace]]] = {}

    def grpo(self, work: Work, side: str, watch: Watch | None = None) -> dict[str, float]:
        """The seconds of one step of GRPO and of its rollout, by the engine or one answer at a time."""
        config = GrpoConfig(
            **self._settings(), steps=1, batch_size=work.questions, mini_batch_size=work.questions,
            group_size=work.group_size, device_batch_size=work.group_size, max_new_tokens=4 * work.sampled,
            rewards=("benchmarks.training:shortness",), log_steps=1,
        )  # fmt: skip
        model, watch, rollout = training.prepare(config), watch or Watch(), dict[str, float]()
        self.parameters = sum(p.numel() for p in model.module.parameters())
        given = {"args": self._arguments(config, model, work.questions), "callbacks": [watch]}
        data = noise(model, work.seconds, work.questions)
        trainer = GrpoTrainer(model, config, train_dataset=data, **given)
        kind = OneAtATime if side == LOOP else ScriptedEngine
        trainer.engine = engine = kind(model, partial(script, model, work), max_rows=config.rollout_rows)
        generate = engine.generate

        def timed(*asked: Any, **options: Any) -> list[list[Trace]]:
            with clocks(rollout, "rollout "):
                self.traces[side, work] = groups = generate(*asked, **options)
            return groups

        engine.generate = timed  # type: ignore[method-assign, assignment]
        run_quietly(trainer)
        return watch.steps[0] | rollout

    def rollout(self, work: Work) -> dict[str, float]:
        """The engine's answers alone; seconds for each question."""
        model, found = MODELS[self.size](), dict[str, float]()
        engine = ScriptedEngine(model, partial(script, model, work), max_rows=GrpoConfig.rollout_rows)
        config = GenerationConfig(max_new_tokens=4 * work.sampled)
        with clocks(found, "rollout "):
            engine.generate(noise(model, work.seconds, work.questions), config, work.group_size)
        return {clock: value / work.questions for clock, value in found.items()}

    def sft(self, work: Work, side: str, watch: Watch | None = None) -> dict[str, float]:
        """The seconds of the second of two steps of SFT on scripted traces; memory is claimed in the first."""
        steps = 1 if watch else 2
        config = SftConfig(**self._settings(), steps=steps, batch_size=64, log_steps=1, format="interleaved")
        model, watch = training.prepare(config), watch or Watch()
        rows = encoded(model, work)
        self.tokens = sum(len(one.trace.token_ids) for row in rows for one in row)
        rows = rows if side == SHARED else [[one] for row in rows for one in row]
        given = {"args": self._arguments(config, model, len(rows)), "callbacks": [watch], "train_dataset": rows}
        if side == PLAIN:
            trainer = Trainer(model.module, data_collator=plain, **given)
        else:
            trainer = SftTrainer(model, config, **given)
        run_quietly(trainer)
        self.losses.setdefault(side, trainer.state.log_history[0]["loss"])
        return watch.steps[-1]

    def memory(self, work: Work, side: str) -> float:
        """The most bytes that torch held within a step, above those it held before it (weights, the reference)."""
        watch = Watch(memory=True)
        self.grpo(work, ENGINE, watch) if side == "GRPO" else self.sft(work, side, watch)
        return watch.steps[0]["peak"]

    def _settings(self) -> dict[str, Any]:
        self.num_runs += 1
        model, output = f"benchmarks.training:{self.size}", self.folder / str(self.num_runs)
        return {"data": "scripted", "output": output, "model": model, "bf16": False, "workers": 0}

    def _arguments(self, config: TrainingConfig, model: AudioLM, batch_size: int) -> Any:
        return training.arguments(config, model, per_device_train_batch_size=batch_size, save_strategy="no")


def run_quietly(trainer: Trainer) -> None:
    """Train without a progress bar or printed lines."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


class OneAtATime(ScriptedEngine):
    """An engine's `generate` as the usual loop has it: one answer after another, all read again at each pause."""

    def generate(
        self, examples: Sequence[Example], config: GenerationConfig | None = None, num_samples: int = 1,
        failed: Callable[[int, str], None] | None = None,
    ) -> list[list[Trace]]:  # fmt: skip
        """`num_samples` answers to each example; an example that cannot be asked raises ValueError."""
        module, settings = self.model.module, config or GenerationConfig()
        learning = module.training
        module.eval()
        try:
            return [[naive(self.model, e, settings, script=self.scripts(i, s)) for s in range(num_samples)]
                    for i, e in enumerate(examples)]  # fmt: skip
        finally:
            module.train(learning)


class Watch(TrainerCallback):
    """The seconds of each step, with the making of its batch; or the most bytes within it (`peak`)."""

    def __init__(self, memory: bool = False) -> None:
        self.steps: list[dict[str, float]] = []
        self._memory = memory

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._found: dict[str, float] = {}
        self._within: Any = peak_bytes(self._found) if self._memory else clocks(self._found)
        self._within.__enter__()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._within.__exit__(None, None, None)
        self.steps.append(self._found)
        self.on_train_begin()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._within.__exit__(None, None, None)


@contextmanager
def peak_bytes(found: dict[str, float]) -> Iterator[None]:
    """Puts into `found` the most bytes that torch held within the block above those at its start (CPU tensors).

    torch.profiler tells every allocation and release, so what the C library keeps for later does not count.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = found["peak"] = 0
    for _, change in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        held += change
        found["peak"] = max(found["peak"], held)


# --- the work ---------------------------------------------------------------------------------------------------------


def tiny() -> Qwen2_5Omni:
    """For a test."""
    return random_model(TAGS, hidden_size=64, num_layers=2, num_heads=2, num_key_value_heads=1, intermediate_size=64,
                        audio_width=32, audio_layers=1, audio_heads=2, audio_intermediate_size=64,
                        num_mel_bins=32)  # fmt: skip


def small() -> Qwen2_5Omni:
    """About 7 M parameters."""
    return random_model(TAGS, hidden_size=256, num_layers=8, num_heads=4, num_key_value_heads=2, intermediate_size=688,
                        audio_width=128, audio_layers=4, audio_heads=2, audio_intermediate_size=512)  # fmt: skip


def large() -> Qwen2_5Omni:
    """The model of `python -m benchmarks.engine`."""
    return random_model(TAGS)


MODELS: dict[str, Callable[[], Qwen2_5Omni]] = {"tiny": tiny, "small": small, "large": large}


def shortness(response: Any, example: Example) -> float:
    """A reward that differs within a group."""
    return -0.001 * len(response.text)


def script(model: AudioLM, work: Work, index: int, sample: int) -> Script:
    """One answer of a group, with a length, and with tags and times, of its own."""
    share = sample / max(1, work.group_size - 1)
    room = (work.seconds - 3.0) / max(1, work.segments)
    starts = [round(room * (number + share), 1) for number in range(work.segments)]
    tags = [f"<seg>{start}, {round(start + 3.0, 1)}</seg>" for start in starts]
    return scripted(model, tags, round(work.sampled * (0.75 + 0.5 * share)), 0.5 + 0.5 * share)


def encoded(model: AudioLM, work: Work) -> list[list[Encoded]]:
    """The traces that the engine makes of this work, ready for SFT; those of a question in one list."""
    asked = noise(model, work.seconds, work.questions)
    engine = ScriptedEngine(model, partial(script, model, work))
    groups = engine.generate(asked, GenerationConfig(max_new_tokens=4 * work.sampled), work.group_size)
    audio = [example.audio for example in asked if isinstance(example.audio, Audio)]
    return [replay(model, one, traces, {"seg": crop}) for one, traces in zip(audio, groups, strict=True)]


def plain(rows: Sequence[Sequence[Encoded]]) -> dict[str, Any]:
    """What the model's own forward takes for rows of one trace each: padded at the right, labels where it learns."""
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    traces, mel = [row[0].trace for row in rows], [feature for row in rows for feature in row[0].features]
    token_ids = [torch.tensor(trace.token_ids) for trace in traces]
    learnt = [torch.where(torch.tensor(t.sampled), ids, -100) for t, ids in zip(traces, token_ids, strict=True)]
    return {
        "input_ids": pad(token_ids),
        "attention_mask": pad([torch.ones_like(ids) for ids in token_ids]),
        "labels": pad(learnt, padding_value=-100),
        "input_features": pad([feature.T for feature in mel]).transpose(1, 2),
        "feature_attention_mask": pad([torch.ones(feature.shape[1], dtype=torch.long) for feature in mel]),
    }


# --- the report -------------------------------------------------------------------------------------------------------


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Rates, memory, and how a step grows."""
    rows: list[list[str]] = []
    rules = []
    for label, times, clock, scale in (
        ("traces per minute", result["rollout"], "rollout cpu", 60 * result["answers"]),
        ("GRPO steps per hour", result["grpo"], "cpu", 3600),
        ("SFT tokens per second", result["sft"], "cpu", result["sft tokens"]),
    ):
        rules.append(len(rows))
        for place, (side, found) in enumerate(times.items()):
            compared = spread(ratio(times, next(iter(times)), side, clock)) if place else ["", ""]
            rows.append(["" if place else label, side, f"{scale / median(found, clock):,.0f}", *compared])
    title = f"{result['parameters'] / 1e6:.1f} M parameters, {result['repeats']} repeats, rates by CPU time"
    note = f"a step: {result['answers']} answers to 1 question, {result['sampled']} tokens, {result['heard']} segments"
    rates = Table(["", "side", "rate", "ratio", "lowest to highest"], rows, note, title, rules)
    peaks = [[side, f"{n / 1e6:,.0f}", f"{n / result['memory'][PLAIN]:.2f}"] for side, n in result["memory"].items()]
    memory = Table(["", "MB", "ratio"], peaks, "The most within a step, weights not counted, on the same answers.")
    grown = []
    for point in result["growth"]:
        parts = _parts(point)
        seconds = (f"{x:.2f}" for x in (*parts, sum(parts)))
        grown.append([GROWTH[point["what"]][0], f"{point['value']:g}", *seconds])
    growth = Table(
        ["", "value", "rollout", "rest of the step", "step"], grown, title="how a step of GRPO grows, CPU seconds"
    )
    return [rates, memory, growth]


def _parts(point: Mapping[str, Any]) -> tuple[float, float]:
    """CPU seconds of the rollout and of the rest of a step."""
    rollout = median(point["times"], "rollout cpu")
    return rollout, median(point["times"]) - rollout


def growth_figure(growth: Sequence[Mapping[str, Any]]) -> Any:
    """A panel for each thing that is varied: CPU seconds of the rollout and of the rest of a step."""
    names = list(dict.fromkeys(point["what"] for point in growth))
    figure, axes = plotting.axes(3.0, 1, len(names), width=3.0 * len(names), sharey=True, squeeze=False)
    for axis, name in zip(axes, names, strict=True):
        points = [point for point in growth if point["what"] == name]
        rollout, rest = zip(*map(_parts, points), strict=True)
        at = range(len(points))
        axis.bar(at, rollout, color=plotting.COLOURS[0], label="rollout")
        axis.bar(at, rest, bottom=rollout, color=plotting.COLOURS[4], label="rewards and update")
        axis.set_xticks(at, [f"{point['value']:g}" for point in points])
        axis.set_xlabel(GROWTH[name][0])
    axes[0].set_ylabel("CPU seconds per step")
    plotting.legend(axes[0], 1)
    return figure


commands = standalone(train, "python -m benchmarks.training")

if __name__ == "__main__":
    main(commands=commands)
