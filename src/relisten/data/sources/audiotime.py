"""AudioTime: synthetic clips of 10 s with exact times, and captions about order, duration, count and time.

The duration set gives only the length of an event, and the counting set only its onset: clips of these sets keep their
caption and have no events. Where a file gives [start, end], these become events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from relisten.data.sources import About, LeftOut, Recordings, events_of, loaded, required
from relisten.types import Clip

ABOUT = About(
    "AudioTime: 4 x 5,000 synthetic clips of 10 s with exact times and captions",
    "https://github.com/zeyuxie29/AudioTime (train/train5000_*/audio and *_captions.json)",
    "not stated; its sounds are AudioSet's",
    ("**/*_captions.json",),
)


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """Clips of the training folders; a folder called test is left alone."""
    required(root, "**/*_captions.json")
    for path in sorted(root.glob("**/*_captions.json")):
        if "test" in path.relative_to(root).parts:
            continue
        kind = path.stem.removesuffix("_captions")
        recordings = Recordings(path.parent, leave, depth=1)
        entries = loaded(path)
        if not isinstance(entries, dict):
            raise ValueError(f"{path}: is not an object of clips; copy it again")
        for name, entry in entries.items():
            id = f"{kind}-{name}"
            found = recordings.find(id, (name, f"{kind}_{name}"))
            if found is None:
                continue
            if not isinstance(entry, dict) or not isinstance(entry.get("event"), dict):
                leave(id, "entry has no events")
                continue
            events = events_of(timed(entry["event"]), found[1], partial(leave.note, id))
            said = caption(entry)
            yield Clip(f"audiotime-{id}", *found, events, {"sound": said} if said else {})


def timed(events: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(label, start, end) of those that have both."""
    for label, times in events.items():
        for span in times if isinstance(times, list) else []:
            if isinstance(span, list) and len(span) == 2:
                yield label, span[0], span[1]


def caption(entry: Mapping[str, Any]) -> str:
    """The caption; the published one stands in a list, before a "Yes." of its own check."""
    said = entry.get("caption")
    said = said[0] if isinstance(said, list) and said else said
    return said.strip() if isinstance(said, str) else ""
