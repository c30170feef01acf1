"""DESED: ten sounds of the home in clips of 10 s, real and synthetic, with strong labels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from relisten.data.sources import About, LeftOut, Recordings, events_of, required, together
from relisten.data.tables import Columns, first_row, marked
from relisten.types import Clip

ABOUT = About(
    "DESED: ten domestic sounds, 1,168 real clips and any number of synthetic ones, 10 s, exact times",
    "https://github.com/turpaultn/DESED (metadata/**/*.tsv and audio/**)",
    "MIT (code, labels); recordings as AudioSet's videos and Freesound's authors have them",
    ("metadata/**/*.tsv", "**/validation.tsv"),
)
COLUMNS = Columns("filename", "event_label", "onset", "offset", "", 1.0)


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """Clips of every table that has times, except those whose name or folder says eval, public or test."""
    required(root, "metadata/**/*.tsv", "**/*.tsv")
    met: set[Path] = set()
    for path in sorted(root.glob("**/*.tsv")):
        held_back = {"eval", "public"} & set(path.relative_to(root).with_suffix("").parts)
        strong = {COLUMNS.audio, COLUMNS.label, COLUMNS.start, COLUMNS.end} <= set(first_row(path, "\t"))
        if not strong or held_back or path.stem.startswith(("eval_", "test_")):
            continue
        recordings = Recordings(root, leave, depth=4)
        # Two folders of synthetic clips may hold the same name: the folder that is called like the table wins.
        near = [f for f in recordings.folders if {path.stem, path.parent.name} & set(f.relative_to(root).parts)]
        recordings.folders = [*near, *(folder for folder in recordings.folders if folder not in near)]
        for name, rows in together(marked(path, COLUMNS)[1], leave):
            found = recordings.find(name, (name,))
            if found is None:
                continue
            if found[0] in met:
                leave(name, "another table has this recording")
                continue
            met.add(found[0])
            named = ((label.replace("_", " "), start, end) for label, start, end, _ in rows if start is not None)
            events = events_of(named, found[1], partial(leave.note, name))
            if events:
                yield Clip(f"desed-{path.stem}-{Path(name).stem}", *found, events)
            else:
                leave(name, "no event with times")
