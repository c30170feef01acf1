"""The plan of a run, made before torch or a model is loaded: its data, its batches, the number of steps.

All errors in settings, data and rewards are found here, so that a mistake is reported in a second.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from relisten import models, records, run
from relisten.training import rewards
from relisten.training.config import (
    GrpoConfig,
    SftConfig,
    TrainingConfig,
    check,
    is_first_process,
    may_change,
    num_processes,
)
from relisten.types import Example

FEW_STEPS = 10
"""A run of fewer steps than this hardly changes a model, so the user is told which options make more."""

Rows = Callable[[int], Sequence[Any]]
"""The data of an index: one `Example` for GRPO; for SFT one or more, each an `Example` or an `SftExample`."""


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a run. `config` is what the user asked for, fitted to the data."""

    config: SftConfig | GrpoConfig
    rows: Rows
    num_rows: int
    """How many indices `rows` takes."""
    num_steps: int
    held_out: list[Example] = field(default_factory=list)
    """The questions of `eval_data`."""
    notes: list[str] = field(default_factory=list)
    """Lines about what was fitted, and what a user should know before the run."""

    def lines(self) -> list[str]:
        """What to print before the run starts."""
        config, grpo = self.config, isinstance(self.config, GrpoConfig)
        what = "questions" if grpo else "examples"
        data = (
            f"{self.num_rows:,} {what} of {config.data}" if Path(config.data).exists() else f"{what} of {config.data}"
        )
        answers = f" ({config.group_size} answers to each)" if isinstance(config, GrpoConfig) else ""
        passes = "" if config.steps > 0 else f", {config.epochs:g} epoch{'s' * (config.epochs != 1)}"
        steps = f"{self.num_steps:,} step{'s' * (self.num_steps != 1)}"
        first = f"{data}{passes}: {steps} of {config.batch_size} {what}{answers}"
        trained = f"LoRA adapters of rank {config.lora} are" if config.lora else "The weights are"
        return [first, f"{trained} trained at a learning rate of {config.peak_rate:g}.", *self.notes]


def planned(config: SftConfig | GrpoConfig, weights: bool = True) -> TrainingPlan:
    """Check the settings, read the data, fit the batch to it. Raises ValueError, in one line, if no run can start.

    weights: whether the weights of the model are needed; a model on the hub is fetched then.
    """
    check(config)
    rows, num, examples = _read(config)
    notes: list[str] = []
    if examples is not None:
        config = _fitted(config, len(examples), notes)
    config, num_steps = _with_steps(config, num, notes)
    run.check(config.output, config, may_change)
    if weights and ":" not in config.model:
        models.find(config.model)
    if config.lora and config.peak_rate <= config.FULL_RATE:
        notes.append(
            f"learning_rate {config.peak_rate:g} is one for whole weights and hardly changes a LoRA adapter;"
            f" {config.LORA_RATE:g} is usual."
        )
    if isinstance(config, GrpoConfig):
        functions = rewards.find(config.rewards, config.max_heard)
        rewards.try_out(functions, examples or rows(0), config.format)
    held_out = [] if config.eval_data is None else _answered(Path(config.eval_data))
    if shared := _shared(held_out, examples or []):
        notes.append(f"{shared:,} of the {len(held_out):,} questions of eval_data are also trained on.")
    return TrainingPlan(config, rows, num, num_steps, held_out, notes)


@contextmanager
def sole_run(config: TrainingConfig) -> Iterator[None]:
    """Lock the run folder while this process trains. Raises ValueError if another process trains in it."""
    if not is_first_process():  # the others write no metrics
        yield
        return
    is_new = not config.output.exists()
    try:
        with records.sole_writer(config.output / "metrics.jsonl"):
            yield
    finally:
        if is_new and [path.suffix for path in config.output.glob("*")] in ([], [".lock"]):  # nothing was begun
            shutil.rmtree(config.output, ignore_errors=True)


def _read(config: TrainingConfig) -> tuple[Rows, int, list[Example] | None]:
    """The rows, how many there are, and the examples of a file (None if `data` is a function)."""
    if ":" in config.data and not Path(config.data).exists():
        if config.steps < 1:
            raise ValueError(f"data {config.data} has no end; give the number of steps with --steps")
        return run.resolve(config.data), config.steps * config.batch_size, None
    examples = _answered(Path(config.data))
    return partial(_one, examples), len(examples), examples


def _answered(path: Path) -> list[Example]:
    """The examples of a file. Raises ValueError if some have no answer or no recording, or if there are none."""
    examples = records.read_examples(path)
    if without := [e.id for e in examples if e.answer is None]:
        raise ValueError(f"{path}: {len(without)} examples have no answer, for example {without[0]}; give each one")
    if absent := [e for e in examples if isinstance(e.audio, Path) and not e.audio.is_file()]:
        raise ValueError(
            f"{path}: the recordings of {len(absent)} examples do not exist, for example {absent[0].audio} of"
            f" {absent[0].id}; check the paths"
        )
    return examples


def _shared(held_out: Sequence[Example], trained: Sequence[Example]) -> int:
    """How many held-out questions are asked about the same recording in training."""
    known = {(str(one.audio), one.question) for one in trained}
    return sum((str(one.audio), one.question) in known for one in held_out)


def _one(examples: Sequence[Example], index: int) -> list[Example]:
    return [examples[index]]  # a function of the module, because processes that prepare data may pickle it


def _fitted(config: SftConfig | GrpoConfig, num: int, notes: list[str]) -> SftConfig | GrpoConfig:
    """The same settings with a batch that the data can fill."""
    processes = num_processes()
    what = "questions" if isinstance(config, GrpoConfig) else "examples"
    if num < processes:
        raise ValueError(f"{config.data}: {num} {what} are fewer than the {processes} processes; start fewer processes")
    if config.batch_size > num:
        grpo = isinstance(config, GrpoConfig)
        size = num - num % processes if grpo else math.ceil(num / processes) * processes
        notes.append(f"batch_size is {config.batch_size}, but there are only {num} {what}: each step takes {size}.")
        config = replace(config, batch_size=size)
    return config


def _with_steps(config: SftConfig | GrpoConfig, num: int, notes: list[str]) -> tuple[SftConfig | GrpoConfig, int]:
    """The settings with parts that divide the batch, and how many steps they make."""
    if isinstance(config, GrpoConfig):
        config = replace(config, mini_batch_size=min(config.mini_batch_size, config.batch_size))
        if config.batch_size % config.mini_batch_size:
            raise ValueError(
                f"batch_size {config.batch_size} is not a multiple of mini_batch_size {config.mini_batch_size}; give"
                " --batch-size and --mini-batch-size that fit the data"
            )
    a_pass = num // config.batch_size if isinstance(config, GrpoConfig) else math.ceil(num / config.batch_size)
    steps = config.steps if config.steps > 0 else math.ceil(config.epochs * max(1, a_pass))
    if steps < FEW_STEPS and config.steps < 1:
        size = max(num_processes(), min(8, config.batch_size))
        epochs = math.ceil(40 / max(1, num // size))
        notes.append(
            f"So few steps hardly change a model. For more, give a smaller --batch-size and more --epochs, for example"
            f" --batch-size {size} --epochs {epochs}; a small model also needs a higher --learning-rate."
        )
    return replace(config, log_steps=min(config.log_steps, max(1, steps // 10))), steps
