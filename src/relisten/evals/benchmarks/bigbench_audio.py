"""Big Bench Audio: 1,000 spoken questions of Big Bench Hard, 250 in each of four categories (by Artificial Analysis).

The recording holds the question and what may be answered, so the prompt only asks to answer it. Where the answer is one
of two words, these are the choices; the count of objects is open. The published accuracy is the verdict of a language
model: `relisten judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relisten.evals.benchmarks.layout import About, examples_in, first_of
from relisten.types import Example

FILE = "metadata.jsonl"
ABOUT = About(
    "Big Bench Audio", "1,000", "choice, or number; also by `relisten judge`", "MIT",
    "huggingface.co/datasets/ArtificialAnalysis/big_bench_audio",
    "metadata.jsonl and data/",
)  # fmt: skip
CHOICES = {
    "formal_fallacies": ["valid", "invalid"],
    "navigate": ["Yes", "No"],
    "web_of_lies": ["Yes", "No"],
    "object_counting": [],
}
QUESTION = "Answer the question that is asked in the recording."


def file(root: Path) -> Path:
    """The question file."""
    return first_of(root, (FILE,), ABOUT)


def examples(root: Path) -> list[Example]:
    """The questions in a folder."""
    return examples_in(file(root), in_mmars_form)


def in_mmars_form(row: Mapping[str, Any]) -> dict[str, Any]:
    """The question that every recording is asked, with the choices of its category. Raises ValueError on another."""
    category, answer = row.get("category"), str(row.get("official_answer", ""))
    if category not in CHOICES:
        raise ValueError(f"{FILE}: no category {str(category)[:40]!r}; Big Bench Audio has {', '.join(CHOICES)}")
    choices = CHOICES[category]
    given = next((choice for choice in choices if choice.lower() == answer.lower()), answer)
    return dict(row) | {
        "audio_path": row.get("file_name"), "question": QUESTION, "choices": choices, "answer": given, "rule": "choice"
    }  # fmt: skip
