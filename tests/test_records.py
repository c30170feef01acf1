"""Records survive a crash at any byte; examples say where they are wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relisten import records
from relisten.types import Audio, Example

MMAR = {
    "id": "qx8_00-01-32_00-02-02",
    "audio_path": "./audio/qx8.wav",
    "question": "How many barks?",
    "choices": ["two", " three"],
    "answer": "two",
    "modality": "sound",
    "category": "Perception Layer",
    "sub-category": "Counting and Statistics",
    "language": None,
    "thinking": "gold",
    "cue": ["gold"],
    "rubric": "[{'name': 'gold'}]",
}


def test_a_resumed_job_tries_failures_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert records.resume(path) == []
    done = [{"id": "1", "text": "wörter"}, {"id": "2", "answer_prediction": "b", "error": "a label of the question's"}]
    for record in (done[0], {"id": "3", "answer_prediction": None, "error": "gone"}, done[1]):
        records.append(path, record)
    with path.open("ab") as file:
        file.write(b'{"id": "4", "te')  # kill -9
    assert records.resume(path) == done
    assert list(records.read(path)) == done
    whole = path.read_bytes()
    assert records.resume(path) == done and path.read_bytes() == whole


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.jsonl"
    other = f"from relisten import records\nwith records.sole_writer({str(path)!r}): pass"
    with records.sole_writer(path):
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert "a.jsonl: another process is writing it" in done.stderr
    assert subprocess.run([sys.executable, "-c", other]).returncode == 0


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.jsonl"
    written = [{"id": "1", "text": "wörter\n说话\u2028"}, {"id": "2", "path": os.fsdecode(b"caf\xe9")}, {"id": 3}]
    assert records.resume(path) == []
    for record in written:
        records.append(path, record)
    assert list(records.read(path)) == written
    assert records.resume(path) == written
    assert len(path.read_bytes().splitlines()) == 3
    assert "说话".encode() in path.read_bytes()


def test_a_crash_at_any_byte_loses_one_record_at_most(tmp_path: Path) -> None:
    """Every possible end of the file: resuming reads what is whole, repeats nothing, and mends the file."""
    path = tmp_path / "a.jsonl"
    wanted = [{"id": str(n), "text": 'é"\\{}'} for n in range(3)]
    for record in wanted:
        records.append(path, record)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        done = {record["id"] for record in records.resume(path)}
        assert len(done) in (whole[:size].count(b"\n"), whole[:size].count(b"\n") + 1)
        for record in wanted:
            if record["id"] not in done:
                records.append(path, record)
        assert list(records.read(path)) == wanted


def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    code = (
        "import itertools\nfrom relisten import records\n"
        f"for n in itertools.count(len(records.resume({str(path)!r}))):\n"
        f"    records.append({str(path)!r}, {{'id': str(n), 'text': 'x' * 5000}})"
    )
    for round_ in range(2):
        job = subprocess.Popen([sys.executable, "-c", code])
        before = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size <= before:
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
        job.wait()
        ids = [record["id"] for record in records.read(path, torn=True)]
        assert ids == [str(n) for n in range(len(ids))], round_


def test_mending_a_long_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records.append(path, {"id": "1"})
    with path.open("ab") as file:
        file.write(b'{"id": "2", "text": "' + b"x" * 300_000)
    records.append(path, {"id": "3"})
    assert [record["id"] for record in records.read(path)] == ["1", "3"]
    path.write_bytes(b'{"id": "2", "te')
    records.append(path, {"id": "4"})
    assert list(records.read(path)) == [{"id": "4"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1}\n{"id": \n{"id": 3}\n', "line 2: is not JSON .*column"),
        (b'{"id": 1}\n\n[1, 2]\n', r"line 3: is \[1, 2\], not an object"),
        (b"null\n", "line 1: is None, not an object"),
        (b'{"a": "\xff"}\n', "line 1: is not UTF-8 text"),
        ("{}".encode("utf-16"), "line 1: is not UTF-8 text"),
        (b"[" * 200_000 + b"\n", "line 1: is JSON that nests too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "line 1: is JSON that nests too deep or holds too long a number"),
        (b'{"id": 1}\n{"id": 2', "line 2: is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(records.read(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.TSV"])
def test_a_table_is_called_a_table_and_not_bad_json_in_its_first_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("id,answer_prediction\n1,five\n")
    with pytest.raises(ValueError, match=rf"{name}: is a table, .*save it as a .jsonl"):
        list(records.entries(path))


def test_a_torn_line_is_tolerated_at_the_end_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id": \n{"id": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        records.resume(path)


def test_blank_lines_and_windows_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1}\r\n\r\n  \r\n{"id": 2}')
    assert list(records.read(path)) == [{"id": 1}, {"id": 2}]


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (("gone", "cannot be read"), ("pipe", "is not a file"), (".", "is not a file")):
        with pytest.raises(ValueError, match=message):
            list(records.read(tmp_path / path))


@pytest.mark.parametrize("record", [{"a": float("nan")}, {"a": float("inf")}, {"a": Path("x")}, {"a": np.float32(1)}])
def test_what_is_not_json_is_not_written(tmp_path: Path, record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        records.append(tmp_path / "a.jsonl", record)
    assert not list(tmp_path.iterdir())


def test_write_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / ("x" * 250 + ".txt")
    records.write_atomic(path, "one é")
    assert path.read_text(encoding="utf-8") == "one é"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ValueError, match="link: is a link, and is not written through"):
        records.write_atomic(tmp_path / "link", b"two")
    records.write_atomic(tmp_path / "link", b"two", follow=True)  # a link that the user typed stays a link
    assert (tmp_path / "link").is_symlink()
    assert path.read_bytes() == b"two"

    def crash(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)"):
        records.write_atomic(path, b"three")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_write_atomic_where_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in ("file/a.txt", "folder"):
        with pytest.raises(ValueError, match="cannot be written"):
            records.write_atomic(tmp_path / path, "x")
    with pytest.raises(ValueError, match="cannot be written"):
        records.append(tmp_path / "folder", {})


# examples


def test_mmar_s_form(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", json.dumps(MMAR) + "\n"), ("a.json", json.dumps([MMAR], indent=2))):
        (tmp_path / name).write_text(content)
        (example,) = records.read_examples(tmp_path / name)
        assert example.id == MMAR["id"]
        assert example.audio == tmp_path / "audio" / "qx8.wav"
        assert example.choices == ("two", " three")
        assert (example.answer, example.cot) == ("two", None)
        assert example.labels == {key: MMAR[key] for key in ("modality", "category", "sub-category", "language")}, (
            "gold reasoning must not come along"
        )


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    texts, texts, st.lists(texts, max_size=4), st.booleans(), st.none() | texts, st.dictionaries(texts, st.integers())
)
def test_examples_round_trip(
    id: str, question: str, choices: list[str], answered: bool, cot: str | None, labels: dict[str, int]
) -> None:
    labels = {f"x{key}": value for key, value in labels.items()}
    answer = (choices[-1] if choices else "free") if answered else None
    example = Example(id, Path("/data/audio/a.wav"), question, tuple(choices), answer, cot, dict(labels))
    record = json.loads(json.dumps(records.record_from_example(example, "/data")))
    assert record["audio_path"] == "audio/a.wav"
    again = records.example_from_record(record, "/data")
    for field in ("id", "audio", "question", "choices", "answer", "cot", "labels"):
        assert getattr(again, field) == getattr(example, field)


def test_a_recording_elsewhere_keeps_its_path(tmp_path: Path) -> None:
    example = Example("1", tmp_path / "b" / "a.wav", "?")
    record = records.record_from_example(example, tmp_path / "a")
    assert record["audio_path"] == str(tmp_path / "b" / "a.wav")
    assert records.example_from_record(record, tmp_path / "a").audio == example.audio
    with pytest.raises(ValueError, match="in memory only"):
        records.record_from_example(Example("1", Audio(np.zeros(3, np.float32)), "?"), tmp_path)
    with pytest.raises(ValueError, match="cannot be called 'rubric'"):
        records.record_from_example(Example("1", Path("a.wav"), "?", labels={"rubric": 1}), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "'id' is empty"),
        ({"id": ["a"]}, r"'id' must be a text, not \['a'\]"),
        ({"audio_path": ""}, "'audio_path' is empty"),
        ({"question": 3}, "'question' must be a text, not 3"),
        ({"choices": "two"}, "'choices' must be a list of texts"),
        ({"choices": [1, 2]}, "'choices' must be a list of texts"),
        ({"choices": {"A": "two"}}, "'choices' must be a list of texts"),
        ({"answer": "four"}, "the answer 'four' is not among the choices"),
        ({"answer": True}, "'answer' must be a text, not True"),
        ({"cot": {}}, "'cot' must be a text"),
        ({"cot": "a\ud800"}, "'cot' holds half of a character"),
    ],
)
def test_a_bad_example_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = MMAR | {"id": "first"}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(good)}\n\n{json.dumps(MMAR | change)}\n")
    with pytest.raises(ValueError, match=f"a.jsonl, line 3: {message}"):
        records.read_examples(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text(json.dumps([good, MMAR | change]))
    with pytest.raises(ValueError, match=f"a.json, entry 2: {message}"):
        records.read_examples(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "holds no examples"),
        ("a.json", "[]", "holds no examples"),
        ("a.json", '{"id": 1}', "is one JSON dict, not a list"),
        ("a.json", '{"id": 1}\n{"id": 2}', "is not JSON .*at line 2, .*must be called .jsonl"),
        ("a.json", '[{"id": 1},\n{"id"]', "is not JSON .*at line 2"),
        ("a.json", "[3]", "entry 1: is 3, not an object"),
        ("a.json", "[" * 200_000, "is JSON that nests too deep"),
        ("a.jsonl", json.dumps(MMAR) + "\n" + json.dumps(MMAR), "line 2: the id 'qx8.*line 1 too; make ids unique"),
        ("a.jsonl", '{"id": "1"}', "line 1: has no 'audio_path'"),
    ],
)
def test_a_bad_file_of_examples(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        records.read_examples(tmp_path / name)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1E+400"])
def test_a_number_that_json_does_not_have_is_refused_where_it_is_read(tmp_path: Path, number: str) -> None:
    """Python reads it, so a file with one passed `validate`, and then no answer to it could be written."""
    good = json.dumps(MMAR)
    bad = good.replace("{", '{"more": {"score": [1.5, ' + number + "]}, ", 1)
    (tmp_path / "a.jsonl").write_text(f"{good}\n{bad}\n")
    (tmp_path / "a.json").write_text(f"[{good},\n{bad}]")
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: holds the number {re.escape(number)}, .*; write null"):
        records.read_examples(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"a\.json: holds the number"):
        records.read_examples(tmp_path / "a.json")


def test_large_numbers_that_json_has_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1e300, "b": 1e-999, "c": "NaN 1e999", "d": -0.5}\n')
    assert list(records.read(tmp_path / "a.jsonl")) == [{"a": 1e300, "b": 0.0, "c": "NaN 1e999", "d": -0.5}]


@pytest.mark.parametrize("value", [float("nan"), b"bytes", datetime(2026, 1, 1), [1.0, float("inf")]])
def test_a_value_of_a_parquet_file_that_json_cannot_hold_is_refused_by_name(tmp_path: Path, value: object) -> None:
    import pyarrow.parquet

    rows = [MMAR | {"id": "1", "more": None}, MMAR | {"id": "2", "more": value}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet, row 2: 'more' cannot be written as JSON"):
        records.read_examples(tmp_path / "a.parquet")


def test_numbers_become_texts() -> None:
    record = {"id": 7, "audio_path": "a.wav", "question": "?", "choices": ["3", "4"], "answer": 3}
    example = records.example_from_record(record, "")
    assert (example.id, example.answer, example.audio) == ("7", "3", Path("a.wav"))
