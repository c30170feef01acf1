"""Steps of one token for each row, captured as CUDA graphs and replayed.

A step of a 7B model starts more than a thousand kernels. For a few dozen rows, starting them takes several times longer
than running them. A captured step is started as a whole. Its shapes and its memory never change, so the number of rows
is rounded up, and all numbers that change from step to step stand in one tensor that is filled before each replay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relisten.engine.cache import Layout, Product, Slab, Window, cells, hiding
from relisten.models.base import AudioLM

Run = Callable[[], Tensor]
Capture = Callable[[Run], Run]
"""Given a step that reads and writes the same memory at each call: the same step, recorded. It does not run it."""


def cuda_capture(model: AudioLM) -> Capture | None:
    """How steps of a model are captured; None if they cannot be: it is not on one GPU, or its weights are split."""
    module = model.module
    weights = {(str(p.device), type(p.data)) for p in module.parameters()}
    if module.device.type != "cuda" or weights != {(str(module.device), Tensor)}:
        return None
    pool = torch.cuda.graph_pool_handle()  # only one graph runs at a time, so all may use the same memory

    def capture(run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those that read requests, may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            out = run()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    return capture


@dataclass(frozen=True)
class _Shape:
    rows: int
    """Rows in a step; those that are not live, and those that wait, write where nothing is read."""
    places: int
    shared: int
    """Rows for each prompt."""
    stores: tuple[int, int]
    """Versions of the slab's stores: a captured step knows their memory by its address."""

    @property
    def sizes(self) -> list[int]:
        """Lengths of the parts of the tensor of numbers: tokens, own lengths, lengths of prompts by row, order; lengths
        of prompts by place; rows by place."""
        return [self.rows] * 4 + [self.places, self.places * self.shared]


class Graphs:
    """Captured steps for one slab, by shape. A shape is captured when it occurs for the second time.

    Under autocast, the steps read the casts of the weights, so the steps may not outlive the autocast block.
    """

    def __init__(self, model: AudioLM, slab: Slab, capture: Capture) -> None:
        self._model, self._slab, self._capture = model, slab, capture
        self._device = model.module.device
        self._steps: dict[_Shape, tuple[Tensor, Run | None]] = {}

    def decode(self, token_ids: Sequence[int | None]) -> Tensor:
        """Logits [rows, V] after one new token for each live row, until the next step. None: the row waits.

        The logits of a row that waits have no meaning.
        """
        slab = self._slab
        slab.reserve(max(slab.lengths) + 1)
        shape = self._shape()
        numbers = torch.tensor(self._numbers(shape, token_ids))
        slab.lengths = [n + (token_id is not None) for n, token_id in zip(slab.lengths, token_ids, strict=True)]
        if shape not in self._steps:
            self._steps = {s: step for s, step in self._steps.items() if s.stores == shape.stores}
            self._steps[shape] = numbers.to(self._device), None
            return self._run(shape)[: len(token_ids)]
        given, step = self._steps[shape]
        given.copy_(numbers)
        if step is None:
            step = self._capture(lambda: self._run(shape))
            self._steps[shape] = given, step
        return step()[: len(token_ids)]

    def _shape(self) -> _Shape:
        slab = self._slab
        shared = max(map(slab.places.count, set(slab.places)))
        return _Shape(
            rows=min(_power(len(slab.lengths)), slab.rows.num),
            places=slab.prompts.num,
            shared=min(_power(shared), slab.rows.num),
            stores=(slab.prompts.version, slab.rows.version),
        )

    def _numbers(self, shape: _Shape, token_ids: Sequence[int | None]) -> list[int]:
        """The numbers of one step, in the order of `_Shape.sizes`."""
        slab, pad = self._slab, self._model.end_token_id
        unused = shape.rows - len(token_ids)
        members: list[list[int]] = [[] for _ in range(shape.places)]
        order = []
        for row, place in enumerate(slab.places):
            order.append(place * shape.shared + len(members[place]))
            members[place].append(row)
        lengths = slab.prompt_lengths + [0] * (shape.places - len(slab.prompt_lengths))
        return [
            *(pad if token_id is None else token_id for token_id in token_ids), *[pad] * unused,
            *slab.lengths, *[0] * unused,
            *(lengths[place] for place in slab.places), *[0] * unused,
            *order, *order[:1] * unused,
            *lengths,
            *(row for rows in members for row in rows + [0] * (shape.shared - len(rows))),
        ]  # fmt: skip

    def _run(self, shape: _Shape) -> Tensor:
        """The step itself: a function of the tensor of numbers, the stores and the weights."""
        given, slab = self._steps[shape][0], self._slab
        token_ids, own, before, order, lengths, members = given.split(shape.sizes)
        own, numbers = own[:, None], torch.arange(shape.rows, device=given.device)
        tokens = slab.prompts.capacity
        prompts = Product(slice(0, shape.places), tokens, members, hiding(lengths[:, None, None], tokens, slab.prompts))
        layout = Layout(
            positions=own + before[:, None],
            where=cells(numbers, own, slab.rows),
            rows=slice(0, shape.rows),
            length=slab.rows.capacity,
            bias=hiding(own[:, None] + 1, slab.rows.capacity, slab.rows),
            products=[prompts],
            order=order,
        )
        view = Window(slab, layout)
        keep = numbers, torch.zeros_like(numbers)
        logits = self._model.forward(token_ids[:, None], layout.positions, [], None, view, keep)
        assert view.attended
        return logits


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()
