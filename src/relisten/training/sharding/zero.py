"""DeepSpeed's ZeRO-3. accelerate starts its engine; this file does the rest of `sharding.Sharding`.

DeepSpeed's own checkpoints are not used, because they hold a part for each process, and only the same number of
processes can read them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from relisten.models.base import AudioLM


class Zero3:
    """A model that DeepSpeed splits. Each process holds a part of every tensor and of its float32 master copy."""

    def __init__(self, accelerator: Any) -> None:
        """Raises ValueError for ZeRO stages and settings that are not supported."""
        unset_hf_deepspeed_config()  # otherwise transformers would split every model that it loads from now on
        self.accelerator = accelerator
        self.plugin = accelerator.state.deepspeed_plugin
        if self.plugin is None or not dist.is_initialized():
            raise ValueError("accelerate starts DeepSpeed only on GPUs; without GPUs, start with torchrun (DDP)")
        zero = self.plugin.deepspeed_config["zero_optimization"]
        if zero.get("stage") != 3:
            raise ValueError(f"ZeRO stage {zero.get('stage')} is not supported; set it to 3 (runs/zero3.json does)")
        for name in ("offload_param", "offload_optimizer"):
            if zero.get(name, {}).get("device", "none") != "none":
                raise ValueError(f"{name} is not supported; set its device to none, or leave it out")
        for name in ("optimizer", "scheduler"):
            if name in self.plugin.deepspeed_config:
                raise ValueError(f"{name} in the DeepSpeed file: leave it out; the run's own settings decide")

    def shard(self, model: AudioLM) -> None:
        """See `Sharding`."""
        import deepspeed

        deepspeed.initialize(model=model.module, config=copy.deepcopy(self.plugin.deepspeed_config))
        model.module.eval()

    @contextmanager
    def whole(self, model: AudioLM) -> Iterator[None]:
        """See `Sharding`. Meanwhile DeepSpeed's hooks, which gather a layer and release it again, are off."""
        import deepspeed

        offload = self.accelerator.deepspeed_engine_wrapped.engine.optimizer.parameter_offload
        parameters = list(model.module.parameters())
        with deepspeed.zero.GatheredParameters(parameters):
            for parameter in parameters:
                parameter.ds_active_sub_modules.clear()  # type: ignore[attr-defined]
            for hooks in (offload.forward_hooks, offload.backward_hooks):
                for hook in hooks:
                    hook.remove()
                hooks.clear()
            try:
                yield
            finally:
                offload._register_deepspeed_module(offload.module)

    def weights(self, module: Any, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """See `Sharding`. They are trained in float32, whatever the precision of forwards."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        weights: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                whole = safe_get_full_fp32_param(parameter)
                if self._first:
                    weights[name] = whole.detach().to("cpu", dtype)
                continue
            with GatheredParameters([parameter]):
                if self._first:
                    weights[name] = parameter.detach().to("cpu", dtype or torch.float32, copy=True)
        return weights

    def set_weights(self, module: Any, weights: dict[str, Tensor]) -> None:
        """See `Sharding`."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_local_fp32_param

        for name, parameter in module.named_parameters():
            with GatheredParameters([parameter], modifier_rank=0):
                if self._first:
                    parameter.data.copy_(weights[name])
            if parameter.requires_grad:
                safe_set_local_fp32_param(parameter, self._part(parameter, weights.get(name)))

    def order(self, module: Any, optimizer: Any) -> list[str]:
        """See `Sharding`."""
        return [name for names in _names(module, optimizer.optimizer) for name in names]

    def write_memory(self, module: Any, optimizer: Any, folder: Path) -> None:
        """See `Sharding`. The first process gathers it, and needs the memory for it."""
        memory = self._memory(module, optimizer)
        if self._first:
            torch.save(memory, folder / "optimizer.pt")

    def read_parts(self, module: Any, optimizer: Any, folder: Path) -> bool:
        """See `Sharding`."""
        return False

    def _memory(self, module: Any, optimizer: Any) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state

        zero, parameters = optimizer.optimizer, dict(module.named_parameters())
        state: dict[str, dict[str, Tensor]] = {}
        for name in self.order(module, optimizer):
            values = dict(zero.optimizer.state[_flat(zero, parameters[name])])
            for key in [key for key, value in values.items() if value.dim()]:
                values[key] = safe_get_full_optimizer_state(parameters[name], key)
            if self._first:
                state[name] = {key: value.detach().cpu().clone() for key, value in values.items()}
        groups = [_settings(group) for group in zero.optimizer.param_groups]
        named = [group | {"params": names} for group, names in zip(groups, _names(module, zero), strict=True)]
        return {"state": state, "param_groups": named}

    def set_memory(self, module: Any, optimizer: Any, memory: dict[str, Any]) -> None:
        """See `Sharding`."""
        from deepspeed.utils import safe_set_local_optimizer_state

        zero, parameters = optimizer.optimizer, dict(module.named_parameters())
        state: dict[str, dict[str, Tensor]] = memory.get("state", {})
        single: Any = {name: {key: v for key, v in values.items() if not v.dim()} for name, values in state.items()}
        spread: Any = {name: [key for key, v in values.items() if v.dim()] for name, values in state.items()}
        said: list[Any] = [single, spread, [_settings(group) for group in memory.get("param_groups", [])]]
        dist.broadcast_object_list(said, src=0, device=self.accelerator.device)
        single, spread, groups = said
        for group, values in zip(zero.optimizer.param_groups, groups, strict=True):
            group.update(values)
        for name, keys in spread.items():
            flat = _flat(zero, parameters[name])
            own = zero.optimizer.state[flat]
            own.update(single[name])
            for key in keys:
                own.setdefault(key, torch.zeros_like(flat))
                safe_set_local_optimizer_state(
                    parameters[name], self._part(parameters[name], state[name][key] if self._first else None), key
                )

    @property
    def _first(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _part(self, parameter: Any, value: Tensor | None) -> Tensor:
        """This process's part, in float32, of a tensor that the first process has; the last part ends in zeros."""
        size = parameter.ds_tensor.numel()
        whole = torch.zeros(size * self.accelerator.num_processes, device=self.accelerator.device)
        if value is not None:
            whole[: value.numel()] = value.flatten()
        dist.broadcast(whole, src=0)
        return whole.narrow(0, size * self.accelerator.process_index, size)


def _flat(zero: Any, parameter: Any) -> Tensor:
    """The flat tensor that contains this process's part of a parameter, among others; AdamW updates it as a whole."""
    flat: Tensor = zero.fp32_partitioned_groups_flat[zero.grad_position[zero.get_param_id(parameter)][0]]
    return flat


def _names(module: Any, zero: Any) -> list[list[str]]:
    """Names of the parameters in each group of AdamW, in the order of the model."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups: list[set[str]] = [set() for _ in zero.optimizer.param_groups]
    for index, parameters in enumerate(zero.fp16_groups):
        groups[zero.sub_group_to_group_id[index]] |= {names[id(parameter)] for parameter in parameters}
    return [[name for name in names.values() if name in group] for group in groups]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}
