"""MMSU: 5,000 questions about spoken language, in 47 tasks (arXiv 2506.04779; github.com/dingdongwang/MMSU).

The layout is that of the data set at revision 2568d7b. Its script reads a letter from an answer and compares the choice
of that letter with the right one; so do we, after reading the choice in our own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relisten.evals.benchmarks.layout import About, examples_in, first_of
from relisten.types import Example

FILES = ("question/mmsu.jsonl", "mmsu.jsonl")
ABOUT = About(
    "MMSU", "5,000", "choice", "MIT",
    "huggingface.co/datasets/ddwang2000/MMSU (revision 2568d7b)",
    "question/mmsu.jsonl and audio/",
)  # fmt: skip
LETTERS = "ABCD"


def file(root: Path) -> Path:
    """The question file."""
    return first_of(root, FILES, ABOUT)


def examples(root: Path) -> list[Example]:
    """The questions in a folder, or in its folder question/."""
    path = file(root)
    home = path.parent.parent if path.parent.name == "question" else path.parent
    return examples_in(path, in_mmars_form, home)


def in_mmars_form(row: Mapping[str, Any]) -> dict[str, Any]:
    """The choices as a list, and the recording's path, which begins with a slash, relative to the folder."""
    path = str(row.get("audio_path") or "").lstrip("./")
    return dict(row) | {"audio_path": path, "choices": lettered(row), "answer": row.get("answer_gt"), "rule": "choice"}


def lettered(row: Mapping[str, Any]) -> list[str]:
    """The choices of a row that has them under choice_a to choice_d. Some questions have two or three."""
    given = (row.get(f"choice_{letter.lower()}") for letter in LETTERS)
    return [str(choice) for choice in given if choice not in (None, "")]


def as_letter(row: Mapping[str, Any], said: str) -> str:
    """The letter of the choice that was given, which is what the script reads; "" where none was given."""
    return next((x for x in LETTERS if said and str(row.get(f"choice_{x.lower()}")) == said), "")
