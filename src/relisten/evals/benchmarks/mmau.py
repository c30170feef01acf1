"""MMAU: test-mini, with answers, and test, without (arXiv 2410.19168; github.com/Sakshi113/MMAU).

"v05.15.25" is the name of several files: only a file's hash says which one was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relisten.evals.benchmarks.layout import About, examples_in, first_of
from relisten.types import Example

MINI = About(
    "MMAU test-mini", "1,000", "words", "CC BY-NC 4.0",
    "github.com/Sakshi113/MMAU, and the recordings from huggingface.co/datasets/gamma-lab-umd/MMAU-test-mini",
    "mmau-test-mini.json and test-mini-audios/",
)  # fmt: skip
TEST = About(
    "MMAU test", "9,000", "nothing here: the answers are withheld", "MIT",
    "github.com/Sakshi113/MMAU, and the recordings from huggingface.co/datasets/gamma-lab-umd/MMAU-test",
    "mmau-test.json and test-audios/",
)  # fmt: skip


def mini_examples(root: Path) -> list[Example]:
    """The 1,000 questions of test-mini."""
    return _examples(mini_file(root))


def mini_file(root: Path) -> Path:
    """The question file of test-mini."""
    return first_of(root, ("mmau-test-mini.json",), MINI)


def examples(root: Path) -> list[Example]:
    """The 9,000 questions of test, whose answers are withheld."""
    return _examples(file(root))


def file(root: Path) -> Path:
    """The question file of test."""
    return first_of(root, ("mmau-test.json",), TEST)


def _examples(path: Path) -> list[Example]:
    return examples_in(path, in_mmars_form)


def in_mmars_form(row: Mapping[str, Any]) -> dict[str, Any]:
    """The recording under MMAR's name for it, and an empty answer left out."""
    found = {key: value for key, value in row.items() if key not in ("audio_id", "answer")}
    if "audio_id" in row:
        found["audio_path"] = row["audio_id"]
    if row.get("answer"):
        found["answer"] = row["answer"]
    return found
