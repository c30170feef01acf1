"""FSDP2. accelerate shards the model; this file does the rest of `sharding.Sharding`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from relisten.models.base import AudioLM
from relisten.training.sharding import order, parts

_FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class Fsdp2:
    """A model that accelerate shards. Each process holds a part of every tensor."""

    def __init__(self, accelerator: Any, bf16: bool) -> None:
        """bf16: run forwards in bfloat16, otherwise in the precision of the weights. Gradients are summed in float32,
        and log-probabilities are float32. Raises ValueError if accelerate would not shard."""
        self.accelerator = accelerator
        self.plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
        if self.plugin is None:
            raise ValueError("accelerate shards models only on GPUs; without GPUs, start with torchrun (DDP)")
        self.plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16 if bf16 else None, torch.float32)

    def shard(self, model: AudioLM) -> None:
        """See `Sharding`."""
        from accelerate.utils import fsdp2_prepare_model

        if self.plugin.transformer_cls_names_to_wrap is None:
            self.plugin.transformer_cls_names_to_wrap = layers(model.module)
        self.plugin.set_auto_wrap_policy(model.module)
        fsdp2_prepare_model(self.accelerator, model.module)

    @contextmanager
    def whole(self, model: AudioLM) -> Iterator[None]:
        """See `Sharding`. Afterwards training releases weights between passes again, if it did before."""
        module: Any = model.module
        parts: list[Any] = [part for part in module.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
        end = torch.tensor([[model.end_token_id]], device=module.device)
        with torch.no_grad():
            model.forward(
                end, torch.zeros_like(end), [], None
            )  # the root must be first, or a part would become the root
        for part in parts:
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.set_reshard_after_forward(self.plugin.reshard_after_forward, recurse=False)
                part.reshard()
            for last in (module, module.get_output_embeddings()):  # the backward pass begins with them, so they stay
                if isinstance(last, FSDPModule):
                    last.set_reshard_after_forward(False, recurse=False)

    def weights(self, module: Any, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """See `Sharding`."""
        weights: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            whole = parameter.detach().full_tensor()
            if self.accelerator.is_main_process:
                weights[name] = whole.to("cpu", dtype)
        return weights

    def set_weights(self, module: Any, weights: dict[str, Tensor]) -> None:
        """See `Sharding`."""
        own = module.state_dict()
        cast: dict[str, Any] = {name: weight.to(own[name].dtype) for name, weight in weights.items()}
        set_model_state_dict(module, cast, options=_FROM_FIRST)

    def order(self, module: Any, optimizer: Any) -> list[str]:
        """See `Sharding`."""
        return order(module, optimizer)

    def write_memory(self, module: Any, optimizer: Any, folder: Path) -> None:
        """See `Sharding`. Each process writes its own part."""
        memory: dict[str, Any] = get_optimizer_state_dict(module, optimizer)
        parts.write(memory, folder / parts.FOLDER, writer=self.accelerator.is_main_process)

    def read_parts(self, module: Any, optimizer: Any, folder: Path) -> bool:
        """See `Sharding`. Each process reads its own part."""
        # A state is made by a step, which accelerate's wrapper would leave out in the middle of a batch.
        memory: dict[str, Any] = get_optimizer_state_dict(module, optimizer.optimizer)
        parts.read(memory, folder)
        set_optimizer_state_dict(module, optimizer.optimizer, memory)
        return True

    def set_memory(self, module: Any, optimizer: Any, memory: dict[str, Any]) -> None:
        """See `Sharding`."""
        set_optimizer_state_dict(module, optimizer.optimizer, memory, options=_FROM_FIRST)


def layers(module: Any) -> list[str]:
    """The classes of a model's layers, each of which is split by itself.

    transformers names them for a whole family of models. accelerate would fail on those that this one does not have.
    """
    lists = (part for part in module.modules() if isinstance(part, torch.nn.ModuleList))
    return sorted({type(layer).__name__ for part in lists for layer in part} & set(module._no_split_modules or ()))
