"""Weights, gradients and optimiser split among processes, as `accelerate launch` was told: by FSDP2, or by ZeRO-3.

Either way rollouts have whole weights, and checkpoints are like those of one process: a run may go on from the other's.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from relisten.models.base import AudioLM


class Sharding(Protocol):
    """What trainers need of a way to split a model; all processes must call, whatever they get."""

    def shard(self, model: AudioLM) -> None:
        """Spread a model that is not trained as the one that is (the reference of the KL)."""

    def whole(self, model: AudioLM) -> AbstractContextManager[None]:
        """Every process holds all weights: it may make as many steps as it likes, without the others."""

    def weights(self, module: Any) -> dict[str, Tensor]:
        """All weights by name, each once, in the first process; nothing in the others."""

    def set_weights(self, module: Any, weights: dict[str, Tensor]) -> None:
        """Spread the first process's weights; what the others give is not looked at."""

    def order(self, module: Any, optimizer: Any) -> list[str]:
        """Names of the parameters in the order in which the optimiser was given them."""

    def memory(self, module: Any, optimizer: Any) -> dict[str, Any]:
        """The optimiser's whole memory, its parameters called by name, in the first process."""

    def set_memory(self, module: Any, optimizer: Any, memory: dict[str, Any]) -> None:
        """Spread the memory that the first process gives."""


def kind() -> str:
    """How accelerate was told to split models: `fsdp`, `deepspeed`, or "" for not at all."""
    return "deepspeed" if true("ACCELERATE_USE_DEEPSPEED") else "fsdp" if true("ACCELERATE_USE_FSDP") else ""


def check(optimizer: str, lora: int) -> None:
    """Raises ValueError, in one line, on what does not work with split models, or not with ours."""
    if optimizer == "muon":
        raise ValueError(f"muon needs whole matrices, which {kind()} splits; set optimizer to adamw")
    if lora:
        raise ValueError(f"lora under {kind()} is not supported: adapters fit without it; start with torchrun (DDP)")
    if kind() == "deepspeed":
        if importlib.util.find_spec("deepspeed") is None:
            raise ValueError("DeepSpeed is not installed: pip install 'relisten[deepspeed]'")
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("FSDP 1 is not supported; set fsdp_version to 2 (runs/accelerate_fsdp2.yaml does)")
    for name, instead in (
        ("OFFLOAD_PARAMS", "every process needs its weights for rollouts"),
        ("ACTIVATION_CHECKPOINTING", "gradient_checkpointing of the run's settings does the same"),
        ("CPU_RAM_EFFICIENT_LOADING", "every process reads the model's file itself"),
    ):
        if true(f"FSDP_{name}"):
            raise ValueError(f"fsdp_{name.lower()} is not supported; set it to false: {instead}")


def true(name: str) -> bool:
    """Whether a variable of the environment says yes, in any of the words that accelerate takes for it."""
    return os.environ.get(name, "false").lower() in ("1", "true", "yes", "on", "t", "y")


def load_optimizer(
    sharding: Sharding | None, module: Any, optimizer: torch.optim.Optimizer, path: Path, reader: bool
) -> None:
    """Take up an optimiser's memory, whether it was split when it was written or not; all processes must call.

    sharding: how it is split now, None for not at all; then every process reads the file, else `reader` alone.
    """
    memory: dict[str, Any] = {}
    if reader or sharding is None:
        memory = torch.load(path, map_location="cpu", weights_only=True)
        if "parts" not in memory:  # Muon's, which is never split
            names = order(module, optimizer) if sharding is None else sharding.order(module, optimizer)
            memory = _keyed(memory, names, by_name=sharding is not None)
    if sharding is not None:
        sharding.set_memory(module, optimizer, memory)
        return
    optimizer.load_state_dict(memory)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def order(module: Any, optimizer: Any) -> list[str]:
    """Names of the parameters in the order in which an optimiser has them."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _keyed(memory: dict[str, Any], names: list[str], by_name: bool) -> dict[str, Any]:
    """The memory with parameters called by their names, as split runs write it, or by their places, as others do.

    names: in the optimiser's order. Rows come one after another in memory, as they do in split weights; the others may
    lie otherwise. Fused AdamW takes for granted that a weight and its memory lie alike, and gives wrong steps without a
    word where they do not.
    """
    keys: dict[Any, Any] = dict(enumerate(names)) if by_name else {name: n for n, name in enumerate(names)}
    keys |= {key: key for key in keys.values()}
    groups = [group | {"params": [keys[key] for key in group["params"]]} for group in memory["param_groups"]]
    state = {
        keys[of]: {key: value.contiguous() if torch.is_tensor(value) else value for key, value in values.items()}
        for of, values in memory["state"].items()
    }
    return {"state": state, "param_groups": groups}
