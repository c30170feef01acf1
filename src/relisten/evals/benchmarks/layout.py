"""What the files of the benchmarks share: where a benchmark comes from, and its question file in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relisten import records
from relisten.types import Example


@dataclass(frozen=True)
class About:
    """What `relisten eval --list` says of a benchmark."""

    title: str
    """Its name as in its paper."""
    num: str
    """How many questions its authors count, such as "about 19,000"."""
    metric: str
    """By what answers are counted as right: words, choice, rules in code, or a judge."""
    licence: str
    """Licence of the questions and recordings, as their page declares it."""
    where: str
    """Address from which to download it."""
    layout: str
    """What the folder of --data must hold."""


def first_of(root: Path, names: tuple[str, ...], about: About) -> Path:
    """The first of these files that a folder holds. Raises ValueError, which says where to get it, if it holds none."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise ValueError(
        f"{root}: holds no {' or '.join(names)}; get it from {about.where}, so that the folder holds {about.layout}"
    )


def examples_in(
    path: Path, in_mmars_form: Callable[[Mapping[str, Any]], Mapping[str, Any]], home: Path | None = None
) -> list[Example]:
    """The questions of a file whose entries have names of their own. home: the folder that audio_path is relative to,
    if it is not the file's. Raises ValueError with the place of an entry that cannot be read."""
    return records.examples_from(((place, in_mmars_form(row)) for place, row in records.entries(path)), path, home)
