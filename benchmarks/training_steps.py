"""One step of training, timed or weighed: the sides that `python -m benchmarks.training` sets beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from benchmarks import engine as bench
from benchmarks.engine import ScriptedEngine
from relisten.engine.engine import GenerationConfig
from relisten.engine.naive import Script, naive
from relisten.engine.operations import crop
from relisten.models import nano
from relisten.models.base import AudioLM, lay_out_for_cpu
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training import trainer as training
from relisten.training.batch import Encoded, replay
from relisten.training.grpo import GrpoConfig, GrpoTrainer
from relisten.training.questions import together
from relisten.training.sft import SftConfig, SftTrainer, collate
from relisten.types import Audio, Example, Trace

Size = Literal["tiny", "small", "large"]
Figures = dict[str, float]
"""Of one step: CPU and wall seconds, of the step and of its rollout."""
SEGMENT = 3.0
"""Seconds of each piece that is heard again."""
SFT_STEPS = 2
"""Of a repeat, after one that is not counted, in which memory is claimed."""
TEXTS = [f"<seg>{tenth / 10}, {tenth / 10}</seg>" for tenth in range(600)]
"""Makes a tag five tokens, with its `>` in the last."""
LOOP = "one at a time"
PLAIN = "plain Trainer"
"""transformers' own, with the model's own forward and loss."""
MEMORY = (PLAIN, "SFT, every answer a row", "SFT, answers share their recording", "GRPO")


@dataclass(frozen=True)
class Work:
    """What a step of GRPO has to do: answers as long as the paper's, with as many segments, on recordings as long."""

    questions: int = 4
    group_size: int = 8
    seconds: float = 10.0
    """Of each recording."""
    segments: int = 2
    """Heard again in each answer."""
    sampled: int = 128
    """Tokens of an answer, on average: the shortest of a group has three quarters of that, the longest five."""


class Steps:
    """Makes steps of training, and keeps what they did."""

    def __init__(self, size: Size, folder: Path, bar: Any) -> None:
        self.size, self.folder, self.bar = size, folder, bar
        self.num_runs = 0
        self.parameters = 0
        self.losses: Figures = {}
        self.tokens = 0
        """Of the latest batch of SFT."""
        self.traces: dict[tuple[str, Work], list[list[Trace]]] = {}

    def grpo(self, work: Work, side: str, watch: Watch | None = None) -> Figures:
        """One step of GRPO, its answers by the engine or one at a time."""
        self.bar.set_postfix_str(f"GRPO, {side}, {work.questions} x {work.group_size}")
        config = GrpoConfig(
            **self._settings(),
            steps=1,
            batch_size=work.questions,
            mini_batch_size=work.questions,
            group_size=work.group_size,
            device_batch_size=work.group_size,
            max_new_tokens=4 * work.sampled,
            rewards=("benchmarks.training_steps:shortness",),
            log_steps=1,
        )
        model = training.prepare(config)
        self.parameters = sum(p.numel() for p in model.module.parameters())
        arguments = self._arguments(config, model, work.questions)
        watch = watch or Watch()
        trainer = GrpoTrainer(
            model,
            config,
            args=arguments,
            train_dataset=examples(model, work),
            data_collator=together,
            callbacks=[watch],
        )
        kind = OneAtATime if side == LOOP else ScriptedEngine
        trainer.engine = engine = kind(model, partial(script, model, work), max_rows=config.rollout_rows)
        figures: Figures = {}
        generate = engine.generate

        def timed(given: Sequence[Example], *more: Any) -> list[list[Trace]]:
            cpu, wall = process_time(), perf_counter()
            self.traces[side, work] = groups = generate(given, *more)
            figures.update({"rollout cpu": process_time() - cpu, "rollout wall": perf_counter() - wall})
            return groups

        engine.generate = timed  # type: ignore[method-assign, assignment]
        self._run(trainer)
        return watch.steps[0] | figures

    def sft(self, work: Work, side: str) -> Figures:
        """The mean of some steps of SFT on the traces of that work, each a row of its own."""
        self.bar.set_postfix_str(f"SFT, {side}")
        watch = Watch()
        self._sft(side, work, work.questions, False, 1 + SFT_STEPS, watch)
        return {name: statistics.mean(step[name] for step in watch.steps[1:]) for name in ("cpu", "wall")}

    def memory(self, work: Work, side: str) -> int:
        """The most bytes that torch held within a step, above those it held before (weights, the reference)."""
        self.bar.set_postfix_str(f"memory, {side}")
        watch = Watch(memory=True)
        if side == "GRPO":
            self.grpo(replace(work, questions=1), "engine", watch)
        else:
            self._sft(side, work, 1, side == "SFT, answers share their recording", 1, watch)
        return watch.peak

    def _sft(self, side: str, work: Work, questions: int, share: bool, steps: int, watch: Watch) -> None:
        """Steps of SFT on the traces of the first questions; share: answers to one question stand in one row."""
        config = SftConfig(**self._settings(), steps=steps, batch_size=64, log_steps=1, format="interleaved")
        model = training.prepare(config)
        rows = self.rows(model, work)[:questions]
        self.tokens = sum(len(one.trace.token_ids) for row in rows for one in row)
        rows = rows if share else [[one] for row in rows for one in row]
        given: dict[str, Any] = {
            "args": self._arguments(config, model, len(rows)), "train_dataset": rows, "callbacks": [watch],
        }  # fmt: skip
        if side == PLAIN:
            trainer = Trainer(model.module, data_collator=plain, **given)
        else:
            trainer = SftTrainer(model, config, data_collator=collate, **given)
        self._run(trainer)
        self.losses.setdefault(side, trainer.state.log_history[0]["loss"])

    def _settings(self) -> dict[str, Any]:
        self.num_runs += 1
        output = self.folder / str(self.num_runs)
        return {
            "data": "scripted", "output": output, "model": f"benchmarks.training_steps:{self.size}", "bf16": False,
            "workers": 0,
        }  # fmt: skip

    def _arguments(self, config: training.TrainingConfig, model: AudioLM, batch_size: int) -> Any:
        return training.arguments(config, model, per_device_train_batch_size=batch_size, save_strategy="no")

    def _run(self, trainer: Trainer) -> None:
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        self.bar.update()

    def rollout(self, work: Work) -> Figures:
        """The engine's answers alone; seconds for each question."""
        self.bar.set_postfix_str(f"rollout, {work.questions} x {work.group_size}")
        model = {"tiny": tiny, "small": small, "large": large}[self.size]()
        engine = ScriptedEngine(model, partial(script, model, work), max_rows=GrpoConfig.rollout_rows)
        cpu, wall = process_time(), perf_counter()
        engine.generate(examples(model, work), GenerationConfig(max_new_tokens=4 * work.sampled), work.group_size)
        seconds = {"rollout cpu": process_time() - cpu, "rollout wall": perf_counter() - wall}
        self.bar.update()
        return {clock: value / work.questions for clock, value in seconds.items()}

    def rows(self, model: AudioLM, work: Work) -> list[list[Encoded]]:
        """The traces that the engine makes of this work, ready for SFT; a question's in one list."""
        given = [example.audio for example in examples(model, work)]
        config = GenerationConfig(max_new_tokens=4 * work.sampled)
        engine = ScriptedEngine(model, partial(script, model, work))
        groups = engine.generate(examples(model, work), config, work.group_size)
        return [
            replay(model, audio, traces, {"seg": crop})
            for audio, traces in zip(given, groups, strict=True)
            if isinstance(audio, Audio)
        ]


class OneAtATime(ScriptedEngine):
    """An engine's `generate` as the usual loop has it: one answer after another, all read anew at each pause."""

    def generate(
        self,
        examples: Sequence[Example],
        config: GenerationConfig | None = None,
        num_samples: int = 1,
        failed: Callable[[int, str], None] | None = None,
    ) -> list[list[Trace]]:
        """For each example, `num_samples` answers; what cannot be asked raises ValueError, whatever `failed` is."""
        module, settings = self.model.module, config or GenerationConfig()
        learning = module.training
        module.eval()
        try:
            return [
                [naive(self.model, e, settings, script=self.scripts(i, s)) for s in range(num_samples)]
                for i, e in enumerate(examples)
            ]
        finally:
            module.train(learning)


class Watch(TrainerCallback):
    """The time of each step, its batch's making included; or the most memory of the first."""

    def __init__(self, memory: bool = False) -> None:
        self.steps: list[Figures] = []
        self.peak = 0
        self._memory = peak_bytes() if memory else None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._started = process_time(), perf_counter()
        if self._memory is not None:
            self._peak = self._memory.__enter__()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        cpu, wall = process_time(), perf_counter()
        self.steps.append({"cpu": cpu - self._started[0], "wall": wall - self._started[1]})
        self._started = cpu, wall
        if self._memory is not None:
            self._memory.__exit__(None, None, None)
            self._memory, self.peak = None, self._peak[0]


@contextmanager
def peak_bytes() -> Iterator[list[int]]:
    """A list that holds, afterwards, the most bytes that torch held above those it held at the start (CPU tensors).

    torch.profiler tells every allocation and release, so nothing hangs on what the C library keeps for later.
    """
    peak = [0]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield peak
    found = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [(e.start_ns(), e.nbytes()) for e in found if e.name() == "[memory]"]
    held = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        held += change
        peak[0] = max(peak[0], held)


# --- the work -------------------------------------------------------------------------------------------------------


def tiny() -> Qwen2_5Omni:
    """For a test."""
    return _model(nano.NanoConfig(hidden_size=64, num_layers=2, num_heads=2, num_key_value_heads=1,
        intermediate_size=64, audio_width=32, audio_layers=1, audio_heads=2, audio_intermediate_size=64,
        num_mel_bins=32, hop_length=160, n_fft=400, audio_block=100, context=8192))  # fmt: skip


def small() -> Qwen2_5Omni:
    """About 7 M parameters, that hears as Qwen does: 128 mel bins, 25 tokens a second, blocks of 2 s."""
    return _model(nano.NanoConfig(hidden_size=256, num_layers=8, num_heads=4, num_key_value_heads=2,
        intermediate_size=688, audio_width=128, audio_layers=4, audio_heads=2, audio_intermediate_size=512,
        num_mel_bins=128, hop_length=160, n_fft=400, audio_block=100, context=8192))  # fmt: skip


def large() -> Qwen2_5Omni:
    """The model of `python -m benchmarks.engine`."""
    return bench.random_model(TEXTS)


def _model(size: nano.NanoConfig) -> Qwen2_5Omni:
    model = nano.create(TEXTS, size)
    lay_out_for_cpu(model.module)  # as `relisten.load` does
    return model


def shortness(response: Any, example: Example) -> float:
    """A reward that differs within a group."""
    return -0.001 * len(response.text)


def examples(model: AudioLM, work: Work) -> list[Example]:
    """Questions about noise."""
    rng = np.random.default_rng(0)
    length = round(work.seconds * model.rate)
    noise = [rng.standard_normal(length).astype(np.float32) * 0.1 for _ in range(work.questions)]
    return [Example(f"noise-{i}", Audio(x, model.rate), "What is it?") for i, x in enumerate(noise)]


def script(model: AudioLM, work: Work, index: int, sample: int) -> Script:
    """What one answer says: filler, and tags at places of its own, at times of its own; as long as its number says."""
    share = sample / max(1, work.group_size - 1)
    total = round(work.sampled * (0.75 + 0.5 * share))
    room = (work.seconds - SEGMENT) / max(1, work.segments)
    starts = [round(room * (number + share), 1) for number in range(work.segments)]
    tags = [model.encode(f"<seg>{start}, {round(start + SEGMENT, 1)}</seg>") for start in starts]
    filler, left = model.encode("a"), total - 1 - sum(map(len, tags))
    stretch = round(left / (work.segments + 1) * (0.5 + 0.5 * share))
    token_ids = [token_id for tag in tags for token_id in [*filler * stretch, *tag]]
    token_ids += filler * (total - 1 - len(token_ids))
    return dict(enumerate([*token_ids, model.end_token_id])).get


def plain(rows: Sequence[Sequence[Encoded]]) -> dict[str, Any]:
    """What the model's own forward takes for rows of one trace each: padded at the right, labels where it learns."""
    encoded = [one for row in rows for one in row]
    size = (len(encoded), max(len(one.trace.token_ids) for one in encoded))
    input_ids = torch.zeros(size, dtype=torch.long)
    mask, labels = torch.zeros(size, dtype=torch.long), torch.full(size, -100)
    for i, one in enumerate(encoded):
        length, token_ids = len(one.trace.token_ids), torch.tensor(one.trace.token_ids)
        input_ids[i, :length], mask[i, :length] = token_ids, 1
        labels[i, :length] = torch.where(torch.tensor(one.trace.sampled), token_ids, -100)
    mel = [feature for one in encoded for feature in one.features]
    frames = max(feature.shape[1] for feature in mel)
    features = torch.stack([torch.nn.functional.pad(x, (0, frames - x.shape[1])) for x in mel])
    lengths = torch.tensor([feature.shape[1] for feature in mel])
    return {
        "input_ids": input_ids,
        "attention_mask": mask,
        "labels": labels,
        "input_features": features,
        "feature_attention_mask": (torch.arange(frames)[None] < lengths[:, None]).long(),
    }
