"""One's own recordings and events: a JSONL (an object for each recording), or a CSV or TSV (a row for each event).

JSONL: {"id", "audio_path", "events": [{"label", "start", "end"}, ...], "descriptions": {"sound", "speech", "music"}}.
CSV: audio_path, label, start, end (filename, event_label, onset, offset do as well). Paths are relative to the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from relisten import records
from relisten.data.sources import MIN_EVENT, About, LeftOut, Recordings, events_of, required, table, telling
from relisten.types import Clip, Event

ABOUT = About(
    "your own recordings and events: JSONL (a recording a line) or CSV/TSV (an event a row)",
    "docs/data.md has the form",
    "yours",
    ("clips.jsonl", "events.jsonl", "*.csv", "*.tsv", "*.jsonl"),
)
NAMES = {
    "audio_path": ("audio_path", "audio", "path", "file", "filename"),
    "label": ("label", "event_label", "event", "class"),
    "start": ("start", "onset", "start_time", "start_time_seconds"),
    "end": ("end", "offset", "end_time", "end_time_seconds"),
}
DESCRIPTIONS = ("sound", "speech", "music")


def clips(root: Path, left_out: LeftOut | None = None) -> Iterator[Clip]:
    """Clips of a file, or of the first that a folder holds: clips.jsonl, events.jsonl, then any."""
    path = root if root.is_file() else required(root, *ABOUT.files)
    with telling(left_out, "generic") as leave:
        yield from from_jsonl(path, leave) if path.suffix.lower() == ".jsonl" else from_table(path, leave)


def from_jsonl(path: Path, leave: LeftOut) -> Iterator[Clip]:
    """A recording a line."""
    recordings = Recordings(path.parent, leave, depth=0)
    for number, row in enumerate(records.read(path), start=1):
        id = str(row.get("id") or Path(str(row.get("audio_path") or f"row {number}")).stem)
        if not isinstance(row.get("audio_path"), str):
            leave(id, "has no audio_path")
            continue
        found = recordings.opened(id, path.parent / row["audio_path"])
        if found is None:
            continue
        listed = row.get("events") or []
        if not isinstance(listed, list) or not all(isinstance(event, dict) for event in listed):
            leave(id, "its events are not a list of objects")
            continue
        events = tuple(sorted(_events(listed, found[1]), key=lambda event: (event.start, event.end)))
        if len(events) < len(listed):
            leave.note(id, "events without label or within-recording times are dropped")
        said = row.get("descriptions")
        said = said if isinstance(said, dict) else {}
        texts = {key: said[key] for key in DESCRIPTIONS if isinstance(said.get(key), str) and said[key].strip()}
        yield Clip(id, *found, events, texts)


def _events(listed: Sequence[Mapping[str, Any]], duration: float) -> Iterator[Event]:
    """Those with a label and times; every other key stays with them."""
    for event in listed:
        more = {key: value for key, value in event.items() if key not in ("label", "start", "end")}
        yield from events_of([(str(event.get("label") or ""), event.get("start"), event.get("end"))], duration, more)


def from_table(path: Path, leave: LeftOut) -> Iterator[Clip]:
    """An event a row; the rows of a recording stand together."""
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
    columns = _columns(path, delimiter)
    recordings = Recordings(path.parent, leave, depth=2)
    rows = table(path, delimiter, columns.values())
    for name, group in itertools.groupby(rows, key=lambda row: row[columns["audio_path"]]):
        marked = [(row[columns["label"]], row[columns["start"]], row[columns["end"]]) for row in group]
        beside = path.parent / name
        found = recordings.opened(name, beside) if beside.is_file() else recordings.find(name, (name,))
        if found is not None:
            events = events_of(marked, found[1])
            if len(events) < len(marked):
                leave.note(name, f"events without label, or shorter than {MIN_EVENT:g} s, are dropped")
            yield Clip(Path(name).with_suffix("").as_posix(), *found, events)


def _columns(path: Path, delimiter: str) -> dict[str, str]:
    """Which column is which."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = [name.strip().strip('"') for name in file.readline().rstrip("\r\n").split(delimiter)]
    columns = {key: next((name for name in known if name in header), "") for key, known in NAMES.items()}
    if missing := [key for key, name in columns.items() if not name]:
        raise ValueError(
            f"{path}: has no column {missing[0]!r} (or {', '.join(NAMES[missing[0]][1:])}); it has {header}"
        )
    return columns
