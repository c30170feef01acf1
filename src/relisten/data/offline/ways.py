"""Chooses the operation with which a sound is heard best, for chains of thought that may use operations.

A source says so in the event's label `way`: "slow" for a phrase that goes by fast, "high" or "band 300 3400" for a word
under a hum, "low" for the lower of two sounds at once, "clean" for one in noise. A sound that is much quieter than the
loudest one of its recording needs "loud", whoever measured the levels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from relisten import tags
from relisten.data.offline.timeline import level
from relisten.types import Event, Segment

QUIET = 12.0
"""Decibels below the loudest sound of the recording from which a sound is heard better when it is made louder."""
SEG = ("seg", None)
Band = tuple[float, float]


def way(event: Event, events: Sequence[Event], allowed: Collection[str]) -> tuple[str, Band | None]:
    """The tag with which to listen to an event, and a <band>'s band (Hz). It is <seg> unless another one is needed."""
    name, *hertz = str(event.labels.get("way", "")).split() or [""]
    if not name and level(event) < max(map(level, events), default=0.0) - QUIET:
        name = "loud"
    if name not in allowed:
        return SEG
    if name != "band":
        return name, None
    read = tags.parse_segment(", ".join(["0", "1", *hertz]), "band")
    return SEG if read is None else ("band", read.band)


def write(segment: Segment, event: Event, events: Sequence[Event], allowed: Collection[str]) -> str:
    """The tag of a segment in which an event is heard, in the way that it needs."""
    name, band = way(event, events, allowed)
    return tags.write_segment(Segment(segment.start, segment.end, band), name)
