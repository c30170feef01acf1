"""Supervised fine-tuning: cross-entropy on what the model should write, the audio it hears in between left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from relisten.models.base import AudioLM
from relisten.training import trainer as training
from relisten.training.batch import Encoded, encode, pack
from relisten.training.losses import sft_loss
from relisten.training.progress import Report
from relisten.training.trainer import PackedTrainer, TrainingConfig, token_logprobs_of
from relisten.types import Audio, Example, Format


@dataclass
class SftConfig(TrainingConfig):
    """Settings of supervised fine-tuning; the defaults are the paper's."""

    format: Format = "grounded"
    """What a JSONL file's chains become: grounded (segments as text) or interleaved (their audio inserted)."""


Row = tuple[Example, Format]


class Rows(Dataset[list[Encoded]]):
    """Encoded rows by index, from a file's examples or from a function; each index is one recording."""

    def __init__(self, model: AudioLM, rows: Callable[[int], Sequence[Row]], num: int) -> None:
        self.model, self.rows, self.num = model, rows, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> list[Encoded]:
        mel: dict[int, tuple[Audio, Tensor]] = {}
        rows = self.rows(index)
        if not rows:
            raise ValueError(f"data: index {index} has no rows; a function must give at least one for each")
        return [encode(self.model, example, format, mel) for example, format in rows]


class SftTrainer(PackedTrainer):
    """`transformers.Trainer` on packed rows."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross-entropy over the tokens that are learnt in the whole batch, of all processes."""
        packed = inputs | {"token_ids": inputs["labels"][1:]}
        logprobs, _ = token_logprobs_of(self.audio_lm, packed, module=model)
        loss = sft_loss(logprobs, num_items_in_batch)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # whose gradients are averaged, where we want their sum
        return (loss, logprobs) if return_outputs else loss


def collate(rows: list[list[Encoded]]) -> dict[str, Any]:
    """A packed batch as the dictionary that `Trainer` moves between devices."""
    batch = pack(rows)
    tensors = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    # Trainer counts labels from the second on, since models shift them; ours are shifted already.
    return tensors | {"labels": torch.cat([torch.tensor([-100]), batch.labels])}


def read_rows(config: SftConfig) -> tuple[Callable[[int], Sequence[Row]], int]:
    """The rows of `config.data` and how many indices there are. Raises ValueError on data that cannot be used."""
    examples = training.read_data(config)
    if callable(examples):
        return examples, config.steps * config.batch_size
    return partial(_file_row, examples, config.format), len(examples)


def _file_row(examples: Sequence[Example], format: Format, index: int) -> list[Row]:
    return [(examples[index], format)]  # a function of the module, since processes that prepare data may pickle it


def train_sft(config: SftConfig) -> Path:
    """Train, or go on where a stopped run was; the folder of the trained model. Raises ValueError on bad settings."""
    training.check(config)
    own = config.batch_size // training.num_processes()
    if own % config.device_batch_size:
        each = "" if own == config.batch_size else f" (each of {training.num_processes()} processes takes {own})"
        raise ValueError(f"batch_size {config.batch_size}{each} is not a multiple of device_batch_size")
    rows, num = read_rows(config)
    model = training.prepare(config)
    trainer = SftTrainer(
        model,
        config,
        args=training.arguments(
            config,
            model,
            per_device_train_batch_size=config.device_batch_size,
            gradient_accumulation_steps=own // config.device_batch_size,
        ),
        train_dataset=Rows(model, rows, num),
        data_collator=collate,
        callbacks=[Report(config.output)],
    )
    return training.train(trainer)
