"""Attention over a part of what a query sees, with the logarithm of its sum, so that two parts can be joined exactly.

The kernels of torch keep their sums in float32, whatever the precision of the keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend_part(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention [N, heads, M, width] over these keys alone, and the logarithm of the sum of exponentials [N, heads, M].

    query: [N, heads, M, width]; keys and values: [N, heads, T, width]; bias: added to the scores, [N, 1, 1 or M, T], in
    the type of the query; None adds nothing. A query must see at least one key, or its result has no meaning.
    """
    if query.device.type == "cpu":
        out, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, 0.0, False, attn_mask=bias, scale=scale
        )
        return out, total
    if query.device.type == "cuda":
        if bias is not None:
            bias = bias.expand(*query.shape[:3], keys.shape[2])
        out, total, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, keys, values, bias, True, scale=scale
        )
        return out, total[..., : query.shape[2]]  # the kernel rounds the number of queries up
    return by_formula(query, keys, values, bias, scale)


def by_formula(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """The same as `attend_part`, in plain operations, for devices without a kernel that returns the sums."""
    scores = (query @ keys.transpose(-1, -2)).float() * scale
    if bias is not None:
        scores = scores + bias
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp().to(values.dtype) @ values, total


def join(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Attention [..., width] over two parts together, from that over each (see `attend_part`)."""
    weight = torch.sigmoid(first[1] - second[1]).unsqueeze(-1)
    return torch.lerp(second[0].float(), first[0].float(), weight).to(first[0].dtype)
