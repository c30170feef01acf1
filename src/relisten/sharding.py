"""FSDP2: weights, gradients and optimiser spread over processes, each of which holds a part of every tensor.

`accelerate launch --config-file runs/accelerate_fsdp2.yaml` turns it on, and accelerate shards the model. Here is what
that leaves open: whole weights for rollouts, the reference, and checkpoints that are like those of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from relisten.models.base import AudioLM

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def enabled() -> bool:
    """Whether accelerate was told to shard."""
    return _true("ACCELERATE_USE_FSDP")


def check(optimizer: str, lora: int) -> None:
    """Raises ValueError, in one line, on what does not work with FSDP2, or not with ours."""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("FSDP 1 is not supported; set fsdp_version to 2 (runs/accelerate_fsdp2.yaml does)")
    if optimizer == "muon":
        raise ValueError("muon needs whole matrices, which FSDP splits; set optimizer to adamw")
    if lora:
        raise ValueError("lora under FSDP is not supported: adapters fit without it; start with torchrun (DDP)")
    for name, instead in (
        ("OFFLOAD_PARAMS", "every process needs its weights for rollouts"),
        ("ACTIVATION_CHECKPOINTING", "gradient_checkpointing of the run's settings does the same"),
        ("CPU_RAM_EFFICIENT_LOADING", "every process reads the model's file itself"),
    ):
        if _true(f"FSDP_{name}"):
            raise ValueError(f"fsdp_{name.lower()} is not supported; set it to false: {instead}")


def _true(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes", "on", "t", "y")


def precision(bf16: bool) -> MixedPrecisionPolicy:
    """Forward in bfloat16 or as the weights are; gradients are added up, and log-probabilities leave, in float32."""
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32)


def shard(model: AudioLM, accelerator: Any) -> None:
    """Spread a model that is not trained as accelerate spreads the one that is."""
    from accelerate.utils import fsdp2_prepare_model

    accelerator.state.fsdp_plugin.set_auto_wrap_policy(model.module)
    fsdp2_prepare_model(accelerator, model.module)


@contextmanager
def whole(model: AudioLM, reshard: bool = True) -> Iterator[None]:
    """Every process holds all weights: it may make as many steps as it likes, without the others.

    reshard: whether training lets go of a layer's weights between its forward and its backward pass, which is in force
    again afterwards. A model that is not sharded is left alone.
    """
    module: Any = model.module
    parts: list[Any] = [part for part in module.modules() if isinstance(part, FSDPModule)]
    if not parts:
        yield
        return
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
    end = torch.tensor([[model.end_token_id]], device=module.device)
    with torch.no_grad():
        model.forward(end, torch.zeros_like(end), [], None)  # the root goes first, or a part would take itself for it
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(reshard, recurse=False)
            part.reshard()
        for last in (module, module.get_output_embeddings()):  # what ends a forward begins the backward: it stays
            if isinstance(last, FSDPModule):
                last.set_reshard_after_forward(False, recurse=False)


def whole_weights(module: Any) -> dict[str, Tensor]:
    """All weights, each once, gathered in the first process; the others get an empty dict, but must ask as well."""
    names = {name for name, _ in module.named_parameters()}
    tied = {name for name, _ in module.named_parameters(remove_duplicate=False)} - names
    weights: dict[str, Any] = get_model_state_dict(module, options=_WHOLE)
    return {name: weight for name, weight in weights.items() if name not in tied}


def set_weights(module: Any, weights: Mapping[str, Any]) -> None:
    """Spread the first process's weights; what the others give is not looked at."""
    set_model_state_dict(module, dict(weights), options=_FROM_FIRST)


def save_optimizer(module: Any, optimizer: torch.optim.Optimizer, path: Path, writer: bool) -> None:
    """Write the optimiser's whole memory in one file, by one process; all must call."""
    memory = get_optimizer_state_dict(module, optimizer, options=_WHOLE)
    if writer:
        torch.save(memory, path)


def load_optimizer(module: Any, optimizer: torch.optim.Optimizer, path: Path, *, sharded: bool, reader: bool) -> None:
    """Take up an optimiser's memory, whether it was sharded when it was written or not; all processes must call.

    sharded: whether it is now: then `reader`, the first process, reads the file, and each gets its part.
    """
    memory: dict[str, Any] = {}
    if reader or not sharded:
        memory = torch.load(path, map_location="cpu", weights_only=True)
        if "parts" not in memory:  # Muon's, which is never sharded
            memory = _keyed(memory, module, optimizer, by_name=sharded)
    if sharded:
        set_optimizer_state_dict(module, optimizer, memory, options=_FROM_FIRST)
        return
    optimizer.load_state_dict(memory)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _keyed(memory: dict[str, Any], module: Any, optimizer: torch.optim.Optimizer, by_name: bool) -> dict[str, Any]:
    """The memory with parameters called by their names, as sharded runs write it, or by their places, as others do.

    Rows come one after another in memory, as they do in sharded weights; the others may lie otherwise. Fused AdamW
    takes for granted that a weight and its memory lie alike, and gives wrong steps without a word where they do not.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    keys: dict[Any, Any] = dict(enumerate(ordered)) if by_name else {name: n for n, name in enumerate(ordered)}
    keys |= {key: key for key in keys.values()}
    groups = [group | {"params": [keys[key] for key in group["params"]]} for group in memory["param_groups"]]
    state = {
        keys[of]: {key: value.contiguous() if torch.is_tensor(value) else value for key, value in values.items()}
        for of, values in memory["state"].items()
    }
    return {"state": state, "param_groups": groups}
