"""The table of what a language model gave to a run's answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relisten.reports.table import Table
from relisten.reports.text import interval, share


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str) -> Table:
    """Score and accuracy over all answers, then by group, a group to a row. found: from `judges.summary`."""
    rows: list[list[str]] = []
    rules = []
    for group, rows_of in found.items():
        if group != "all":
            rules.append(len(rows))
            rows.append([group.replace("_", "-"), *[""] * 4])
        for name, row in rows_of.items():
            cells = [str(row["n"]), share(row["score"]), interval(row["interval"]), share(row["accuracy"])]
            rows.append([name if group == "all" else f"  {name}", *cells])
    note = "Interval: bootstrap over questions, 95 %. Accuracy: of the same answers, by the benchmark's own rule."
    return Table(["questions", "n", "score", "95 % interval", "accuracy"], rows, note, title, rules)
