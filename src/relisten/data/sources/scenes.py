"""The project's own scenes: what `relisten scenes OUT` wrote, exact to the sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from relisten.data.sources import About, LeftOut, generic, required
from relisten.types import Clip

ABOUT = About(
    "the project's own scenes: any number of 5 to 8 s mixes, exact times",
    "`relisten scenes OUT` makes them",
    "Apache-2.0; the sounds as src/relisten/assets/sounds/NOTICE.md has them",
    ("events.jsonl",),
)


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """Scenes with their events; attributes (pitch, direction, level and so on) stay in the events' labels."""
    yield from generic.from_jsonl(required(root, "events.jsonl", "*/events.jsonl"), leave)
