"""Keys and values of many rows of unequal length: a slab per layer, and how many tokens each row has.

A row's tokens lie at their own positions, without holes or left padding, so a token's position is its index. What lies
beyond a row's length is masked, and overwritten later; it is finite, so that a weight of zero makes it nothing.

`Prefix` and `Window` are what a forward is given as its cache: attention calls their `update`, layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROUND = 64
"""Tokens: how much of the slab attention reads is rounded up to this, so that shapes are few."""


class Prefix:
    """Keys and values of prompts as they were forwarded: per layer [B, heads, W, width], right-padded."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]] | None = None) -> None:
        self.layers = layers or []

    @property
    def length(self) -> int:
        """Tokens, padding included."""
        return self.layers[0][0].shape[2]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep what one layer made; nothing lies before it."""
        assert layer == len(self.layers)
        self.layers.append((keys, values))
        return keys, values

    def row(self, index: int, length: int) -> Prefix:
        """One prompt alone, copied so that the batch it came in can be freed."""
        cut = (slice(index, index + 1), slice(None), slice(length))
        return Prefix([(keys[cut].clone(), values[cut].clone()) for keys, values in self.layers])


class Slab:
    """Per layer keys and values [rows, heads, T, width]; T doubles when it is too small, up to `max_length`.

    A head's tokens lie side by side: attention reads them one after another, which costs a third less at many rows than
    stepping over the other heads.

    max_cells: tokens, over all rows, that may be held; the caller admits no more rows than fit.
    """

    def __init__(self, like: Prefix, max_length: int, max_cells: int | None = None) -> None:
        self.num_rows = self.capacity = 0
        self.max_length = max_length
        self.max_cells = max_cells
        self.lengths: list[int] = []
        self.layers = [(k[:0, :, :0], v[:0, :, :0]) for k, v in like.layers]

    def put(self, row: int, prefix: Prefix) -> None:
        """Start a row from a prompt; a fork is this, once for each of its rows."""
        length = prefix.length
        self.reserve(row + 1, length + 1)
        for (keys, values), (new_keys, new_values) in zip(self.layers, prefix.layers, strict=True):
            keys[row, :, :length] = new_keys[0]
            values[row, :, :length] = new_values[0]
        self.lengths[row] = length

    def move(self, source: int, target: int) -> None:
        """Move a row: the live ones stay together at the front."""
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
            # Half as much again for a first prompt, since an answer follows it; double from then on.
            self.capacity = _rounded(max(length, min(2 * self.capacity or length + length // 2, most)))
        if self.max_cells is not None:  # rows that are not live give way to longer ones
            self.num_rows = min(self.num_rows, self.max_cells // self.capacity)
        self.num_rows = max(num_rows, self.num_rows)
        self.lengths = (self.lengths + [0] * num_rows)[: self.num_rows]
        for index, (keys, values) in enumerate(self.layers):  # layer by layer: only one is held twice
            self.layers[index] = self._grown(keys), self._grown(values)

    def _grown(self, old: Tensor) -> Tensor:
        new = _zeros(old, (self.num_rows, old.shape[1], self.capacity, old.shape[3]))
        kept = min(len(old), self.num_rows)
        new[:kept, :, : old.shape[2]] = old[:kept]
        return new


class Window:
    """One forward's view of the slab: `widths[i]` new tokens on top of row `rows[i]`, right-padded to W columns.

    Padding is written beyond the row's length, where the row's next tokens overwrite it. All of the slab's first
    `num_live` rows stay, whichever are forwarded.
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
        """[B, 1, W, T], True where a token may look; None where every token may look at everything."""
        if len(self.rows) > 1 or self.width > 1:
            self._length = min(_rounded(self._length), slab.capacity)
            self.mask = (torch.arange(self._length, device=device) <= self.positions[..., None])[:, None]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values [B, heads, W, width]; gives all that is there: [B, heads, T, width]."""
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
    # numpy leaves it to the operating system to clear a page when it is first touched: what is not used costs nothing.
    cleared = np.zeros(math.prod(shape) * like.itemsize, np.uint8)
    return torch.from_numpy(cleared).view(like.dtype).view(shape)


def _rounded(length: int) -> int:
    return -(-length // ROUND) * ROUND
