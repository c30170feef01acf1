"""DESED: ten sounds of the home in clips of 10 s, real and synthetic, with strong labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from relisten.data.sources import About, LeftOut, Recordings, events_of, required, table, telling
from relisten.types import Clip

ABOUT = About(
    "DESED: ten domestic sounds, 1,168 real clips and any number of synthetic ones, 10 s, exact times",
    "https://github.com/turpaultn/DESED (metadata/**/*.tsv and audio/**)",
    "MIT (code, labels); recordings as AudioSet's videos and Freesound's authors have them",
    ("metadata/**/*.tsv", "**/validation.tsv"),
)
COLUMNS = ("filename", "onset", "offset", "event_label")


def clips(root: Path, left_out: LeftOut | None = None) -> Iterator[Clip]:
    """Clips of every table with times; weak and unlabelled ones are passed over, and what is called eval or public."""
    required(root, "metadata/**/*.tsv", "**/*.tsv")
    with telling(left_out, "desed") as leave:
        met: set[int] = set()
        for path in sorted(root.glob("**/*.tsv")):
            with path.open(encoding="utf-8-sig", errors="replace") as file:
                strong = set(COLUMNS) <= set(file.readline().rstrip("\n").split("\t"))
            held_back = {"eval", "public"} & set(path.relative_to(root).with_suffix("").parts)
            if not strong or held_back or path.stem.startswith(("eval_", "test_")):
                continue
            recordings = Recordings(root, leave, depth=4)
            # The same name may be in two folders of synthetic clips: the one whose folder is named as the table's.
            near = [f for f in recordings.folders if {path.stem, path.parent.name} & set(f.relative_to(root).parts)]
            recordings.folders = [*near, *(folder for folder in recordings.folders if folder not in near)]
            for name, group in itertools.groupby(table(path, "\t", COLUMNS), key=lambda row: row["filename"]):
                rows = list(group)
                found = recordings.find(name, (name,))
                if found is None:
                    continue
                if hash(found[0]) in met:
                    leave(name, "another table has this recording")
                    continue
                met.add(hash(found[0]))
                spans = ((row["event_label"].replace("_", " "), row["onset"], row["offset"]) for row in rows)
                events = events_of(spans, found[1])
                if events:
                    yield Clip(f"desed-{path.stem}-{Path(name).stem}", *found, events)
                else:
                    leave(name, "no event with times")
