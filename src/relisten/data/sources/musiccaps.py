"""MusicCaps: captions of 10 s of music by musicians; no times."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from relisten.data.sources import About, LeftOut, Recordings, required
from relisten.data.tables import table
from relisten.types import Clip

ABOUT = About(
    "MusicCaps: 5,521 music clips of 10 s with captions and aspects by musicians, no times",
    "https://www.kaggle.com/datasets/googleai/musiccaps (musiccaps-public.csv; recordings are cut from videos)",
    "CC BY-SA 4.0",
    ("**/musiccaps-public.csv",),
)
COLUMNS = ("ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval")


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """Clips that are not in AudioSet's evaluation set, with caption and aspects as descriptions."""
    path = required(root, "musiccaps-public.csv", "**/musiccaps-public.csv")
    recordings = Recordings(root, leave)
    for row in table(path, COLUMNS):
        id, start, end = row["ytid"], row["start_s"], row["end_s"]
        if row["is_audioset_eval"].strip().lower() == "true":
            leave(id, "comes from AudioSet's evaluation set")
            continue
        found = recordings.find(id, (id, f"{id}_{start}", f"{id}_{start}_{end}", f"[{id}]-[{start}-{end}]"))
        if found is None:
            continue
        said = {"sound": row["caption"].strip(), "music": aspects(row["aspect_list"])}
        yield Clip(f"musiccaps-{id}", *found, (), {key: text for key, text in said.items() if text})


def aspects(text: str) -> str:
    """A list that is written as in Python, as one line of text."""
    try:
        listed = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text.strip()
    return ", ".join(str(aspect) for aspect in listed) if isinstance(listed, list) else text.strip()
