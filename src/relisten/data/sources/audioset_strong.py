"""AudioSet's temporally strong labels: which sounds when, in 10 s clips of videos.

Only the training labels are read; the evaluation clips are left for evaluation. Labels are identifiers (/m/...), and
their names come from mid_to_display_name.tsv. If ontology.json is there too, a label is dropped if a more specific one
is marked at the same time ("Dog" if "Bark" is), and each event lists the names that are more general than its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from relisten.data.sources import About, LeftOut, Recordings, events_of, loaded, objects, required, together
from relisten.data.tables import Columns, marked, table, text
from relisten.types import Clip, Event

ABOUT = About(
    "AudioSet strong labels: 103,463 training clips of 10 s, 456 sounds with times",
    "https://research.google.com/audioset/download_strong.html (labels; the ontology: github.com/audioset/ontology);"
    " the recordings are cut from videos and not published",
    "CC BY 4.0 (labels), CC BY-SA 4.0 (ontology)",
    ("**/audioset_train_strong.tsv",),
)
COLUMNS = Columns("segment_id", "label", "start_time_seconds", "end_time_seconds", "", 1.0)
LONGEST = 11.0
"""Seconds; a longer recording is a whole video, to which the clip's times do not apply."""
COVERED = 0.5
"""A label is dropped when this much of it lies under a more specific one."""


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """Clips with named events. Recordings: <id>_<start ms>, <id>, Y<id>, ... in any folder under the root."""
    path = required(root, "audioset_train_strong.tsv", "**/audioset_train_strong.tsv")
    known, above = names(root), ancestors(root)
    recordings = Recordings(root, leave)
    for segment, rows in together(marked(path, COLUMNS)[1], leave):
        found = recordings.find(segment, stems(segment))
        if found is None:
            continue
        if found[1] > LONGEST:
            leave(segment, "the recording is longer than the clip; cut the clip's ten seconds out of it")
            continue
        for label, *_ in rows:
            if label not in known:
                leave.note(segment, f"label {label} has no name in mid_to_display_name.tsv")
        events = events_of(rows, found[1], partial(leave.note, segment))
        named = [
            Event(known[event.label], event.start, event.end, kinds(event.label, known, above))
            for event in most_specific(events, above)
            if event.label in known
        ]
        if named:
            yield Clip(f"audioset-{segment}", found[0], found[1], tuple(named))
        else:
            leave(segment, "no event has a name and a length")


def stems(segment: str) -> list[str]:
    """Names under which a clip's recording is kept by the usual download scripts."""
    video, _, milliseconds = segment.rpartition("_")  # a video's id may hold underscores itself
    if not milliseconds.isdigit():
        return [segment]
    start = int(milliseconds) / 1000
    times = (
        f"{start:.3f}_{start + 10:.3f}",
        f"{start:.0f}_{start + 10:.0f}",
        f"{start:.0f}",
        f"{start:.1f}-{start + 10:.1f}",
        f"{milliseconds}_{int(milliseconds) + 10_000}",
    )
    return [segment, f"Y{segment}", video, f"Y{video}", *(f"{y}{video}_{time}" for time in times for y in ("", "Y"))]


def names(root: Path) -> dict[str, str]:
    """Display names by identifier, from mid_to_display_name.tsv or class_labels_indices.csv."""
    path = required(root, "**/mid_to_display_name.tsv", "**/class_labels_indices.csv")
    if path.suffix == ".csv":
        return {row["mid"]: row["display_name"] for row in table(path, ("mid", "display_name"))}
    pairs = (line.split("\t", 1) for line in text(path).split("\n"))
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def ancestors(root: Path) -> dict[str, set[str]]:
    """All more general identifiers of each identifier, from ontology.json; {} if that file is not there."""
    path = min(root.glob("**/ontology.json"), default=None)
    if path is None:
        return {}
    children = {str(entry.get("id")): _texts(entry.get("child_ids")) for entry in objects(loaded(path), path)}
    above: dict[str, set[str]] = {}

    def walk(identifier: str, over: frozenset[str]) -> None:
        if identifier in over:
            return
        above.setdefault(identifier, set()).update(over)
        for child in children.get(identifier, ()):
            walk(child, over | {identifier})

    for top in sorted(children.keys() - set(itertools.chain(*children.values()))):
        walk(top, frozenset())
    return above


def _texts(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def kinds(identifier: str, known: Mapping[str, str], above: Mapping[str, set[str]]) -> dict[str, str]:
    """The names that are more general than a label's, as an event's labels, so that none becomes a wrong choice."""
    found = sorted(known[one] for one in above.get(identifier, ()) if one in known)
    return {"kind_of": "; ".join(found)} if found else {}


def most_specific(events: tuple[Event, ...], above: Mapping[str, set[str]]) -> Iterator[Event]:
    """Events without those that a more specific one covers."""
    for event in events:
        covered = sum(
            max(0.0, min(event.end, other.end) - max(event.start, other.start))
            for other in events
            if event.label in above.get(other.label, ())
        )
        if covered < COVERED * (event.end - event.start):
            yield event
