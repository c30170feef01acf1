"""The output of a training run: a progress bar, the expected time, what has changed, and the next commands."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from relisten import records, run
from relisten.training import plots
from relisten.training.config import GrpoConfig, TrainingConfig

CURVES_EVERY = 60.0
"""Seconds, at least, between two drawings of the curves: a drawing takes a few seconds itself."""
TIMED_STEPS = 3
"""After this many steps the expected time is printed. The first step is not counted, because it is slower."""


class TrainingProgress(TrainerCallback):
    """A progress bar with one figure beside it, all figures in metrics.jsonl, and curves at checkpoints."""

    def __init__(self, folder: Path, shown: str = "loss") -> None:
        self.folder, self.shown = folder, shown
        self.bar: tqdm[Any] | None = None
        self._drawn = perf_counter()
        self._first: tuple[int, float] | None = None  # a step that was finished, and when

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is None:
            return
        self.bar.update(state.global_step - self.bar.n)
        if self._first is None:
            self._first = state.global_step, perf_counter()
        elif state.global_step == self._first[0] + TIMED_STEPS - 1:
            each = (perf_counter() - self._first[1]) / (TIMED_STEPS - 1)
            left = state.max_steps - state.global_step
            if left > 1:
                tell(f"A step takes about {duration(each)}, so the other {left:,} take about {duration(left * each)}.")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = dict(logs or {})
        if self.bar is not None:
            run.log_metrics(self.folder, state.global_step, logs)
            if logs.get(self.shown) is not None:
                self.bar.set_postfix_str(f"{self.shown} {logs[self.shown]:.3f}")
        if not math.isfinite(logs.get("loss", 0.0)):
            raise ValueError(not_finite(state.global_step, self.folder))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None and perf_counter() - self._drawn > CURVES_EVERY:
            plots.training_curves(self.folder / "metrics.jsonl", self.folder / "curves.png")
            self._drawn = perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def tell(text: str) -> None:
    """Print a line on stderr, above the progress bar."""
    tqdm.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """`0.8 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def finished(config: TrainingConfig) -> list[str]:
    """The last lines of a run: how its figures changed from first to last, and the commands that come next."""
    names = ("reward", "well_formed", "segments") if isinstance(config, GrpoConfig) else ("loss",)
    path = config.output / "metrics.jsonl"
    rows = list(records.read(path, torn=True)) if path.exists() else []
    lines = []
    for name in names:
        found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if found:
            (step, first), (end, last) = found[0], found[-1]
            change = f", {last:.3f} at step {end:,}" if end > step else ""
            lines.append(f"{name}: {first:.3f} at step {step:,}{change}")
    model, output = (shlex.quote(str(path)) for path in (config.output / "model", config.output))
    format = getattr(config, "format", "interleaved")
    how = "" if format == "interleaved" else f" --format {format}"
    lines += ["", "The trained model is ready. To ask it a question:"]
    lines += [f"  relisten ask RECORDING 'QUESTION' --model {model}{how}"]
    if config.lora:
        lines += [
            "It is an adapter beside the weights of its base model. To add it to them, which makes answers faster:"
        ]
        lines += [f"  relisten merge {model} {output}/merged"]
    if ":" not in config.model:
        before = shlex.quote(config.model)
        lines += ["To measure what the training changed, on questions that it was not trained on:"]
        lines += [f"  relisten eval QUESTIONS.jsonl {output}/eval-before --model {before}{how}"]
        lines += [f"  relisten eval QUESTIONS.jsonl {output}/eval-after --model {model}{how}"]
        lines += [f"  relisten compare {output}/eval-before {output}/eval-after"]
    return lines


def not_finite(step: int, output: Path) -> str:
    """The message for a loss that is NaN or infinite."""
    return (
        f"{output}: at step {step} the loss is not a finite number, so the run stops before it writes anything;"
        " lower learning_rate and choose a new folder (the same folder needs the same settings), or set bf16 to false"
    )
