"""MMAU-Pro: 5,305 questions (arXiv 2508.13992; github.com/sonalkum/MMAUPro; data set gamma-lab-umd/MMAU-Pro).

What is asked here are the multiple-choice questions about one recording: code alone can say whether those are right,
and a prompt of ours holds one recording. What is left out is counted, by its reason. Their own script takes the choice
that is nearest to the prediction in an embedding (NV-Embed-v2), so it has no unread answers, and has a language model
judge the open ones: its figures and ours are not the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from relisten import records
from relisten.evals.benchmarks.mmar import first_of
from relisten.types import Example

FILE = "test.parquet"
SOURCE = "the data set gamma-lab-umd/MMAU-Pro, and unpack its data.zip beside it"
JUDGED = {
    "open": "open-ended (judged by a language model)",
    "instruction following": "on following instructions (rules of their own)",
}
"""Categories that are not scored by choices."""
_Placed = Iterator[tuple[str, dict[str, Any]]]


def file(root: Path) -> Path:
    """The question file."""
    return first_of(root, (FILE,), SOURCE)


def examples(root: Path) -> list[Example]:
    """The questions in a folder that can be asked and scored; `left_out` counts the others."""
    path = file(root)
    return records.examples_from(_asked(path), path)


def left_out(root: Path) -> dict[str, int]:
    """How many questions are not asked, by reason, the most frequent first."""
    found = Counter(reason for _, row in records.entries(file(root)) if (reason := why_not(row)))
    return dict(found.most_common())


def why_not(row: Mapping[str, Any]) -> str | None:
    """Why a question is not asked; None where it is."""
    if reason := JUDGED.get(str(row.get("category", "")).strip().lower()):
        return reason
    if len(_recordings(row)) != 1:
        return "about several recordings" if _recordings(row) else "without a recording"
    choices = row.get("choices") or []
    if len(choices) < 2:
        return "without choices"
    return None if _right(row) is not None else "whose answer is none of the choices"


def in_mmars_form(row: Mapping[str, Any]) -> dict[str, Any]:
    """One recording as a text, and the answer as the choice that it is."""
    return dict(row) | {"audio_path": _recordings(row)[0], "choices": list(row["choices"]), "answer": _right(row)}


def _asked(path: Path) -> _Placed:
    for place, row in records.entries(path):
        if why_not(row) is None:
            yield place, in_mmars_form(row)


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
