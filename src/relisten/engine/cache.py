"""Keys and values of many rows: each prompt once, however many rows answer it, and each row's own tokens.

Tokens are stored without holes or left padding: a row's first own token follows the last token of its prompt. Whatever
lies beyond the length of a row is masked and overwritten later. It is always finite, so that an attention weight of
zero removes it.

A forward is given a `Prefix` or a `Window` as its cache; see `models.attention.AttendingCache`. A query attends to its
prompt in one product with all other rows of that prompt, and to its row's own tokens apart. The two are joined exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relisten.engine.attention import attend_part, join

ROUND = 64
"""Tokens. The part of a store that attention reads is rounded up to a multiple of this, so that shapes are few."""
PADDED = 1.25
"""Prompts are attended to in one product if that reads at most so many times their tokens. It saves starting many."""


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
        # Under autocast, the rotation leaves the keys in float32. Attention would cast all of them at every step.
        self.layers.append((keys.to(values.dtype), values))
        return self.layers[-1]

    def attend(self, query: Tensor, layer: int, scale: float) -> Tensor:
        """Each token attends to itself and to all before it; see `AttendingCache.attend`."""
        keys, values = self.layers[layer]
        query = query.to(keys.dtype)
        causal: Tensor = torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, is_causal=True, scale=scale, enable_gqa=query.shape[1] != keys.shape[1]
        )
        return causal


class Store:
    """Keys and values [places, heads, T, width] for each layer: `num` places of `capacity` tokens each.

    version: counts the changes of its size, each of which moves it in memory.

    The tokens of one head are stored next to each other. With many rows, attention then costs a third less than if it
    had to step over the other heads.
    """

    def __init__(self, like: Prefix) -> None:
        self.num = self.capacity = self.version = 0
        self.layers = [(keys[:0, :, :0], values[:0, :, :0]) for keys, values in like.layers]

    @property
    def cells(self) -> int:
        """Tokens that memory is reserved for."""
        return self.num * self.capacity

    def resize(self, num: int, capacity: int) -> None:
        """Make it hold so many places of so many tokens; what lies beyond is lost."""
        if (num, capacity) == (self.num, self.capacity):
            return
        self.num, self.capacity, self.version = num, capacity, self.version + 1
        for index, (keys, values) in enumerate(self.layers):  # layer by layer, so that only one is in memory twice
            self.layers[index] = self._resized(keys), self._resized(values)

    def _resized(self, old: Tensor) -> Tensor:
        new = _zeros(old, (self.num, old.shape[1], self.capacity, old.shape[3]))
        places, length = min(len(old), self.num), min(old.shape[2], self.capacity)
        new[:places, :, :length] = old[:places, :, :length]
        return new

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a place to another."""
        for keys, values in self.layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]


class Slab:
    """The cache of the live rows.

    max_length: the most tokens of a row. max_cells: the most tokens in memory (`cells`). The caller admits no more rows
    than fit.
    """

    def __init__(self, like: Prefix, max_length: int, max_cells: int | None = None) -> None:
        self.max_length, self.max_cells = max_length, max_cells
        self.prompts, self.rows = Store(like), Store(like)
        self.prompt_lengths: list[int] = []
        """Tokens of the prompt in each place; 0 where there is none."""
        self._users: list[int] = []
        self.places: list[int] = []
        """For each live row, the place of its prompt."""
        self.lengths: list[int] = []
        """For each live row, the number of tokens after its prompt."""

    @property
    def cells(self) -> int:
        """Tokens that memory is reserved for: places times longest prompt, and rows times longest row."""
        return self.prompts.cells + self.rows.cells

    def _trim(self) -> None:
        """Free the memory of prompts and rows that have left, so that the present ones stay within the bound."""
        while self._users and not self._users[-1]:
            self._users.pop()
            self.prompt_lengths.pop()
        self.prompts.resize(len(self._users), max(self.prompt_lengths, default=0))
        self.rows.resize(len(self.lengths), rounded(max(self.lengths, default=0)))

    # --- prompts ------------------------------------------------------------------------------------------------

    def keep(self, prefix: Prefix, index: int, length: int) -> int:
        """Store one of the forwarded prompts, so that rows can start from it. Returns its place.

        It is kept until it is released and the last of its rows has left.
        """
        if 0 not in self._users:
            self._users.append(0)
            self.prompt_lengths.append(0)
        place = self._users.index(0)
        self._users[place], self.prompt_lengths[place] = 1, length
        num, capacity = max(self.prompts.num, len(self._users)), max(self.prompts.capacity, length)
        if self.max_cells is not None and num * capacity + self.rows.cells > self.max_cells:
            self._trim()
            num, capacity = len(self._users), max(self.prompt_lengths)
        self.prompts.resize(num, capacity)
        for (keys, values), (new_keys, new_values) in zip(self.prompts.layers, prefix.layers, strict=True):
            keys[place, :, :length] = new_keys[index, :, :length]
            values[place, :, :length] = new_values[index, :, :length]
        return place

    def release(self, place: int) -> None:
        """No more rows will start from this prompt."""
        self._users[place] -= 1
        if self._users[place] == 0:
            self.prompt_lengths[place] = 0

    # --- rows ---------------------------------------------------------------------------------------------------

    def add(self, place: int) -> None:
        """Start a row, behind the live ones, from the prompt in this place."""
        self._users[place] += 1
        self.places.append(place)
        self.lengths.append(0)

    def remove(self, row: int) -> None:
        """End a row. The last row takes its number."""
        self.release(self.places[row])
        place, length = self.places.pop(), self.lengths.pop()
        if row < len(self.lengths):
            self.places[row], self.lengths[row] = place, length
            if length:  # a row that has just started has no memory yet
                self.rows.move(len(self.lengths), row, length)

    def reserve(self, length: int) -> None:
        """Make room for `length` own tokens in each live row. The length doubles when it is too small."""
        num, rows = len(self.lengths), self.rows
        if num <= rows.num and length <= rows.capacity:
            return
        if (
            self.max_cells is not None
            and num * max(rounded(length), rows.capacity) > self.max_cells - self.prompts.cells
        ):
            self._trim()
        capacity = rows.capacity
        most = None if self.max_cells is None else max(0, self.max_cells - self.prompts.cells)
        if length > capacity:
            longest = (self.max_length if most is None else min(self.max_length, most // num)) // ROUND * ROUND
            capacity = rounded(max(length, min(2 * capacity, longest)))
        # Unused rows make room for longer ones.
        self.rows.resize(max(num, rows.num if most is None else min(rows.num, most // capacity)), capacity)


@dataclass(frozen=True)
class Product:
    """Some rows of a forward attend to their prompts in one product: R rows for each of some neighbouring places."""

    places: slice
    length: int
    """Tokens that are read in each place."""
    rows: slice | Tensor
    """The rows of the forward, [places * R] in the order of the places."""
    bias: Tensor | None = None
    """[places, 1, 1, length] hides what lies beyond a prompt; None: every prompt is that long."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Results of `attend_part`, [places * R, heads, M, width] and [places * R, heads, M]; query: of all rows."""
        own, heads, queries, width = query[self.rows].shape
        places = self.places.stop - self.places.start
        grid = query[self.rows].view(places, -1, heads, queries, width).transpose(1, 2)
        keys, values = (x[self.places, :, : self.length] for x in (keys, values))
        out, total = attend_part(grid.reshape(places, heads, -1, width), keys, values, self.bias, scale)
        out = out.reshape(places, heads, -1, queries, width).transpose(1, 2).reshape(own, heads, queries, width)
        return out, total.reshape(places, heads, -1, queries).transpose(1, 2).reshape(own, heads, queries)


@dataclass(frozen=True)
class Layout:
    """Where the new tokens of a forward go, and what they see. All tensors are on one device."""

    positions: Tensor
    """[B, W] of the new tokens in their sequences, prompts included."""
    where: Tensor
    """[B * heads * W] of the new tokens: indices into the store of the rows, seen as one long list of tokens."""
    rows: slice | Tensor
    """The rows [B] in the store."""
    length: int
    """Own tokens that are read in each row."""
    bias: Tensor | None
    """[B, 1, W, length] hides the own tokens that come later, and those of no row."""
    products: Sequence[Product]
    order: Tensor | None
    """[B] index of each row among the rows of all products; None: they are in order."""


class Window:
    """The slab as the cache of one forward."""

    def __init__(self, slab: Slab, layout: Layout) -> None:
        self.positions = layout.positions
        self._slab, self._layout = slab, layout
        self._elsewhere: dict[torch.device, Layout] = {}
        self.attended = False
        """Whether the model has attended through this cache."""

    def _at(self, device: torch.device) -> Layout:
        """The layout on the device of a layer; layers may be on several."""
        if device == self.positions.device:
            return self._layout
        if device not in self._elsewhere:
            self._elsewhere[device] = _moved(self._layout, device)
        return self._elsewhere[device]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values [B, heads, W, width] of one layer; `attend` reads them."""
        where = self._at(keys.device).where
        for old, new in zip(self._slab.rows.layers[layer], (keys, values), strict=True):
            old.view(-1, old.shape[3]).index_copy_(0, where, new.to(old.dtype).reshape(-1, old.shape[3]))
        return keys, values

    def attend(self, query: Tensor, layer: int, scale: float) -> Tensor:
        """Attention over the prompts and the rows' own tokens; see `AttendingCache.attend`."""
        self.attended = True
        layout, (rows, heads, width, size) = self._at(query.device), query.shape
        keys, values = (x[:, :, : layout.length][layout.rows] for x in self._slab.rows.layers[layer])
        # Query heads that share a key head are further queries of that head.
        query = query.to(keys.dtype).reshape(rows, keys.shape[1], -1, size)
        parts = query.split(width, 2) if width > 1 else [query]
        alone = _joined([attend_part(part, keys, values, layout.bias, scale) for part in parts], 2)
        prompts = self._slab.prompts.layers[layer]
        shared = _joined([product.attend(query, *prompts, scale) for product in layout.products], 0)
        if layout.order is not None:
            shared = shared[0][layout.order], shared[1][layout.order]
        return join(shared, alone).view(rows, heads, width, size)


def window(slab: Slab, rows: Sequence[int], widths: Sequence[int], device: torch.device) -> Window:
    """The view of the slab for a forward of `widths[i]` new tokens on top of row `rows[i]`, right-padded.

    Padding is written beyond the length of the row, and the row's next tokens overwrite it.
    """
    lengths, width = [slab.lengths[row] for row in rows], max(widths)
    slab.reserve(max(lengths) + width)
    for row, new in zip(rows, widths, strict=True):
        slab.lengths[row] += new
    before = [slab.prompt_lengths[slab.places[row]] for row in rows]
    own = torch.tensor(lengths, device=device)[:, None] + torch.arange(width, device=device)
    length, bias = min(rounded(max(lengths) + width), slab.rows.capacity), None
    if len(rows) == 1 and width == 1:
        length = lengths[0] + 1
    else:
        bias = hiding(own[:, None] + 1, length, slab.rows)
    numbers = torch.tensor(rows, device=device)
    products, order = _products(slab, rows, device)
    layout = Layout(
        positions=own + torch.tensor(before, device=device)[:, None],
        where=cells(numbers, own, slab.rows),
        rows=_indices(rows, device),
        length=length,
        bias=bias,
        products=products,
        order=None if order == sorted(order) else torch.tensor(order, device=device).argsort(),
    )
    return Window(slab, layout)


def _products(slab: Slab, rows: Sequence[int], device: torch.device) -> tuple[list[Product], list[int]]:
    """The products with prompts, and the rows of the forward in their order.

    Neighbouring places with equally many rows are taken together where that reads few tokens in vain.
    """
    members: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(slab.places[row], []).append(index)
    runs: list[list[int]] = []
    for place in sorted(members):
        run = [*runs[-1], place] if runs else []
        lengths = [slab.prompt_lengths[one] for one in run]
        alike = len(run) > 1 and place == run[-2] + 1 and len(members[place]) == len(members[run[0]])
        if alike and len(run) * max(lengths) <= PADDED * sum(lengths):
            runs[-1].append(place)
        else:
            runs.append([place])
    products = []
    for run in runs:
        lengths = [slab.prompt_lengths[place] for place in run]
        bias = None
        if min(lengths) < max(lengths):
            bias = hiding(torch.tensor(lengths, device=device)[:, None, None], max(lengths), slab.prompts)
        own = _indices([index for place in run for index in members[place]], device)
        products.append(Product(slice(run[0], run[-1] + 1), max(lengths), own, bias))
    return products, [index for run in runs for place in run for index in members[place]]


def least_cells(kept: Sequence[int], new: Sequence[int], num_rows: int, length: int) -> int:
    """The fewest tokens that memory must be reserved for.

    kept: `Slab.prompt_lengths`. new: lengths of further prompts. num_rows, length: of the rows, after their prompts.
    """
    places = max((place + 1 for place, tokens in enumerate(kept) if tokens), default=0)
    free = kept[:places].count(0)
    return (places + max(0, len(new) - free)) * max([0, *kept, *new]) + num_rows * rounded(length)


def cells(rows: Tensor, columns: Tensor, store: Store) -> Tensor:
    """Indices of the tokens `columns` [B, W] of some rows [B], for every head, into the store seen as one list."""
    heads = store.layers[0][0].shape[1]
    starts = rows[:, None] * heads + torch.arange(heads, device=rows.device)
    return (starts[..., None] * store.capacity + columns[:, None]).flatten()


def hiding(seen: Tensor, length: int, store: Store) -> Tensor:
    """What is added to scores [..., length] so that only the first `seen` [...] tokens are attended to."""
    dtype = store.layers[0][0].dtype
    hidden = torch.arange(rounded(length), device=seen.device) >= seen[..., None]
    lowest = torch.finfo(dtype).min / 2  # kernels may double it, and it must stay finite
    bias = torch.zeros(hidden.shape, dtype=dtype, device=seen.device).masked_fill_(hidden, lowest)
    return bias[..., :length]  # kernels on a GPU want rows whose starts are aligned


def _joined(results: Sequence[tuple[Tensor, Tensor]], dim: int) -> tuple[Tensor, Tensor]:
    if len(results) == 1:
        return results[0]
    return torch.cat([out for out, _ in results], dim), torch.cat([total for _, total in results], dim)


def _indices(numbers: Sequence[int], device: torch.device) -> slice | Tensor:
    """A slice where the numbers follow each other, so that picking them copies nothing."""
    together = list(numbers) == list(range(numbers[0], numbers[0] + len(numbers)))
    return slice(numbers[0], numbers[0] + len(numbers)) if together else torch.tensor(numbers, device=device)


def _moved(value: Any, device: torch.device) -> Any:
    """A layout with its tensors on another device."""
    if isinstance(value, Layout | Product):
        return replace(value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)})
    if isinstance(value, list):
        return [_moved(one, device) for one in value]
    return value.to(device) if isinstance(value, Tensor) else value


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    if like.device.type != "cpu" or not math.prod(shape):
        return like.new_zeros(shape)
    # With numpy, the operating system clears a page when it is first used, so unused pages cost nothing.
    cleared = np.zeros(math.prod(shape) * like.itemsize, np.uint8)
    return torch.from_numpy(cleared).view(like.dtype).view(shape)


def rounded(length: int) -> int:
    """The next multiple of `ROUND`."""
    return -(-length // ROUND) * ROUND
