"""Evaluation: figures that can be checked by hand, controls that really swap what is heard, resuming."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_audio

from relisten import models, records, tags
from relisten.audio import save
from relisten.commands.eval import eval_file
from relisten.commands.options import ModelOptions
from relisten.engine.generation import GenerationConfig
from relisten.engine.question import audible
from relisten.engine.scripted import ScriptedEngine
from relisten.evals import figures, runner
from relisten.evals.hearing import Hearing, Hears, PromptAudio, asked_as, hearing
from relisten.evals.predictions import read_predictions
from relisten.evals.runner import Asking
from relisten.evals.runs import read_run
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.same_text import is_right
from relisten.types import Audio, Example, Segment, Trace


def answered(text: str, **fields: object) -> dict[str, object]:
    given: dict[str, Any] = {"choices": ("cow", "bell", "red cow"), "answer": "bell", **fields}
    example = Example("q", Audio(np.zeros(16_000, np.float32)), "?", **given)
    return runner.record(example, Trace([1], [True], [0.0], [], 0, text=text))


def test_words_are_counted_in_one_pass() -> None:
    """One pattern tried every start in a run of punctuation: an answer of 2048 tokens took 13 seconds.

    A quadratic count of a million characters would never end.
    """
    assert runner.num_words("<think>A bell - twice.</think><answer> (two) ... 2</answer>") == 5
    assert runner.num_words("!" * 1_000_000 + " a " + "<" * 1_000_000 + "</a" * 300_000) == 2
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice(" \n!.-_a1é说\u2028<>/") for _ in range(rng.randrange(40)))
        assert runner.num_words(text) == len(re.findall(r"\S*\w\S*", re.sub(r"</?\w+>", " ", text))), text


def test_an_answer_that_cannot_be_read_is_unparsed_and_not_right() -> None:
    rows = [
        answered("<think></think><answer> Bell </answer>"),
        answered("<think></think><answer>the red cow</answer>"),
        answered("<think></think><answer>a dog</answer>"),
        answered("bell"),
    ]
    assert [r["answer_prediction"] for r in rows] == ["bell", "red cow", None, None]
    tally = figures.tally(rows)
    assert (tally.num, tally.right, tally.counts["unparsed"]) == (4, 1, 2)
    assert tally.accuracy == 0.25 and tally.chance == pytest.approx(1 / 3)


def test_case_and_blanks_do_not_make_an_answer_wrong() -> None:
    assert is_right(" Bell", "bell ") and is_right("STRASSE", "straße")
    assert not is_right(None, "bell") and not is_right("bell", None) and not is_right("bells", "bell")
    rows = [
        answered("<think></think><answer>BELL</answer>", choices=(), answer="bell"),
        answered("<think></think><answer>bell</answer>", choices=("cow", "bell "), answer="bell"),
    ]
    assert figures.tally(rows).right == 2


def test_errors_are_a_class_of_their_own_and_wrong() -> None:
    example = Example("q", Path("gone.wav"), "?", ("cow", "bell"), "bell", labels={"segments": [[1.0, 2.0]]})
    text = "<think>x <seg>1.0, 2.0</seg>, a</think><answer>bell</answer>"
    rows = [
        answered(text, labels={"segments": [[1.0, 2.0]]}),
        runner.error_record(example, "no such file"),
        answered("bell"),
    ]
    tally = figures.tally(rows)
    assert (tally.num, tally.right, tally.counts["unparsed"], tally.counts["failed"]) == (3, 1, 1, 1)
    summary = figures.summary(rows[:2])
    assert summary["rows"]["all"]["accuracy"] == 0.5
    assert (summary["mean_iou"], summary["segments_per_answer"], summary["well_formed"]) == (1.0, 1.0, 1.0)


def test_naming_nothing_overlaps_with_nothing() -> None:
    gold = {"segments": [[1.0, 3.0], [4.0, 5.0]]}
    rows = [
        answered("<think>x <seg>1.0, 2.0</seg>, a</think><answer>bell</answer>", labels=gold),
        answered("<think>x</think><answer>cow</answer>", labels=gold),
        answered("<think>x</think><answer>cow</answer>"),
    ]
    assert figures.mean_iou(rows, "interleaved") == figures.mean_iou(rows, "grounded") == 0.5 / 4
    assert figures.mean_iou(rows, "conditioned") == 0.5 / 2
    assert figures.mean_iou(rows[1:], "conditioned") is None and figures.mean_iou(rows[2:], "grounded") is None
    assert figures.summary(rows, "conditioned")["mean_iou"] == 0.25


def test_the_summary_holds_each_kind_beside_all() -> None:
    rows = [
        answered(
            "<think>x <seg>1.0, 2.0</seg>, a</think><answer>bell</answer>",
            labels={"kind": "a", "segments": [[1.0, 3.0]]},
        ),
        answered("<think>x</think><answer>cow</answer>", labels={"kind": "b", "segments": [[1.0, 3.0]]}),
    ]
    summary = figures.summary(rows)
    assert {name: row["accuracy"] for name, row in summary["rows"].items()} == {"all": 0.5, "a": 1.0, "b": 0.0}
    assert summary["mean_iou"] == 0.25 and summary["segments_per_answer"] == 0.5 and summary["well_formed"] == 1.0
    json.dumps(summary)


def test_the_mean_over_groups_leaves_out_what_has_none() -> None:
    rows = [
        answered("<think></think><answer>bell</answer>", labels={"modality": "speech"}),
        answered("<think></think><answer>cow</answer>", labels={"modality": "sound"}),
        answered("<think></think><answer>bell</answer>"),
    ]
    assert figures.summary(rows)["macro"]["modality"] == 0.5


def test_a_kind_called_all_is_not_taken_for_the_total() -> None:
    row = {"answer": "a", "choices": ["a", "b"], "status": "answered"}
    rows = [row | {"id": "1", "kind": "all", "answer_prediction": "a"}]
    rows += [row | {"id": "2", "kind": "word", "answer_prediction": "b"}]
    found = figures.summary(rows)["rows"]
    assert {name: found[name]["accuracy"] for name in found} == {"all": 0.5, "all (kind)": 1.0, "word": 0.0}


def constant(seconds: int) -> Example:
    return Example(f"q{seconds}", Audio(np.full(16_000 * seconds, seconds / 10, np.float32)), "?")


@pytest.mark.parametrize("hears", ["own", "other", "silence"])
def test_controls_change_what_is_heard_and_not_how_long_it_is(model: Qwen2_5Omni, hears: Hears) -> None:
    examples = [constant(n) for n in (3, 1, 4)]
    heard = hearing(hears, examples, model)
    for example, other in ((examples[1], examples[2]), (examples[2], examples[0])):
        piece = heard.operations()["seg"](heard.ready(example).audio, Segment(0.5, 0.9))
        level = {"own": example.audio.samples[0], "other": other.audio.samples[0], "silence": 0.0}[hears]
        assert len(piece.samples) == 6400 and (piece.samples == level).all()


def ramp(seconds: float, gold: list[list[float]] | None = None, id: str = "ramp") -> Example:
    """A recording whose samples are their own times, in thousands of seconds."""
    samples = np.arange(round(16_000 * seconds), dtype=np.float32) / 16e6
    return Example(id, Audio(samples), "?", labels={"segments": gold} if gold else {})


def times(heard: Hearing, example: Example, segment: Segment) -> tuple[float, float]:
    """From when to when the recording is heard for a segment; `where` says the same."""
    samples = heard.operations()["seg"](heard.ready(example).audio, segment).samples
    found = float(samples[0]) * 1e3, float(samples[-1]) * 1e3 + 1 / 16_000
    place = heard.where(example, segment, example.audio.duration)
    assert (place.start, place.end) == pytest.approx(found, abs=2e-4)
    return found


@pytest.mark.parametrize(
    ("named", "found"),
    [((1, 2), (2, 3)), ((3, 4.5), (4.5, 6)), ((4, 5.5), (2.5, 4)), ((1, 5), (0, 4)), ((0, 6), (0, 6))],
)
def test_the_neighbour_is_what_follows_or_else_what_precedes(
    model: Qwen2_5Omni, named: tuple[float, float], found: tuple[float, float]
) -> None:
    example = ramp(6.0)
    assert times(hearing("neighbour", [example], model), example, Segment(*named)) == pytest.approx(found, abs=2e-4)


def test_random_stretches_are_as_long_lie_anywhere_and_are_the_same_again(model: Qwen2_5Omni) -> None:
    examples = [ramp(6.0, id=f"q{i}") for i in range(40)]
    found = [times(hearing("random", examples, model), e, Segment(1.0, 2.0)) for e in examples]
    assert all(end - start == pytest.approx(1.0, abs=2e-4) and start >= 0 and end <= 6.001 for start, end in found)
    assert min(found)[0] < 1 and max(found)[0] > 4 and len(set(found)) == 40
    assert found == [times(hearing("random", examples, model), e, Segment(1.0, 2.0)) for e in examples]
    assert found != [times(hearing("random", examples, model, seed=1), e, Segment(1.0, 2.0)) for e in examples]


def test_the_oracle_gives_the_gold_segment_nearest_to_the_one_named(model: Qwen2_5Omni) -> None:
    example = ramp(9.0, [[1.0, 2.0], [4.0, 4.5], [8.0, 9.0]])
    heard = hearing("oracle", [example], model)
    for named, gold in (((0.0, 0.5), (1, 2)), ((1.9, 3.0), (1, 2)), ((5.0, 6.0), (4, 4.5)), ((6.6, 7.2), (8, 9))):
        assert times(heard, example, Segment(*named)) == pytest.approx(gold, abs=2e-4)
    with pytest.raises(ValueError, match="1 questions have no gold segments, q1 for one"):
        hearing("oracle", [example, ramp(3.0, id="q1")], model)


@pytest.mark.parametrize(("recording", "level"), [("silence", 0.0), ("other", 0.2), ("own", 0.3), ("none", 0.3)])
def test_the_prompt_may_hold_something_else_while_segments_are_the_recordings_own(
    model: Qwen2_5Omni, recording: PromptAudio, level: float
) -> None:
    examples = [constant(3), constant(2)]
    heard = hearing("own", examples, model, recording=recording)
    ready = heard.ready(examples[0])
    assert len(ready.audio.samples) == 48_000 and ready.audio.samples == pytest.approx(level)
    assert heard.operations()["seg"](ready.audio, Segment(0.5, 0.9)).samples == pytest.approx(0.3)


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
    heard = hearing("other", examples, model)
    asked = [heard.ready(e).audio for e in examples]
    levels = [float(np.abs(heard.operations()["seg"](a, Segment(0.4, 0.6)).samples).mean()) for a in asked]
    assert levels == pytest.approx([0.3, 0.4, 0.1, 0.2, 0.3, 0.1, 0.2], abs=1e-3)
    assert {a.rate for a in asked} == {model.rate}
    assert all(audible(model, a) is a for a in asked), "the engine hands operations a copy, which nothing can place"


def test_one_recording_alone_has_no_other(model: Qwen2_5Omni) -> None:
    one = constant(1)
    with pytest.raises(ValueError, match="two recordings"):
        hearing("other", [one, replace(one, id="q2")], model)


def answers(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """Records of `evaluate` without the time they took, which is never the same."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in runner.evaluate(*arguments, **options)]


def noises(num: int) -> list[Example]:
    noise = np.random.default_rng(0).normal(0, 0.1, (num, 16_000)).astype(np.float32)
    return [Example(f"q{i}", Audio(samples), "Which?", ("a", "b", "c"), "a") for i, samples in enumerate(noise)]


def test_shards_together_are_the_whole(model: Qwen2_5Omni, tmp_path: Path) -> None:
    """Also where another recording stands in, which may lie in the other shard."""
    config, asking = GenerationConfig(max_new_tokens=6), Asking("other", "other", samples=2, shuffle=1)
    whole = answers(model, noises(5), tmp_path / "whole.jsonl", config, asking)
    parts = [
        answers(model, noises(5), tmp_path / f"{i}.jsonl", config, replace(asking, shard=(i, 2))) for i in range(2)
    ]
    assert [len(part) for part in parts] == [6, 4]
    assert sorted((r["id"], r["sample"]) for part in parts for r in part) == [(r["id"], r["sample"]) for r in whole]
    assert all(r in whole for part in parts for r in part)
    merged = read_predictions([tmp_path / "0.jsonl", tmp_path / "1.jsonl"]).records
    assert figures.summary(merged) | {"seconds": 0} == figures.summary(whole) | {"seconds": 0}


def test_samples_differ_and_go_on_where_they_were(model: Qwen2_5Omni, tmp_path: Path) -> None:
    config, asking = GenerationConfig(max_new_tokens=6, temperature=1.0), Asking(samples=3)
    whole = answers(model, noises(2), tmp_path / "whole.jsonl", config, asking)
    assert [(r["id"], r["sample"]) for r in whole] == [(f"q{i}", k) for i in range(2) for k in range(3)]
    assert len({r["response"] for r in whole}) > 3
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(lines[0] + lines[4] + lines[1][:9])
    assert answers(model, noises(2), tmp_path / "cut.jsonl", config, asking) == whole
    assert len((tmp_path / "cut.jsonl").read_bytes().splitlines()) == 6


def test_shuffled_choices_are_asked_in_the_order_that_is_recorded(
    model: Qwen2_5Omni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, ...]] = []
    prompt = model.prompt
    monkeypatch.setattr(model, "prompt", lambda q, c, f, n: shown.append(tuple(c)) or prompt(q, c, f, n))
    asking = Asking(samples=4, shuffle=3)
    found = answers(model, noises(2), tmp_path / "a.jsonl", GenerationConfig(max_new_tokens=4), asking)
    assert [tuple(r["choices"][place] for place in r["order"]) for r in found] == shown
    assert {r["choices"] == ["a", "b", "c"] for r in found} == {True} and len(set(shown)) > 2


def test_a_letter_is_that_of_the_choice_as_shown() -> None:
    example = Example("q", Audio(np.zeros(9, np.float32)), "?", ("cow", "bell"), "bell")
    trace = Trace([1], [True], [0.0], [], 0, text="<think></think><answer>A</answer>")
    assert runner.record(example, trace, shown=("bell", "cow"))["answer_prediction"] == "bell"


@pytest.mark.parametrize(
    ("hears", "recording", "audio"),
    [("own", "own", True), ("off", "own", True), ("own", "none", False), ("off", "none", False)],
)
def test_what_is_left_out_is_not_in_the_prompt_and_what_is_off_is_not_inserted(
    build_model: Callable[..., Qwen2_5Omni], hears: Hears, recording: PromptAudio, audio: bool
) -> None:
    """Tags that the model is made to write are heard, or stay text, under the prompt of interleaved answers."""
    model = build_model(layers=2)
    config = GenerationConfig(max_new_tokens=60)
    asked, asked_config = asked_as(model, config, hears, recording)
    example = Example("q", make_audio(3.0), "Which?", ("a", "b"), "a")
    written = [*model.encode("<think>x <seg>1.0, 2.0</seg"), *model.encode(", y</think><answer>a</answer>")]
    written.append(model.end_token_id)
    script = ScriptedEngine(asked, lambda index, sample: lambda num: written[num])
    [[trace]] = script.generate([example], asked_config)
    begins = model.prompt("Which?", ("a", "b"), "interleaved", 48_000 if audio else None)[0]
    assert trace.token_ids[: trace.num_prompt] == begins
    assert (trace.listens[0].num_tokens > 0) == audio
    heard = [(x.segment.start, x.segment.end, x.num_tokens) for x in trace.listens[1:]]
    assert heard == ([(1.0, 2.0, model.num_audio_tokens(16_000))] if hears == "own" else [])
    line = runner.record(example, trace)
    assert line["named"] == [[1.0, 2.0]] and line["words"] == 5 and line["duration"] == 3.0


def test_what_segments_give_is_not_asked_of_answers_that_hear_none(model: Qwen2_5Omni) -> None:
    with pytest.raises(ValueError, match="grounded answers hear no segments"):
        asked_as(model, GenerationConfig(format="grounded"), "silence", "own")


def test_evaluation_goes_on_where_it_was(
    build_model: Callable[..., Qwen2_5Omni], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(layers=2)
    noise = np.random.default_rng(0).normal(0, 0.1, (5, 16_000)).astype(np.float32)
    examples = [Example(f"q{i}", Audio(noise[i]), "Which?", ("a", "b"), "a") for i in range(5)]
    config = GenerationConfig(max_new_tokens=6)
    whole = answers(model, examples, tmp_path / "whole.jsonl", config)
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])  # kill -9 within the third record
    again = answers(model, examples, tmp_path / "cut.jsonl", config)
    assert again == whole and len(list(records.read(tmp_path / "cut.jsonl"))) == 5
    assert all(tags.parse(str(r["response"])).text == r["response"] for r in whole)


def test_a_run_that_is_killed_goes_on_to_the_same_result(
    build_model: Callable[..., Qwen2_5Omni], tmp_path: Path
) -> None:
    """SIGKILL, which no handler sees, while answers are written; the rest is answered by another process."""
    model, config, cut = build_model(layers=2), GenerationConfig(max_new_tokens=8), tmp_path / "cut.jsonl"
    # A fork has the model already: a new interpreter would take seconds to import torch.
    child = multiprocessing.get_context("fork").Process(
        target=runner.evaluate, args=(model, noises(200), cut, config), kwargs={"max_rows": 2}
    )
    child.start()
    while child.is_alive() and (not cut.exists() or cut.read_bytes().count(b"\n") < 3):
        time.sleep(0.05)
    child.kill()
    child.join()
    kept = cut.read_bytes().count(b"\n")
    assert child.exitcode == -signal.SIGKILL and 3 <= kept < 200
    some = noises(200)[: kept + 3]
    assert answers(model, some, cut, config) == answers(model, some, tmp_path / "whole.jsonl", config)


@pytest.mark.parametrize("hears", ["own", "other"])
def test_answers_do_not_depend_on_how_many_recordings_are_in_memory(
    build_model: Callable[..., Qwen2_5Omni], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hears: Hears
) -> None:
    model = build_model(layers=2)
    noise = np.random.default_rng(0).normal(0, 0.1, (5, 16_000)).astype(np.float32)
    for i in range(5):
        save(tmp_path / f"{i}.wav", Audio(noise[i]))
    examples = [Example(f"q{i}", tmp_path / f"{i}.wav", "Which?", ("a", "b"), "a") for i in range(5)]
    config = GenerationConfig(max_new_tokens=6)
    whole = answers(model, examples, tmp_path / "whole.jsonl", config, Asking(hears))
    monkeypatch.setattr("relisten.evals.hearing.STAND_INS", 1)
    assert answers(model, examples, tmp_path / "few.jsonl", config, Asking(hears), max_rows=2) == whole


@pytest.mark.parametrize("hears", ["own", "other"])
def test_what_cannot_be_asked_is_a_record_and_is_tried_again(
    build_model: Callable[..., Qwen2_5Omni], tmp_path: Path, hears: Hears
) -> None:
    model = build_model(layers=2, context=400)
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 30).astype(np.float32)
    (tmp_path / "text.wav").write_text("no sound")
    recordings = [Audio(noise[:16_000]), Audio(noise), tmp_path / "text.wav", Audio(noise[:20_000])]
    recordings += [Audio(noise[:24_000]), Audio(noise[:28_000])]
    examples = [Example(f"q{i}", r, "Which?", ("a", "b"), "a") for i, r in enumerate(recordings)]
    config, out = GenerationConfig(max_new_tokens=6), tmp_path / "answers.jsonl"
    answers = runner.evaluate(model, examples, out, config, Asking(hears), max_rows=2)
    errors = {r["id"]: r["error"] for r in answers if "error" in r}
    assert "cut the recording" in errors["q1"] and "text.wav" in errors["q2"]
    # One more has the unreadable file for its stand-in.
    assert set(errors) == {"q1", "q2"} | ({"q5"} if hears == "other" else set())
    assert all(r["finish"] == "error" and r["answer_prediction"] is None for r in answers if "error" in r)
    summary = figures.summary(answers)["rows"]["all"]
    assert summary["n"] == 6 and summary["errors"] == len(errors) and summary["unparsed"] <= 6 - len(errors)

    save(tmp_path / "text.wav", Audio(noise[:16_000]))
    again = runner.evaluate(model, examples, out, config, Asking(hears))
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


def run_eval(questions: Path, max_listens: int = 8, max_seconds: float = 600.0, **given: Any) -> int:
    folder = questions.parent
    generation = GenerationConfig(max_new_tokens=4, max_listens=max_listens)
    options = ModelOptions(str(folder / "model"), max_seconds=max_seconds)
    return eval_file(questions, folder / "out", generation=generation, options=options, **given)


def test_the_command_shows_names_as_they_are_and_keeps_the_figures(
    asked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run_eval(asked) == 0
    out = " ".join(capsys.readouterr().out.split())  # a caption is wrapped at its table
    assert (
        "[red]q:bell:.jsonl" in out and "[bold]" in out and "errors" in out and "well formed" in out and "🔔" not in out
    )
    summary = json.loads((asked.parent / "out" / "summary.json").read_text())
    assert {"rows", "groups", "macro", "mean_iou", "segments_per_answer", "well_formed", "words", "seconds"} <= set(
        summary
    )
    assert {"n", "accuracy", "interval", "chance", "unparsed", "refused", "errors"} <= set(summary["rows"]["all"])


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


def test_answers_of_unknown_settings_are_not_taken_over(asked: Path) -> None:
    assert run_eval(asked) == 0
    (asked.parent / "out" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"without the config\.json of a run"):
        run_eval(asked)


def test_a_run_that_is_not_finished_says_so_and_one_with_doubled_answers_is_refused(asked: Path) -> None:
    records.append(asked, json.loads(asked.read_text()) | {"id": "q2"})
    assert run_eval(asked) == 0
    out = asked.parent / "out"
    assert read_run(out).notes == [] and read_predictions([out]).notes == []
    lines = (out / "answers.jsonl").read_text().splitlines(keepends=True)
    (out / "answers.jsonl").write_text(lines[0])
    [note] = read_run(out).notes
    assert "1 of 2 answers" in note and read_predictions([out]).notes == [note]
    with (out / "answers.jsonl").open("ab") as file:
        file.write(b'{"id": "q1", "ans')  # kill -9
    assert read_predictions([out]).notes == [note]
    (out / "answers.jsonl").write_text(lines[0] + lines[1] + lines[0])
    with pytest.raises(ValueError, match="a second time"):
        read_run(out)


def test_the_command_says_that_some_could_not_be_asked(asked: Path) -> None:
    assert run_eval(asked, max_seconds=0.5) == 1


@pytest.mark.parametrize("segments", ["1-2", 5, [[1.0, 2.0, 3.0]], [["a", "b"]], [[2.0, 1.0]]])
def test_labels_that_are_no_segments_are_told_before_anything_is_asked(asked: Path, segments: Any) -> None:
    [line, *rest] = list(records.read(asked))
    asked.write_text("".join(json.dumps(row) + "\n" for row in [line | {"segments": segments}, *rest]))
    with pytest.raises(ValueError, match="`segments` must be a list"):
        run_eval(asked)
    assert not (asked.parent / "out").exists()


def test_labels_may_be_empty_or_of_any_kind(model: Qwen2_5Omni) -> None:
    row = answered("<think></think><answer>bell</answer>", labels={"segments": None, "kind": ["a"]})
    assert (row["gold"], row["kind"]) == ([], "['a']")


@pytest.mark.parametrize(
    "wrong", [{"shuffle": -1}, {"max_rows": 0}, {"shard": "9/10"}, {"hears": "oracle"}, {"samples": 0}]
)
def test_a_start_that_fails_leaves_the_folder_free(asked: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--"):
        run_eval(asked, **wrong)
    assert not (asked.parent / "out").exists()
