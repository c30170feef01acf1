"""MMAR: 1,000 questions about speech, music, sound and mixes (arXiv 2505.13032; github.com/ddlBoJack/MMAR)."""

from __future__ import annotations

from pathlib import Path

from relisten import records
from relisten.evals.benchmarks.layout import About, first_of
from relisten.types import Example

FILES = ("MMAR-meta.jsonl", "MMAR-meta.json")
"""The name since February 2026, and the one before. The first that exists is taken."""
ABOUT = About(
    "MMAR", "1,000", "words; MMAR-Rubrics by `relisten judge`", "CC BY-NC 4.0",
    "github.com/ddlBoJack/MMAR, and the recordings from huggingface.co/datasets/BoJack/MMAR",
    "MMAR-meta.jsonl and audio/",
)  # fmt: skip


def examples(root: Path) -> list[Example]:
    """The questions in a folder, which also holds audio/. The reference reasoning in the file is left out."""
    return records.read_examples(file(root), root)


def file(root: Path) -> Path:
    """The question file."""
    return first_of(root, FILES, ABOUT)
