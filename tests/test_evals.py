"""Evaluation: figures that can be checked by hand, controls that really swap what is heard, resuming."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relisten import models, records, tags
from relisten.audio import save
from relisten.commands.ask import ask
from relisten.commands.evaluate import eval_file
from relisten.engine import GenerationConfig
from relisten.evals import runner
from relisten.evals.scoring import iou, is_right, wilson
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.row import audible
from relisten.types import Audio, Example, Segment, Trace


def answered(text: str, **fields: object) -> dict[str, object]:
    given: dict[str, Any] = {"choices": ("cow", "bell", "red cow"), "answer": "bell", **fields}
    example = Example("q", Audio(np.zeros(16_000, np.float32)), "?", **given)
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


def test_case_and_blanks_do_not_make_an_answer_wrong() -> None:
    assert is_right(" Bell", "bell ") and is_right("STRASSE", "straße")
    assert not is_right(None, "bell") and not is_right("bell", None) and not is_right("bells", "bell")
    rows = [
        answered("<think></think><answer>BELL</answer>", choices=(), answer="bell"),
        answered("<think></think><answer>bell</answer>", choices=("cow", "bell "), answer="bell"),
    ]
    assert runner.tally(rows).right == 2


def test_errors_are_a_class_of_their_own_and_wrong() -> None:
    example = Example("q", Path("gone.wav"), "?", ("cow", "bell"), "bell", labels={"segments": [[1.0, 2.0]]})
    text = "<think>x <seg>1.0, 2.0</seg>, a</think><answer>bell</answer>"
    rows = [
        answered(text, labels={"segments": [[1.0, 2.0]]}),
        runner.error_record(example, "no such file"),
        answered("bell"),
    ]
    tally = runner.tally(rows)
    assert (tally.num, tally.right, tally.unparsed, tally.errors) == (3, 1, 1, 1)
    summary = runner.summary(rows[:2])
    assert summary["rows"]["all"]["accuracy"] == 0.5
    assert (summary["mean_iou"], summary["segments_per_answer"], summary["well_formed"]) == (1.0, 1.0, 1.0)


def test_naming_nothing_overlaps_with_nothing() -> None:
    gold = {"segments": [[1.0, 3.0], [4.0, 5.0]]}
    rows = [
        answered("<think>x <seg>1.0, 2.0</seg>, a</think><answer>bell</answer>", labels=gold),
        answered("<think>x</think><answer>cow</answer>", labels=gold),
        answered("<think>x</think><answer>cow</answer>"),
    ]
    assert runner.mean_iou(rows, "interleaved") == runner.mean_iou(rows, "grounded") == 0.5 / 4
    assert runner.mean_iou(rows, "conditioned") == 0.5 / 2
    assert runner.mean_iou(rows[1:], "conditioned") is None and runner.mean_iou(rows[2:], "grounded") is None
    assert runner.summary(rows, "conditioned")["mean_iou"] == 0.25


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
    assert summary["mean_iou"] == 0.25 and summary["segments_per_answer"] == 0.5 and summary["well_formed"] == 1.0
    json.dumps(summary)


def constant(seconds: int) -> Example:
    return Example(f"q{seconds}", Audio(np.full(16_000 * seconds, seconds / 10, np.float32)), "?")


@pytest.mark.parametrize("hears", ["own", "other", "silence"])
def test_controls_change_what_is_heard_and_not_how_long_it_is(model: Qwen2_5Omni, hears: runner.Hears) -> None:
    examples = [constant(n) for n in (3, 1, 4)]
    ready, operation = runner.hearing(hears, examples, model)
    for example, other in ((examples[1], examples[2]), (examples[2], examples[0])):
        piece = operation(ready(example).audio, Segment(0.5, 0.9))
        level = {"own": example.audio.samples[0], "other": other.audio.samples[0], "silence": 0.0}[hears]
        assert len(piece.samples) == 6400 and (piece.samples == level).all()


def test_questions_about_one_recording_have_one_stand_in_which_is_another_recording(
    model: Qwen2_5Omni, tmp_path: Path
) -> None:
    """Half the list of QUESTIONS away lies the same file where each file has two questions, files twice over."""
    for n in (1, 2):
        save(tmp_path / f"{n}.wav", Audio(np.tile(np.float32([0.1 * n, -0.1 * n]), 8_000)))
    (tmp_path / "link.wav").symlink_to(tmp_path / "1.wav")
    shared = Audio(np.full(16_000, 0.3, np.float32))
    other_rate = Audio(np.full(8_000, 0.4, np.float32), 8_000)
    recordings = [tmp_path / "1.wav", tmp_path / "2.wav", shared, other_rate, tmp_path / "link.wav", shared, other_rate]
    examples = [Example(f"q{i}", r, "?") for i, r in enumerate(recordings)]
    ready, operation = runner.hearing("other", examples, model)
    asked = [ready(e).audio for e in examples]
    heard = [float(np.abs(operation(a, Segment(0.4, 0.6)).samples).mean()) for a in asked]
    assert heard == pytest.approx([0.3, 0.4, 0.1, 0.2, 0.3, 0.1, 0.2], abs=1e-3)
    assert {a.rate for a in asked} == {model.rate}
    assert all(audible(model, a) is a for a in asked), "the engine hands operations a copy, which nothing can place"


def test_one_recording_alone_has_no_other(model: Qwen2_5Omni) -> None:
    one = constant(1)
    with pytest.raises(ValueError, match="two recordings"):
        runner.hearing("other", [one, replace(one, id="q2")], model)


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


@pytest.mark.parametrize("hears", ["own", "other"])
def test_answers_do_not_depend_on_how_many_recordings_are_in_memory(
    build_model: Callable[..., Qwen2_5Omni], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hears: runner.Hears
) -> None:
    model = build_model(layers=2)
    noise = np.random.default_rng(0).normal(0, 0.1, (5, 16_000)).astype(np.float32)
    for i in range(5):
        save(tmp_path / f"{i}.wav", Audio(noise[i]))
    examples = [Example(f"q{i}", tmp_path / f"{i}.wav", "Which?", ("a", "b"), "a") for i in range(5)]
    config = GenerationConfig(max_new_tokens=6)
    whole = runner.evaluate(model, examples, tmp_path / "whole.jsonl", config, hears)
    monkeypatch.setattr("relisten.answer.BLOCK", 2)
    assert runner.evaluate(model, examples, tmp_path / "blocks.jsonl", config, hears) == whole


@pytest.mark.parametrize("hears", ["own", "other"])
def test_what_cannot_be_asked_is_a_record_and_is_tried_again(
    build_model: Callable[..., Qwen2_5Omni], tmp_path: Path, hears: runner.Hears
) -> None:
    model = build_model(layers=2, context=400)
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 30).astype(np.float32)
    (tmp_path / "text.wav").write_text("no sound")
    recordings = [Audio(noise[:16_000]), Audio(noise), tmp_path / "text.wav", Audio(noise[:20_000])]
    recordings += [Audio(noise[:24_000]), Audio(noise[:28_000])]
    examples = [Example(f"q{i}", r, "Which?", ("a", "b"), "a") for i, r in enumerate(recordings)]
    config, out = GenerationConfig(max_new_tokens=6), tmp_path / "answers.jsonl"
    answers = runner.evaluate(model, examples, out, config, hears, max_rows=2)
    errors = {r["id"]: r["error"] for r in answers if "error" in r}
    assert "cut the recording" in errors["q1"] and "text.wav" in errors["q2"]
    # One more has the unreadable file for its stand-in.
    assert set(errors) == {"q1", "q2"} | ({"q5"} if hears == "other" else set())
    assert all(r["finish"] == "error" and r["answer_prediction"] is None for r in answers if "error" in r)
    summary = runner.summary(answers)["rows"]["all"]
    assert summary["n"] == 6 and summary["errors"] == len(errors) and summary["unparsed"] <= 6 - len(errors)

    save(tmp_path / "text.wav", Audio(noise[:16_000]))
    again = runner.evaluate(model, examples, out, config, hears)
    assert [r["id"] for r in again if "error" in r] == ["q1"]
    assert [r for r in again if r["id"] in ("q0", "q3")] == [r for r in answers if r["id"] in ("q0", "q3")]
    assert sorted(r["id"] for r in records.read(out)) == [f"q{i}" for i in range(6)]


def test_a_longest_recording_may_be_set(model: Qwen2_5Omni, tmp_path: Path) -> None:
    save(tmp_path / "a.wav", Audio(np.zeros(32_000, np.float32)))
    example = Example("q", tmp_path / "a.wav", "?", (), "a")
    [answer] = runner.evaluate(model, [example], tmp_path / "answers.jsonl", max_seconds=1)
    assert "--max-seconds" in answer["error"]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(model: Qwen2_5Omni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of questions; the model's folder lies beside it."""
    monkeypatch.setattr(models, "load", lambda *args, **kwargs: model)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    save(tmp_path / "clip.wav", Audio(np.zeros(16_000, np.float32)))
    question = {"audio_path": "clip.wav", "question": "Which?", "choices": ["a", "b"], "answer": "a", "kind": "[bold]"}
    records.append(tmp_path / "[red]q:bell:.jsonl", {"id": "q1", **question})
    return tmp_path / "[red]q:bell:.jsonl"


def run_eval(questions: Path, **options: Any) -> int:
    folder = questions.parent
    return eval_file(questions, folder / "out", model=str(folder / "model"), max_new_tokens=4, **options)


def test_the_command_shows_names_as_they_are_and_keeps_the_figures(
    asked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run_eval(asked) == 0
    out = capsys.readouterr().out
    assert "[red]q:bell:.jsonl" in out and "[bold]" in out and "errors" in out and "none named is 0" in out
    summary = json.loads((asked.parent / "out" / "summary.json").read_text())
    assert set(summary) == {"rows", "mean_iou", "segments_per_answer", "well_formed"}
    assert set(summary["rows"]["all"]) == {"n", "accuracy", "interval", "chance", "unparsed", "errors"}


@pytest.mark.parametrize("changed", ["[red]q:bell:.jsonl", "model/model.safetensors", "max_listens"])
def test_answers_of_another_model_or_other_questions_are_refused(asked: Path, changed: str) -> None:
    assert run_eval(asked) == 0
    assert run_eval(asked) == 0
    if changed == "max_listens":
        with pytest.raises(ValueError, match="max_listens is 8 there, 2 here"):
            run_eval(asked, max_listens=2)
        return
    with (asked.parent / changed).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ValueError, match=re.escape(f"another run (sha256 of {Path(changed).name} is")):
        run_eval(asked)


def test_the_command_says_that_some_could_not_be_asked(asked: Path) -> None:
    assert run_eval(asked, max_seconds=0.5) == 1


def test_the_limits_of_the_command_are_explained_as_those_of_ask() -> None:
    for line in ("Segments it may hear again; at one more the answer is forced.", "Longest recording taken."):
        assert line in (ask.__doc__ or "") and line in (eval_file.__doc__ or "")
    for name in ("max_listens", "max_seconds"):
        assert signature(eval_file).parameters[name].default == signature(ask).parameters[name].default
