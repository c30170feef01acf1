"""MMAU-Pro: 5,305 questions (arXiv 2508.13992; github.com/sonalkum/MMAUPro; data set gamma-lab-umd/MMAU-Pro).

Its three parts are scored in three ways, so each is a benchmark here: choices, open answers (a language model judges
them) and instructions (code checks them). All are about one recording, because a prompt of ours holds one. What is left
out is counted, by its reason. For choices, their own script takes the one that is nearest to the prediction in an
embedding (NV-Embed-v2), so it has no unread answers: its figures and ours are not the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from relisten import records
from relisten.evals.benchmarks.layout import About, first_of
from relisten.evals.instructions import check_sentences
from relisten.types import Example

FILE = "test.parquet"
ABOUT = About(
    "MMAU-Pro, choices", "most of 5,305", "words", "CC BY-NC 4.0",
    "huggingface.co/datasets/gamma-lab-umd/MMAU-Pro",
    "test.parquet and data/ from data.zip",
)  # fmt: skip
OPEN = replace(ABOUT, title="MMAU-Pro, open answers", num="a part of 5,305", metric="a judge: `relisten judge`")
INSTRUCTIONS = replace(ABOUT, title="MMAU-Pro, instructions", num="a part of 5,305", metric="rules in code")
Part = Literal["choices", "open answers", "instructions"]
CATEGORIES: dict[str, Part] = {"open": "open answers", "instruction following": "instructions"}
"""Categories that are not scored by choices."""
_OF_PART: dict[Part, str] = {
    "choices": "with choices",
    "open answers": "open-ended (mmau-pro-open asks these)",
    "instructions": "on following instructions (mmau-pro-instructions asks these)",
}
_Placed = Iterator[tuple[str, dict[str, Any]]]


def file(root: Path) -> Path:
    """The question file."""
    return first_of(root, (FILE,), ABOUT)


def examples(root: Path, part: Part = "choices") -> list[Example]:
    """The questions of a part that can be asked and scored; `left_out` counts the others."""
    path = file(root)
    return records.examples_from(_asked(path, part), path)


open_examples = partial(examples, part="open answers")


def instruction_examples(root: Path) -> list[Example]:
    """The instructions. Raises ValueError if some ask for a number of sentences, which cannot be counted here."""
    found = examples(root, "instructions")
    if any("Sentences" in str(example.labels.get("task_identifier")) for example in found):
        check_sentences()
    return found


def left_out(root: Path, part: Part = "choices") -> dict[str, int]:
    """How many questions are not asked, by reason, the most frequent first."""
    found = Counter(reason for _, row in records.entries(file(root)) if (reason := why_not(row, part)))
    return dict(found.most_common())


def why_not(row: Mapping[str, Any], part: Part = "choices") -> str | None:
    """Why a part does not ask a question; None where it does."""
    its = CATEGORIES.get(str(row.get("category", "")).strip().lower(), "choices")
    if its != part:
        return _OF_PART[its]
    if len(_recordings(row)) != 1:
        return "about several recordings" if _recordings(row) else "without a recording"
    if part == "open answers":
        return None if row.get("answer") else "without a reference answer"
    if part == "instructions":
        return None if row.get("task_identifier") else "without the name of an instruction"
    if len(row.get("choices") or []) < 2:
        return "without choices"
    return None if _right(row) is not None else "whose answer is none of the choices"


def in_mmars_form(row: Mapping[str, Any], part: Part = "choices") -> dict[str, Any]:
    """One recording as a text, and the answer as the choice, or as what an instruction asks for."""
    found = dict(row) | {"audio_path": _recordings(row)[0], "choices": []}
    if part == "choices":
        return found | {"choices": list(row["choices"]), "answer": _right(row)}
    if part == "open answers":
        return found | {"rule": "judge"}
    return found | {"answer": str(row["task_identifier"]), "rule": "instruction", "kwargs": _arguments(row)}


def _arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """What an instruction asks for; Parquet holds it as a struct, or as JSON."""
    given = row.get("kwargs") or {}
    found = json.loads(given) if isinstance(given, str) else given
    return {name: value for name, value in found.items() if value is not None}


def _asked(path: Path, part: Part) -> _Placed:
    for place, row in records.entries(path):
        if why_not(row, part) is None:
            try:
                yield place, in_mmars_form(row, part)
            except (ValueError, AttributeError):
                raise ValueError(f"{place}: 'kwargs' must hold names and values; correct or remove it") from None


def _recordings(row: Mapping[str, Any]) -> list[str]:
    given = row.get("audio_path") or []
    return [given] if isinstance(given, str) else [str(path) for path in given if path]


def _right(row: Mapping[str, Any]) -> str | None:
    """The choice that equals the answer apart from case and blanks; None where there is none."""
    plain = {_plain(choice): choice for choice in reversed(row["choices"])}
    answer = row.get("answer")
    return None if answer is None else plain.get(_plain(str(answer)))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
