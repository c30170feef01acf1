"""CASTELLA: recordings of one to five minutes, with captions of their moments and the times of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from relisten.data.sources import About, LeftOut, Recordings, events_of, loaded, objects, required, together
from relisten.types import Clip

ABOUT = About(
    "CASTELLA: 1,009 training recordings of 1 to 5 min, 2,208 captions of moments with times",
    "https://github.com/line/CASTELLA (json/en/train.json; the recordings by its download script)",
    "CC BY 4.0",
    ("**/json/en/train.json", "**/castella*/**/train.json", "**/CASTELLA*/**/train.json"),
    named=False,
)
TOLERANCE = 5.0
"""Seconds by which a recording may be shorter than listed; if it is shorter still, the times no longer fit."""


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """The training recordings; they are named by the video's id, in any folder under the root."""
    path = required(root, "json/en/train.json", "**/json/en/train.json", "**/train.json")
    recordings = Recordings(root, leave)
    for id, rows in together(((str(row.get("yid") or ""), row) for row in objects(loaded(path), path)), leave):
        if not id:
            leave("?", "row has no yid")
            continue
        found = recordings.find(id, (id, f"Y{id}"))
        if found is None:
            continue
        listed = rows[0].get("duration")
        if isinstance(listed, int | float) and found[1] < listed - TOLERANCE:
            leave(id, "recording is shorter than listed")
            continue
        caption = " ".join(dict.fromkeys(str(row.get("global_caption") or "").strip() for row in rows)).strip()
        events = events_of((one for row in rows for one in moments(row)), found[1], partial(leave.note, id))
        yield Clip(f"castella-{id}", *found, events, {"sound": caption} if caption else {})


def moments(row: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(caption, start, end) of each time of each moment."""
    listed = row.get("moments")
    for moment in listed if isinstance(listed, list) else ():
        spans = moment.get("timestamps") if isinstance(moment, dict) else None
        for span in spans if isinstance(spans, list) else ():
            if isinstance(span, list) and len(span) == 2:
                yield str(moment.get("local_caption") or ""), span[0], span[1]
