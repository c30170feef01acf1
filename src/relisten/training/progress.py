"""What a training run shows while it goes on: a bar, metrics.jsonl, curves; and that a loss is no longer a number."""

from __future__ import annotations

import math
from pathlib import Path
from time import perf_counter
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from relisten import run
from relisten.training import plots

CURVES_EVERY = 60.0
"""Seconds, at least, from one drawing of a run's curves to the next: it takes a few itself."""


class Report(TrainerCallback):
    """One progress bar with a figure beside it, every figure in metrics.jsonl, curves at checkpoints."""

    def __init__(self, folder: Path, shown: str = "loss") -> None:
        self.folder, self.shown = folder, shown
        self.bar: tqdm[Any] | None = None
        self._drawn = perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

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


def not_finite(step: int, output: Path) -> str:
    """What to say when a loss is NaN or infinite."""
    return (
        f"{output}: at step {step} the loss is not a finite number, so the run stops before it is written down;"
        " lower learning_rate (the same folder needs the same settings: choose a new one), or set bf16 to false"
    )
