"""The measurement does equal work on every side; its figures are not asserted."""

from __future__ import annotations

import json
from functools import partial

import pytest

from benchmarks import engine as bench
from relisten.models import nano


def test_every_side_does_equal_work_and_the_result_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    size = nano.NanoConfig(
        hidden_size=32, num_layers=1, num_heads=1, num_key_value_heads=1, intermediate_size=32, audio_width=16,
        audio_layers=1, audio_heads=1, audio_intermediate_size=16, audio_block=100, num_mel_bins=16, hop_length=160,
        n_fft=400,
    )  # fmt: skip
    model = nano.create((), size)
    sides = bench._sides(model)
    traces = {name: run() for name, run in sides.items()}
    monkeypatch.setattr(bench, "_sides", lambda _: {name: partial(dict.get, dict(traces), name) for name in sides})
    result = json.loads(json.dumps(bench.measure(1, model=model)))
    plain = traces.pop("no pause")
    assert len(plain.listens) == 1
    assert sum(plain.sampled) == bench.NUM_SAMPLED
    for trace in traces.values():
        assert trace.token_ids == traces["one"].token_ids
        assert trace.sampled == traces["one"].sampled
        assert len(trace.listens) == 4
        assert sum(trace.sampled) == bench.NUM_SAMPLED
    assert traces["one"].finish == "stop"
    assert set(result["ratios"]) == set(bench.RATIOS)
    assert all(floor["cpu / floor"] > 0 for floor in result["floors"].values())
    assert len(bench._tables(result)) == 2
