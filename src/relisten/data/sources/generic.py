"""Your own recordings and events: JSONL (a recording or an event a line), CSV or TSV (an event a row), or label tracks.

JSONL: {"id", "audio_path", "events": [{"label", "start", "end"}, ...], "descriptions": {"sound", "speech", "music"}}.
CSV: audio_path, label, start, end, or other usual names (`relisten.data.tables.NAMES` lists them). Paths are relative
to the file. A label track is a table beside its recording and called like it, as Audacity, Raven and DCASE have them.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from relisten import records
from relisten.data import tables
from relisten.data.sources import JOINED, SUFFIXES, About, LeftOut, Recordings, events_of, required, together
from relisten.types import Clip

ABOUT = About(
    "your own recordings and events: JSONL (a recording a line), CSV/TSV (an event a row) or label tracks",
    "docs/data.md describes the form",
    "yours",
    ("clips.jsonl", "events.jsonl", "events.csv", "events.tsv", "*.csv", "*.tsv", "*.jsonl"),
)
PREFERRED = 4
"""The first four patterns above name one file each; the others may fit several."""
KINDS = ("sound", "speech", "music")
"""The kinds of descriptions."""


@dataclass
class Found:
    """A recording that opens, with the rows about it; times are in the unit of their file."""

    id: str
    path: Path
    seconds: float
    rows: list[tables.Row] = field(default_factory=list)
    descriptions: dict[str, str] = field(default_factory=dict)


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """Clips of a file, or of the one that a folder holds. Raises ValueError if a folder holds several."""
    for path in [root] if root.is_file() else files(root):
        yield from from_jsonl(path, leave) if path.suffix.lower() == ".jsonl" else from_table(path, leave)


def files(root: Path) -> list[Path]:
    """clips.jsonl, events.* or the folder's only table; if there is none, its label tracks."""
    for pattern in ABOUT.files[:PREFERRED]:
        if (root / pattern).is_file():
            return [root / pattern]
    every = sorted(path for end in ("csv", "tsv", "jsonl", "txt") for path in root.glob(f"*.{end}"))
    tracks = [path for path in every if _recording_beside(path)]
    others = [path for path in every if path not in tracks and path.suffix.lower() != ".txt"]
    if len(others) > 1:
        names = ", ".join(path.name for path in others[:4])
        raise ValueError(f"{root}: holds several tables ({names}); name the one that is to be read")
    return others or tracks or [required(root, *ABOUT.files)]


def _recording_beside(path: Path) -> bool:
    return any(path.with_name(tables.own_name(path) + suffix).is_file() for suffix in SUFFIXES)


def from_table(path: Path, leave: LeftOut) -> Iterator[Clip]:
    """Clips of a table with an event a row."""
    times, rows = tables.marked(path)
    if not times.columns.audio and not _recording_beside(path):
        raise ValueError(
            f"{path}: has no column 'audio_path' (or {', '.join(tables.NAMES['audio'][1:5])}), and no recording that is"
            " called like it lies beside it; add the column"
        )
    recordings = Recordings(path.parent, leave, depth=2)
    names: dict[Path, str] = {}

    def found() -> Iterator[Found]:
        for name, marked in together(rows, leave):
            place = path.parent / name
            opened = recordings.opened(name, place) if place.is_file() else recordings.find(name, (name,))
            if opened is not None:
                if (other := names.setdefault(opened[0], name)) != name:
                    raise ValueError(f"{path}: {other!r} and {name!r} are the same recording; give it one name")
                yield Found(Path(name).with_suffix("").as_posix(), *opened, marked)

    yield from _clips(found(), times, leave)


def from_jsonl(path: Path, leave: LeftOut) -> Iterator[Clip]:
    """Clips of a JSONL. The lines of one recording are joined; the others are read one by one."""
    times = tables.Times(str(path), tables.which(()))
    yield from _clips(_lines(path, times, leave), times, leave)


def _lines(path: Path, times: tables.Times, leave: LeftOut) -> Iterator[Found]:
    recordings = Recordings(path.parent, leave, depth=0)
    num = Counter(_audio(row) for row in records.read(path))
    waiting: dict[str, list[_Said]] = {}
    if any(count > 1 for name, count in num.items() if name):
        for place, row in records.entries(path):
            if (name := _audio(row)) and num[name] > 1:
                waiting.setdefault(name, []).append(_said(place, row, times))
    for number, (place, row) in enumerate(records.entries(path), start=1):
        name = _audio(row)
        id = str(row.get("id") or Path(name or f"row {number}").stem)
        if not name:
            leave(id, "has no audio_path")
            continue
        all_of_it = [_said(place, row, times)] if num[name] == 1 else waiting.pop(name, [])
        if not all_of_it:  # joined with an earlier line
            continue
        if fault := next((said.fault for said in all_of_it if said.fault), ""):
            leave(id, fault)
        elif (opened := recordings.opened(id, path.parent / name)) is not None:
            if len(all_of_it) > 1:
                leave.note(id, JOINED)
            texts = {key: [said.descriptions[key] for said in all_of_it if key in said.descriptions] for key in KINDS}
            descriptions = {key: " ".join(dict.fromkeys(several)) for key, several in texts.items() if several}
            yield Found(id, *opened, [row for said in all_of_it for row in said.rows], descriptions)


@dataclass
class _Said:
    """The events and descriptions in one line about a recording."""

    rows: list[tables.Row]
    descriptions: dict[str, str]
    fault: str = ""


def _audio(row: Mapping[str, Any]) -> str:
    """The name of a line's recording, or an empty text."""
    name = row.get(tables.which(tuple(row)).audio)
    return posixpath.normpath(name) if isinstance(name, str) and name else ""


def _said(place: str, row: Mapping[str, Any], times: tables.Times) -> _Said:
    """Raises ValueError, which names the line, if a time cannot be read."""
    listed = row.get("events") or ([row] if "events" not in row and tables.which(tuple(row)).timed else [])
    if not isinstance(listed, list) or not all(isinstance(event, dict) for event in listed):
        return _Said([], {}, "its events are not a list of objects")
    rows: list[tables.Row] = []
    for event in listed:
        try:
            columns = tables.which(tuple(event))
            if not times.columns.timed:
                times.columns = columns
            if columns.scale != times.columns.scale and columns.timed:
                raise ValueError("an event has another unit than those before it; give all times in one unit")
            label, start, end, _ = times.row(event, columns)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        used = (columns.label, columns.start, columns.end or columns.duration)
        more = {key: value for key, value in event.items() if key not in used} if event is not row else {}
        rows.append((label, start, end, more))
    said = row.get("descriptions")
    said = said if isinstance(said, dict) else {}
    return _Said(rows, {key: said[key] for key in KINDS if isinstance(said.get(key), str) and said[key].strip()})


def _clips(found: Iterator[Found], times: tables.Times, leave: LeftOut) -> Iterator[Clip]:
    """Clips with their times in seconds; the first recordings decide on the unit if the columns do not name it."""
    first = list(islice(found, tables.SAMPLE))
    if told := times.settle([(one.seconds, one.rows) for one in first]):
        leave.note(Path(times.where).name, told)
    for one in chain(first, found):
        rows = [row for row in times.in_seconds(one.rows) if row[:3] != ("", None, None)]
        events = events_of(rows, one.seconds, partial(leave.note, one.id))
        yield Clip(one.id, one.path, one.seconds, events, one.descriptions)
