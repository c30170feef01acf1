"""The row of a paper's table: the columns of the benchmark's own paper, and what a judge gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_judges import answered, mmar_row

from relisten import records
from relisten.cli import run


def a_run(folder: Path, name: str, lines: list[dict[str, Any]], **config: Any) -> Path:
    for line in lines:
        records.append(folder / "answers.jsonl", line)
    given = {"questions": "/gone/MMAR-meta.jsonl", "sha256 of MMAR-meta.jsonl": "abc" * 20, "model": "/models/mine"}
    (folder / "config.json").write_text(json.dumps(given | {"format": "interleaved", "temperature": 0.7} | config))
    (folder / "run.json").write_text(json.dumps({"benchmark": name}))
    return folder


def mmar_lines() -> list[dict[str, Any]]:
    """Three of four right: both about music, one of two about sounds."""
    return [answered(mmar_row(n), "cow" if n == 1 else "bell") for n in range(4)]


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """The rows of the Markdown table that was printed, by column."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_row_has_the_columns_of_the_paper_and_their_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = a_run(tmp_path / "one", "mmar", mmar_lines())
    two = a_run(tmp_path / "two", "mmar", [answered(mmar_row(n)) for n in range(4)], temperature=0, recording="silence")
    assert run(["leaderboard", str(one), str(two)]) == 0
    said = capsys.readouterr()
    assert "MMAR (by words" in said.out and "abcabcabcabc…" in said.out
    assert run(["leaderboard", str(one), str(two)]) == 0
    first, second = printed(capsys)
    assert first == {
        "model": "mine", "settings": "interleaved, T = 0.7", "n": "4", "accuracy (95 %)": "75.0 (30.1–95.4)",
        "music": "100.0", "sound": "50.0", "mean of 2": "75.0",
    }  # fmt: skip
    assert (
        second["settings"] == "interleaved, greedy, prompt holds silence" and second["accuracy (95 %)"][:5] == "100.0"
    )


def test_pairs_of_groups_are_columns_where_the_paper_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [answered(mmar_row(n)) | {"category": "PR"[n % 2], "sub_category": "LS"[n // 2]} for n in range(4)]
    assert run(["leaderboard", str(a_run(tmp_path / "out", "mmsu", rows))]) == 0
    assert {"P: L", "R: L", "P: S", "R: S", "mean of 4"} <= printed(capsys)[0].keys()


def test_what_a_judge_gave_is_the_last_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = a_run(tmp_path / "out", "mmar", mmar_lines())
    whole = {"n": 4, "score": 0.5, "interval": [0.25, 0.75], "accuracy": 0.75}
    told = {"score": "MMAR-Rubrics", "judge": "m", "figures": {"all": {"all": whole}}}
    (out / "judged.json").write_text(json.dumps(told))
    assert run(["leaderboard", str(out)]) == 0
    assert printed(capsys)[0]["MMAR-Rubrics (95 %)"] == "50.0 (25.0–75.0), m"
    empty = {"n": 0, "score": None, "interval": None, "accuracy": None}
    (out / "judged.json").write_text(json.dumps(told | {"figures": {"all": {"all": empty}}}))
    assert run(["leaderboard", str(out)]) == 0, "a judge that could not be reached barred the run from the table"
    assert "MMAR-Rubrics (95 %)" not in printed(capsys)[0]
    (out / "judged.json").write_text(json.dumps(told | {"figures": {}}))
    assert run(["leaderboard", str(out)]) == 2 and "run `relisten judge` again" in capsys.readouterr().err


def test_open_answers_have_the_judges_score_and_no_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "p1", "question": "?", "answer": "a bell"}
    out = a_run(tmp_path / "out", "mmau-pro-open", [answered(row, rule="judge")])
    assert run(["leaderboard", str(out)]) == 2
    assert "open answers are scored by `relisten judge` first" in capsys.readouterr().err
    whole = {"n": 1, "score": 0.9, "interval": [0.9, 0.9], "accuracy": None}
    (out / "judged.json").write_text(json.dumps({"score": "S", "judge": "m", "figures": {"all": {"all": whole}}}))
    assert run(["leaderboard", str(out)]) == 0
    [found] = printed(capsys)
    assert found.keys() == {"model", "settings", "n", "S (95 %)"}


def test_runs_of_other_questions_or_without_answers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = a_run(tmp_path / "one", "mmar", mmar_lines())
    two = a_run(tmp_path / "two", "mmar", mmar_lines(), **{"sha256 of MMAR-meta.jsonl": "other"})
    hidden = a_run(tmp_path / "three", "mmau", [answered(mmar_row(0)) | {"answer": None}])
    for given, words in (
        ([one, two], "is of other questions"), ([hidden], "answers are withheld"), ([], "name one or more folders"),
    ):  # fmt: skip
        assert run(["leaderboard", *map(str, given)]) == 2
        assert words in capsys.readouterr().err


def test_predictions_stand_beside_a_run_of_the_same_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were refused as of other questions, because a file of predictions has no hash; and they were `greedy`."""
    own, path = a_run(tmp_path / "own", "mmar", mmar_lines()), tmp_path / "theirs.jsonl"
    meta = tmp_path / "MMAR-meta.jsonl"
    for n in range(4):
        row = {name: mmar_row(n)[name] for name in ("id", "question", "choices", "answer", "modality")}
        records.append(path, row | {"model_output": "bell"})
        records.append(meta, row | {"audio_path": "gone.wav"})
    for given in ([own, path], [path, own], [path, own, "--questions", meta]):
        assert run(["leaderboard", *map(str, given)]) == 0
        said = capsys.readouterr().out
        assert "MMAR (by words" in said and "| theirs.jsonl | - | 4 |" in said
    cut = a_run(tmp_path / "cut", "mmar", mmar_lines()[1:])
    assert run(["leaderboard", str(path), str(cut)]) == 0
    other = a_run(tmp_path / "other", "mmar", [line | {"answer": "cow"} for line in mmar_lines()])
    for given in ([path, other], [other, path]):
        assert run(["leaderboard", *map(str, given)]) == 2
        assert "is of other questions" in capsys.readouterr().err


def test_anybodys_predictions_have_a_row_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": f"q{n}", "choices": ["cow", "bell"], "answer": "bell", "kind": "ab"[n % 2], "model_output": "bell"}
        for n in range(4)
    ]
    path = tmp_path / "theirs.jsonl"
    for row in rows:
        records.append(path, row)
    assert run(["leaderboard", str(path)]) == 0
    [found] = printed(capsys)
    assert (found["model"], found["settings"], found["a"], found["mean of 2"]) == (
        "theirs.jsonl",
        "-",
        "100.0",
        "100.0",
    )
