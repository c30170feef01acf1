"""How a cache of the engine attends in place of a model's own attention, the same for every version of transformers.

transformers looks an attention function up by the name in a model's configuration, and hands it the mask that the
forward was given. Within `attending`, that name is ours and the mask is the cache itself, which knows which keys and
values each query sees. Training never enters it, so it keeps the attention that the model was configured with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

_NAME = "relisten_cache"


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
def attending(module: PreTrainedModel) -> Iterator[None]:
    """Within this, the language model of `module` attends through the cache that it is given as its mask."""
    config: Any = module.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: AttendingCache,
    scaling: float, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """An attention function of transformers; returns [B, W, heads, width]."""
    layer: Any = module.layer_idx
    return attention_mask.attend(query, layer, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attend)
