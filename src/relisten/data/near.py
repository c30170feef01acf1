"""Finds texts that are nearly the same, among any number of them, in constant memory.

MinHash with bands finds candidates, and the Jaccard similarity of their runs of three words decides. Both are kept in a
temporary SQLite file; the libraries for this (datasketch) keep their index in memory or on a server.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

RUN = 3
"""Words in a run."""
BANDS, ROWS = 12, 5
"""60 hashes in 12 bands of 5. Two texts share a band with probability 0.99 at a similarity of 0.8, with 0.32 at 0.5,
and with 0.004 at 0.2."""
MOST = 64
"""Most candidates that are compared in full; those that share most bands come first."""
Runs = NDArray[np.uint32]
_MULTIPLY, _ADD = np.random.default_rng(61).integers(0, 1 << 64, (2, BANDS * ROWS, 1), np.uint64) | np.uint64(1)


class Near:
    """Takes texts one after another, and says of each whether one that is nearly the same was kept before."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._file = sqlite3.connect("")  # a temporary file once it is too large for memory
        self._file.execute("CREATE TABLE texts (number INTEGER PRIMARY KEY, runs BLOB)")
        self._file.execute(
            "CREATE TABLE bands (band INTEGER, number INTEGER, PRIMARY KEY (band, number)) WITHOUT ROWID"
        )

    def again(self, words: Sequence[str]) -> bool:
        """Whether a similar text was kept before; if not, this one is kept now."""
        mine = runs(words)
        bands = signature(mine)
        marks = ",".join("?" * len(bands))
        alike = self._file.execute(
            f"SELECT runs FROM (SELECT number FROM bands WHERE band IN ({marks}) GROUP BY number"
            " ORDER BY count(*) DESC, number LIMIT ?) JOIN texts USING (number)",
            (*bands, MOST),
        )
        if any(jaccard(mine, np.frombuffer(blob, np.uint32)) >= self._threshold for (blob,) in alike):
            return True
        number = self._file.execute("INSERT INTO texts (runs) VALUES (?)", (mine.tobytes(),)).lastrowid
        self._file.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(band, number) for band in bands])
        return False


def runs(words: Sequence[str]) -> Runs:
    """Sorted hashes of all runs of RUN words, each once. A text that is shorter than a run counts as one run."""
    every = [" ".join(words[start : start + RUN]) for start in range(max(len(words) - RUN + 1, 1))]
    return np.unique(np.array([crc32(run.encode("utf-8", "replace")) for run in every], np.uint32))


def signature(mine: Runs) -> list[int]:
    """A number for each band. Two texts have equal numbers with a probability of their similarity to the power ROWS."""
    lowest = ((mine.astype(np.uint64) * _MULTIPLY + _ADD) >> np.uint64(32)).min(axis=1)  # overflows, as it should
    return [crc32(band.tobytes()) << 8 | n for n, band in enumerate(lowest.reshape(BANDS, ROWS))]


def jaccard(one: Runs, other: Runs) -> float:
    """Share of common runs among all runs of two texts, 0 to 1."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
