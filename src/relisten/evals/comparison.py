"""Compare two runs on the same questions: how accuracy changes by group, sorted, with intervals and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from relisten.evals.analysis import DIMENSIONS
from relisten.evals.figures import Failed, by_question
from relisten.evals.paired import Paired, paired
from relisten.evals.runs import Run


@dataclass(frozen=True)
class Change:
    """The change from run A to run B over one group of questions. Its p is not adjusted for the number of groups."""

    name: str
    paired: Paired


@dataclass(frozen=True)
class Comparison:
    """The change over all questions, and for each group of each dimension that the questions have."""

    a: str
    b: str
    total: Change
    by: dict[str, list[Change]]
    """Dimension (kind, category ...) -> changes, the greatest gain first."""
    only_a: int
    """Questions that B's run does not have."""
    only_b: int


def compare(a: Run, b: Run, seed: int = 0, failed: Failed = "wrong") -> Comparison:
    """Pair two runs by question. ValueError where they share no question, a question differs, or no answer is known."""
    first, second = ({str(r["id"]): r for r in run.records} for run in (a, b))
    shared = [key for key in first if key in second]
    if not shared:
        raise ValueError(f"{a.folder} and {b.folder} share no question; compare runs of one file of questions")
    for key in shared:
        if any(first[key].get(name) != second[key].get(name) for name in ("question", "answer")):
            raise ValueError(
                f"question {key!r} of {a.folder} is another one in {b.folder}; compare runs of one file of questions"
            )
    if all(first[key].get("answer") is None or first[key].get("rule") == "judge" for key in shared):
        raise ValueError(
            f"{a.folder} and {b.folder}: have no accuracy to compare; the right answers are withheld, or a model judges"
        )
    shares = by_question(a.records, failed), by_question(b.records, failed)

    def change(name: str, keys: Sequence[str]) -> Change:
        return Change(name, paired([shares[0][k] for k in keys], [shares[1][k] for k in keys], seed))

    by = {}
    for dimension in DIMENSIONS:
        groups: dict[str, list[str]] = {}
        for key in shared:
            if group := str(first[key].get(dimension) or ""):
                groups.setdefault(group, []).append(key)
        if len(groups) > 1:
            changes = [change(group, keys) for group, keys in sorted(groups.items())]
            by[dimension] = sorted(changes, key=lambda row: -row.paired.difference)
    only_a, only_b = len(first) - len(shared), len(second) - len(shared)
    return Comparison(a.name, b.name, change("all", shared), by, only_a, only_b)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """For a file."""
    return asdict(comparison)
