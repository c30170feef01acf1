"""Shards: parts of a source, by a hash of each clip's id, so that several machines can share a build.

Each shard has a store of its own, and only reads the store of the whole build. A build without a shard copies the
shards' stores into its own, does what they left undone, and writes the same sets that one machine would have written.
"""

from __future__ import annotations

import re
from pathlib import Path

from relisten.data.messages import digest
from relisten.data.store import Store

STORE = "build.sqlite"
Part = tuple[int, int]
"""Number of a part, counted from 0, and how many parts there are."""
WHOLE: Part = (0, 1)


def read(shard: str) -> Part:
    """The part that a text such as "0/4" names; WHOLE for an empty one. Raises ValueError on any other text."""
    if not shard:
        return WHOLE
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(
            f"shard {shard!r}: write a number counted from 0, a slash, and how many there are, such as 0/4"
        )
    return int(found[1]), int(found[2])


def holds(part: Part, id: str) -> bool:
    """Whether a clip belongs to a part."""
    which, num = part
    return num == 1 or int.from_bytes(digest(id)[:8], "big") % num == which


def open_store(out: Path, part: Part) -> Store:
    """The store of a part, which also finds what the whole's holds. The whole's first adopts the stores of shards."""
    if part != WHOLE:
        return Store(place(out, part), earlier=out / STORE)
    store = Store(out / STORE)
    try:
        for path in sorted((out / "shards").glob("*.sqlite")):
            store.adopt(path)
    except BaseException:
        store.close()
        raise
    return store


def place(out: Path, part: Part) -> Path:
    """Path of a shard's store."""
    return out / "shards" / f"{part[0]}-of-{part[1]}.sqlite"
