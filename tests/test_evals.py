"""Evaluation: figures that can be checked by hand, controls that really swap what is heard, resuming."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relisten import records, tags
from relisten.engine import GenerationConfig
from relisten.evals import runner
from relisten.evals.scoring import iou, wilson
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio, Example, Segment, Trace


def answered(text: str, **fields: object) -> dict[str, object]:
    example = Example("q", Audio(np.zeros(16_000, np.float32)), "?", ("cow", "bell", "red cow"), "bell", **fields)
    return runner.record(example, Trace([1], [True], [0.0], [], 0, text=text))


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 20)[0] == 0.0 and wilson(20, 20)[1] == 1.0


def test_overlap_of_segments() -> None:
    assert iou(Segment(1, 3), Segment(2, 4)) == pytest.approx(1 / 3)
    assert iou(Segment(1, 2), Segment(2, 3)) == 0.0
    assert iou(Segment(1, 2), Segment(1, 2)) == 1.0


def test_an_answer_that_cannot_be_read_is_unparsed_and_not_right() -> None:
    rows = [
        answered("<think></think><answer> Bell </answer>"),
        answered("<think></think><answer>the red cow</answer>"),
        answered("<think></think><answer>a dog</answer>"),
        answered("bell"),
    ]
    assert [r["answer_prediction"] for r in rows] == ["bell", "red cow", None, None]
    tally = runner.tally(rows)
    assert (tally.num, tally.right, tally.unparsed) == (4, 1, 2)
    assert tally.accuracy == 0.25 and tally.chance == pytest.approx(1 / 3)


def test_the_summary_holds_each_kind_beside_all() -> None:
    rows = [
        answered(
            "<think>x <seg>1.0, 2.0</seg>, a</think><answer>bell</answer>",
            labels={"kind": "a", "segments": [[1.0, 3.0]]},
        ),
        answered("<think>x</think><answer>cow</answer>", labels={"kind": "b", "segments": [[1.0, 3.0]]}),
    ]
    summary = runner.summary(rows)
    assert {name: row["accuracy"] for name, row in summary["rows"].items()} == {"all": 0.5, "a": 1.0, "b": 0.0}
    assert summary["mean_iou"] == 0.5 and summary["segments_per_answer"] == 0.5 and summary["well_formed"] == 1.0
    json.dumps(summary)


def constant(seconds: int) -> Example:
    return Example(f"q{seconds}", Audio(np.full(16_000 * seconds, seconds / 10, np.float32)), "?")


@pytest.mark.parametrize("hears", ["own", "other", "silence"])
def test_controls_change_what_is_heard_and_not_how_long_it_is(hears: runner.Hears) -> None:
    examples = [constant(n) for n in (3, 1, 4)]
    asked, operation = runner.hearing(hears, examples, examples[1:], 16_000)
    assert [e.id for e in asked] == ["q1", "q4"]
    for example, other in zip(asked, (examples[2], examples[0]), strict=True):
        piece = operation(example.audio, Segment(0.5, 0.9))
        level = {"own": example.audio.samples[0], "other": other.audio.samples[0], "silence": 0.0}[hears]
        assert len(piece.samples) == 6400 and (piece.samples == level).all()


def test_one_recording_alone_has_no_other() -> None:
    with pytest.raises(ValueError, match="two recordings"):
        runner.hearing("other", [constant(1)], [constant(1)], 16_000)


def test_evaluation_goes_on_where_it_was(
    build_model: Callable[..., Qwen2_5Omni], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(layers=2)
    noise = np.random.default_rng(0).normal(0, 0.1, (5, 16_000)).astype(np.float32)
    examples = [Example(f"q{i}", Audio(noise[i]), "Which?", ("a", "b"), "a") for i in range(5)]
    config = GenerationConfig(max_new_tokens=6)
    whole = runner.evaluate(model, examples, tmp_path / "whole.jsonl", config)
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])  # kill -9 within the third record
    again = runner.evaluate(model, examples, tmp_path / "cut.jsonl", config)
    assert again == whole and len(list(records.read(tmp_path / "cut.jsonl"))) == 5
    assert all(tags.parse(str(r["response"])).text == r["response"] for r in whole)


def test_the_control_knows_a_recording_that_comes_through_the_engine(build_model: Callable[..., Qwen2_5Omni]) -> None:
    """The engine used to hand operations a copy, which the control could not place."""
    from relisten.row import audible

    model = build_model(layers=2)
    examples = [constant(1), constant(2)]
    assert all(audible(model, e.audio) is e.audio for e in examples)
