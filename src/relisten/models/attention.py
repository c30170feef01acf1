"""How a cache of the engine attends in place of a model's own attention, the same for every version of transformers.

transformers looks an attention function up by the name in a model's configuration. Within `attending`, that name is
ours, and the function asks the cache, which knows which keys and values each query sees. Most models make no mask for
an attention that they do not know, so the cache does not come in the place of the mask. Training never enters
`attending`, so it keeps the attention that the model was configured with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

_NAME = "relisten_cache"
_CACHE: ContextVar[AttendingCache] = ContextVar(_NAME)


@runtime_checkable
class AttendingCache(Protocol):
    """A cache of keys and values that also computes attention over them."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Store the new keys and values [B, key heads, W, width] of one layer."""

    def attend(self, query: Tensor, layer: int, scale: float) -> Tensor:
        """Attention of the new tokens, query [B, heads, W, width], over all tokens before them and themselves.

        Returns [B, heads, W, width]. Each key head belongs to as many neighbouring query heads as there are for each.
        """


@contextmanager
def attending(module: PreTrainedModel, cache: AttendingCache) -> Iterator[None]:
    """Within this, the language model of `module` attends through `cache`, which its forward must be given too."""
    config: Any = module.config.get_text_config()
    before, token = config._attn_implementation, _CACHE.set(cache)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _CACHE.reset(token)


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """An attention function of transformers; returns [B, W, heads, width]."""
    layer: Any = module.layer_idx
    return _CACHE.get().attend(query, layer, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attend)
