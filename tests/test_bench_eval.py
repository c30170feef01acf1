"""The benchmark of evaluation: both sides write the same, and every figure is there."""

from __future__ import annotations

from collections.abc import Callable

from conftest import make_example

from benchmarks.evaluation import _table, measure
from relisten.engine.engine import GenerationConfig
from relisten.models.qwen2_5_omni import Qwen2_5Omni


def test_all_sides_write_the_same_and_are_timed(build_model: Callable[..., Qwen2_5Omni]) -> None:
    model = build_model(layers=2)
    result = measure(model, [make_example(1.0, seed) for seed in range(2)], GenerationConfig(max_new_tokens=5), 2, 1)
    assert [len(times) for times in result["times"].values()] == [1, 1, 1] and result["num"] == 2
    assert set(result["same"].values()) == {2}
    assert _table(result).row_count == 3
