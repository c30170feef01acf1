"""MMAR: 1,000 questions about speech, music, sound and mixes (arXiv 2505.13032; github.com/ddlBoJack/MMAR)."""

from __future__ import annotations

from pathlib import Path

from relisten import records
from relisten.types import Example

FILES = ("MMAR-meta.jsonl", "MMAR-meta.json")
"""The name since February 2026, and the one before. The first that exists is taken."""


def examples(root: Path) -> list[Example]:
    """The questions in a folder, which also holds audio/. The reference reasoning in the file is left out."""
    return records.read_examples(file(root), root)


def file(root: Path) -> Path:
    """The question file."""
    return first_of(root, FILES, "github.com/ddlBoJack/MMAR, and audio/ beside it from its data set BoJack/MMAR")


def first_of(root: Path, names: tuple[str, ...], source: str) -> Path:
    """The first of these files that a folder holds; ValueError, with where it comes from, where it holds none."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise ValueError(f"{root}: holds no {' or '.join(names)}; get it from {source}")
