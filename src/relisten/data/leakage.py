"""Keeps recordings of benchmarks out of training sets, by their YouTube ids and the SHA-256 of their files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from relisten.data.messages import digest
from relisten.data.sources import SUFFIXES
from relisten.types import Clip

_HASH = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_IN_ADDRESS = re.compile(r"(?:youtu\.be/|[?&]v=|/embed/|/shorts/)([\w-]{11})(?![\w-])")
_STARTS_NAME = re.compile(r"(?:^|[\"/\s,])([\w-]{11})(?=[._\s\",]|$)", re.MULTILINE)
_LENGTH = 11


@dataclass(frozen=True)
class Benchmarks:
    """Recordings that must not be trained on."""

    ids: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.ids or self.hashes)

    @property
    def name(self) -> str:
        """A name for exactly these recordings; empty if there are none."""
        return digest([sorted(self.ids), sorted(self.hashes)]).hex() if self else ""

    def leak(self, clip: Clip) -> str:
        """Why a clip must be left out, or an empty text. A variant of an id (…_pitch2, …_30000) counts as the id."""
        names = [clip.id, clip.audio.stem if isinstance(clip.audio, Path) else ""]
        for run in (run for name in names for run in re.findall(r"[\w-]{11,}", name)):
            for at in range(len(run) - _LENGTH + 1):
                if (part := run[at : at + _LENGTH]) in self.ids:
                    return f"its recording {part} is in a benchmark"
        if self.hashes and isinstance(clip.audio, Path) and file_hash(clip.audio) in self.hashes:
            return "its file is in a benchmark"
        return ""


NONE = Benchmarks()


def read_benchmarks(paths: Iterable[Path]) -> Benchmarks:
    """The recordings that lists and folders of benchmarks name.

    A text file (MMAR-meta.jsonl, a plain list) gives every YouTube id in an address or at the start of a name, and
    every SHA-256. A folder gives the hashes and ids of its recordings. Raises ValueError if nothing is found.
    """
    ids: set[str] = set()
    hashes: set[str] = set()
    for path in paths:
        found_ids, found_hashes = _known(path)
        if not found_ids and not found_hashes:  # MMAU's list, for example, has only names of its own
            raise ValueError(f"{path}: holds no YouTube id, SHA-256 or recording; name the folder of its recordings")
        ids |= found_ids
        hashes |= found_hashes
    return Benchmarks(frozenset(ids), frozenset(hashes))


def _known(path: Path) -> tuple[set[str], set[str]]:
    """The ids and the hashes in a list or a folder."""
    if path.is_dir():
        files = list(recordings(path))
        return {id for file in files for id in _ids(file.name)}, {file_hash(file) for file in files} - {""}
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder; name a benchmark's list, or the folder of its audio")
    text = path.read_text(encoding="utf-8", errors="replace")
    return _ids(text), set(_HASH.findall(text.lower()))


def _ids(text: str) -> set[str]:
    """YouTube ids. They nearly always have a digit or a capital, so "high-energy" is none."""
    found = set(_IN_ADDRESS.findall(text)) | set(_STARTS_NAME.findall(text))
    found |= set(re.findall(r"[\"/]([\w-]{11})_\d\d-\d\d-\d\d", text))
    return {id for id in found if re.search(r"[0-9A-Z]", id[1:])}


def recordings(folder: Path) -> Iterator[Path]:
    """Files that look like recordings, under a folder."""
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)


def file_hash(path: Path) -> str:
    """SHA-256, or an empty text if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
