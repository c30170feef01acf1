"""A folder of plain recordings of which nothing is known: `ears` gives them events and descriptions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from relisten.data.sources import SUFFIXES, About, LeftOut, Recordings
from relisten.types import Clip

ABOUT = About(
    "a folder of plain recordings, nothing known of them (describe them with ears)",
    "yours",
    "yours",
    tuple(f"**/*{suffix}" for suffix in SUFFIXES),
)


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """Every recording under the root, in order of names; ids are paths without their ending."""
    if not root.is_dir():
        raise ValueError(f"{root}: is not a folder; name a folder of recordings")
    recordings = Recordings(root, leave, depth=0)
    taken: set[int] = set()
    for path in walk(root):
        id = path.relative_to(root).with_suffix("").as_posix()
        if hash(id) in taken:  # bark.wav and bark.mp3
            id = path.relative_to(root).as_posix()
        taken.add(hash(id))
        if (found := recordings.opened(id, path)) is not None:
            yield Clip(id, *found)


def walk(root: Path) -> Iterator[Path]:
    """Recordings, folder by folder; hidden ones are passed over."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(folder) / name
