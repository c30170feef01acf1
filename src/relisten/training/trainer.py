"""What supervised fine-tuning and GRPO share: the trainer's base, loading and saving the model, the training loop."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import ProgressCallback, TrainingArguments

from relisten import cpu, run
from relisten.engine.engine import Engine
from relisten.engine.operations import offering
from relisten.models import SAFELY, adapter, find, load
from relisten.models.base import AudioLM
from relisten.training import checkpoint, heldout, launch, plots, sharding
from relisten.training.config import (
    GrpoConfig,
    SftConfig,
    TrainingConfig,
    check_precision,
    is_first_process,
    may_change,
    num_processes,
)
from relisten.training.hooks import HookedTrainer
from relisten.training.losses import token_scores
from relisten.training.optimizer import MuonWithAdamW
from relisten.training.progress import finished, tell
from relisten.training.sharding.fsdp import Fsdp2
from relisten.training.sharding.zero import Zero3
from relisten.types import Example

NO_GRADIENT = ("*visual.*", "*audio_bos_eos_token*", "*audio_tower.embed_positions*")
"""Parts that audio and text never use (if they were trained, a process group would wait for their gradients forever),
and the table of sines and cosines of Whisper's encoder, which its classes freeze."""


class PackedTrainer(HookedTrainer):
    """`transformers.Trainer` over an AudioLM, with its own output layer and optimiser."""

    config: SftConfig | GrpoConfig
    held_out: Sequence[Example] = ()

    def __init__(self, audio_lm: AudioLM, config: SftConfig | GrpoConfig, **kwargs: Any) -> None:
        self.audio_lm, self.config = audio_lm, config
        super().__init__(model=audio_lm.module, data_collator=_items, **kwargs)
        saved = audio_lm.module.config.dtype or audio_lm.module.dtype
        self.saved_dtype: torch.dtype = getattr(torch, str(saved).removeprefix("torch."))
        self.sharding: sharding.Sharding | None = None
        if launch.kind() == "fsdp":
            self.sharding = Fsdp2(self.accelerator, config.bf16)
        elif launch.kind() == "deepspeed":
            self.sharding = Zero3(self.accelerator)

    def precision(self) -> AbstractContextManager[None]:
        """The precision of forwards that Trainer does not make itself; split weights see to it on their own."""
        return self.accelerator.autocast() if self.sharding is None else nullcontext()

    def whole_weights(self) -> AbstractContextManager[None]:
        """Inside this, each process has all weights, also if they are split."""
        return nullcontext() if self.sharding is None else self.sharding.whole(self.audio_lm)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of a part of a batch. After the last part, DeepSpeed also makes the optimiser's step."""
        if self.is_deepspeed_enabled:
            self.accelerator.deepspeed_engine_wrapped.backward(loss, sync_gradients=last, scale_wrt_gas=False)
        else:
            self.accelerator.backward(loss)

    def accumulating(self, model: Any, last: bool) -> AbstractContextManager[Any]:
        """A context for a forward and its backward pass. Whole models add up gradients over the processes after the
        last pass of a batch. Split models do so after each, or a process would hold the gradients of all weights.
        """
        return nullcontext() if last or self.sharding is not None else self.accelerator.no_sync(model)

    def num_forwards(self, own: int) -> int:
        """How many forward passes this process makes for a batch that it divides into `own`: at least one.

        Split weights are gathered anew for each pass, for which all processes must come together. So each of them then
        makes as many as the one that has most.
        """
        return max(1, own if self.sharding is None else int(self.largest(own)))

    def total(self, value: Tensor | float) -> float:
        """The sum over all processes."""
        own = torch.as_tensor(value, dtype=torch.float32, device=self.args.device).detach()
        return float(self.accelerator.reduce(own, reduction="sum"))

    def largest(self, value: float) -> float:
        """The maximum over all processes."""
        return float(self.accelerator.gather(torch.tensor([value], device=self.args.device)).max())

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW as transformers makes it, or Muon for matrices."""
        if self.config.optimizer == "adamw":
            return super().create_optimizer()
        self.optimizer = MuonWithAdamW(self.model, self.config.peak_rate, self.config.weight_decay)
        return self.optimizer

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Ask the held-out questions, each process its part of them, and log the figures over all of them."""
        if self.state.global_step and not self.control.should_evaluate:
            return {}  # a run that goes on from a checkpoint asks at the same steps as an undisturbed one
        started, rank = perf_counter(), self.args.process_index
        engine = Engine(self.audio_lm, max_rows=getattr(self.config, "rollout_rows", 32))
        with self.precision(), self.whole_weights():
            own = heldout.ask(engine, self.held_out[rank :: self.args.world_size], self.config.asking())
        found = heldout.figures(gather_object(own)) | {"eval_seconds": perf_counter() - started}
        self.log(found)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def restore(self, folder: str) -> None:
        """Load the weights of a checkpoint with the model's own loader.

        Trainer's loader does not know the older parameter names in the file: it would warn and train from the first
        weights.
        """
        if self.config.lora:
            adapter.read(self.audio_lm.module, Path(folder))
            return
        module, weights = self.audio_lm.module, dict[str, Any]()
        split = self.sharding is not None and self.is_in_train  # before the training loop, each process has all weights
        if self.is_world_process_zero() or not split:
            weights = type(module).from_pretrained(folder, dtype=torch.float32, **SAFELY).state_dict()
        if self.sharding is not None and split:
            self.sharding.set_weights(module, weights)
        else:
            module.load_state_dict(weights)


def _items(items: list[Any]) -> dict[str, list[Any]]:
    """A batch as `Trainer` passes it on; the trainers divide it into forward passes themselves."""
    return {"items": items}


def token_logprobs_of(
    model: AudioLM, inputs: Mapping[str, Any], module: Any = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [K] and entropies [K] (nats) of the sampled tokens of a packed batch, in one forward.

    module: what is called (None: the model's own module; a trainer passes its wrapper). temperature: that at which the
    tokens were sampled. The output layer computes the scores within that forward, in chunks. So wrappers that gather
    its weights work, and [K, vocabulary] is never in memory.
    """
    with _head_scores(model, inputs["token_ids"], temperature):
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
def _head_scores(model: AudioLM, token_ids: Tensor, temperature: float) -> Iterator[None]:
    """Inside this, the output layer gives the scores [K, 2] of these tokens instead of logits."""
    head = model.module.get_output_embeddings()
    wrapped = vars(head).get("forward")  # as accelerate leaves it on a model that is spread over devices
    project: Callable[[Tensor], Tensor] = head.forward
    vocab_size = int(head.out_features)  # of its weight, a process may hold a part
    head.forward = lambda hidden: token_scores(
        hidden, project, token_ids, model.banned_token_ids, vocab_size, temperature
    )
    try:
        yield
    finally:
        del head.forward
        if wrapped is not None:
            head.forward = wrapped


def prepare(config: TrainingConfig) -> AudioLM:
    """Load the model to train and freeze what is not trained. Raises ValueError, in one line, if that fails."""
    run.check(config.output, config, may_change)
    if num_processes() == 1 and torch.cuda.device_count() > 1:
        raise ValueError(
            f"there are {torch.cuda.device_count()} GPUs but one process; start with `torchrun --nproc-per-node"
            f" {torch.cuda.device_count()} -m relisten.cli train ...`, or set CUDA_VISIBLE_DEVICES=0"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # where this process's copies belong
    else:
        cpu.keep_freed_memory()
    model = offering(_loaded(config), config.operations)
    model.module.set_attn_implementation(config.attention)
    set_trained(model, config)
    if is_first_process() and config.bf16 and model.module.device.type == "cpu" and not torch.cuda.is_available():
        cpu.tell_of_bfloat16("set bf16 to false (--no-bf16)")
    return model


def _loaded(config: TrainingConfig) -> AudioLM:
    """The model in the precision in which it is trained. Its config keeps the precision in which it is to be saved."""
    device = "cpu" if launch.kind() else "auto"  # if it is split, only a part of it is moved to a GPU
    model: AudioLM = run.resolve(config.model)() if ":" in config.model else load(config.model, config.dtype, device)
    module = model.module
    module.config.dtype = module.dtype
    merged = adapter.settings(module) is not None and not config.lora  # which loses most of it in bfloat16
    if config.dtype == "auto" and (merged or not (config.bf16 and (config.lora or launch.kind()))):
        module.float()
    check_precision(config, str(module.dtype).removeprefix("torch."))
    if adapter.settings(module) is not None:
        adapter.to_float32(module, find(config.model))
        if merged:
            lost = adapter.merge(model, module.dtype)
            tell(f"{config.model}: its adapter is merged into the weights, which are trained. {adapter.said(lost)}")
    return model


def set_trained(model: AudioLM, config: TrainingConfig) -> None:
    """Freeze what is not trained, and add the adapters of `lora`. Raises ValueError for patterns that fit nothing."""
    names = [name for name, _ in model.module.named_parameters()]
    for pattern in config.freeze:
        if pattern not in NO_GRADIENT and not fnmatch.filter(names, pattern):
            raise ValueError(f"freeze {pattern!r}: no parameter has such a name; an example of a name is {names[0]}")
    if config.lora:
        _adapt(model, config)
    adapters = adapter.parameters(model.module)
    for name, parameter in model.module.named_parameters():
        trained = not config.lora or name in adapters
        parameter.requires_grad = trained and not matches(name, (*config.freeze, *NO_GRADIENT))
        if launch.kind():
            parameter.data = parameter.data.contiguous()  # it is split by rows
    if not any(parameter.requires_grad for parameter in model.module.parameters()):
        raise ValueError(f"freeze {', '.join(config.freeze)}: nothing is left to train; give fewer patterns")


def _adapt(model: AudioLM, config: TrainingConfig) -> None:
    """Give the model new adapters, if it has none yet. Raises ValueError if it has some of another rank."""
    if (own := adapter.settings(model.module)) is not None:
        if own.r != config.lora:
            raise ValueError(
                f"lora is {config.lora}, but {config.model} is an adapter of rank {own.r}; give --lora {own.r} to train"
                " it further, or merge it first (`relisten merge`)"
            )
        return
    targets = adapted_layers(model.module, config)
    if not targets:
        raise ValueError(f"lora_modules {', '.join(config.lora_modules)}: no layer has such a name")
    torch.manual_seed(config.seed)
    folder = Path(config.model).expanduser()
    adapter.add(model, str(folder.resolve()) if folder.exists() else config.model, config.lora, targets)
    adapter.to_float32(model.module, None)


def adapted_layers(module: torch.nn.Module, config: TrainingConfig) -> list[str]:
    """Names of the linear layers that get an adapter."""
    frozen = (*config.freeze, *NO_GRADIENT)
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and matches(name, config.lora_modules)
        and not matches(f"{name}.weight", frozen)
    ]


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of the patterns."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def train(
    trainer: PackedTrainer, lines: Sequence[str] = (), held_out: Sequence[Example] = (), num_steps: int = 0
) -> Path:
    """Train to the end, or continue a stopped run, and write the model. Returns the folder of the model.

    lines: printed before the first step. held_out: the questions of `eval_data`, which are asked on the way. num_steps:
    how many steps the run has; a finished run with fewer goes on.
    """
    config, model = trainer.config, trainer.audio_lm
    trainer.held_out = held_out
    if held_out:
        trainer.add_callback(heldout.HeldOutQuestions(config))
    if trainer.is_world_process_zero():
        run.start(config.output, config, may_change)
        for line in lines:
            tell(line)
    trainer.remove_callback(ProgressCallback)
    last = checkpoint.latest(Path(trainer.args.output_dir))
    weights = None
    if last is not None and _is_complete(
        last, config.patience, num_steps
    ):  # only the model was not written; Trainer would make one more step
        trainer.restore(last)
    else:
        try:
            trainer.train(resume_from_checkpoint=last)
        except ValueError as error:  # from a process that prepares data, it has the whole traceback of that process
            raise ValueError(str(error).rpartition("\nValueError: ")[2].strip()) from error
        weights = None if trainer.sharding is None else trainer.sharding.weights(model.module, trainer.saved_dtype)
    if trainer.is_world_process_zero():
        model.module.eval()
        trainer.write(config.output / "model", trainer.saved_dtype, weights)
        run.check_kept(config.output)
        plots.training_curves(config.output / "metrics.jsonl", config.output / "curves.png")
        for line in [*heldout.told(config, trainer.state.log_history), *finished(config)]:
            tell(line)
    trainer.accelerator.wait_for_everyone()
    return config.output / "model"


def _is_complete(folder: str, patience: int, num_steps: int) -> bool:
    """Whether a checkpoint is that of the last step, or of the one at which the run ended early."""
    state = json.loads((Path(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    at_end = int(state.get("global_step", 0)) >= max(num_steps, int(state.get("max_steps", 1))) > 0
    return at_end or heldout.has_stalled(state.get("log_history", []), patience)


def arguments(config: TrainingConfig, model: AudioLM, **more: Any) -> TrainingArguments:
    """Our settings as the `TrainingArguments` of transformers."""
    on_cpu = model.module.device.type == "cpu"
    if launch.kind():  # the model is moved later; DeepSpeed trains on CPUs too, but not if it is told to
        on_cpu = launch.kind() == "fsdp" and not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(config.output / "checkpoints"),
        learning_rate=config.peak_rate,
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
        eval_on_start=config.eval_data is not None,
        remove_unused_columns=False,
        report_to=list(config.report_to),
        run_name=config.output.resolve().name,
        project="relisten",  # trackio's; W&B takes its own from WANDB_PROJECT
        use_cpu=on_cpu,
        **more,
    )
