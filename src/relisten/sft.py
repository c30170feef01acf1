"""Supervised fine-tuning: cross-entropy on what the model should write, the audio it hears in between left out.

A small subclass of `transformers.Trainer`, which brings checkpoints, resuming, many processes and logging.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from relisten import plots, records, run
from relisten.batch import Encoded, encode, pack
from relisten.checkpoint import latest
from relisten.losses import sft_loss
from relisten.models import load
from relisten.models.base import AudioLM
from relisten.optimizer import MuonWithAdamW
from relisten.types import Audio, Example, Format


@dataclass
class SftConfig:
    """Settings of supervised fine-tuning; the defaults are the paper's."""

    data: str
    """A JSONL file of examples with `answer` and `cot`, or `module:function` that gives rows for an index."""
    output: Path
    """Run folder: checkpoints, metrics, and the trained model in its folder `model`."""
    model: str = "Qwen/Qwen2.5-Omni-7B"
    """A folder, a hub name, or `module:function` that makes a model."""
    format: Format = "grounded"
    """What a JSONL file's chains become: grounded (segments as text) or interleaved (their audio inserted)."""
    dtype: str = "float32"
    """Of the weights: float32, or bfloat16 (half the memory, but small steps round away)."""
    learning_rate: float = 5e-6
    """The highest; it rises during the warm-up, then falls by the schedule."""
    epochs: float = 1.0
    """Passes over a JSONL file."""
    steps: int = -1
    """Optimiser steps; -1: as many as `epochs` make. Needed when `data` is a function."""
    batch_size: int = 64
    """Recordings a step."""
    device_batch_size: int = 4
    """Recordings in one forward."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    schedule: str = "cosine"
    """How the learning rate falls: a name that transformers knows (cosine, linear, constant_with_warmup ...)."""
    optimizer: str = "adamw"
    """adamw, or muon (matrices by Muon, the rest by AdamW)."""
    weight_decay: float = 0.0
    """Of every weight, a step, as a fraction of the learning rate."""
    bf16: bool = True
    """Forward in bfloat16; weights stay in their own precision."""
    attention: str = "sdpa"
    """transformers' attention: sdpa, eager (faster on a CPU for small models), flash_attention_2."""
    gradient_checkpointing: bool = False
    freeze: tuple[str, ...] = ("*visual.*", "*audio_bos_eos_token*")
    """Patterns of parameter names that are not trained. The default's two never get a gradient."""
    seed: int = 0
    """Of the order in which data comes, and of everything else that is drawn."""
    save_steps: int = 100
    """Steps between checkpoints; a stopped run goes on from the last."""
    keep_checkpoints: int = 2
    """Older ones are deleted."""
    log_steps: int = 10
    """Steps between lines of metrics.jsonl."""
    workers: int = 1
    """Processes that prepare data."""


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
        return [encode(self.model, example, format, mel) for example, format in rows]


class SftTrainer(Trainer):
    """`transformers.Trainer` on packed rows."""

    def __init__(self, audio_lm: AudioLM, config: SftConfig, **kwargs: Any) -> None:
        self.audio_lm, self.config = audio_lm, config
        super().__init__(model=audio_lm.module, **kwargs)
        self.model_accepts_loss_kwargs = True  # the loss is divided by the whole batch's tokens, not a part's

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross-entropy over the tokens that are learnt in the whole batch."""
        logits = self.audio_lm.forward(
            inputs["input_ids"],
            inputs["position_ids"],
            inputs["features"],
            inputs["attention_mask"],
            keep=(inputs["rows"], inputs["columns"]),
            module=model,
        )
        loss = sft_loss(logits, inputs["labels"][1:], self.audio_lm.banned_token_ids, num_items_in_batch)
        return (loss, logits) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW as transformers makes it, or Muon for matrices."""
        if self.config.optimizer == "adamw":
            return super().create_optimizer()
        self.optimizer = MuonWithAdamW(self.model, self.config.learning_rate, self.config.weight_decay)
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore the weights by the model's own loader: Trainer's knows nothing of the older names in the file, and
        would go on from the first weights with no more than a warning."""
        saved = type(self.audio_lm.module).from_pretrained(resume_from_checkpoint, local_files_only=True)
        self.audio_lm.module.load_state_dict(saved.state_dict())


class _Report(TrainerCallback):
    """One progress bar with the loss beside it, and every figure in metrics.jsonl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if self.bar is not None:
            run.log_metrics(self.folder, state.global_step, dict(logs or {}))
            if logs and "loss" in logs:
                self.bar.set_postfix_str(f"loss {logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def collate(rows: list[list[Encoded]]) -> dict[str, Any]:
    """A packed batch as the dictionary that `Trainer` moves between devices."""
    batch = pack(rows)
    tensors = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    # Trainer counts labels from the second on, since models shift them; ours are shifted already.
    return tensors | {"labels": torch.cat([torch.tensor([-100]), batch.labels])}


def read_rows(config: SftConfig) -> tuple[Callable[[int], Sequence[Row]], int]:
    """The rows of `config.data` and how many indices there are. Raises ValueError on data that cannot be used."""
    if ":" in config.data and not Path(config.data).exists():
        if config.steps < 1:
            raise ValueError(f"data {config.data} has no end: give `steps`")
        return run.resolve(config.data), config.steps * config.batch_size
    examples = records.read_examples(Path(config.data))
    unusable = [e.id for e in examples if e.answer is None]
    if unusable:
        raise ValueError(f"{config.data}: {len(unusable)} examples have no answer, {unusable[0]} for one")
    return partial(_file_row, examples, config.format), len(examples)


def _file_row(examples: Sequence[Example], format: Format, index: int) -> list[Row]:
    return [(examples[index], format)]  # a function of the module, since processes that prepare data may pickle it


def train_sft(config: SftConfig) -> Path:
    """Train, or go on where a stopped run was; the folder of the trained model. Raises ValueError on bad settings."""
    _check(config)
    rows, num = read_rows(config)
    model: AudioLM = run.resolve(config.model)() if ":" in config.model else load(config.model, dtype=config.dtype)
    run.start(config.output, config)
    model.module.set_attn_implementation(config.attention)
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad = not any(fnmatch.fnmatch(name, pattern) for pattern in config.freeze)
    checkpoints = config.output / "checkpoints"
    trainer = SftTrainer(
        model,
        config,
        args=_arguments(config, checkpoints, on_cpu=model.module.device.type == "cpu"),
        train_dataset=Rows(model, rows, num),
        data_collator=collate,
        callbacks=[_Report(config.output)],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.train(resume_from_checkpoint=latest(checkpoints))
    model.module.eval()
    model.save(config.output / "model")
    plots.training_curves(config.output / "metrics.jsonl", config.output / "curves.png")
    return config.output / "model"


def _check(config: SftConfig) -> None:
    if min(config.batch_size, config.device_batch_size) < 1:
        raise ValueError("batch_size and device_batch_size must be at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or torch.cuda.device_count() > 1:
        raise ValueError("training on several processes or GPUs is not supported yet; set CUDA_VISIBLE_DEVICES=0")
    if config.batch_size % config.device_batch_size:
        raise ValueError(f"batch_size {config.batch_size} is not a multiple of device_batch_size")
    if config.optimizer not in ("adamw", "muon"):
        raise ValueError(f"optimizer {config.optimizer!r} is neither adamw nor muon")


def _arguments(config: SftConfig, folder: Path, on_cpu: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=config.steps,
        per_device_train_batch_size=config.device_batch_size,
        gradient_accumulation_steps=config.batch_size // config.device_batch_size,
        warmup_steps=config.warmup,
        lr_scheduler_type=config.schedule,
        weight_decay=config.weight_decay,
        bf16=config.bf16,
        **({"gradient_checkpointing": True} if config.gradient_checkpointing else {}),
        seed=config.seed,
        save_steps=config.save_steps,
        save_total_limit=config.keep_checkpoints,
        logging_steps=config.log_steps,
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=on_cpu,
    )
