"""Supervised fine-tuning: cross-entropy on what the model should write. Inserted audio is left out of the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relisten.models.base import AudioLM
from relisten.training import trainer as training
from relisten.training.config import SftConfig, num_processes
from relisten.training.datasets import SftDataset, packed
from relisten.training.losses import sft_loss
from relisten.training.plan import TrainingPlan, planned, sole_run
from relisten.training.progress import TrainingProgress
from relisten.training.trainer import PackedTrainer, token_logprobs_of


class SftTrainer(PackedTrainer):
    """`transformers.Trainer` on packed rows."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross-entropy over all tokens to learn in the whole batch, over all processes."""
        tokens = inputs | {"token_ids": inputs["labels"][1:]}
        logprobs, _ = token_logprobs_of(self.audio_lm, tokens, module=model)
        loss = sft_loss(logprobs, num_items_in_batch)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # gradients are averaged, but their sum is wanted
        return (loss, logprobs) if return_outputs else loss


def train_sft(config: SftConfig) -> Path:
    """Fine-tune a model, or continue a stopped run. Returns the folder of the trained model.

    Raises ValueError, in one line, for settings or data that cannot be used.
    """
    return run_sft(planned(config))


def run_sft(plan: TrainingPlan) -> Path:
    """Carry out a plan that `planned` has made; see `train_sft`."""
    config = plan.config
    assert isinstance(config, SftConfig)
    with sole_run(config):
        model = training.prepare(config)
        return training.train(_trainer(model, config, plan), plan.lines())


def _trainer(model: AudioLM, config: SftConfig, plan: TrainingPlan) -> SftTrainer:
    parts = config.batch_size // num_processes() // config.device_batch_size
    return SftTrainer(
        model,
        config,
        args=training.arguments(
            config,
            model,
            per_device_train_batch_size=config.device_batch_size,
            gradient_accumulation_steps=parts,
        ),
        train_dataset=SftDataset(model, plan.rows, plan.num_rows, config.format),
        data_collator=packed,
        callbacks=[TrainingProgress(config.output)],
    )
