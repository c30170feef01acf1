"""Predictions of any model, in a file with the questions or beside them, as records that can be counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relisten import records
from relisten.choices import read_choice
from relisten.evals.figures import Record, groups, unfinished
from relisten.evals.reading import answer_text, status
from relisten.types import Format

KEYS = ("answer_prediction", "model_prediction", "model_output")
"""MMAR's scripts since 2026-02, MMAR's before and MMAU's manual, MMAU's script."""
_RUN = ("answers.jsonl", "config.json")
_NO_KEY = "no prediction"
_ASKED = ("question", "choices", "answer")
_Placed = tuple[str, Mapping[str, Any]]
"""Where an entry stands, and the entry."""


@dataclass(frozen=True)
class Predictions:
    """What some files say."""

    records: list[Record]
    key: str
    """Under which the files have their predictions."""
    notes: list[str]
    """What the reader of the figures has to know, in plain words."""
    format: Format = "interleaved"
    """How a run's answers reason; of anybody's file it is not known, and nothing is made of it."""


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of a file, which must be whole, or of a run, whose last line a crash may have cut short."""
    return records.entries(path / _RUN[0], torn=True) if path.is_dir() else records.entries(path)


def read_predictions(paths: Sequence[Path], questions: Path | None = None, key: str | None = None) -> Predictions:
    """Records from files of predictions (.jsonl or .json) or from run folders, those of several shards together.

    A row without a prediction is `failed`, as is a question that has no row; the official scripts leave the first out
    of the denominator without a word, and know nothing of the second.
    """
    _check_runs([path for path in paths if path.is_dir()])
    rows = [row for path in paths for row in _entries(path)]
    if not rows:
        raise ValueError(f"{paths[0]}: holds no predictions")
    asked = None if questions is None else _by_id(records.entries(questions))
    if asked is not None and questions is not None:
        _check_ids({str(row.get("id")) for _, row in rows if row.get("id")}, asked, questions)
    if all("finish" in row and "named" in row for _, row in rows):  # of `relisten eval`
        key, answers = KEYS[0], _known([row for _, row in rows])
    else:
        key = _key([row for _, row in rows], key, paths[0])
        answers = _anybodys(_by_id(rows), asked or {}, key)
    folders = [path for path in paths if path.is_dir()]
    notes = _shards_missing(folders)
    for folder in folders:
        found = list(records.read(folder / _RUN[0], torn=True))
        notes += [note] if (note := unfinished(folder, _settings(folder), found)) else []
    if questions is not None and asked is not None:
        if folders and not all(_asked(folder, questions) for folder in folders):
            notes.append(f"{questions} is another version than was asked: the run's own answers are counted")
        elif not folders and (others := _of_others([row for _, row in rows], asked)):
            notes.append(f"{others} rows say another question, choices or answer than {questions}, which is counted")
    if keyless := sum(r.get("error") == _NO_KEY for r in answers):
        notes.append(f"{keyless} rows have no {key}: counted as failed; the official script would leave them out")
    present = {str(r["id"]) for r in answers}
    if absent := [name for name in asked or () if name not in present]:
        answers += [_absent(name, (asked or {})[name]) for name in absent]
        notes.append(f"{len(absent)} questions have no prediction, {absent[0]} for one: counted as failed")
    order = {name: place for place, name in enumerate(asked or ())}
    answers.sort(key=lambda r: (order.get(str(r["id"]), 0), str(r["id"]), r.get("sample", 0)))
    format: Format = _settings(folders[0]).get("format", "interleaved") if folders else "interleaved"
    return Predictions(answers, key, notes, format)


def _key(rows: Sequence[Mapping[str, Any]], key: str | None, path: Path) -> str:
    """Under which the rows have their predictions. Raises ValueError where two names hold different ones."""
    found = [name for name in (KEYS if key is None else (key,)) if any(name in row for row in rows)]
    if any(row.get(found[0]) != row[name] for row in rows for name in found[1:] if name in row):
        raise ValueError(f"{path}: {' and '.join(found)} hold different predictions; name one with --key")
    if found:
        return found[0]
    raise ValueError(f"{path}: no row has a prediction under {key or ', '.join(KEYS)}; name one with --key")


def _anybodys(given: Mapping[str, _Placed], asked: Mapping[str, _Placed], key: str) -> list[Record]:
    """Rows of anybody's file; what the question file says of a question counts, whatever the row says of it."""
    known = {name: {k: v for k, v in entry.items() if k not in (*KEYS, key)} for name, (_, entry) in asked.items()}
    return [_record(place, {**row, **known.get(name, {})}, key) for name, (place, row) in given.items()]


def _of_others(rows: Iterable[Mapping[str, Any]], asked: Mapping[str, _Placed]) -> int:
    """Rows that say something else of their question than the question file."""
    return sum(
        any(name in row and name in entry and row[name] != entry[name] for name in _ASKED)
        for row in rows
        for _, entry in [asked.get(str(row.get("id")), ("", {}))]
    )


def _record(place: str, row: Mapping[str, Any], key: str) -> Record:
    """A row of anybody's file, with its question's fields."""
    choices = row.get("choices") or []
    if "answer" not in row or not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise ValueError(f"{place}: has no answer, or choices that are no list of texts; name the --questions")
    said = row.get(key)
    text = None if said is None else str(said)
    answer = None if text is None else answer_text(text)
    choice = read_choice(answer, choices) if choices else answer
    line = _line(row, choices) | {"answer_prediction": text, "choice": choice}
    if text is None:
        return line | {"status": "failed", "error": _NO_KEY}
    return line | {"status": status(answer, choice, text, choices)}


def _absent(name: str, placed: _Placed) -> Record:
    return _record(placed[0], {k: v for k, v in placed[1].items() if k not in KEYS} | {"id": name}, KEYS[0])


def _line(row: Mapping[str, Any], choices: list[str]) -> Record:
    answer = row["answer"]
    return {
        "id": str(row["id"]),
        "sample": 0,
        "question": str(row.get("question", "")),
        "choices": choices,
        "answer": str(answer) if answer or answer == 0 else None,
        "kind": str(row.get("kind") or ""),
        "gold": [],
        **groups(dict(row)),
    }


def _by_id(rows: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, _Placed]:
    found: dict[str, _Placed] = {}
    for place, row in rows:
        name = str(row.get("id", ""))
        if not name:
            raise ValueError(f"{place}: has no id; give every row the id of its question")
        if name in found:
            raise ValueError(f"{place}: the id {name!r} is that of {found[name][0]} too; keep one of them")
        found[name] = place, row
    return found


def _known(rows: Sequence[Record]) -> list[Record]:
    """Records of `relisten eval`; of an error and a later answer to the same question the answer counts."""
    found: dict[tuple[str, int], Record] = {}
    for row in rows:
        name = str(row["id"]), int(row.get("sample", 0))
        if name in found and "error" not in found[name] and "error" not in row:
            raise ValueError(f"the question {name[0]!r} is answered in two of the files; give each shard once")
        if name not in found or "error" not in row:
            found[name] = row
    return list(found.values())


def _check_ids(given: set[str], asked: Mapping[str, _Placed], questions: Path) -> None:
    if strange := sorted(given - set(asked)):
        raise ValueError(
            f"{questions}: has no question {strange[0]!r} ({len(strange)} such); name the file they answer"
        )


def _check_runs(folders: Sequence[Path]) -> None:
    """Folders of one run: the same settings but for the shard, and for where the files lay whose hashes are there."""
    settings = [_settings(folder) for folder in folders]
    for folder, other in zip(folders[1:], settings[1:], strict=True):
        hashed = all(any(name.startswith("sha256 of ") for name in each) for each in (settings[0], other))
        free = {"shard", "num_answers"} | ({"questions", "data", "model"} if hashed else set())
        for name in sorted({*settings[0], *other} - free):
            if settings[0].get(name) != other.get(name):
                raise ValueError(
                    f"{folder}: is of another run than {folders[0]} ({name} differs); score them one by one"
                )


def _shards_missing(folders: Sequence[Path]) -> list[str]:
    shards = {str(_settings(folder).get("shard", "0/1")) for folder in folders}
    nums = {int(shard.partition("/")[2]) for shard in shards}
    without = [f"{i}/{n}" for n in nums for i in range(n) if f"{i}/{n}" not in shards]
    return [f"not given: shard {', '.join(without)}"] if without else []


def _asked(folder: Path, questions: Path) -> bool:
    """Whether a run was asked this very file."""
    with questions.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() in _settings(folder).values()


def _settings(folder: Path) -> dict[str, Any]:
    for name in _RUN:
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: holds no {name}; name a folder that `relisten eval` wrote, or a file")
    try:
        found = json.loads((folder / _RUN[1]).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no settings")
        return found
    except ValueError as error:
        raise ValueError(f"{folder / _RUN[1]}: cannot be read as JSON ({error})") from None
