"""All overrides of private methods of `transformers.Trainer`.

Any release may rename or remove these methods. `CHECKED` names the versions for which the tests passed, and
pyproject.toml has the upper bound. `missing()` finds methods that are gone, so that no run starts with an override that
is never called.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Trainer

from relisten.models import adapter
from relisten.models.base import AudioLM
from relisten.training import checkpoint, heldout, sharding
from relisten.training.config import TrainingConfig
from relisten.training.progress import not_finite, tell

CHECKED = "5.16.1 to 5.23"
"""Versions of transformers. The upper bound in pyproject.toml is the next one."""
PRIVATE: dict[str, tuple[str, ...]] = {
    "_prepare_for_training": ("max_steps", "train_dataloader", "resume_from_checkpoint"),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_save_checkpoint": ("model", "trial"),
    "_save_optimizer_and_scheduler": ("output_dir",),
    "_load_optimizer_and_scheduler": ("checkpoint",),
}
"""Methods of `transformers.Trainer`, with their arguments."""


def missing() -> list[str]:
    """The private names that the installed transformers does not have, or has with other arguments."""
    return [
        f"Trainer.{name}"
        for name, arguments in PRIVATE.items()
        if not hasattr(Trainer, name) or tuple(inspect.signature(getattr(Trainer, name)).parameters)[1:] != arguments
    ]


class HookedTrainer(Trainer):
    """`transformers.Trainer` with checkpoints that are complete or absent, alike for whole and for split weights."""

    audio_lm: AudioLM
    config: TrainingConfig
    saved_dtype: torch.dtype
    """The precision in which the trained model is saved, and in which it answers."""
    sharding: sharding.Sharding | None
    latest_loss: Tensor | None = None
    """The loss of the latest step. If it is NaN, no checkpoint is written."""

    def __init__(self, **kwargs: Any) -> None:
        if gone := missing():
            raise ValueError(
                f"transformers {transformers.__version__} has no {gone[0]} as relisten needs it; install a version from"
                f" {CHECKED}"
            )
        super().__init__(**kwargs)

    def restore(self, folder: str) -> None:
        """Load the weights of a checkpoint."""
        raise NotImplementedError

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a checkpoint that can be loaded as a model: whole weights or an adapter, with settings and tokenizer.

        The weights have the precision in which they are trained, so that a resumed run continues exactly.
        """
        weights = None if self.sharding is None else self.sharding.weights(self.model)
        if self.args.should_save:
            self.write(Path(output_dir or self.args.output_dir), None, weights)

    def write(self, folder: Path, dtype: torch.dtype | None, weights: dict[str, Tensor] | None) -> None:
        """Write the model in the precision `dtype`. It will be loaded in `saved_dtype`, whatever that precision is."""
        adapted = adapter.settings(self.audio_lm.module) is not None
        self.audio_lm.save(folder, None if adapted else dtype, weights)
        if not adapted:
            checkpoint.answer_in(folder, self.saved_dtype)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Returns 0, because Trainer would count tokens in a batch of tensors, and this batch has no tensors yet."""
        return 0

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """As in Trainer. But with DeepSpeed, Trainer would look for a checkpoint in DeepSpeed's own format."""
        folder = resume_from_checkpoint if self.is_deepspeed_enabled else None
        prepared = super()._prepare_for_training(
            max_steps, train_dataloader, None if folder else resume_from_checkpoint
        )
        if folder:
            self._load_from_checkpoint(folder)
            self._load_optimizer_and_scheduler(folder)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.restore(resume_from_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.sharding is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        self.sharding.write_memory(self.model, self.optimizer, Path(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder, first = Path(checkpoint), self.is_world_process_zero()
        module = self.accelerator.unwrap_model(self.model) if self.sharding is None else self.model
        sharding.load_optimizer(self.sharding, module, self.optimizer, folder, reader=first)
        written = torch.load(folder / "scheduler.pt", weights_only=True)
        self.lr_scheduler.load_state_dict(written)
        self._stretch_schedule(written["_last_lr"])

    def _stretch_schedule(self, before: list[float]) -> None:
        """Set the learning rate of the present schedule, which has become longer if the run has.

        before: the rate of each group of parameters in the checkpoint.
        """
        schedule = self.lr_scheduler
        factors = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        now = [base * factor(schedule.last_epoch) for base, factor in factors]
        if now == before:
            return
        for group, rate in zip(self.optimizer.param_groups, now, strict=True):
            group["lr"] = rate
        schedule._last_lr = now
        if self.is_world_process_zero():
            again = "; its data is drawn in a new order" if ":" in self.config.data else ""
            tell(
                f"The run is longer than when it was stopped, and its {self.config.schedule} schedule with it: it goes"
                f" on at a learning rate of {now[0]:.3g}, where it stopped at {before[0]:.3g}{again}."
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint in another folder, then rename it. If the disk is full, the last good one stays."""
        if self.latest_loss is not None and not math.isfinite(float(self.latest_loss)):
            raise ValueError(not_finite(self.state.global_step, self.config.output))
        folder = Path(self.args.output_dir)
        with checkpoint.staged(folder, f"checkpoint-{self.state.global_step}", self.args.should_save) as part:
            self.args.output_dir = str(part)
            self.accelerator.wait_for_everyone()  # an old part is deleted before anyone writes
            try:
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # every process writes its random state there
            finally:
                self.args.output_dir = str(folder)
        if self.args.should_save:
            checkpoint.prune(folder, self.config.keep_checkpoints, heldout.best_step(self.state.log_history))
        self.accelerator.wait_for_everyone()
