"""The ragged slab: rows of unequal length, written in chunks, give the attention of each row alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from relisten.engine.cache import ROUND, Prefix, Slab, Window

HEADS, WIDTH, LAYERS = 2, 4, 2
CPU = torch.device("cpu")


def prompt(length: int, seed: int) -> Prefix:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, HEADS, length, WIDTH)
    return Prefix([(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))] * LAYERS)


def chunk(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, HEADS, width, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_rows_hold_what_was_written_to_them_in_any_order() -> None:
    lengths, slab = [5, 70, 1], None
    expected: dict[int, torch.Tensor] = {}
    for row, length in enumerate(lengths):
        prefix = prompt(length, row)
        slab = slab or Slab(prefix, max_length=1000)
        slab.put(row, prefix)
        expected[row] = prefix.layers[1][0][0]
    assert slab is not None
    for step, (rows, widths) in enumerate([([0, 1, 2], [1, 1, 1]), ([0, 2], [3, 90]), ([1], [1]), ([1, 2], [2, 1])]):
        window = Window(slab, rows, widths, CPU, len(slab.lengths))
        new = chunk(len(rows), max(widths), step)
        for layer in range(LAYERS):
            keys, _ = window.update(new, new, layer)
        for i, (row, width) in enumerate(zip(rows, widths, strict=True)):
            expected[row] = torch.cat([expected[row], new[i, :, :width]], dim=1)
            length = expected[row].shape[1]
            assert slab.lengths[row] == length
            assert torch.equal(keys[i, :, :length], expected[row])
            if window.mask is not None:
                seen = window.mask[i, 0, width - 1]
                assert seen[:length].all()
                assert not seen[length:].any()
            assert window.positions[i, width - 1] == length - 1


def test_a_single_token_of_a_single_row_needs_no_mask() -> None:
    slab = Slab(prompt(5, 0), 100)
    slab.put(0, prompt(5, 0))
    window = Window(slab, [0], [1], CPU, 1)
    keys, _ = window.update(chunk(1, 1, 0), chunk(1, 1, 0), 0)
    assert window.mask is None
    assert keys.shape[2] == 6


def test_growth_keeps_every_row_and_doubles() -> None:
    slab = Slab(prompt(10, 0), max_length=4096)
    for row in range(3):
        slab.put(row, prompt(10, row))
    sizes = []
    for _ in range(6):
        slab.reserve(3, slab.capacity + 1)
        sizes.append(slab.capacity)
    assert all(b == 2 * a for a, b in pairwise(sizes))
    for row in range(3):
        assert torch.equal(slab.layers[1][1][row, :, :10], prompt(10, row).layers[1][1][0])
        assert not slab.layers[1][1][row, :, 10:].any()


def test_growth_is_bounded_and_rows_that_left_give_way() -> None:
    slab = Slab(prompt(10, 0), max_length=1000, max_cells=512)
    slab.reserve(4, 100)
    assert slab.num_rows * slab.capacity <= 512
    slab.reserve(1, 400)
    assert slab.capacity >= 400
    assert slab.num_rows == 1
    assert slab.num_rows * slab.capacity <= 512


def test_a_row_that_grows_does_not_displace_live_rows_behind_it() -> None:
    slab = Slab(prompt(10, 0), max_length=1000, max_cells=1400)
    for row in range(3):
        slab.put(row, prompt(10, row))
    for width in (300, 100):  # alone, the row would take 640 tokens the second time: two rows of the bound
        Window(slab, [0], [width], CPU, 3)
    assert slab.num_rows == 3 and slab.capacity >= 410 and slab.num_rows * slab.capacity <= 1400
    for row in (1, 2):
        assert torch.equal(slab.layers[1][1][row, :, :10], prompt(10, row).layers[1][1][0])


def test_a_row_moves_to_the_front() -> None:
    slab = Slab(prompt(3, 0), 100)
    slab.put(0, prompt(3, 0))
    slab.put(1, prompt(9, 1))
    slab.move(1, 0)
    assert slab.lengths[0] == 9
    assert torch.equal(slab.layers[0][0][0, :, :9], prompt(9, 1).layers[0][0][0])


def test_a_fork_is_a_copy() -> None:
    slab = Slab(prompt(3, 0), 100)
    for row in range(2):
        slab.put(row, prompt(3, 0))
    Window(slab, [0], [1], CPU, 1).update(chunk(1, 1, 5), chunk(1, 1, 5), 0)
    assert torch.equal(slab.layers[0][0][0, :, :3], slab.layers[0][0][1, :, :3])
    assert not slab.layers[0][0][1, :, 3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unwritten_cells_are_finite(dtype: torch.dtype) -> None:
    """A weight of zero times a NaN would be a NaN."""
    like = Prefix([(torch.zeros(1, HEADS, 3, WIDTH, dtype=dtype),) * 2])
    slab = Slab(like, 10_000)
    slab.reserve(2, ROUND + 1)
    assert slab.layers[0][0].dtype == dtype
    assert not slab.layers[0][0].any()
