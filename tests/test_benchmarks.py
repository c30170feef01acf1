"""Benchmarks by name: their published layouts, what a model must not see of them, what is handed in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relisten import models, records
from relisten.audio import save
from relisten.cli import run
from relisten.evals.benchmarks import BENCHMARKS, Benchmark, missing, mmar, mmau, mmau_pro
from relisten.evals.figures import groups
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio, Example

GOLD = {"thinking": "GOLDEN thought", "cue": ["GOLDEN cue"], "rubric": "[{'name': 'GOLDEN', 'choices': {'0': 1}}]"}


def mmar_row(n: int) -> dict[str, Any]:
    """As published: the recording is not always called as the question is."""
    return {
        "id": f"x{n}", "audio_path": f"./audio/clip-{n}.wav", "question": "Which?", "choices": ["cow ", "bell"],
        "answer": "bell",
        "modality": "mix-sound-music", "category": "Signal Layer", "sub-category": "Anomaly Detection",
        "language": None if n else "zh|en", "source": "youtube", "url": "u", "timestamp": "00:00:00,00:00:10", **GOLD,
    }  # fmt: skip


def mmau_row(n: int, answer: str | None = "bell") -> dict[str, Any]:
    row = {
        "id": f"m{n}", "audio_id": f"./test-mini-audios/m{n}.wav", "question": "Which?", "choices": ["cow", "bell"] * 2,
        "dataset": "d", "task": "sound", "split": "test-mini", "category": "['Reasoning']" if n else "Reasoning",
        "sub-category": "Counting", "difficulty": "hard",
    }  # fmt: skip
    return row if answer is None else row | {"answer": answer}


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def recordings(root: Path, names: Sequence[str]) -> None:
    for name in names:
        save(root / name, Audio(np.zeros(8_000, np.float32)))


@pytest.mark.parametrize("name", mmar.FILES)
def test_mmar_is_read_in_both_forms_and_without_its_reference_reasoning(tmp_path: Path, name: str) -> None:
    lines(tmp_path / name, [mmar_row(0), mmar_row(1)])
    examples = BENCHMARKS["mmar"].examples(tmp_path)
    assert [e.audio for e in examples] == [tmp_path / "audio/clip-0.wav", tmp_path / "audio/clip-1.wav"]
    assert "GOLDEN" not in repr(examples) and not set(GOLD) & set(examples[0].labels)
    assert examples[0].labels["modality"] == "mix-sound-music"


def test_of_both_forms_of_mmar_the_newer_is_taken(tmp_path: Path) -> None:
    for name, num in zip(mmar.FILES, (1, 2), strict=True):
        lines(tmp_path / name, [mmar_row(n) for n in range(num)])
    assert mmar.file(tmp_path).suffix == ".jsonl" and len(mmar.examples(tmp_path)) == 1


def test_mmaus_names_are_taken_for_mmars_and_its_list_of_one_category_for_that_category(tmp_path: Path) -> None:
    lines(tmp_path / "mmau-test-mini.json", [mmau_row(0), mmau_row(1)])
    examples = mmau.mini_examples(tmp_path)
    assert {groups(e.labels)["category"] for e in examples} == {"Reasoning"}
    assert examples[1].audio == tmp_path / "test-mini-audios/m1.wav"
    assert all(groups({"category": text})["category"] == text for text in ("['a', 'b']", "[", "Reasoning"))


@pytest.mark.parametrize("answer", [None, ""])
def test_mmaus_test_has_no_answers(tmp_path: Path, answer: str | None) -> None:
    lines(tmp_path / "mmau-test.json", [mmau_row(0, answer)])
    assert [e.answer for e in mmau.examples(tmp_path)] == [None]


def test_missing_recordings_are_listed_once(tmp_path: Path) -> None:
    rows = [mmar_row(0), mmar_row(1) | {"audio_path": "./audio/clip-0.wav"}, mmar_row(2)]
    lines(tmp_path / mmar.FILES[0], rows)
    assert len(missing(mmar.examples(tmp_path))) == 2
    recordings(tmp_path, ["audio/clip-0.wav"])
    assert missing(mmar.examples(tmp_path)) == [tmp_path / "audio/clip-2.wav"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mmar", "out"], "give --data"),
        (["mmar", "out", "--data", "."], "holds no MMAR-meta.jsonl or MMAR-meta.json; get it from"),
        (["mmau-mini", "out", "--data", "."], "holds no mmau-test-mini.json"),
        (["mmar", "out", "--data", "full"], "2 recordings are missing, for example full/audio/clip-0.wav"),
        (["twice.jsonl", "out"], "make ids unique"),
        (["q.jsonl", "out", "--shard", "2/2"], "counted from 0, so write 0/2"),
        (["q.jsonl", "out", "--shard", "half"], "write the number of the shard, a slash, and how many there are"),
        (["q.jsonl", "out", "--samples", "2"], "greedy answers are all the same"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "full" / mmar.FILES[0], [mmar_row(0), mmar_row(1)])
    lines(tmp_path / "twice.jsonl", [mmar_row(0), mmar_row(0)])
    assert run(["eval", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.fixture
def served(model: Qwen2_5Omni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the command's model, which is the tests' own."""
    monkeypatch.setattr(models, "load", lambda *args, **kwargs: model)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def test_a_benchmark_runs_by_name_shows_its_hash_and_writes_what_its_script_reads(
    served: Path,
    model: Qwen2_5Omni,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[str] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda text: seen.append(text) or encode(text))
    lines(tmp_path / mmar.FILES[0], [mmar_row(0), mmar_row(1)])
    recordings(tmp_path, ["audio/clip-0.wav"])
    options = ["--data", str(tmp_path), "--model", str(served), "--max-new-tokens", "4", "--allow-missing"]
    assert run(["eval", "mmar", str(tmp_path / "out"), *options]) == 1, "one recording is missing"
    assert seen and "GOLDEN" not in "".join(seen)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["sha256 of MMAR-meta.jsonl"] in capsys.readouterr().out
    assert summary["groups"]["language"].keys() == {"zh|en", "none"} and summary["rows"]["all"]["errors"] == 1
    sent = list(records.read(tmp_path / "out" / "predictions.jsonl"))
    assert [{k: v for k, v in row.items() if k in mmar_row(0)} for row in sent] == [mmar_row(0), mmar_row(1)]
    assert sent[1]["answer_prediction"] == "" and "thinking_prediction" in sent[0]


def test_ids_under_another_key_are_refused_before_the_first_question(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run answered everything, and ended in a KeyError when it wrote the predictions."""
    rows = [{("uid" if key == "id" else key): value for key, value in mmar_row(n).items()} for n in (0, 1)]
    lines(tmp_path / mmar.FILES[0], rows)
    recordings(tmp_path, ["audio/clip-0.wav", "audio/clip-1.wav"])

    def examples(root: Path) -> list[Example]:
        placed = [(place, row | {"id": row["uid"]}) for place, row in records.entries(mmar.file(root))]
        return records.examples_from(placed, mmar.file(root))

    options = ["--data", str(tmp_path), "--model", str(served), "--max-new-tokens", "4"]
    monkeypatch.setitem(BENCHMARKS, "mine", Benchmark("mine", mmar.file, examples, ("answer_prediction",), "jsonl"))
    assert run(["eval", "mine", str(tmp_path / "out"), *options]) == 2
    assert "MMAR-meta.jsonl, line 1: has no 'id'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    known = Benchmark("mine", mmar.file, examples, ("answer_prediction",), "jsonl", id="uid")
    monkeypatch.setitem(BENCHMARKS, "mine", known)
    assert run(["eval", "mine", str(tmp_path / "out"), *options]) == 0
    assert [row["uid"] for row in records.read(tmp_path / "out" / "predictions.jsonl")] == [row["uid"] for row in rows]
    monkeypatch.setitem(BENCHMARKS, "mine", replace(known, id="question"))
    assert run(["eval", "mine", str(tmp_path / "other"), *options]) == 2
    assert "has no entry whose 'question' is" in capsys.readouterr().err


def test_where_answers_are_withheld_there_is_a_file_to_send_in_and_no_score(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(tmp_path / "mmau-test.json", [mmau_row(0, None)])
    recordings(tmp_path, ["test-mini-audios/m0.wav"])
    options = ["--data", str(tmp_path), "--model", str(served), "--max-new-tokens", "4"]
    assert run(["eval", "mmau", str(tmp_path / "out"), *options]) == 0
    assert "send it in to be scored" in capsys.readouterr().out
    [row] = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert row["model_output"] == row["model_prediction"] and row["id"] == "m0" and "answer" not in row
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]["all"]["accuracy"] is None


# --- MMAU-Pro ---------------------------------------------------------------------------------------------------------


def pro_row(n: int, **other: Any) -> dict[str, Any]:
    """As published: recordings are a list, sub-category and length go by names of their own."""
    return {
        "id": f"p{n}", "audio_path": [f"data/p{n}.wav"], "question": "Which?", "answer": "bell",
        "choices": ["cow", "bell"], "length_type": "short", "perceptual_skills": ["a"], "reasoning_skills": [],
        "category": "sound", "transcription": None, "task_classification": None, "task_identifier": None,
        "kwargs": None, "sub-cat": "event",
    } | other  # fmt: skip


def parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


PRO = [
    pro_row(0),
    pro_row(1, answer=" Bell"),
    pro_row(2, audio_path=["data/p0.wav", "data/p1.wav"]),
    pro_row(3, category="open", choices=[]),
    pro_row(
        4,
        category="instruction following",
        answer=None,
        choices=[],
        kwargs={"N": 3},
        task_identifier="Number Words (at most)",
    ),
    pro_row(5, answer="a bell, maybe"),
    pro_row(6, choices=["bell"]),
]


def test_of_mmau_pro_the_choices_about_one_recording_are_asked_and_the_rest_is_counted(tmp_path: Path) -> None:
    parquet(tmp_path / mmau_pro.FILE, PRO)
    examples = mmau_pro.examples(tmp_path)
    assert [(e.id, e.answer, e.audio) for e in examples] == [
        ("p0", "bell", tmp_path / "data/p0.wav"), ("p1", "bell", tmp_path / "data/p1.wav"),
    ]  # fmt: skip
    assert sorted(mmau_pro.left_out(tmp_path).items()) == [
        ("about several recordings", 1), ("on following instructions (mmau-pro-instructions asks these)", 1),
        ("open-ended (mmau-pro-open asks these)", 1), ("whose answer is none of the choices", 1),
        ("without choices", 1),
    ]  # fmt: skip


def test_mmau_pro_tells_what_it_does_not_ask_and_writes_the_table_that_its_script_reads(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = parquet(tmp_path / mmau_pro.FILE, PRO)
    recordings(tmp_path, ["data/p0.wav", "data/p1.wav"])
    options = ["--data", str(tmp_path), "--model", str(served), "--max-new-tokens", "4"]
    assert run(["eval", "mmau-pro", str(tmp_path / "out"), *options]) == 0
    assert "not asked, and in no figure: 1 about several recordings" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert sum(summary["not_asked"].values()) == 5
    assert summary["groups"]["sub_category"].keys() == {"event"} and summary["groups"]["length_type"]["short"]["n"] == 2
    sent = records.table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [row.pop("model_output") is not None for row in sent] == [True, True]
    assert sent == records.table(questions).slice(0, 2).to_pylist()
    assert run(["score", str(tmp_path / "out"), "--questions", str(questions)]) == 0
    assert "5 questions have no prediction, p2 for one: counted as failed" in capsys.readouterr().out


def test_a_file_that_is_no_table_is_told(tmp_path: Path) -> None:
    (tmp_path / mmau_pro.FILE).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        mmau_pro.examples(tmp_path)
