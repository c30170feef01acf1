"""Reading tables of text: CSV, TSV and label tracks, with the columns' usual names and the ways to write a time.

A table is read strictly. Text that is not Unicode, a row that is longer than the header and a time that cannot be read
raise a ValueError that names the file, the line and the column: a guess would put wrong words into questions.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import posixpath
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

Row = tuple[str, float | None, float | None, Mapping[str, Any]]
"""Label, start and end of an event, in the unit of its table (None: not given), and what else is known of the event."""

NAMES = {
    "audio": (
        "audio_path", "audio", "path", "file", "filename", "file_name", "filepath", "file_path", "audio_file",
        "audio_filename", "audio_file_name", "wav", "recording", "fname", "begin_file",
    ),
    "label": (
        "event_label", "class_name", "label_name", "label", "event", "class_label", "class", "tag", "sound",
        "sound_event", "category", "species", "annotation", "name",
    ),
    "start": ("start", "onset", "begin", "start_time", "begin_time", "onset_time", "tmin", "from"),
    "end": ("end", "offset", "stop", "end_time", "stop_time", "offset_time", "tmax", "to"),
    "duration": ("duration", "length", "dur"),
}  # fmt: skip
"""Usual names of columns, the preferred ones first: beside a `class_name`, `class` may be a number. A unit may follow
the name, as in `start_ms` and `Begin Time (s)`."""
UNITS = {
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0,
    "ms": 1e-3, "msec": 1e-3, "msecs": 1e-3, "millis": 1e-3, "millisecond": 1e-3, "milliseconds": 1e-3,
}  # fmt: skip
COUNTED = ("sample", "samples", "frame", "frames")
"""Units that cannot be turned into seconds without knowing the rate."""
_NOTHING: Mapping[str, Any] = {}
NO_TIME = {"", "-", "na", "n/a", "nan", "none", "null"}
_NUMBER = re.compile(r"([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d\d?(?:[.,]\d*)?)")
_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}")
SAMPLE = 100
"""Number of recordings whose length is compared with their times, to find out whether these are milliseconds."""
SLACK = 0.5
"""Seconds by which an event may end after its recording and still be counted as fitting it."""


# Text.


def text(path: Path) -> str:
    """The text of a file, which must be UTF-8 (with or without a byte order mark) or UTF-16 with such a mark.

    A code page such as cp1252 cannot be told from its neighbours, so it is refused and not guessed. Raises ValueError
    that names the file, and the line if that is known.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        found = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise ValueError(f"{path}: cannot be read as UTF-16 ({error}); save the table as UTF-8") from None
        raise ValueError(
            f"{path}, line {len(content[: error.start + 1].splitlines())}: is not UTF-8 text; save the table as UTF-8,"
            f" for example with `iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}` if Windows wrote it"
        ) from None
    if "\0" in found:
        number = len(found[: found.index("\0") + 1].splitlines())
        raise ValueError(f"{path}, line {number}: holds bytes that are not text; save the table as UTF-8")
    return found


def table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of a table with a header line, read one by one. Raises ValueError if a column is missing."""
    needed = list(columns)
    delimiter = _delimiter(path, needed)
    header = _header(path, delimiter, needed)
    for number, cells in islice(_cells(path, delimiter), 1, None):
        yield dict(zip(header, _fitted(path, number, cells, len(header)), strict=True))


def first_row(path: Path, delimiter: str) -> list[str]:
    """The cells of the first row, which is the header if there is one; [] in an empty table."""
    return next((cells for _, cells in _cells(path, delimiter, strict=False)), [])


def _header(path: Path, delimiter: str, needed: Sequence[str]) -> list[str]:
    header = first_row(path, delimiter)
    if missing := [name for name in needed if name not in header]:
        raise ValueError(f"{path}: has no column {missing[0]!r}; its columns are {_named(header)}")
    return header


def _named(header: Sequence[str]) -> str:
    """Names of columns for a message, which is one line."""
    short = [" ".join(name.split())[:30] for name in header[:12]]
    return ", ".join([*short, *(["..."] if len(header) > 12 else [])]) or "none"


def _delimiter(path: Path, needed: Sequence[str]) -> str:
    """Comma, semicolon or tab: the one with which the header has most of the needed columns."""
    return max(",;\t", key=lambda delimiter: len(set(first_row(path, delimiter)) & set(needed)))


def _cells(path: Path, delimiter: str, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each line that is not blank. A tab-separated line never goes on in the next one.

    strict: refuse misplaced quotes, which swallow rows; not while the delimiter is looked for."""
    first, quoted = True, delimiter != "\t"
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = io.StringIO(text(path), newline="")
    read = csv.reader(lines, delimiter=delimiter, strict=strict and quoted, quoting=quoting)
    try:
        for cells in read:
            # A line such as `sep=;` tells Excel the separator.
            if first and len(cells) <= 2 and cells and re.fullmatch(r"sep=.?", cells[0]):
                continue
            if "".join(cells).strip():
                first = False
                yield read.line_num, cells if quoted else [_unquoted(cell) for cell in cells]
    except csv.Error as error:
        raise ValueError(f"{path}, line {read.line_num}: cannot be read ({error}); is a quote left open?") from None


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if cell[:1] == '"' == cell[-1:] and len(cell) > 1 else cell


def _fitted(path: Path, number: int, cells: list[str], width: int) -> list[str]:
    """The cells of a row, filled up with empty ones. Raises ValueError if the row is longer than the header."""
    if len(cells) == width:
        return cells
    if any(cell.strip() for cell in cells[width:]):
        raise ValueError(
            f"{path}, line {number}: has {len(cells)} cells, and the header has {width}; put quotes around a cell that"
            " holds the separator (a decimal comma, for example)"
        )
    return [*cells[:width], *[""] * (width - len(cells))]


# Times.


def seconds(value: Any) -> float | None:
    """A time of JSON or a table, in seconds: 1.5, "1.5", "1,5", "1.5 s", "1500 ms", "0:01.5"; None for an empty cell.

    Raises ValueError for anything else.
    """
    return _time(value)[0]


def _time(value: Any) -> tuple[float | None, bool]:
    """(number, whether its unit is given with it)."""
    if value is None or (isinstance(value, str) and value.strip().lower() in NO_TIME):
        return None, False
    if isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15:
        return float(value), False
    if isinstance(value, str):
        text = value.strip()
        if (match := _NUMBER.fullmatch(text)) and match[2].lower() in ("", *UNITS):
            number = float(match[1].replace(",", "."))
            if math.isfinite(number):
                return number * UNITS.get(match[2].lower(), 1.0), bool(match[2])
        elif match := _CLOCK.fullmatch(text):
            hours, minutes, rest = int(match[1] or 0), int(match[2]), float(match[3].replace(",", "."))
            if rest < 60 and (minutes < 60 or match[1] is None):
                return 3600.0 * hours + 60.0 * minutes + rest, True
    raise ValueError(f"{str(value)[:40]!r} is not a time; write seconds (1.5), m:s (0:01.5) or h:m:s")


# Columns.


@dataclass(frozen=True)
class Columns:
    """The names of the columns, or of the keys of an object; a name is empty if there is no such column."""

    audio: str
    label: str
    start: str
    end: str
    duration: str = ""
    """The event's length; used if there is no end."""
    scale: float | None = None
    """Seconds in one unit of the times, according to the columns' names; None if they do not say."""

    @property
    def timed(self) -> bool:
        """Whether there is all that an event needs."""
        return bool(self.label and self.start and (self.end or self.duration))


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", _HUMP.sub(" ", name).lower())


@lru_cache(maxsize=256)
def which(header: tuple[str, ...]) -> Columns:
    """The columns, found by their names. Raises ValueError if times are in samples or frames, or in different units."""
    plain: dict[str, tuple[str, str]] = {}
    for name in header:
        words = _words(name)
        unit = words.pop() if len(words) > 1 and words[-1] in (*UNITS, *COUNTED) else ""
        plain.setdefault("_".join(words), (name, unit))
    found = {key: next((plain[name] for name in names if name in plain), ("", "")) for key, names in NAMES.items()}
    timing = [found["start"], found["end"] if found["end"][0] else found["duration"]]
    for name, unit in timing:
        if unit in COUNTED and found["start"][0]:
            raise ValueError(f"column {name!r} counts {unit}; give seconds instead")
    units = {unit for name, unit in timing if name and unit}
    if len({UNITS[unit] for unit in units}) > 1:
        raise ValueError(f"columns {timing[0][0]!r} and {timing[1][0]!r} have different units; give both in seconds")
    scale = UNITS[units.pop()] if units else None
    return Columns(scale=scale, **{key: name for key, (name, _) in found.items()})


# Events.


@dataclass
class Times:
    """What the times of a file have shown so far: their unit, and how commas are used."""

    where: str
    """The file, for messages."""
    columns: Columns
    """The columns of the file's first events."""
    scale: float | None = None
    """Seconds in one unit; None until it is known."""
    thousands: str = ""
    """A time whose comma may be a decimal comma or a separator of thousands, as in 1,250."""
    decimals: bool = False
    """Whether another time shows that commas are decimal commas."""
    own_units: bool = False
    """Whether a time has a unit of its own, as 0:01.5 and "3 s" have."""

    def read(self, value: Any, column: str) -> float | None:
        """One time, in the file's unit. Raises ValueError that names the column."""
        if isinstance(value, str) and len(value) < 16 and value.replace(".", "", 1).isdecimal():  # nearly always
            return float(value)
        try:
            number, unit_given = _time(value)
        except ValueError as error:
            raise ValueError(f"column {column!r}: {error}") from None
        if isinstance(value, str) and "," in value:
            if _THOUSANDS.fullmatch(value.strip()):
                self.thousands = self.thousands or value.strip()
            else:
                self.decimals = True
        self.own_units |= unit_given
        if number is not None and unit_given and self.columns.scale is not None:
            return number / self.columns.scale
        return number

    def row(self, cells: Mapping[str, Any], columns: Columns) -> Row:
        """The event of one row."""
        start = self.read(cells.get(columns.start), columns.start)
        end = self.read(cells.get(columns.end), columns.end) if columns.end else None
        if not columns.end and start is not None:
            length = self.read(cells.get(columns.duration), columns.duration)
            end = None if length is None else start + length
        return sys.intern(" ".join(str(cells.get(columns.label) or "").split())), start, end, _NOTHING

    def settle(self, first: Sequence[tuple[float, Sequence[Row]]]) -> str:
        """Decide the unit by the first recordings, given as (duration in seconds, events). Returns a note, or "".

        Raises ValueError that names the columns if the times fit neither as seconds nor as milliseconds.
        """
        ends = [(end, duration) for duration, rows in first for _, _, end, _ in rows if end is not None]
        names = " and ".join(repr(name) for name in (self.columns.start, self.columns.end or self.columns.duration))
        fit = self.columns.scale == 1e-3 or not _num_beyond(ends, 1000.0)
        if ends and self.thousands and not self.decimals and fit:
            raise ValueError(
                f"{self.where}: it is not clear whether the comma of {self.thousands!r} in {names} is a decimal comma;"
                " write the times with points"
            )
        self.scale = self.columns.scale
        if self.scale is not None:
            return ""
        self.scale = 1.0
        if 2 * _num_beyond(ends, 1.0) <= len(ends):
            return ""
        # Milliseconds fit the recordings and reach into their second half; frames and samples do not do both.
        reach = max((end / 1000 / max(duration, 1e-9) for end, duration in ends), default=0.0)
        if not self.own_units and 20 * _num_beyond(ends, 1e-3) <= len(ends) and reach >= 0.5:
            self.scale = 1e-3
            return f"the times in {names} are read as milliseconds, since they are too large for seconds"
        raise ValueError(
            f"{self.where}: {_num_beyond(ends, 1.0)} of {len(ends)} events end after their recording if {names} are in"
            " seconds; name the columns with their unit (start_ms, end_ms), or give seconds of each recording"
        )

    def in_seconds(self, rows: Iterable[Row]) -> list[Row]:
        """Rows with their times in seconds."""
        by = 1.0 if self.scale is None else self.scale
        return [
            (label, None if s is None else s * by, None if e is None else e * by, more) for label, s, e, more in rows
        ]


def _num_beyond(ends: Sequence[tuple[float, float]], scale: float) -> int:
    return sum(scale * end > duration + SLACK for end, duration in ends)


def marked(path: Path, columns: Columns | None = None) -> tuple[Times, Iterator[tuple[str, Row]]]:
    """Read a table of events: the times, known when all rows are read, and (recording's name, event) of each row.

    columns: those of a published layout; None if they are to be found by their names. A table that names no recording
    is a label track (as Audacity, Raven and DCASE have them): its recording is called like the table. A table without a
    header has start, end and label, or the recording's name before these.
    """
    if columns is None:
        delimiter, header, columns = layout(path)
    else:
        needed = [columns.audio, columns.label, columns.start, columns.end]
        delimiter = _delimiter(path, needed)
        header = _header(path, delimiter, needed)
    times = Times(str(path), columns)
    return times, _marked(path, delimiter, header, times)


def _marked(path: Path, delimiter: str, header: list[str], times: Times) -> Iterator[tuple[str, Row]]:
    columns, first = times.columns, ""
    counted_on = re.sub(r"\W+", "_", columns.audio.lower()) == "begin_file"
    read = _cells(path, delimiter)
    if header:
        next(read)
    else:
        header = ["audio", "start", "end", "label"] if columns.audio else ["start", "end", "label"]
    for number, cells in read:
        if cells[0].startswith("\\"):  # Audacity's line of frequencies, below the event that it belongs to
            continue
        row = dict(zip(header, _fitted(path, number, cells, len(header)), strict=True))
        name = posixpath.normpath(row[columns.audio].strip().replace("\\", "/")) if columns.audio else own_name(path)
        if name == ".":
            raise ValueError(f"{path}, line {number}, column {columns.audio!r}: is empty; name the recording")
        first = first or name
        if counted_on and name != first:
            raise ValueError(
                f"{path}, line {number}: is about a second recording, {name!r}, and Raven counts the times on from one"
                " to the next; save one table for each recording"
            )
        try:
            yield name, times.row(row, columns)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, {error}") from None


def own_name(path: Path) -> str:
    """The name of a label track's recording: dog.txt and dog.Table.1.selections.txt belong to dog.wav."""
    return path.name.split(".Table.")[0] if ".Table." in path.name else path.stem


def layout(path: Path) -> tuple[str, list[str], Columns]:
    """Delimiter, header ([] if there is none) and columns of a table. Raises ValueError if it is no table of events."""
    tried: list[tuple[list[str], Columns]] = []
    for delimiter in "\t;,":
        first = first_row(path, delimiter)
        header = [cell.strip().lstrip("#").strip() for cell in first]
        try:
            columns = which(tuple(header))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if columns.timed:
            words, used = list(map(_words, header)), vars(columns).values()
            if twice := [name for name in used if isinstance(name, str) and name and words.count(_words(name)) > 1]:
                raise ValueError(f"{path}: has two columns {twice[0]!r}; rename one of them")
            return delimiter, header, columns
        if _is_time(first, 0) and _is_time(first, 1) and len(first) == 3:
            return delimiter, [], Columns("", "label", "start", "end")
        if _is_time(first, 1) and _is_time(first, 2) and len(first) == 4:
            return delimiter, [], Columns("audio", "label", "start", "end")
        tried.append((header, columns))
    header, columns = max(tried, key=lambda one: len(one[0]))
    missing = next(key for key in ("label", "start", "end") if not getattr(columns, key))
    others = ", ".join(name for name in NAMES[missing][:6] if name != missing)
    raise ValueError(f"{path}: has no column {missing!r} (or {others}); its columns are {_named(header)}")


def _is_time(cells: Sequence[str], place: int) -> bool:
    try:
        return len(cells) > place and seconds(cells[place]) is not None
    except ValueError:
        return False
