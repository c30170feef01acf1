"""What supervised fine-tuning and reinforcement learning share: settings, the trainer's base, checkpoints, reports."""

from __future__ import annotations

import fnmatch
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ProgressCallback, Trainer, TrainingArguments

from relisten import cpu, records, run
from relisten.models import load
from relisten.models.base import AudioLM
from relisten.training import checkpoint, plots, sharding
from relisten.training.losses import token_scores
from relisten.training.optimizer import MuonWithAdamW
from relisten.training.progress import not_finite
from relisten.training.sharding.fsdp import Fsdp2
from relisten.training.sharding.zero import Zero3
from relisten.types import Example


@dataclass
class TrainingConfig:
    """Settings that every way of training has."""

    data: str
    """A JSONL file of examples, or `module:function` that makes data for an index."""
    output: Path
    """Run folder: checkpoints, metrics, and the trained model in its folder `model`."""
    model: str = "Qwen/Qwen2.5-Omni-7B"
    """A folder, a hub name, or `module:function` that makes a model."""
    dtype: str = "float32"
    """Of the weights: float32, or bfloat16 (half the memory, but small steps round away)."""
    learning_rate: float = 5e-6
    """The highest; it rises during the warm-up, then falls by the schedule."""
    epochs: float = 1.0
    """Passes over a JSONL file."""
    steps: int = -1
    """Steps; -1: as many as `epochs` make. Needed when `data` is a function."""
    batch_size: int = 64
    """Recordings a step, over all processes."""
    device_batch_size: int = 4
    """Recordings in one forward."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    schedule: str = "cosine"
    """How the learning rate falls: one of SCHEDULES (cosine, linear, constant ...), as transformers has them."""
    optimizer: str = "adamw"
    """adamw, or muon (matrices by Muon, the rest by AdamW)."""
    weight_decay: float = 0.0
    """What every weight loses at a step: this share of it, times the learning rate."""
    bf16: bool = True
    """Forward in bfloat16; weights stay in their own precision."""
    attention: str = "sdpa"
    """transformers' attention: sdpa, eager (faster on a CPU for small models)."""
    gradient_checkpointing: bool = False
    """Keep less in memory and compute it again in the backward pass."""
    freeze: tuple[str, ...] = ("*visual.*", "*audio_bos_eos_token*")
    """Patterns of parameter names that are not trained. The default's two never get a gradient; they stay frozen."""
    lora: int = 0
    """Rank of LoRA adapters, which are then trained instead of the weights and merged at the end; 0: full training."""
    lora_modules: tuple[str, ...] = ("*.[qkvo]_proj", "*.gate_proj", "*.up_proj", "*.down_proj")
    """Patterns of linear layers that get an adapter (frozen ones do not)."""
    seed: int = 0
    """Decides the order in which data comes, and everything else that is drawn."""
    save_steps: int = 100
    """Steps between checkpoints; a stopped run goes on from the last."""
    keep_checkpoints: int = 2
    """How many checkpoints stay; older ones are deleted."""
    log_steps: int = 10
    """Steps between lines of metrics.jsonl."""
    report_to: tuple[str, ...] = ()
    """Also log to tensorboard (`pip install 'relisten[tensorboard]'`), wandb or trackio."""
    workers: int = 1
    """Processes that prepare data."""


SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
)  # fmt: skip
"""transformers' schedules that need no settings of their own."""
REPORTS = ("tensorboard", "wandb", "trackio")
NO_GRADIENT = ("*visual.*", "*audio_bos_eos_token*")
"""Parts that audio and text never touch: a process group would wait for their gradients for ever."""


class PackedTrainer(Trainer):
    """`transformers.Trainer` over an AudioLM: its own head, optimiser, and checkpoints that are whole or not there."""

    def __init__(self, audio_lm: AudioLM, config: TrainingConfig, **kwargs: Any) -> None:
        self.audio_lm, self.config = audio_lm, config
        module = with_lora(audio_lm, config) if config.lora else audio_lm.module
        super().__init__(model=module, **kwargs)
        self.model_accepts_loss_kwargs = True  # the loss is divided by the whole batch's tokens, not a part's
        self.sharding: sharding.Sharding | None = None
        if sharding.kind() == "fsdp":
            self.sharding = Fsdp2(self.accelerator, config.bf16)
        elif sharding.kind() == "deepspeed":
            self.sharding = Zero3(self.accelerator)

    def precision(self) -> AbstractContextManager[None]:
        """What forwards are in that Trainer does not make itself; split weights see to it on their own."""
        return self.accelerator.autocast() if self.sharding is None else nullcontext()

    def whole_weights(self) -> AbstractContextManager[None]:
        """All weights in each process for a while, where they are split."""
        return nullcontext() if self.sharding is None else self.sharding.whole(self.audio_lm)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of a part of a batch; last: DeepSpeed then makes the optimiser's step as well."""
        self.accelerator.gradient_state._set_sync_gradients(last)
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """As Trainer does, but that it would look for a checkpoint of DeepSpeed's own."""
        folder = resume_from_checkpoint if self.is_deepspeed_enabled else None
        prepared = super()._prepare_for_training(
            max_steps, train_dataloader, None if folder else resume_from_checkpoint
        )
        if folder:
            self._load_from_checkpoint(folder)
            self._load_optimizer_and_scheduler(folder)
        return prepared

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW as transformers makes it, or Muon for matrices."""
        if self.config.optimizer == "adamw":
            return super().create_optimizer()
        self.optimizer = MuonWithAdamW(self.model, self.config.learning_rate, self.config.weight_decay)
        return self.optimizer

    def _run_epoch(self, **given: Any) -> None:
        """Nothing where the last step was made before: from a run's last checkpoint Trainer would make one more."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(**given)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore the weights by the model's own loader: Trainer's knows nothing of the older names in the file, and
        would go on from the first weights with no more than a warning."""
        if self.config.lora:
            from peft import set_peft_model_state_dict
            from safetensors.torch import load_file

            set_peft_model_state_dict(self.model, load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors"))
            return
        module, weights = self.audio_lm.module, dict[str, Any]()
        if self.is_world_process_zero() or self.sharding is None:
            safely = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
            weights = type(module).from_pretrained(resume_from_checkpoint, **safely).state_dict()
        if self.sharding is None:
            module.load_state_dict(weights)
        else:
            self.sharding.set_weights(module, weights)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights of a checkpoint, whole whether they are split or not."""
        if self.sharding is None:
            super().save_model(output_dir, _internal_call)
        else:
            self._save(output_dir, state_dict=self.sharding.weights(self.model))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.sharding is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        memory = self.sharding.memory(self.model, self.optimizer)
        if self.args.should_save:
            torch.save(memory, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder, first = Path(checkpoint), self.is_world_process_zero()
        module = self.accelerator.unwrap_model(self.model) if self.sharding is None else self.model
        sharding.load_optimizer(self.sharding, module, self.optimizer, folder / "optimizer.pt", reader=first)
        self.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write beside, then rename; where the disk is full the last good checkpoint stays. NaN is not written."""
        if not math.isfinite(float(self._tr_loss)):
            raise ValueError(not_finite(self.state.global_step, self.config.output))
        folder = Path(self.args.output_dir)
        with checkpoint.staged(folder, f"checkpoint-{self.state.global_step}", self.args.should_save) as part:
            self.args.output_dir = str(part)
            self.accelerator.wait_for_everyone()  # an old part is cleared away before anyone writes
            try:
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # every process writes its random state there
            finally:
                self.args.output_dir = str(folder)
        if self.args.should_save:
            checkpoint.prune(folder, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()


def token_logprobs_of(model: AudioLM, inputs: Mapping[str, Any], module: Any = None) -> tuple[Tensor, Tensor]:
    """Log-probabilities [K] and entropies [K] (nats) of a packed batch's sampled tokens, by one forward.

    module: what is called (None: the model's own module; a trainer passes its wrapper). The head computes them within
    that forward, in chunks, so that wrappers which gather its weights work and no [K, vocabulary] is ever held.
    """
    with _head_scores(model, inputs["token_ids"]):
        scores = model.forward(
            inputs["input_ids"],
            inputs["position_ids"],
            inputs["features"],
            inputs["attention_mask"],
            keep=(inputs["rows"], inputs["columns"]),
            module=module,
        )
    return scores[:, 0], scores[:, 1]


@contextmanager
def _head_scores(model: AudioLM, token_ids: Tensor) -> Iterator[None]:
    """The output layer gives scores [K, 2] of these tokens in place of logits."""
    head = model.module.get_output_embeddings()
    wrapped = vars(head).get("forward")  # as accelerate leaves it on a model that is spread over devices
    project: Callable[[Tensor], Tensor] = head.forward
    vocab_size = int(head.out_features)  # of its weight, a process may hold a part
    head.forward = lambda hidden: token_scores(hidden, project, token_ids, model.banned_token_ids, vocab_size)
    try:
        yield
    finally:
        del head.forward
        if wrapped is not None:
            head.forward = wrapped


def num_processes() -> int:
    """How many processes train together (torchrun and accelerate set it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check(config: TrainingConfig) -> None:
    """Raises ValueError on settings that cannot be used, before anything is loaded."""
    if min(config.batch_size, config.device_batch_size) < 1:
        raise ValueError("batch_size and device_batch_size must be at least 1")
    if min(config.save_steps, config.log_steps) < 1 or config.workers < 0:
        raise ValueError("save_steps and log_steps must be at least 1, workers not negative")
    if config.steps < 1 and (config.steps != -1 or config.epochs <= 0):
        raise ValueError(f"steps {config.steps}, epochs {config.epochs:g}: give one of them, above 0")
    if config.keep_checkpoints < 1 or min(config.weight_decay, config.learning_rate, config.lora) < 0:
        raise ValueError("keep_checkpoints must be at least 1; weight_decay, learning_rate and lora not negative")
    if not 0 <= config.warmup < 1:  # from 1 on, transformers would take it for a number of steps
        raise ValueError(f"warmup is {config.warmup:g}; it is a share of the steps, from 0 to less than 1")
    if config.schedule not in SCHEDULES:
        raise ValueError(f"schedule {config.schedule!r}: there are {', '.join(SCHEDULES)}")
    if config.optimizer not in ("adamw", "muon"):
        raise ValueError(f"optimizer {config.optimizer!r} is neither adamw nor muon")
    if config.batch_size % num_processes():
        raise ValueError(f"batch_size {config.batch_size} is not a multiple of the {num_processes()} processes")
    if num_processes() == 1 and torch.cuda.device_count() > 1:
        raise ValueError(
            f"there are {torch.cuda.device_count()} GPUs and one process: start with `torchrun --nproc-per-node"
            f" {torch.cuda.device_count()} -m relisten.cli train ...`, or set CUDA_VISIBLE_DEVICES=0"
        )
    if sharding.kind():
        sharding.check(config.optimizer, config.lora)
    if config.lora and importlib.util.find_spec("peft") is None:
        raise ValueError("lora needs peft, which is not installed: pip install 'relisten[lora]'")
    if config.lora and config.optimizer == "muon":
        raise ValueError("lora with muon is not supported; set optimizer to adamw")
    for name in config.report_to:
        if name not in REPORTS:
            raise ValueError(f"report_to {name}: there are {', '.join(REPORTS)}; leave it out for none")
        if importlib.util.find_spec(name) is None:
            package = "'relisten[tensorboard]'" if name == "tensorboard" else name
            raise ValueError(f"report_to {name}: it is not installed; pip install {package}")


def read_data(config: TrainingConfig) -> Callable[[int], Any] | list[Example]:
    """What `config.data` names: a function of an index, or a file's examples. ValueError where it cannot be used."""
    if ":" in config.data and not Path(config.data).exists():
        if config.steps < 1:
            raise ValueError(f"data {config.data} has no end: give `steps`")
        return run.resolve(config.data)
    examples = records.read_examples(Path(config.data))
    check_examples(examples, config.data)
    return examples


def check_examples(examples: Sequence[Example], data: str) -> None:
    """Raises ValueError where one has no answer, or no recording is where it should be."""
    if without := [e.id for e in examples if e.answer is None]:
        raise ValueError(f"{data}: {len(without)} examples have no answer, {without[0]} for one; give each its own")
    if absent := [e for e in examples if isinstance(e.audio, Path) and not e.audio.is_file()]:
        first = f"{absent[0].audio} of {absent[0].id}"
        raise ValueError(f"{data}: {len(absent)} examples have no recording, {first} for one; check the paths")


def prepare(config: TrainingConfig) -> AudioLM:
    """The model to train, what is frozen frozen; ValueError where the run folder holds another run."""
    run.check(config.output, config)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # where this process's copies belong
    else:
        cpu.keep_freed_memory()
    device = "cpu" if sharding.kind() else "auto"  # split, a part of it alone goes on to a GPU
    model: AudioLM = run.resolve(config.model)() if ":" in config.model else load(config.model, config.dtype, device)
    model.module.set_attn_implementation(config.attention)
    names = [name for name, _ in model.module.named_parameters()]
    for pattern in config.freeze:
        if pattern not in NO_GRADIENT and not fnmatch.filter(names, pattern):
            raise ValueError(f"freeze {pattern!r}: no parameter has such a name; they are called as {names[0]}")
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad = not _matches(name, (*config.freeze, *NO_GRADIENT))
        if sharding.kind():
            parameter.data = parameter.data.contiguous()  # rows are what is split
    if not any(parameter.requires_grad for parameter in model.module.parameters()):
        raise ValueError(f"freeze {', '.join(config.freeze)}: leaves nothing to train; name fewer patterns")
    first = int(os.environ.get("RANK", "0")) == 0
    if first and config.bf16 and model.module.device.type == "cpu" and not torch.cuda.is_available():
        cpu.tell_of_bfloat16("set bf16 to false (--no-bf16)")
    return model


def with_lora(model: AudioLM, config: TrainingConfig) -> Any:
    """The model's module inside a PEFT model; only the adapters are trained."""
    from peft import LoraConfig, get_peft_model

    patterns = (*config.freeze, *NO_GRADIENT)
    targets = [
        name
        for name, layer in model.module.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and _matches(name, config.lora_modules)
        and not _matches(f"{name}.weight", patterns)
    ]
    if not targets:
        raise ValueError(f"lora_modules {', '.join(config.lora_modules)}: no layer has such a name")
    torch.manual_seed(config.seed)
    adapters = LoraConfig(r=config.lora, lora_alpha=2 * config.lora, target_modules=targets)
    return get_peft_model(model.module, adapters)  # type: ignore[arg-type]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def train(trainer: PackedTrainer) -> Path:
    """Train to the end, or go on where a stopped run was; write the model. The folder it is in."""
    config, model = trainer.config, trainer.audio_lm
    if trainer.is_world_process_zero():
        run.start(config.output, config)
    trainer.remove_callback(ProgressCallback)
    try:
        trainer.train(resume_from_checkpoint=checkpoint.latest(Path(trainer.args.output_dir)))
    except ValueError as error:  # of a process that prepares data, it holds that process's whole traceback
        raise ValueError(str(error).rpartition("\nValueError: ")[2].strip()) from error
    weights = None if trainer.sharding is None else trainer.sharding.weights(model.module)
    if trainer.is_world_process_zero():
        if config.lora:
            trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        model.module.eval()
        model.save(config.output / "model", weights=weights)
        plots.training_curves(config.output / "metrics.jsonl", config.output / "curves.png")
    trainer.accelerator.wait_for_everyone()
    return config.output / "model"


def arguments(config: TrainingConfig, model: AudioLM, **more: Any) -> TrainingArguments:
    """Our settings in transformers' words."""
    on_cpu = model.module.device.type == "cpu"
    if sharding.kind():  # the model is moved later; DeepSpeed trains on CPUs as well, but not where it is told to
        on_cpu = sharding.kind() == "fsdp" and not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(config.output / "checkpoints"),
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=config.steps,
        warmup_steps=config.warmup,
        lr_scheduler_type=config.schedule,
        weight_decay=config.weight_decay,
        bf16=config.bf16,
        **({"gradient_checkpointing": True} if config.gradient_checkpointing else {}),
        ddp_find_unused_parameters=False,
        seed=config.seed,
        save_steps=config.save_steps,
        save_total_limit=None,  # `checkpoint.prune` does it, after the new one has its name
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,  # it would show the mean of earlier losses in place of NaN
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        report_to=list(config.report_to),
        run_name=config.output.resolve().name,
        project="relisten",  # trackio's; W&B takes its own from WANDB_PROJECT
        use_cpu=on_cpu,
        **more,
    )
