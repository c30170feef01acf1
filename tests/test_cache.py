"""Prompts that are stored once, and rows of unequal length written in chunks, give the attention of each row alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from relisten.engine.attention import attend_part, by_formula, join
from relisten.engine.cache import ROUND, Prefix, Slab, window

HEADS, GROUPED, WIDTH, LAYERS = 2, 3, 8, 2
CPU = torch.device("cpu")


def prompt(length: int, seed: int, dtype: torch.dtype = torch.float32) -> Prefix:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, HEADS, length, WIDTH)
    return Prefix([tuple(torch.randn(shape, generator=generator, dtype=dtype) for _ in "kv")] * LAYERS)  # type: ignore[misc]


def chunk(rows: int, width: int, seed: int, heads: int = HEADS) -> Tensor:
    return torch.randn(rows, heads, width, WIDTH, generator=torch.Generator().manual_seed(seed))


def slab_of(*lengths: int, rows: int = 1, **bounds: int) -> Slab:
    """A slab with some prompts, and `rows` rows of each."""
    slab = Slab(prompt(1, 0), **({"max_length": 1000} | bounds))
    for seed, length in enumerate(lengths):
        place = slab.keep(prompt(length, seed), 0, length)
        for _ in range(rows):
            slab.add(place)
        slab.release(place)
    return slab


def plain(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention [heads, W, width] of the last W tokens of one row, in float64."""
    keys, values = (x.double().repeat_interleave(GROUPED, 0) for x in (keys, values))
    scores = query.double() @ keys.transpose(1, 2) * WIDTH**-0.5
    length, width = keys.shape[1], query.shape[1]
    later = torch.arange(length) > torch.arange(length - width, length)[:, None]
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ values


@pytest.mark.parametrize(
    "prompts", [[(70, 3), (5, 2), (130, 1)], [(70, 2), (66, 2), (5, 2)], [(9, 1), (9, 1), (8, 1), (40, 3)]]
)
def test_rows_hold_what_was_written_to_them_in_any_order(prompts: list[tuple[int, int]]) -> None:
    """Prompts (tokens, rows) of which some are attended to together; chunks of any width to any rows; rows leave."""
    slab = Slab(prompt(1, 0), max_length=1000)
    expected: list[tuple[Tensor, Tensor]] = []
    for seed, (length, rows) in enumerate(prompts):
        prefix = prompt(length, seed)
        place = slab.keep(prefix, 0, length)
        for _ in range(rows):
            slab.add(place)
            expected.append((prefix.layers[1][0][0], prefix.layers[1][1][0]))
        slab.release(place)

    def step(rows: list[int], widths: list[int], seed: int) -> None:
        view = window(slab, rows, widths, CPU)
        new, query = chunk(len(rows), max(widths), seed), chunk(len(rows), max(widths), seed + 99, HEADS * GROUPED)
        view.update(new, -new, 1)
        found = view.attend(query, 1, WIDTH**-0.5)
        for i, (row, width) in enumerate(zip(rows, widths, strict=True)):
            keys, values = (
                torch.cat([old, x[i, :, :width]], 1) for old, x in zip(expected[row], (new, -new), strict=True)
            )
            expected[row] = keys, values
            assert view.positions[i, width - 1] == keys.shape[1] - 1
            difference = found[i, :, :width].double() - plain(query[i, :, :width], keys, values)
            assert difference.abs().max() < 2e-6

    step([0, 1, 2, 3, 4, 5], [1] * 6, 0)
    step([0, 2], [3, 90], 1)
    step([4], [1], 2)
    step([5, 1], [2, 1], 3)
    for row in (1, 0):  # the last rows take their numbers
        slab.remove(row)
        last = expected.pop()
        if row < len(expected):
            expected[row] = last
    step([0, 1, 2, 3], [1] * 4, 4)
    slab.remove(3)
    expected.pop()
    step([0, 1, 2], [1, 4, 1], 5)
    assert [slab.prompt_lengths[p] + n for p, n in zip(slab.places, slab.lengths, strict=True)] == [
        keys.shape[1] for keys, _ in expected
    ]


def test_a_prompt_is_kept_until_its_last_row_leaves() -> None:
    slab = slab_of(5)
    place = slab.keep(prompt(7, 1), 0, 7)
    assert (place, slab.prompt_lengths) == (1, [5, 7])
    slab.remove(0)
    assert slab.prompt_lengths == [0, 7]
    slab.add(place)
    slab.release(place)
    assert slab.keep(prompt(3, 2), 0, 3) == 0  # in the free place
    assert slab.prompt_lengths == [3, 7]
    assert torch.equal(slab.prompts.layers[1][0][1, :, :7], prompt(7, 1).layers[1][0][0])


def test_memory_holds_a_prompt_once_for_all_of_its_rows() -> None:
    slab = slab_of(700, rows=8)
    window(slab, list(range(8)), [1] * 8, CPU)
    assert slab.cells == 700 + 8 * ROUND


def test_growth_keeps_every_row_and_doubles() -> None:
    slab = slab_of(10, rows=3, max_length=4096)
    new = chunk(3, 10, 1)
    window(slab, [0, 1, 2], [10] * 3, CPU).update(new, new, 0)
    sizes = []
    for _ in range(6):
        slab.reserve(slab.rows.capacity + 1)
        sizes.append(slab.rows.capacity)
    assert all(b == 2 * a for a, b in pairwise(sizes))
    keys = slab.rows.layers[0][1]
    assert torch.equal(keys[:, :, :10], new)
    assert not keys[:, :, 10:].any()


def test_growth_is_bounded_and_rows_that_left_give_way() -> None:
    slab = slab_of(10, rows=4, max_cells=522)
    slab.reserve(100)
    assert slab.cells <= 522
    for _ in range(3):
        slab.remove(0)
    slab.reserve(400)
    assert slab.rows.capacity >= 400
    assert slab.rows.num == 1
    assert slab.cells <= 522


def test_a_row_that_grows_does_not_displace_live_rows_behind_it() -> None:
    slab = slab_of(10, rows=3, max_cells=1410)
    new = chunk(3, 1, 1)
    window(slab, [0, 1, 2], [1] * 3, CPU).update(new, new, 0)
    for width in (300, 100):  # alone, the row would take 640 tokens the second time: two rows of the bound
        window(slab, [0], [width], CPU)
    assert slab.rows.num == 3 and slab.rows.capacity >= 401 and slab.cells <= 1410
    assert torch.equal(slab.rows.layers[0][0][:, :, :1], new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unwritten_cells_are_finite(dtype: torch.dtype) -> None:
    """A weight of zero times a NaN would be a NaN."""
    slab = Slab(prompt(3, 0, dtype), 10_000)
    slab.add(slab.keep(prompt(3, 0, dtype), 0, 3))
    slab.reserve(ROUND + 1)
    assert slab.rows.layers[0][0].dtype == dtype
    assert not slab.rows.layers[0][0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_are_stored_in_the_type_of_the_values(dtype: torch.dtype) -> None:
    """Under autocast the rotation leaves keys and queries in float32; each step once cast all keys again."""
    prefix, new = Prefix(), chunk(1, 3, 0)
    prefix.update(new, new.to(dtype), 0)
    assert prefix.layers[0][0].dtype == dtype
    assert prefix.attend(chunk(1, 3, 1, HEADS * GROUPED), 0, 1.0).dtype == dtype
    slab = Slab(prefix, 100)
    slab.add(slab.keep(prefix, 0, 3))
    view = window(slab, [0], [1], CPU)
    view.update(chunk(1, 1, 2), chunk(1, 1, 2).to(dtype), 0)
    assert slab.rows.layers[0][0].dtype == dtype
    assert view.attend(chunk(1, 1, 3, HEADS * GROUPED), 0, 1.0).dtype == dtype


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_parts_that_are_joined_have_the_shapes_of_the_whole(device: str) -> None:
    query, keys = (torch.randn(2, 3, n, WIDTH, device=device) for n in (4, 9))
    whole, total = attend_part(query, keys, keys, None, 0.5)
    parts = [attend_part(query, part, part, None, 0.5) for part in keys.split([2, 7], 2)]
    joined = join(*parts)
    assert joined.shape == whole.shape == query.shape and total.shape == query.shape[:3]
    if device == "cpu":
        torch.testing.assert_close(joined, whole, atol=1e-6, rtol=0)


def test_the_formula_equals_the_kernel() -> None:
    """Devices without a kernel of their own (MPS) use the formula."""
    query, keys, values = (torch.randn(2, 3, n, WIDTH) for n in (4, 9, 9))
    bias = torch.zeros(2, 1, 1, 9)
    bias[1, ..., 5:] = torch.finfo(torch.float32).min
    kernel, formula = (f(query, keys, values, bias, 0.5) for f in (attend_part, by_formula))
    for one, other in zip(kernel, formula, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
