"""Supervised fine-tuning: cross-entropy on what the model should write. Inserted audio is left out of the loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import Dataset

from relisten.models.base import AudioLM
from relisten.training import packing
from relisten.training import trainer as training
from relisten.training.batch import Encoded, encode, model_inputs, pack
from relisten.training.config import SftConfig, num_processes
from relisten.training.losses import sft_loss
from relisten.training.plan import Rows, TrainingPlan, planned, sole_run
from relisten.training.progress import TrainingProgress, tell
from relisten.training.trainer import PackedTrainer, token_logprobs_of
from relisten.types import Audio, Example, Format


class SftDataset(Dataset[list[Encoded]]):
    """Encoded examples by index. Those of one index share a recording, which is encoded once.

    format: that of examples for which the data gives none.
    """

    def __init__(self, model: AudioLM, rows: Rows, num: int, format: Format) -> None:
        self.model, self.rows, self.num, self.format = model, rows, num, format

    def __getstate__(self) -> dict[str, Any]:
        """The state that is sent to a spawned process that prepares data: the model without its weights."""
        model = copy.copy(self.model)
        vars(model).pop("module", None)
        return vars(self) | {"model": model}

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> list[Encoded]:
        mel: dict[int, tuple[Audio, Tensor]] = {}
        given = self.rows(index)
        if not given:
            raise ValueError(f"data: index {index} has no examples; the function must give at least one")
        pairs = [(one, self.format) if isinstance(one, Example) else one for one in given]
        return [encode(self.model, example, format, mel) for example, format in pairs]


class SftTrainer(PackedTrainer):
    """`transformers.Trainer` that divides each batch of rows into forward passes itself."""

    config: SftConfig  # narrower than the base's

    def __init__(self, audio_lm: AudioLM, config: SftConfig, **kwargs: Any) -> None:
        super().__init__(audio_lm, config, **kwargs)
        self._left_out: set[str] = set()
        """Ids of the examples that are longer than the model's context. Each is reported once."""
        self._forward_tokens = 0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Add the gradients of a batch: mean cross-entropy over all tokens to learn, over all processes."""
        rows = self._rows(inputs["items"])
        lengths = [packing.num_tokens(row) for row in rows]
        batches = packing.forwards(lengths, self.config.device_tokens, self.config.device_batch_size)
        learnt = sum(sum(one.trace.sampled) for row in rows for one in row)
        num_targets = self.total(learnt)
        if num_targets == 0 and self.state.global_step == 0:
            raise ValueError(self._nothing_fits())
        num = self.num_forwards(len(batches))
        model.train()
        loss = torch.zeros((), device=self.args.device)
        for index in range(num):
            idle = index >= len(batches)
            batch = pack([[self._silence()]] if idle else [rows[place] for place in batches[index]])
            self._forward_tokens = max(self._forward_tokens, batch.input_ids.numel())
            last = index == num - 1
            with self.accumulating(model, last):
                inputs = self._prepare_inputs(model_inputs(batch))
                logprobs, _ = token_logprobs_of(self.audio_lm, inputs, module=model)
                part = 0.0 * logprobs.sum() if idle else sft_loss(logprobs, num_targets)
                # Processes average their gradients, but the sum is wanted.
                self.backward(part * self.accelerator.num_processes, last)
            loss += part.detach()
        self.latest_loss = loss * self.accelerator.num_processes  # Trainer logs the mean over the processes
        return self.latest_loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with how many examples were left out so far, and the largest forward pass since the last line."""
        if "loss" in logs:
            logs["left_out"] = len(set(gather_object(sorted(self._left_out))))
            logs["forward_tokens"] = self.largest(self._forward_tokens)
            self._forward_tokens = 0
        super().log(logs, start_time)

    def _rows(self, items: Sequence[Sequence[Encoded]]) -> list[list[Encoded]]:
        """The rows of a batch without what is longer than the model's context, each short enough for one forward."""
        context = self.audio_lm.module.config.get_text_config().max_position_embeddings
        rows: list[list[Encoded]] = []
        for one in (one for row in items for one in row if len(one.trace.token_ids) > context):
            if one.name not in self._left_out:
                self._left_out.add(one.name)
                tell(
                    f"{one.name} is left out: {len(one.trace.token_ids):,} tokens, the model's context has {context:,}"
                )
        for row in items:
            fitting = [one for one in row if len(one.trace.token_ids) <= context]
            rows += packing.divided(fitting, self.config.device_tokens)
        return rows

    def _nothing_fits(self) -> str:
        return (
            f"{self.config.data}: no example of the first step fits into the model's context, {min(self._left_out)} for"
            " one; shorten the recordings or the chains of thought"
        )

    def _silence(self) -> Encoded:
        """A second of silence, for a process that has nothing to learn while others do."""
        rate = self.audio_lm.rate
        silence = Example("", Audio(np.zeros(rate, np.float32), rate), "silence", answer="")
        return encode(self.audio_lm, silence, "conditioned")


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
        return training.train(_trainer(model, config, plan), plan.lines(), plan.held_out, plan.num_steps)


def _trainer(model: AudioLM, config: SftConfig, plan: TrainingPlan) -> SftTrainer:
    own = config.batch_size // num_processes()
    return SftTrainer(
        model,
        config,
        args=training.arguments(config, model, per_device_train_batch_size=own),
        train_dataset=SftDataset(model, plan.rows, plan.num_rows, config.format),
        callbacks=[TrainingProgress(config.output)],
    )
