"""Keys and values of many rows of unequal length: one slab for each layer, and the number of tokens of each row.

The tokens of a row are stored at their own positions, without holes or left padding, so a token's position is its
index. Whatever lies beyond the length of a row is masked and overwritten later. It is always finite, so that an
attention weight of zero removes it.

A forward is given a `Prefix` or a `Window` as its cache. Attention calls its `update` in each layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROUND = 64
"""Tokens. The part of the slab that attention reads is rounded up to a multiple of this, so that shapes are few."""


class Prefix:
    """Keys and values of forwarded prompts: [B, heads, W, width] for each layer, right-padded."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]] | None = None) -> None:
        self.layers = layers or []

    @property
    def length(self) -> int:
        """Number of tokens, including padding."""
        return self.layers[0][0].shape[2]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of one layer; nothing comes before them."""
        assert layer == len(self.layers)
        self.layers.append((keys, values))
        return keys, values

    def row(self, index: int, length: int) -> Prefix:
        """A copy of one prompt, so that the batch can be freed."""
        cut = (slice(index, index + 1), slice(None), slice(length))
        return Prefix([(keys[cut].clone(), values[cut].clone()) for keys, values in self.layers])


class Slab:
    """Keys and values [rows, heads, T, width] for each layer. T doubles when it is too small, up to `max_length`.

    The tokens of one head are stored next to each other. With many rows, attention then costs a third less than if it
    had to step over the other heads.

    max_cells: the most tokens over all rows. The caller admits no more rows than fit.
    """

    def __init__(self, like: Prefix, max_length: int, max_cells: int | None = None) -> None:
        self.num_rows = self.capacity = 0
        self.max_length = max_length
        self.max_cells = max_cells
        self.lengths: list[int] = []
        self.layers = [(k[:0, :, :0], v[:0, :, :0]) for k, v in like.layers]

    def put(self, row: int, prefix: Prefix) -> None:
        """Start a row from a prompt. To fork a prompt, call this once for each of its rows."""
        length = prefix.length
        self.reserve(row + 1, length + 1)
        for (keys, values), (new_keys, new_values) in zip(self.layers, prefix.layers, strict=True):
            keys[row, :, :length] = new_keys[0]
            values[row, :, :length] = new_values[0]
        self.lengths[row] = length

    def move(self, source: int, target: int) -> None:
        """Move a row, so that the live rows stay together at the front."""
        length = self.lengths[target] = self.lengths[source]
        for keys, values in self.layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def reserve(self, num_rows: int, length: int) -> None:
        """Make room for that many rows of `length` tokens."""
        if num_rows <= self.num_rows and length <= self.capacity:
            return
        if length > self.capacity:
            most = min(self.max_length, (self.max_cells or self.max_length * num_rows) // num_rows) // ROUND * ROUND
            # At first add half of the prompt's length for the answer; from then on, double.
            self.capacity = _rounded(max(length, min(2 * self.capacity or length + length // 2, most)))
        if self.max_cells is not None:  # unused rows make room for longer ones
            self.num_rows = min(self.num_rows, self.max_cells // self.capacity)
        self.num_rows = max(num_rows, self.num_rows)
        self.lengths = (self.lengths + [0] * num_rows)[: self.num_rows]
        for index, (keys, values) in enumerate(self.layers):  # layer by layer, so that only one is in memory twice
            self.layers[index] = self._grown(keys), self._grown(values)

    def _grown(self, old: Tensor) -> Tensor:
        new = _zeros(old, (self.num_rows, old.shape[1], self.capacity, old.shape[3]))
        kept = min(len(old), self.num_rows)
        new[:kept, :, : old.shape[2]] = old[:kept]
        return new


class Window:
    """The view of the slab for one forward: `widths[i]` new tokens on top of row `rows[i]`, right-padded to W columns.

    Padding is written beyond the length of the row, and the row's next tokens overwrite it. The first `num_live` rows
    of the slab are kept, whichever rows are forwarded.
    """

    def __init__(
        self, slab: Slab, rows: Sequence[int], widths: Sequence[int], device: torch.device, num_live: int
    ) -> None:
        self.slab, self.rows, self.width = slab, list(rows), max(widths)
        lengths = [slab.lengths[row] for row in rows]
        slab.reserve(num_live, max(lengths) + self.width)
        for row, length, width in zip(rows, lengths, widths, strict=True):
            slab.lengths[row] = length + width
        self.positions = torch.tensor(lengths, device=device)[:, None] + torch.arange(self.width, device=device)
        """[B, W]"""
        heads = slab.layers[0][0].shape[1]
        starts = torch.tensor(self.rows, device=device)[:, None] * heads + torch.arange(heads, device=device)
        # [B, heads, W]: a token of a head in the slab seen as one long list of them
        self._where = (starts[..., None] * slab.capacity + self.positions[:, None]).flatten()
        first = self.rows[0]
        together = self.rows == list(range(first, first + len(rows)))
        self._pick = slice(first, first + len(rows)) if together else torch.tensor(self.rows, device=device)
        self._length = max(lengths) + self.width
        self.mask: Tensor | None = None
        """[B, 1, W, T], True where a token may attend; None if every token may attend to everything."""
        if len(self.rows) > 1 or self.width > 1:
            self._length = min(_rounded(self._length), slab.capacity)
            self.mask = (torch.arange(self._length, device=device) <= self.positions[..., None])[:, None]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values [B, heads, W, width] of one layer; returns all of them, [B, heads, T, width]."""
        first, second = (
            self._written(old, new) for old, new in zip(self.slab.layers[layer], (keys, values), strict=True)
        )
        return first, second

    def _written(self, old: Tensor, new: Tensor) -> Tensor:
        where = self._where if self._where.device == old.device else self._where.to(old.device)
        old.view(-1, old.shape[3]).index_copy_(0, where, new.reshape(-1, old.shape[3]))
        return old[:, :, : self._length][self._pick]


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    # With numpy, the operating system clears a page when it is first used, so unused pages cost nothing.
    cleared = np.zeros(math.prod(shape) * like.itemsize, np.uint8)
    return torch.from_numpy(cleared).view(like.dtype).view(shape)


def _rounded(length: int) -> int:
    return -(-length // ROUND) * ROUND
