"""Weights, gradients and optimiser split among processes by FSDP2 or by ZeRO-3, as `accelerate launch` was told.

In both cases rollouts have whole weights, and checkpoints are like those of one process: a run may continue from a
checkpoint that was written the other way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from relisten.models.base import AudioLM
from relisten.training.sharding import parts


class Sharding(Protocol):
    """What trainers need from a way to split a model. All processes must call each method, whatever it returns."""

    def shard(self, model: AudioLM) -> None:
        """Split a model that is not trained like the one that is (the reference of the KL)."""

    def whole(self, model: AudioLM) -> AbstractContextManager[None]:
        """Let every process hold all weights, so that it can generate as many tokens as it needs without the others."""

    def weights(self, module: Any, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """All weights by name, each once, in the CPU memory of the first process; an empty dict in the others.

        They are gathered one after another. dtype: precision of the copies; None: that in which they are trained.
        """

    def set_weights(self, module: Any, weights: dict[str, Tensor]) -> None:
        """Distribute the weights of the first process; those of the others are ignored."""

    def order(self, module: Any, optimizer: Any) -> list[str]:
        """Names of the parameters in the optimiser's order."""

    def write_memory(self, module: Any, optimizer: Any, folder: Path) -> None:
        """Write the optimiser's whole state into the folder of a checkpoint, with its parameters by name."""

    def set_memory(self, module: Any, optimizer: Any, memory: dict[str, Any]) -> None:
        """Distribute the optimiser's state that the first process gives."""

    def read_parts(self, module: Any, optimizer: Any, folder: Path) -> bool:
        """Read the optimiser's state that was written in parts (parts.py). False if that is not possible here."""


def load_optimizer(
    sharding: Sharding | None, module: Any, optimizer: torch.optim.Optimizer, folder: Path, reader: bool
) -> None:
    """Load an optimiser's state from a checkpoint, however it was split when it was written. All processes must call.

    sharding: how it is split now. With None it is not split, and every process reads the file; else only `reader` does.
    """
    memory: dict[str, Any] = {}
    in_parts = (folder / parts.FOLDER).is_dir()
    if in_parts and sharding is not None and sharding.read_parts(module, optimizer, folder / parts.FOLDER):
        return
    if reader or sharding is None:
        if in_parts:
            memory = parts.whole(folder / parts.FOLDER)
        else:
            memory = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
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
    """Names of the parameters in an optimiser's order."""
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
