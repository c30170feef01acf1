"""Shards: parts of a source by a hash of each clip's id, each with a store of its own, so that machines share a build.

The whole's store is only read meanwhile. A build without a shard takes over what shards did, does what they left, and
writes the sets: the same as one machine alone would have written.
"""

from __future__ import annotations

import re
from pathlib import Path

from relisten.data.messages import digest
from relisten.data.store import Store

STORE = "build.sqlite"
Part = tuple[int, int]
"""Which, of how many."""
WHOLE: Part = (0, 1)


def read(shard: str) -> Part:
    """The part that "0/4" names; empty: the whole."""
    if not shard:
        return WHOLE
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(f"shard {shard!r}: write which, a slash, of how many, counted from 0: 0/4")
    return int(found[1]), int(found[2])


def holds(part: Part, id: str) -> bool:
    """Whether a clip belongs to a part."""
    which, num = part
    return num == 1 or int.from_bytes(digest(id)[:8], "big") % num == which


def open_store(out: Path, part: Part) -> Store:
    """A part's store, which finds what the whole's holds; the whole's takes over those of shards that were left."""
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
    """Where a shard's store lies."""
    return out / "shards" / f"{part[0]}-of-{part[1]}.sqlite"
