"""How a training run went, from its metrics.jsonl: whatever it logged, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relisten import records
from relisten.reports.tables import Table
from relisten.training.plots import named_panels

FIRST = ("reward", "accuracy", "segment", "listen")
"""What is shown first, where a name begins so; the rest follows in the order in which it was logged."""


@dataclass(frozen=True)
class Series:
    """One metric over the steps that have it."""

    name: str
    steps: list[int]
    values: list[float]


def read_metrics(folder: Path) -> list[Series]:
    """Every metric that is a number, rewards and segments first; of a step that was logged twice the later line counts.

    ValueError where there is none.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder}: no metrics.jsonl and no answers.jsonl; name the folder of a run")
    found: dict[str, dict[int, float]] = {}
    for line in records.read(path, torn=True):
        for name, value in line.items():
            if name not in ("step", "time") and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, {})[int(line["step"])] = float(value)
    if not found:
        raise ValueError(f"{path}: holds no metrics yet")
    series = [Series(name, sorted(values), [values[s] for s in sorted(values)]) for name, values in found.items()]
    return sorted(
        series, key=lambda s: next((n for n, word in enumerate(FIRST) if s.name.startswith(word)), len(FIRST))
    )


def dynamics_table(series: list[Series]) -> Table:
    """Where each metric began and where it ended: means over the first and last tenth of its steps."""
    rows = []
    for s in series:
        part = max(len(s.values) // 10, 1)
        ends = float(np.mean(s.values[:part])), float(np.mean(s.values[-part:]))
        rows.append([s.name, str(len(s.values)), *(f"{x:.4g}" for x in (*ends, min(s.values), max(s.values)))])
    return Table(["metric", "steps", "first tenth", "last tenth", "least", "greatest"], rows)


def panels(series: Sequence[Series]) -> list[tuple[str, list[Series]]]:
    """What is drawn: a title, and the metrics that belong together; what is known by name first, then one by one.

    Of the metrics alone that never change or have one value, none is drawn; nor is what only counts a run's progress.
    """
    by_name = {s.name: s for s in series if len(s.values) > 1}
    known = [(title, [by_name.pop(name) for name in names]) for title, names in named_panels(list(by_name))]
    rest = [s for s in by_name.values() if s.name != "epoch"]
    found = known + [(s.name.replace("_", " "), [s]) for s in rest]
    return [(title, together) for title, together in found if any(min(s.values) < max(s.values) for s in together)]
