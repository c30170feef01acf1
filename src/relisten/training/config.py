"""The settings of training, and the checks that need no data and no model. This module does not import torch.

`relisten train --help` is made from these fields.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from relisten.engine.generation import AnswerConfig, GenerationConfig
from relisten.extras import install_hint
from relisten.fields import documented
from relisten.training import launch, rewards
from relisten.types import Format


@documented
@dataclass(frozen=True)
class TrainingConfig:
    """The settings that SFT and GRPO share."""

    data: str
    """A JSONL file of examples, or `module:function`: a function that makes the data for an index."""
    output: Path
    """The run folder. It gets checkpoints, metrics, and the trained model in its folder `model`."""
    model: str = "Qwen/Qwen2.5-Omni-7B"
    """The model to start from: nano, a folder, a name on the Hugging Face hub, or `module:function`."""
    operations: str = "model"
    """Ways to listen to a segment that the model may use (see docs/operations.md): model (those that it knows), all,
    none, or names with commas, such as slow,low. The trained model knows them. An operation that it did not know is
    explained in its prompt."""
    dtype: str = "auto"
    """Precision of the weights: auto, float32 or bfloat16. auto: float32 where the weights themselves are trained in
    this process; the model's own where they are frozen (`lora`) or sharded (FSDP2 and ZeRO-3 keep a float32 copy of
    what they train). The trained model is saved in the model's own precision, or in the one that is asked for here."""
    learning_rate: float | None = None
    """The peak learning rate. It rises to it during the warm-up and then follows the schedule. By default it is 5e-6,
    or 1e-4 for the adapters of `lora`, which need larger steps than whole weights."""
    epochs: float = 1.0
    """How many passes to make over a JSONL file."""
    steps: int = -1
    """How many steps to make. -1 makes as many as `epochs` needs. If `data` is a function, give a number."""
    batch_size: int = 64
    """Recordings per step, over all processes. If the file has fewer, each step takes all of them."""
    device_tokens: int = 8192
    """The most tokens in one forward pass of training, padding included. Lower it if memory runs out; the result is the
    same. A row that is longer by itself goes alone."""
    device_batch_size: int = 0
    """The most recordings in one forward pass. 0 sets no limit beside `device_tokens`."""
    warmup: float = 0.05
    """The share of the steps in which the learning rate rises, from 0 to less than 1."""
    schedule: str = "cosine"
    """How the learning rate changes after the warm-up: linear, cosine, cosine_with_restarts, polynomial, constant,
    constant_with_warmup or inverse_sqrt, as transformers has them."""
    optimizer: str = "adamw"
    """adamw, or muon (Muon for matrices, AdamW for everything else)."""
    weight_decay: float = 0.0
    """At each step every weight shrinks by this share times the learning rate."""
    bf16: bool = True
    """Run forward passes in bfloat16. The weights keep their own precision."""
    attention: str = "sdpa"
    """The attention of transformers: sdpa, eager (faster for small models on a CPU), or another that is installed."""
    gradient_checkpointing: bool = False
    """Save memory by computing activations again in the backward pass."""
    freeze: tuple[str, ...] = ("*visual.*", "*audio_bos_eos_token*")
    """Patterns of parameter names that are not trained. The two default patterns never get a gradient and always stay
    frozen."""
    lora: int = 0
    """Rank of LoRA adapters. They are trained instead of the weights, and saved without them; `relisten merge` adds
    them to the weights. If `model` is an adapter of this rank, it is trained further. 0 trains the weights."""
    lora_modules: tuple[str, ...] = (
        "*.[qkvo]_proj", "*.gate_proj", "*.up_proj", "*.down_proj", "*.out_proj", "*.fc1", "*.fc2", "*.proj",
        "*.proj[12]", "*.conv_out", "*multi_modal_projector.*",
    )  # fmt: skip
    """Patterns of the linear layers that get an adapter. Frozen layers get none."""
    seed: int = 0
    """Random seed. The same seed gives the same data order and, in GRPO, the same sampled answers."""
    save_steps: int = 100
    """How many steps lie between two checkpoints. A stopped run continues from the last one."""
    keep_checkpoints: int = 2
    """How many checkpoints to keep. Older ones are deleted."""
    log_steps: int = 10
    """How many steps lie between two lines of metrics.jsonl. Short runs log more often."""
    eval_data: Path | None = None
    """A JSONL file of questions that are not trained on. The model answers them before the first step, every
    `eval_steps` steps, and after the last one, greedily and in the run's format. The best checkpoint is kept."""
    eval_steps: int = 0
    """How many steps lie between two evaluations on `eval_data`. 0 takes `save_steps`."""
    patience: int = 0
    """End the run when so many evaluations in a row have not exceeded the best accuracy. 0 never ends it early."""
    report_to: tuple[str, ...] = ()
    """Also report metrics to tensorboard, wandb or trackio."""
    workers: int = 1
    """How many processes prepare data."""

    FULL_RATE: ClassVar[float] = 5e-6
    LORA_RATE: ClassVar[float] = 1e-4

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", self.LORA_RATE if self.lora else self.FULL_RATE)

    @property
    def peak_rate(self) -> float:
        """The peak learning rate, which is always known."""
        assert self.learning_rate is not None
        return self.learning_rate


@documented
@dataclass(frozen=True)
class SftConfig(TrainingConfig):
    """Settings of supervised fine-tuning. The defaults are the paper's."""

    format: Format = "grounded"
    """How the chains of thought of a JSONL file are trained. grounded: segments are text. interleaved: the audio of
    each segment is inserted after its tag. conditioned: tags are plain text."""

    def asking(self) -> GenerationConfig:
        """How held-out questions are asked."""
        return GenerationConfig(format=self.format)


@documented
@dataclass(frozen=True)
class GrpoConfig(AnswerConfig, TrainingConfig):
    """Settings of GRPO. The defaults are the paper's. The options of generation are those of `relisten ask`."""

    learning_rate: float | None = None
    """The peak learning rate. By default it is 1e-6, or 1e-5 for the adapters of `lora`. All optimiser steps of one
    rollout use the same rate; the schedule changes it between rollouts."""
    batch_size: int = 64
    """Questions per rollout, over all processes. If the file has fewer, each rollout takes all of them."""
    mini_batch_size: int = 32
    """Questions per optimiser step. A rollout makes `batch_size` / `mini_batch_size` optimiser steps, or one if the
    batch is smaller than this."""
    group_size: int = 8
    """How many answers are sampled to each question."""
    device_batch_size: int = 0
    """The most answers in one forward pass, but at least those to one question, which share its prompt. Only if they
    are more than `device_tokens` are they divided. 0 sets no limit beside `device_tokens`."""
    warmup: float = 0.0
    """The share of the steps in which the learning rate rises, from 0 to less than 1."""
    schedule: str = "constant"
    """How the learning rate changes after the warm-up: linear, cosine, cosine_with_restarts, polynomial, constant,
    constant_with_warmup or inverse_sqrt, as transformers has them."""
    rewards: tuple[str, ...] = ("format", "consistency", "accuracy", "segment")
    """Rewards, which are added up: format, consistency, accuracy, segment; located (how well the heard segments overlap
    the labelled ones, in place of segment); confidence (what the authors' code has in place of accuracy); or a function
    of your own as `module:function`."""
    max_heard: float = 0.0
    """An answer whose segments together last longer than this share of the recording earns no segment (or located)
    reward; a segment that is heard twice counts twice. 0 sets no limit, so that hearing the whole recording eight times
    earns it."""
    temperature: float = 1.0
    """The temperature at which answers are sampled. The ratio, the KL and the entropy use probabilities at it, too."""
    clip: float = 0.2
    """How far the ratio of new to old probability may move from 1 before it is clipped."""
    clip_high: float | None = None
    """Another limit for ratios above 1 (clip-higher uses about 0.28). By default it equals `clip`."""
    kl: float = 0.04
    """Weight of the KL divergence from the starting model. With 0, no second copy of the model (the reference) is kept.
    With `lora`, the reference is the same model with its adapters as they were at the start."""
    loss_mean: Literal["trace", "token"] = "trace"
    """trace: every answer has the same weight, as in the paper. token: every token has."""
    normalise: bool = True
    """Divide the advantages of a group by their standard deviation."""
    leave_one_out: bool = False
    """Compare an answer with the mean of the other answers of its group, instead of the mean of all."""
    mask_over_limit: bool = False
    """Leave out of the loss the answers that a limit has cut short."""
    old_logprobs: Literal["recomputed", "rollout"] = "recomputed"
    """Where the old probabilities of the ratio come from: recomputed by the trainer, or kept from the rollout (this
    saves a forward pass if a rollout has several mini-batches)."""
    rollout_rows: int = 64
    """How many answers one process generates side by side."""
    engine: str = "local"
    """What samples the answers. local: this process. http://HOST:PORT: a vLLM server on this machine, which gets the
    new weights before each rollout through the folder rollout_weights of the run (several with commas)."""
    sample_steps: int = 10
    """How many steps lie between two files of sampled answers in the folder `samples` of the run."""
    save_steps: int = 200
    """How many rollouts lie between two checkpoints. A stopped run continues from the last one."""
    log_steps: int = 1
    """How many rollouts lie between two lines of metrics.jsonl."""

    FULL_RATE: ClassVar[float] = 1e-6
    LORA_RATE: ClassVar[float] = 1e-5

    def __post_init__(self) -> None:
        AnswerConfig.__post_init__(self)
        TrainingConfig.__post_init__(self)

    def sampling(self, step: int = 0) -> GenerationConfig:
        """How the answers of one step are sampled."""
        return GenerationConfig(
            format=self.format,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            max_listens=self.max_listens,
            min_segment=self.min_segment,
            seed=self.seed * 1_000_000 + step,
        )

    def asking(self) -> GenerationConfig:
        """How held-out questions are asked."""
        return replace(self.sampling(), temperature=0.0)


SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
)  # fmt: skip
"""The schedules of transformers that need no further settings."""
REPORTS = ("tensorboard", "wandb", "trackio")


def may_change(name: str, old: object, new: object) -> bool:
    """Whether a run may be resumed with another value of a setting. It may become longer."""
    longer = isinstance(old, int | float) and isinstance(new, int | float) and 0 < old < new
    return name == "log_steps" or (name in ("steps", "epochs") and longer)


def num_processes() -> int:
    """How many processes train together (torchrun and accelerate set it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def check(config: TrainingConfig) -> None:
    """Raises ValueError, in one line, for settings that cannot be used."""
    if min(config.batch_size, config.device_tokens) < 1 or config.device_batch_size < 0:
        raise ValueError("batch_size and device_tokens must be at least 1, and device_batch_size must not be negative")
    if min(config.save_steps, config.log_steps) < 1 or config.workers < 0:
        raise ValueError("save_steps and log_steps must be at least 1, and workers must not be negative")
    if min(config.eval_steps, config.patience) < 0:
        raise ValueError("eval_steps and patience must not be negative")
    if config.eval_data is None and (config.eval_steps or config.patience):
        raise ValueError("eval_steps and patience need eval_data, a file of questions that are not trained on")
    if config.steps < 1 and (config.steps != -1 or config.epochs <= 0):
        raise ValueError(f"steps is {config.steps} and epochs is {config.epochs:g}; one of them must be above 0")
    if config.keep_checkpoints < 1 or min(config.weight_decay, config.peak_rate, config.lora) < 0:
        raise ValueError(
            "keep_checkpoints must be at least 1; weight_decay, learning_rate and lora must not be negative"
        )
    if not 0 <= config.warmup < 1:  # from 1 on, transformers would take it for a number of steps
        raise ValueError(f"warmup is {config.warmup:g}; it is a share of the steps, from 0 to less than 1")
    if config.schedule not in SCHEDULES:
        raise ValueError(f"schedule {config.schedule!r} is not known; choose from {', '.join(SCHEDULES)}")
    if config.optimizer not in ("adamw", "muon"):
        raise ValueError(f"optimizer {config.optimizer!r} is not known; choose adamw or muon")
    if config.batch_size % num_processes():
        raise ValueError(f"batch_size {config.batch_size} is not a multiple of the {num_processes()} processes")
    if launch.kind():
        launch.check(config.optimizer, config.lora)
    if config.dtype not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"dtype {config.dtype!r} cannot be trained; choose auto, float32 or bfloat16")
    if config.dtype != "auto":
        check_precision(config, config.dtype)
    if config.lora and ":" in config.model:
        raise ValueError(
            f"lora: an adapter names its base model, and {config.model} is a function; save its model first"
        )
    if config.lora and config.optimizer == "muon":
        raise ValueError("lora with muon is not supported; set optimizer to adamw")
    if config.lora and importlib.util.find_spec("peft") is None:
        raise ValueError(f"lora needs peft, which is not installed: {install_hint('lora')}")
    for name in config.report_to:
        if name not in REPORTS:
            raise ValueError(f"report_to {name} is not known; choose from {', '.join(REPORTS)}, or leave it out")
        if importlib.util.find_spec(name) is None:
            package = "'relisten[tensorboard]'" if name == "tensorboard" else name
            raise ValueError(f"report_to {name}: it is not installed; pip install {package}")
    if isinstance(config, GrpoConfig):
        _check_grpo(config)


def check_precision(config: TrainingConfig, dtype: str) -> None:
    """Raises ValueError if weights of this precision would not learn. dtype: that of the weights, such as float32."""
    if dtype == "float32":
        return
    if not config.lora and not launch.kind():
        raise ValueError(
            f"weights in {dtype} learn almost nothing, because most updates are smaller than its rounding: give --dtype"
            " float32, or train adapters (--lora 64), or shard the weights (runs/accelerate_fsdp2.yaml)"
        )
    if not config.bf16:
        raise ValueError(f"weights in {dtype} need forward passes in bfloat16: give --bf16, or --dtype float32")


def _check_grpo(config: GrpoConfig) -> None:
    rewards.find(config.rewards)
    config.sampling()  # raises for a negative seed
    if config.group_size < 2:
        raise ValueError("group_size must be at least 2, because an answer is compared with the others of its group")
    if config.mini_batch_size < 1 or config.mini_batch_size % num_processes():
        raise ValueError(
            f"mini_batch_size {config.mini_batch_size} must be a multiple of the number of processes"
            f" ({num_processes()})"
        )
    if config.mini_batch_size < config.batch_size and config.batch_size % config.mini_batch_size:
        raise ValueError(
            f"batch_size {config.batch_size} must be a multiple of mini_batch_size {config.mini_batch_size}"
        )
    if config.loss_mean not in ("trace", "token") or config.old_logprobs not in ("recomputed", "rollout"):
        raise ValueError("loss_mean must be trace or token, and old_logprobs must be recomputed or rollout")
    if config.temperature <= 0:
        raise ValueError("temperature must be above 0, because greedy answers to one question are all the same")
    if not 0 <= config.max_heard < float("inf"):
        raise ValueError(
            f"max_heard is {config.max_heard:g}; it is a share of the recording, such as 0.5, or 0 for no limit"
        )
    if config.engine != "local" and (num_processes() > 1 or config.lora):
        raise ValueError("engine: rollouts on a vLLM server go with one training process, and without lora, so far")
    if min(config.sample_steps, config.rollout_rows) < 1:
        raise ValueError("sample_steps and rollout_rows must be at least 1")
    if not 0 < config.clip < 1 or config.kl < 0 or (config.clip_high is not None and config.clip_high <= 0):
        raise ValueError("clip must be above 0 and below 1, clip_high must be above 0, and kl must not be negative")
