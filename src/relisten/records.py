"""JSON lines that survive a crash, and examples in MMAR's form."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from relisten import tags
from relisten.extras import install_hint
from relisten.files import check_size, grow
from relisten.files import sole_writer as sole_writer
from relisten.files import write_atomic as write_atomic
from relisten.types import Example, Segment

_FIELDS = ("id", "audio_path", "question", "choices", "answer", "cot")
_GOLD = ("thinking", "cue", "rubric")
"""MMAR's reference reasoning, which neither a model nor a training set may see."""
_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair. JSON can contain it, but no tokenizer accepts it."""


def read(path: str | os.PathLike[str], torn: bool = False) -> Iterator[dict[str, Any]]:
    """The object of each line. Raises ValueError that names the line. torn: skip a last line that a crash cut short."""
    for _, record in _numbered(Path(path), torn):
        yield record


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError that names the file if there is none."""
    path = Path(path)
    found = _value(b"\n".join(line for line, _ in _lines(path)), str(path), finite=False)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is a JSON {type(found).__name__}, not an object; correct or remove the file")
    return found


def append(path: str | os.PathLike[str], record: Mapping[str, Any], size: int | None = None) -> int:
    """Add one line, write it to the disk, and return the file's size in bytes. Only one process may write a file.

    An incomplete last line that a crash has left is removed first. size: what the last call returned. Raises ValueError
    if the file has another size now, because somebody removed or changed it, or if it is a link or cannot be written.
    """
    path = Path(path)
    line = _json(path, record)
    if size is not None:
        check_size(path, size)
    with grow(path) as file:
        _mend(file)
        file.write(line + b"\n")
        file.flush()
        return os.fstat(file.fileno()).st_size  # of the file that was written, even if its name is gone already


def resume(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines that an earlier run wrote; [] if the file does not exist yet.

    Lines of failures (with `error`) are removed from the file, so that these questions are tried again. A last line
    that a crash cut short is left for `append` to remove.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = list(read(path, torn=True))
    # A question may have a label called `error`. Our own lines of failures have the answer None.
    kept = [line for line in lines if "error" not in line or line.get("answer_prediction") is not None]
    if len(kept) < len(lines):
        write_atomic(path, b"".join(_json(path, line) + b"\n" for line in kept))
    return kept


def entries(path: str | os.PathLike[str], torn: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each entry of a .json list, each row of a .parquet file, or each line of any other file.

    Raises ValueError that names the place. torn: as for `read`.
    """
    path = Path(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        raise ValueError(f"{path}: is a table, which is not read here; save it as a .jsonl, one JSON object a line")
    if path.suffix.lower() == ".parquet":
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(table(path).to_pylist(), start=1))
        return
    yield from _listed(path) if path.suffix.lower() == ".json" else _numbered(path, torn)


def table(path: Path) -> Any:
    """A Parquet file as a pyarrow.Table. Raises ValueError if it cannot be read."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow; {install_hint('data')}") from None
    try:
        return pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise ValueError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0][:120]})") from None


def read_examples(path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> list[Example]:
    """Examples from .jsonl (one a line), .json (a list) or .parquet (one a row) in MMAR's form.

    folder: what audio paths are relative to; None: the file's own folder. Raises ValueError that names the place.
    """
    return examples_from(((place, _writable(place, record)) for place, record in entries(path)), path, folder)


def examples_from(
    placed: Iterable[tuple[str, Mapping[str, Any]]],
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
) -> list[Example]:
    """Examples from (place, object) pairs of the file at `path`, which are in MMAR's form; see `read_examples`."""
    examples: list[Example] = []
    places: dict[str, str] = {}
    for place, record in placed:
        try:
            example = example_from_record(record, Path(path).parent if folder is None else folder)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if example.id in places:
            raise ValueError(f"{place}: the id {example.id!r} is that of {places[example.id]} too; make ids unique")
        places[example.id] = place
        examples.append(example)
    if not examples:
        raise ValueError(f"{path}: holds no examples; write one JSON object a line")
    return examples


def example_from_record(record: Mapping[str, Any], folder: str | os.PathLike[str]) -> Example:
    """One question in MMAR's form; `audio_path` is relative to `folder`. All other keys become labels.

    Raises ValueError that names the key.
    """
    for key in ("id", "audio_path", "question"):
        if key not in record:
            raise ValueError(f"has no {key!r}; an example needs id, audio_path and question (and choices, answer)")
    texts = {key: _text(record, key) for key in ("id", "audio_path", "question", "answer", "cot")}
    for key in ("id", "audio_path", "question"):
        if not texts[key]:
            raise ValueError(f"{key!r} is empty; write a text")
    choices = record.get("choices") or []
    if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"'choices' must be a list of texts, not {_short(choices)}")
    written = [*((key, texts[key]) for key in ("question", "answer", "cot")), *(("choices", c) for c in choices)]
    if halved := [key for key, text in written if text is not None and not text.isascii() and _HALF.search(text)]:
        raise ValueError(f"{halved[0]!r} holds half of a character and is not text; write it again")
    answer = texts["answer"]
    if choices and answer is not None and answer.strip() not in {choice.strip() for choice in choices}:
        raise ValueError(f"the answer {_short(answer)} is not among the choices {_short(choices)}; correct one of them")
    labels = {key: value for key, value in record.items() if key not in (*_FIELDS, *_GOLD)}
    return Example(
        id=texts["id"] or "",
        audio=Path(folder) / (texts["audio_path"] or ""),
        question=texts["question"] or "",
        choices=tuple(choices),
        answer=answer,
        cot=texts["cot"] or None,  # lines of a set for RL have an empty one
        labels=labels,
    )


def _writable(place: str, record: dict[str, Any]) -> dict[str, Any]:
    """The record itself. Raises ValueError if it cannot be written as JSON, as a date in a Parquet file cannot."""
    if _unwritable(record):
        key, reason = next((key, reason) for key, value in record.items() if (reason := _unwritable(value)))
        raise ValueError(
            f"{place}: {key!r} cannot be written as JSON ({reason}); write a text or null, or leave it out"
        )
    return record


def _unwritable(value: Any) -> str:
    """Why a value cannot be written as JSON, or an empty text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return str(error) or type(error).__name__
    return ""


def record_from_example(example: Example, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The inverse of `example_from_record`. A recording inside `folder` is named relative to it, others absolutely."""
    if not isinstance(example.audio, Path):
        raise ValueError(f"example {example.id!r}: its recording is in memory only; save it and name the file")
    if clash := sorted(set(example.labels) & {*_FIELDS, *_GOLD}):
        raise ValueError(f"example {example.id!r}: a label cannot be called {clash[0]!r}; rename it")
    # abspath leaves links alone: a folder of links to recordings elsewhere stays one folder.
    audio, root = (Path(os.path.abspath(path)) for path in (example.audio, folder))  # noqa: PTH100
    inside = audio.is_relative_to(root)
    record: dict[str, Any] = {
        "id": example.id,
        "audio_path": audio.relative_to(root).as_posix() if inside else audio.as_posix(),
        "question": example.question,
        "choices": list(example.choices),
        "answer": example.answer,
    }
    return record | ({} if example.cot is None else {"cot": example.cot}) | example.labels


def gold_segments(example: Example) -> list[Segment]:
    """The segments that an example's labels call right, else those of its chain of thought; [] if it has neither.

    Raises ValueError if the label `segments` is anything but a list of [start, end].
    """
    listed = example.labels.get("segments") or []
    if not listed and example.cot:
        return list(tags.parse(example.cot, tags.EVERY).segments)
    try:
        found = [Segment(float(start), float(end)) for start, end in listed]
    except (TypeError, ValueError):
        found = [Segment(0.0, 0.0)]
    if not all(0 <= segment.start < segment.end < float("inf") for segment in found):
        raise ValueError(f"{example.id}: `segments` must be a list of [start, end] in seconds, not {_short(listed)}")
    return found


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number, which `true` and `false` are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(record: Mapping[str, Any], key: str) -> str | None:
    value = record.get(key)
    if is_number(value) and key in ("id", "answer"):
        return str(value)  # a question file made by a spreadsheet
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key!r} must be a text, not {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def parsed(line: bytes, place: str) -> dict[str, Any] | None:
    """The object of one line; None if the line is blank. Raises ValueError, which begins with the place, for others."""
    if not line.strip():
        return None
    record = _value(line, place)
    if not isinstance(record, dict):
        raise ValueError(f"{place}: is {_short(record)}, not an object; write one JSON object a line")
    return record


def _value(text: bytes, place: str, finite: bool = True) -> Any:
    """What a JSON text says. Raises ValueError, which begins with the place, if it is not JSON.

    finite: refuse NaN and infinity, which Python reads, but which no answer to the question could be written with.
    """

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise _NotFiniteError(digits)
        return value

    checked = number if finite else None
    # It is slower than Python's own way to read a float, so it is used only if some number may be too large.
    slow = checked if _HUGE.search(text) else None
    try:
        return json.loads(text.decode("utf-8-sig"), parse_constant=checked, parse_float=slow)
    except _NotFiniteError as error:
        shown = str(error)[:20]
        raise ValueError(
            f"{place}: holds the number {shown}, which JSON does not have; write null, or leave it out"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{place}: is not UTF-8 text; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        several = error.lineno > 1
        at = f"line {error.lineno}, column {error.colno}" if several else f"column {error.colno}"
        hint = "; a file of JSON lines must be called .jsonl" if several and error.msg == "Extra data" else ""
        raise ValueError(f"{place}: is not JSON ({error.msg} at {at}); correct it{hint}") from None
    except (RecursionError, ValueError):  # a million brackets, or a number of more than 4300 digits
        raise ValueError(f"{place}: is JSON that nests too deep or holds too long a number; correct it") from None


class _NotFiniteError(ValueError):
    """A number that JSON does not have."""


_HUGE = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{300}")
"""Stands in any text with a number that is too large for a float, and in hardly any other."""


def _numbered(path: Path, torn: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line that is not blank."""
    for number, (line, complete) in enumerate(_lines(path), start=1):
        place = f"{path}, line {number}"
        try:
            record = parsed(line, place)
        except ValueError:
            if torn and not complete:
                return
            raise
        if record is not None:
            yield place, record


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """(line, whether it is complete: ends in a newline)."""
    try:
        if not path.is_file() and path.exists():
            raise ValueError(f"{path}: is not a file; name a file of JSON lines")
        with path.open("rb") as file:
            for line in file:
                yield line.strip(), line.endswith(b"\n")
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}); check the path") from None


def _listed(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each entry of a JSON list."""
    entries = _value(b"\n".join(line for line, _ in _lines(path)), str(path))
    if not isinstance(entries, list):
        raise ValueError(f"{path}: is one JSON {type(entries).__name__}, not a list of examples; put it in [ ]")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, entry {number}: is {_short(entry)}, not an object")
        yield f"{path}, entry {number}", entry


def _json(path: Path, record: Mapping[str, Any]) -> bytes:
    try:
        try:
            return json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:  # half a surrogate pair, from a file name that is not UTF-8: as an escape
            return json.dumps(record, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: this record cannot be written as JSON ({error}): {_short(record)}") from None


def _mend(file: BinaryIO) -> None:
    """If the last line of an open file has no newline, add it if the line is complete, or else remove the line."""
    size = end = file.seek(0, os.SEEK_END)
    tail = b""
    while end and b"\n" not in tail:
        begin = max(0, end - (1 << 16))
        file.seek(begin)
        tail, end = file.read(end - begin) + tail, begin
    tail = tail.rpartition(b"\n")[2]
    if not tail:
        return
    try:
        whole = isinstance(json.loads(tail), dict)
    except (ValueError, RecursionError):
        whole = False
    if whole:
        file.write(b"\n")
    else:
        file.truncate(size - len(tail))
