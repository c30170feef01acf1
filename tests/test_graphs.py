"""Steps of fixed shapes: what is captured on a GPU runs uncaptured here, over the same memory, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import make_example
from test_engine import CONFIG, examples, ragged, same

from relisten.engine.cache import Prefix, Slab, window
from relisten.engine.engine import Engine
from relisten.engine.graphs import Graphs, Run, cuda_capture
from relisten.engine.scripted import ScriptedEngine
from relisten.models.base import AudioLM
from relisten.models.qwen2_5_omni import Qwen2_5Omni


class Recorder:
    """Stands in for CUDA: counts recordings and replays. A replay runs the step again, on the memory it was given."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, model: AudioLM) -> Callable[[Run], Run]:
        def capture(run: Run) -> Run:
            self.recorded += 1

            def replay() -> torch.Tensor:
                self.replayed += 1
                return run()

            return replay

        return capture


@pytest.mark.parametrize("max_rows", [1, 5, 9])
def test_steps_of_fixed_shapes_write_the_same_answers(model: Qwen2_5Omni, max_rows: int) -> None:
    """Prompts of unequal length, three rows each, which pause at steps of their own and end one after another."""
    expected = ScriptedEngine(model, ragged(model), max_rows).generate(examples(), CONFIG, 3)
    engine, recorder = ScriptedEngine(model, ragged(model), max_rows), Recorder()
    engine.capture = recorder
    for group, other in zip(engine.generate(examples(), CONFIG, 3), expected, strict=True):
        for one, two in zip(group, other, strict=True):
            same(one, two)
    assert 0 < recorder.recorded < recorder.replayed


def test_rows_that_wait_keep_their_place(model: Qwen2_5Omni) -> None:
    """A row that waits is forwarded with a token that is not kept; the slab must have room for it, too."""
    ids = [model.encode(text) for text in ("what is it", "a dog barks")]
    slab: Slab | None = None

    def forward(chunks: list[list[int]], cache: object, positions: torch.Tensor) -> torch.Tensor:
        keep = (torch.arange(len(chunks)), torch.tensor([len(chunk) - 1 for chunk in chunks]))
        return model.forward(torch.tensor(chunks), positions, [], None, cache, keep)

    def started() -> Slab:
        slab = None
        for chunk in ids:
            prefix = Prefix()
            forward([chunk], prefix, torch.arange(len(chunk))[None])
            slab = slab or Slab(prefix, 1000)
            slab.add(slab.keep(prefix, 0, len(chunk)))
        assert slab is not None
        return slab

    with torch.no_grad():
        slab, plain = started(), started()
        graphs = Graphs(model, slab, lambda run: run)
        for step in range(70):  # beyond the first 64 tokens
            found = graphs.decode([step % 7, None if step % 3 else 5])
            rows = [0] if step % 3 else [0, 1]
            view = window(plain, rows, [1] * len(rows), torch.device("cpu"))
            wanted = forward([[step % 7], [5]][: len(rows)], view, view.positions)
            torch.testing.assert_close(found[: len(rows)], wanted, atol=2e-5, rtol=0)
    assert slab.lengths == plain.lengths == [70, 24]


def test_a_model_on_a_processor_is_not_captured(model: Qwen2_5Omni) -> None:
    assert cuda_capture(model) is None
    assert Engine(model).generate([make_example()], CONFIG)[0][0].token_ids
