"""Benchmarks with a layout of their own: what is read from each, and what is written for its script."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_benchmarks import lines, parquet, pro_row, recordings, served  # noqa: F401  (a fixture)

from relisten import records
from relisten.cli import run
from relisten.evals import figures, runs
from relisten.evals.benchmarks import BENCHMARKS, air_bench, belonging, bigbench_audio, mmau_pro, mmsu
from relisten.evals.predictions import read_predictions


def mmsu_row(n: int, **other: Any) -> dict[str, Any]:
    return {
        "id": f"s{n}", "audio_path": f"/audio/s{n}.wav", "task_name": "stress", "question": "Which word?",
        "choice_a": "up then down", "choice_b": "down then up", "choice_c": "both", "choice_d": "none",
        "answer_gt": "up then down", "category": "Perception", "sub-category": "Linguistics",
        "sub-sub-category": "Phonology", "linguistics_sub_discipline": "Prosody",
    } | other  # fmt: skip


def air_row(n: int, **other: Any) -> dict[str, Any]:
    return {
        "uniq_id": n, "path": f"a{n}.wav", "question": "Which?", "choice_a": "Yes", "choice_b": "No",
        "answer_gt": "No", "task_name": "Sound_AQA", "dataset_name": "clotho",
    } | other  # fmt: skip


def adqa_row(n: int) -> dict[str, Any]:
    return {
        "id": f"dev_{n:04d}", "question_text": "Which?", "multi_choice": ["cow", "bell", "horn"], "answer": "bell",
        "audio_path": f"dev_audios/dev_{n:04d}.wav",
    }  # fmt: skip


def big_row(n: int, category: str = "navigate", answer: str = "No") -> dict[str, Any]:
    return {"category": category, "official_answer": answer, "file_name": f"data/question_{n}.mp3", "id": n}


AIR = [
    air_row(0),
    air_row(1, task_name="Audio_Grounding", choice_a=[0.5, 1], choice_b=[2, 3], answer_gt=[2, 3], dataset_name="AG"),
    air_row(2, task_name="Music_AQA", choice_c="Both", choice_d=None, answer_gt="Both"),
    air_row(3, task_name="Speaker_Age_Prediction"),
]
LAYOUTS: dict[str, tuple[str, Sequence[dict[str, Any]], str]] = {
    "mmsu": ("question/mmsu.jsonl", [mmsu_row(0), mmsu_row(1, choice_c=None, choice_d="")], "audio/s1.wav"),
    "air-bench": ("Foundation/Foundation_meta.json", AIR, "Foundation/Sound_AQA_clotho/a0.wav"),
    "adqa": ("dev.jsonl", [adqa_row(0), adqa_row(1)], "dev_audios/dev_0001.wav"),
    "bigbench-audio": ("metadata.jsonl", [big_row(0), big_row(1, "object_counting", "7")], "data/question_1.mp3"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_read_where_its_file_lies(tmp_path: Path, name: str) -> None:
    where, rows, recording = LAYOUTS[name]
    questions = lines(tmp_path / where, rows)
    benchmark = BENCHMARKS[name]
    for root in (tmp_path, questions.parent):
        assert benchmark.file(root) == questions
        found = benchmark.examples(root)
        assert len(found) == len(rows) and tmp_path / recording in [e.audio for e in found]
        assert all(not e.choices or e.answer in e.choices for e in found)
    assert belonging(questions) is benchmark


def test_what_a_script_calls_otherwise_is_found_under_mmars_names(tmp_path: Path) -> None:
    for name, (where, rows, _) in LAYOUTS.items():
        lines(tmp_path / name / where, rows)
    assert [len(e.choices) for e in mmsu.examples(tmp_path / "mmsu")] == [4, 2]
    air = air_bench.examples(tmp_path / "air-bench")
    assert [(e.choices, e.answer) for e in air[:3]] == [
        (("Yes", "No"), "No"), (("[0.5, 1]", "[2, 3]"), "[2, 3]"), (("Yes", "No", "Both"), "Both"),
    ]  # fmt: skip
    assert [e.labels["modality"] for e in air] == ["sound", "sound", "music", "speech"]
    assert air[1].audio == tmp_path / "air-bench/Foundation/Audio_Grounding_AG/a1.flac"
    assert air[2].labels["category"] == "Music_AQA" and air[2].labels["sub-category"] == "Music_AQA_clotho"
    assert [(e.choices, e.answer) for e in bigbench_audio.examples(tmp_path / "bigbench-audio")] == [
        (("Yes", "No"), "No"), ((), "7"),
    ]  # fmt: skip
    lines(tmp_path / "metadata.jsonl", [big_row(0, "poetry")])
    with pytest.raises(ValueError, match="no category 'poetry'"):
        bigbench_audio.examples(tmp_path)


def test_a_file_of_ones_own_that_is_called_as_a_benchmarks_is_not_taken_for_it(tmp_path: Path) -> None:
    own = {"id": "q1", "audio_path": "a.wav", "question": "Which?", "choices": ["cow", "bell"], "answer": "bell"}
    questions = lines(tmp_path / "dev.jsonl", [own])
    assert belonging(questions) is None
    given = read_predictions([lines(tmp_path / "p.jsonl", [{"id": "q1", "model_output": "bell"}])], questions)
    assert figures.tally(given.records).right == 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_data_set_is_told_with_its_address_and_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    about = BENCHMARKS[name].about
    assert about is not None
    assert run(["eval", name, str(tmp_path / "out"), "--data", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"get it from {about.where}, so that the folder holds {about.layout}" in said


def test_the_benchmarks_are_listed_with_licence_and_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "adqa: ADQA development set, 1,607 questions, Apache-2.0" in listed
    assert "get it from huggingface.co/datasets/qyang1021/AIR-Bench-Dataset" in listed
    assert run(["eval"]) == 2 and "--list" in capsys.readouterr().err


def test_a_choice_with_the_words_of_another_is_wrong_where_the_choice_counts(tmp_path: Path) -> None:
    """By MMAR's rule on words, "down then up" would be right."""
    questions = lines(tmp_path / "question/mmsu.jsonl", [mmsu_row(n) for n in range(4)])
    said = ["up then down", "down then up", "B", "(A) up then down"]
    rows = [{"id": f"s{n}", "answer_prediction": text} for n, text in enumerate(said)]
    given = read_predictions([lines(tmp_path / "p.jsonl", rows)], questions)
    assert [figures.right(r) for r in given.records] == [True, False, False, False]
    assert [r["choice"] for r in given.records] == ["up then down", "down then up", "down then up", "up then down"]


def test_a_benchmark_without_a_script_of_its_own_has_no_file_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = lines(tmp_path / "dev.jsonl", [adqa_row(0)])
    given = lines(tmp_path / "p.jsonl", [{"id": "dev_0000", "answer_prediction": "bell"}])
    options = ["--questions", str(questions), "--export-as", "adqa", "--export-to", str(tmp_path / "sent.jsonl")]
    assert run(["score", str(given), *options]) == 2
    assert "no benchmark with a script of its own; there are mmar" in capsys.readouterr().err


@pytest.mark.parametrize(("said", "right"), [("7", True), ("seven.", True), ("8", False), ("7 or 8", False)])
def test_an_open_count_may_be_a_numeral(tmp_path: Path, said: str, right: bool) -> None:
    questions = lines(tmp_path / "metadata.jsonl", [big_row(3, "object_counting", "7")])
    given = read_predictions([lines(tmp_path / "p.jsonl", [{"id": "3", "model_output": said}])], questions)
    assert figures.right(given.records[0]) is right


def test_mmsu_runs_by_name_and_its_predictions_are_letters(
    served: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines(tmp_path / "question/mmsu.jsonl", [mmsu_row(0), mmsu_row(1)])
    recordings(tmp_path, ["audio/s0.wav", "audio/s1.wav"])
    options = ["--data", str(tmp_path), "--model", str(served), "--max-new-tokens", "4", "--failed", "first-choice"]
    assert run(["eval", "mmsu", str(tmp_path / "out"), *options]) == 0
    assert {row["response"] for row in records.read(tmp_path / "out/predictions.jsonl")} <= {"A", "B", "C", "D"}
    asked = runs.read_run(tmp_path / "out")
    assert {r["rule"] for r in asked.records} == {"choice"} and runs.benchmark_of(asked) is BENCHMARKS["mmsu"]
    assert [e.id for e in runs.questions_of(asked)] == ["s0", "s1"]


# --- the other parts of MMAU-Pro --------------------------------------------------------------------------------------

PRO = [
    pro_row(0),
    pro_row(1, category="open", choices=[], answer="a bell rings twice"),
    pro_row(2, category="open", choices=[], answer="x", audio_path=["data/p0.wav", "data/p1.wav"]),
    pro_row(
        3, category="instruction following", answer=None, choices=[], task_identifier="No Commas",
        kwargs={"N": None, "keywords": None},
    ),
]  # fmt: skip


def test_open_answers_and_instructions_are_asked_as_benchmarks_of_their_own(
    served: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parquet(tmp_path / mmau_pro.FILE, PRO)
    recordings(tmp_path, ["data/p1.wav", "data/p3.wav"])
    options = ["--data", str(tmp_path), "--model", str(served), "--max-new-tokens", "4"]
    for name, asked in (("mmau-pro-open", "p1"), ("mmau-pro-instructions", "p3")):
        assert run(["eval", name, str(tmp_path / name), *options]) == 0
        assert [r["id"] for r in records.read(tmp_path / name / "answers.jsonl")] == [asked]
        assert [e.id for e in runs.questions_of(runs.read_run(tmp_path / name))] == [asked]
        sent = records.table(tmp_path / name / "predictions.parquet").to_pylist()
        assert [row["id"] for row in sent] == [asked]
    line = next(records.read(tmp_path / "mmau-pro-instructions/answers.jsonl"))
    assert line["rule"] == "instruction" and line["followed"] is (line["answer_prediction"] is not None)
    assert "relisten judge" in capsys.readouterr().out
    assert run(["eval", "mmau-pro-open", str(tmp_path / "more"), *options, "--controls"]) == 2
    summary = json.loads((tmp_path / "mmau-pro-open/summary.json").read_text())
    assert summary["rows"]["all"]["accuracy"] is None, "no rule says whether an open answer is right"
    assert summary["not_asked"] == {
        "with choices": 1, "about several recordings": 1,
        "on following instructions (mmau-pro-instructions asks these)": 1,
    }  # fmt: skip


def test_sentences_need_nltk_and_that_is_told_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(text: str) -> list[str]:
        raise LookupError("punkt_tab")

    row = pro_row(4, category="instruction following", choices=[], task_identifier="Number Sentences (at most)")
    parquet(tmp_path / mmau_pro.FILE, [row | {"kwargs": '{"N": 2}'}])
    nltk = SimpleNamespace(sent_tokenize=missing)
    monkeypatch.setitem(sys.modules, "nltk", nltk)
    monkeypatch.setitem(sys.modules, "nltk.tokenize", nltk)
    with pytest.raises(ValueError, match=r"nltk\.downloader punkt_tab"):
        mmau_pro.instruction_examples(tmp_path)
    nltk.sent_tokenize = lambda text: text.split(".")
    [example] = mmau_pro.instruction_examples(tmp_path)
    assert example.labels["kwargs"] == {"N": 2} and example.answer == "Number Sentences (at most)"
    parquet(tmp_path / mmau_pro.FILE, [row | {"kwargs": "[2]"}])
    with pytest.raises(ValueError, match="row 1: 'kwargs' must hold names and values"):
        mmau_pro.instruction_examples(tmp_path)


# --- controls ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(served: Path, tmp_path: Path) -> Callable[..., int]:  # noqa: F811
    """Runs `relisten eval` on MMSU's layout, with three questions in two categories."""
    rows = [mmsu_row(n, category="Reasoning" if n else "Perception") for n in range(3)]
    lines(tmp_path / "question/mmsu.jsonl", rows)
    recordings(tmp_path, [f"audio/s{n}.wav" for n in range(3)])
    options = ["--data", str(tmp_path), "--model", str(served), "--max-new-tokens", "4"]
    return lambda *more: run(["eval", "mmsu", str(tmp_path / "out"), *options, *more])


def test_controls_are_runs_of_their_own_beside_a_table_and_go_on_where_they_were(
    asked: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert asked("--controls") == 0
    for name, hears, recording in (("silence",) * 3, ("other",) * 3, ("text", "off", "none")):
        config = json.loads((tmp_path / "out/controls" / name / "config.json").read_text())
        assert (config["hears"], config["recording"]) == (hears, recording)
    assert "the model hears" in capsys.readouterr().out
    table = (tmp_path / "out/controls.md").read_text()
    for words in ("| the recording | 3 |", "| silence of the same length | 3 |", "| nothing, the text alone | 3 |"):
        assert words in table
    assert "| Perception | 1 |" in table, "by category, because there are few"
    found = json.loads((tmp_path / "out/controls.json").read_text())
    assert found["the recording"]["change"] is None
    assert found["nothing, the text alone"]["change"]["total"]["paired"]["num"] == 3

    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("answers.jsonl")}
    cut = tmp_path / "out/controls/text/answers.jsonl"
    cut.write_bytes(before[cut].splitlines(keepends=True)[0] + b'{"id": "s1", "ans')  # kill -9
    assert asked("--controls") == 0
    for path, lines_before in before.items():
        again = [json.loads(line) | {"seconds": 0} for line in path.read_bytes().splitlines()]
        assert again == [json.loads(line) | {"seconds": 0} for line in lines_before.splitlines()]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--recording", "silence"], "is compared with a run that hears the recording"),
        (["--shard", "0/2"], "leave --shard out"),
    ],
)
def test_controls_of_what_is_no_whole_run_are_refused(
    asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert asked("--controls", *more) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()
