"""Sources: one file in this folder for each corpus, with a function `clips(root)`; the file's name is the source's.

A source reads its table, looks for each recording, and yields one `Clip` at a time. The rows of one recording become
one clip, wherever they are in the table. A recording that cannot be used is passed to a `LeftOut` with the reason, and
the source continues with the next.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from relisten import audio
from relisten.data import tables
from relisten.run import resolve
from relisten.types import Clip, Event

AnyRow = TypeVar("AnyRow")

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".webm", ".mp4", ".mkv", ".aif", ".aiff")
MIN_EVENT = 0.05
"""Seconds; a shorter event cannot be named by a segment."""
JOINED = "its rows are not all together in the file; they are joined"


@dataclass(frozen=True)
class About:
    """The description of a source that `relisten data sources` shows."""

    what: str
    where: str
    """Where to get it."""
    licence: str
    files: tuple[str, ...]
    """Patterns of file names. A folder that holds a file of one of these patterns looks like this source."""
    named: bool = True
    """Whether the events are all the sounds of a recording, by name, and not captions of some of them."""

    def found(self, root: Path) -> bool:
        """Whether the root looks like this source."""
        return any(next(root.glob(pattern), None) is not None for pattern in self.files)


@dataclass
class LeftOut:
    """The recordings that a source left out, as counts by reason with the first ids of each, so memory stays small."""

    record: Callable[[str, str], None] | None = None
    """Called with (id, reason) for each recording that is left out."""
    counts: Counter[str] = field(default_factory=Counter)
    """Recordings that are left out, by reason."""
    notes: Counter[str] = field(default_factory=Counter)
    """Recordings that are kept although something was odd or was changed, by what that was."""
    first: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Up to three ids for each reason."""

    def __call__(self, id: str, reason: str) -> None:
        """Note that a recording is left out."""
        self._count(self.counts, id, reason)
        if self.record is not None:
            self.record(id, reason)

    def note(self, id: str, reason: str) -> None:
        """Note what was wrong with a recording that is kept, or what was done to it."""
        self._count(self.notes, id, reason)

    def _count(self, counts: Counter[str], id: str, reason: str) -> None:
        counts[reason] += 1
        if len(first := self.first[reason]) < 3 and id not in first:
            first.append(id)

    def lines(self) -> list[str]:
        """One line for each reason: first why recordings are left out, then the notes; the most frequent first."""
        return [
            f"{count} {what}: {reason} ({', '.join(self.first[reason])}{', ...' if count > 3 else ''})"
            for what, counts in (("left out", self.counts), ("noted", self.notes))
            for reason, count in counts.most_common()
        ]


def read(name: str, root: Path, left_out: LeftOut | None = None) -> Iterator[Clip]:
    """The clips of a source in this folder, or of a function of your own as module:function, which takes only the root.

    left_out: where the source notes what it leaves out; without it, this is printed on stderr at the end. Raises
    ValueError if there is no such source or folder.
    """
    if not root.exists():
        raise ValueError(f"{root}: no such folder; `relisten data sources` says where to get {name}")
    leave = left_out or LeftOut()
    try:
        yield from _of_your_own(name, root) if ":" in name else _module(name).clips(root, leave)
    finally:
        for line in leave.lines() if left_out is None else ():
            print(f"{name}: {line}", file=sys.stderr)


def _of_your_own(name: str, root: Path) -> Iterator[Clip]:
    """The clips of a user's function. Any error in it becomes a ValueError that names the function."""
    source = resolve(name)
    try:
        for clip in source(root):
            if not isinstance(clip, Clip):
                raise TypeError(f"gives {type(clip).__name__}, not relisten.types.Clip")
            yield clip
    except Exception as error:
        raise ValueError(f"source {name}: {type(error).__name__}: {error}; correct that function") from error


def about() -> dict[str, About]:
    """The description of each source, by name."""
    return {name: _module(name).ABOUT for name in names()}


def named(name: str) -> bool:
    """`About.named` of a source. Raises ValueError if there is no such source."""
    return bool(_module(name).ABOUT.named)


def names() -> list[str]:
    """The sources in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def _module(name: str) -> Any:
    if name not in names():
        raise ValueError(f"no source {name!r}; there are {', '.join(names())}, or your own as module:function")
    return importlib.import_module(f"{__name__}.{name}")


# Helpers for the files in this folder: rows of a recording, events, and recordings on disk.


def together(
    rows: Iterable[tuple[str, AnyRow]], leave: LeftOut, told: Callable[[str], str] = str
) -> Iterator[tuple[str, list[AnyRow]]]:
    """(name, its rows) of each recording, in the order of the first rows.

    If the rows of a recording are not all together, they are joined, and `leave` notes it. rows: (name, row); all are
    read before the first recording is returned. told: gives the name that is shown to the user.
    """
    found: dict[str, list[AnyRow]] = {}
    apart: set[str] = set()
    last: str | None = None
    for name, row in rows:
        if name != last and name in found:
            apart.add(name)
        found.setdefault(name, []).append(row)
        last = name
    for name, its in found.items():
        if name in apart:
            leave.note(told(name), JOINED)
        yield name, its


def required(root: Path, *patterns: str) -> Path:
    """The first file under the root that fits one of the patterns. Raises ValueError if there is none."""
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            return path
    raise ValueError(f"{root}: holds no {' or '.join(patterns)}; `relisten data sources` says where to get it")


def loaded(path: Path) -> Any:
    """A whole JSON file. Raises ValueError if it is not JSON."""
    try:
        return json.loads(tables.text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}); copy it again") from None


def objects(entries: Any, path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a list. Raises ValueError if it is anything else."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: is not a list of objects; copy it again")
    yield from entries


def events_of(
    rows: Iterable[tuple[str, Any, Any] | tables.Row], duration: float, note: Callable[[str], None]
) -> tuple[Event, ...]:
    """Rows of (label, start, end) in seconds as events in order, cut to the recording.

    A row that gives no event is dropped, and the reason is passed to `note`.
    """
    events: dict[tuple[str, float, float], Event] = {}
    for label, start, end, *more in rows:
        try:
            begin, stop = tables.seconds(start), tables.seconds(end)
        except ValueError:
            begin = stop = None
        if fault := _fault(label.strip(), begin, stop, duration):
            note(f"an event is dropped: {fault}")
            continue
        assert begin is not None and stop is not None
        event = Event(label.strip(), max(begin, 0.0), min(stop, duration), dict(more[0]) if more else {})
        if events.setdefault((event.label, event.start, event.end), event) is not event:
            note("an event is listed twice and taken once")
    return tuple(sorted(events.values(), key=lambda event: (event.start, event.end)))


def _fault(label: str, start: float | None, end: float | None, duration: float) -> str:
    """Why an event cannot be used, or an empty text."""
    if not label:
        return "it has no label"
    if start is None or end is None:
        return "it has no readable times"
    if end < start:
        return "it ends before it starts"
    if start >= duration:
        return "it begins after the recording's end"
    if min(end, duration) - max(start, 0.0) < MIN_EVENT:
        return f"it is shorter than {MIN_EVENT:g} s"
    return ""


class Recordings:
    """Finds recordings by name, in the root and in those folders under it that hold recordings."""

    def __init__(self, root: Path, left_out: LeftOut, depth: int = 3) -> None:
        self.folders = [folder for folder in _folders(root, depth) if _has_recordings(folder)]
        self.left_out = left_out
        self._last: tuple[Path, str] | None = None

    def find(self, id: str, stems: Iterable[str]) -> tuple[Path, float] | None:
        """Path and seconds of the first recording that is there; None, with the reason noted, if it cannot be used."""
        for path in self._candidates(stems):
            return self.opened(id, path)
        self.left_out(id, "no recording")
        return None

    def opened(self, id: str, path: Path) -> tuple[Path, float] | None:
        """Path and seconds of a recording; None, with the reason noted, if it cannot be used."""
        try:
            seconds = audio.duration(path)
        except ValueError as error:
            missing = not path.exists()
            said = "no recording" if missing else "unreadable: " + str(error).removeprefix(f"{path}: ").split(" (")[0]
            self.left_out(id, said)
            return None
        if seconds < MIN_EVENT:
            self.left_out(id, "recording is empty")
            return None
        return path, seconds

    def _candidates(self, stems: Iterable[str]) -> Iterator[Path]:
        """The folder and format of the last recording are tried first, since most corpora have one of each."""
        stems = list(stems)
        if self._last is not None:
            folder, suffix = self._last
            for stem in stems:
                if (path := folder / (stem + suffix)).is_file():
                    yield path
        for folder in self.folders:
            for stem in stems:
                for suffix in ("", *SUFFIXES):
                    path = folder / (stem + suffix)
                    if (suffix or path.suffix.lower() in SUFFIXES) and path.is_file():
                        self._last = path.parent, suffix
                        yield path


def _folders(root: Path, depth: int) -> Iterator[Path]:
    yield root
    if depth:
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            yield from _folders(folder, depth - 1)


def _has_recordings(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
