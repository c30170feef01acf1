"""ADQA, the development set: 1,607 questions that text alone does not answer (DCASE 2026, task 5; arXiv 2607.18718).

A part of its questions comes from MMAU, MMAR and MMSU, so these four are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relisten.evals.benchmarks.layout import About, examples_in, first_of
from relisten.types import Example

FILE = "dev.jsonl"
ABOUT = About(
    "ADQA development set", "1,607", "choice", "Apache-2.0",
    "huggingface.co/datasets/Harland/DCASE2026-Task5-DevSet",
    "dev.jsonl and dev_audios/",
)  # fmt: skip


def file(root: Path) -> Path:
    """The question file."""
    return first_of(root, (FILE,), ABOUT)


def examples(root: Path) -> list[Example]:
    """The questions in a folder."""
    return examples_in(file(root), in_mmars_form)


def in_mmars_form(row: Mapping[str, Any]) -> dict[str, Any]:
    """Question and choices under MMAR's names for them."""
    found = {key: value for key, value in row.items() if key not in ("question_text", "multi_choice")}
    return found | {"question": row.get("question_text"), "choices": row.get("multi_choice"), "rule": "choice"}
