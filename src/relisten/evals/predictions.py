"""Predictions of any model, in a file with the questions or beside them, as records that can be counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relisten import records
from relisten.choices import read_choice
from relisten.evals import benchmarks, runs
from relisten.evals.figures import Record, groups, ruled
from relisten.evals.reading import answer_text, status
from relisten.evals.runs import ANSWERS, CONFIG, Run, known, read_run
from relisten.same_text import is_right
from relisten.types import Format

KEYS = ("answer_prediction", "model_prediction", "model_output")
"""MMAR's scripts since 2026-02, MMAR's before and MMAU's manual, MMAU's script."""
_NO_KEY = "no prediction"
_ASKED = ("question", "choices", "answer")
_Placed = tuple[str, Mapping[str, Any]]
"""Where an entry stands, and the entry."""


@dataclass(frozen=True)
class Predictions:
    """What some files say."""

    records: list[Record]
    key: str
    """The name under which the files have their predictions."""
    notes: list[str]
    """What a reader of the figures has to know."""
    format: Format = "interleaved"
    """How a run's answers reason. It is not known of anybody's file, and no figure of such a file uses it."""


def read_runs(paths: Sequence[Path], questions: Path | None = None, key: str | None = None) -> list[Run]:
    """Runs to set beside each other: folders of `relisten eval`, and files of anybody's predictions.

    The folders of one run's shards become one run. `questions` and `key` are those of the files, as for
    `read_predictions`. ValueError names the file and line that cannot be used.
    """
    together = runs.shards_together([_folder(path) for path in paths if path.is_dir()])
    groups = {group[0]: group for group in together}
    found = []
    for path in paths:
        if path in groups and len(groups[path]) == 1:
            run = read_run(path)
            found.append(replace(run, notes=[*run.notes, *runs.shards_missing([run.config])]))
        elif path in groups:
            found.append(_joined(groups[path]))
        elif not path.is_dir():
            given = read_predictions([path], questions, key)
            config = {} if questions is None else {"questions": str(questions)}
            notes = [f"{path.name}: {note}" for note in given.notes]
            found.append(Run(path.name, path, given.records, config, notes=notes))
    return runs.told_apart(found)


def _folder(path: Path) -> Path:
    if not (path / ANSWERS).is_file():
        raise ValueError(f"{path}: no {ANSWERS}; name an output folder of `relisten eval`")
    return path


def _joined(folders: Sequence[Path]) -> Run:
    """The shards of one run as one run."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("the same run is named twice; name each once")
    given, first = read_predictions(folders), read_run(folders[0])
    name = runs.common_name([folder.resolve().name for folder in folders])
    shard = ", ".join(str(runs.settings(folder).get("shard")) for folder in folders)
    return replace(first, name=name, records=given.records, config=first.config | {"shard": shard}, notes=given.notes)


def read_predictions(paths: Sequence[Path], questions: Path | None = None, key: str | None = None) -> Predictions:
    """Records from files of predictions (.jsonl or .json) or from run folders, those of several shards together.

    A row without a prediction counts as `failed`, and so does a question without a row. The official scripts silently
    leave the first out of the denominator, and do not notice the second. ValueError names what cannot be used.
    """
    folders = [path for path in paths if path.is_dir()]
    configs = [_settings(folder) for folder in folders]
    _check_one_run(folders, configs)
    rows = [row for path in paths for row in _entries(path)]
    if not rows:
        raise ValueError(f"{paths[0]}: holds no predictions")
    asked = None if questions is None else _by_id(benchmarks.entries(questions))
    if asked is not None and questions is not None:
        _check_ids({str(row.get("id")) for _, row in rows if row.get("id")}, asked, questions)
    if folders or all("finish" in row and "named" in row for _, row in rows):  # lines of `relisten eval`
        key, answers = KEYS[0], known(rows)
    else:
        key = _key([row for _, row in rows], key, paths[0])
        answers = _anybodys(_by_id(rows), asked or {}, key)
    notes = runs.shards_missing(configs) if folders else []
    for folder, config in zip(folders, configs, strict=True):
        notes += filter(None, [runs.unfinished(folder, config, read_run(folder).records)])
    if questions is not None and asked is not None:
        if folders and not all(_asked(config, questions) for config in configs):
            notes.append(f"{questions} is another version than was asked: the run's own answers are counted")
        elif not folders and (others := _of_others([row for _, row in rows], asked)):
            notes.append(f"{others} rows say another question, choices or answer than {questions}, which is counted")
    if keyless := sum(r.get("error") == _NO_KEY for r in answers):
        notes.append(f"{keyless} rows have no {key}: counted as failed; the official script would leave them out")
    present = {str(r["id"]) for r in answers}
    if absent := [name for name in asked or () if name not in present]:
        answers += [_absent(name, (asked or {})[name]) for name in absent]
        notes.append(f"{len(absent)} questions have no prediction, {absent[0]} for one: counted as failed")
    answerable = [r for r in answers if r["choices"] and r["answer"] is not None]
    if strange := [r for r in answerable if not any(is_right(choice, r["answer"]) for choice in r["choices"])]:
        notes.append(
            f"{len(strange)} questions have a right answer that is none of their choices, {strange[0]['id']} for one:"
            f" {strange[0]['answer']!r}; write the choice itself there, not its letter, or they cannot be scored"
        )
    order = {name: place for place, name in enumerate(asked or ())}
    answers.sort(key=lambda r: (order.get(str(r["id"]), 0), str(r["id"]), r.get("sample", 0)))
    format = Run("", folders[0], [], configs[0]).format if folders else "interleaved"
    return Predictions(answers, key, notes, format)


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of a file, which must be whole, or of a run, whose last line a crash may have cut short."""
    return records.entries(path / ANSWERS, torn=True) if path.is_dir() else records.entries(path)


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
    """A row of anybody's file, with the fields of its question."""
    choices, said = row.get("choices") or [], row.get(key)
    if "answer" not in row or not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise ValueError(f"{place}: has no answer, or choices that are no list of texts; name the --questions")
    for name in ("answer", key):
        if not isinstance(row.get(name), str | int | float | None):
            raise ValueError(f"{place}: {name!r} must be a text, not {row[name]!r:.60}; correct that line")
    text = None if said is None else str(said)
    answer = None if text is None else answer_text(text)
    choice = read_choice(answer, choices) if choices else answer
    line = _line(row, choices) | ruled(dict(row), answer, str(row.get("question", "")))
    line |= {"answer_prediction": text, "choice": choice}
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


def _check_ids(given: set[str], asked: Mapping[str, _Placed], questions: Path) -> None:
    if strange := sorted(given - set(asked)):
        raise ValueError(
            f"{questions}: has no question {strange[0]!r} ({len(strange)} such); name the file they answer"
        )


def _check_one_run(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError where folders are not the shards of one run."""
    for folder, other in zip(folders[1:], configs[1:], strict=True):
        if name := runs.difference(configs[0], other):
            raise ValueError(f"{folder}: is of another run than {folders[0]} ({name} differs); score them one by one")


def _asked(config: Mapping[str, Any], questions: Path) -> bool:
    """Whether a run was asked this very file."""
    with questions.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() in (v for v in config.values() if isinstance(v, str))


def _settings(folder: Path) -> dict[str, Any]:
    for name in (ANSWERS, CONFIG):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: holds no {name}; name a folder that `relisten eval` wrote, or a file")
    return runs.settings(folder)
