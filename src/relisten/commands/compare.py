"""`relisten compare`: two runs, or two files of predictions, on the same questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from relisten import records
from relisten.commands.options import PREDICTIONS, PredictionOptions
from relisten.evals.comparison import compare as compare_runs
from relisten.evals.comparison import to_json
from relisten.evals.predictions import read_runs
from relisten.reports.table import terminal_table
from relisten.reports.tables import comparison_tables
from relisten.reports.text import console


def compare(
    *runs: Path,
    given: Annotated[PredictionOptions, PREDICTIONS] = PredictionOptions(),
    out: Path | None = None,
) -> int:
    """Say how accuracy changes from one run to another on the same questions, by group, and how sure that is.

    Parameters
    ----------
    runs
        The run to start from, then the other: output folders of `relisten eval`, or files of anybody's predictions
        (.jsonl or .json). The shards of one run count as one.
    out
        Folder for comparison.json and a chart (SVG) of each grouping.
    """
    found = read_runs(runs, given.questions, given.key)
    if len(found) != 2:
        raise ValueError(f"two runs are compared, and {len(found)} were named; name the first run, then the other")
    change = compare_runs(found[0], found[1], failed=given.failed)
    for name, table in comparison_tables(change).items():
        console().print(terminal_table(table, "" if name == "all" else f"by {name.replace('_', '-')}"))
    notes = [note for run in found for note in run.notes]
    if change.only_a or change.only_b:
        notes.append(f"left out: {change.only_a} questions that only A has, {change.only_b} that only B has")
    if out is not None:
        from relisten import plotting
        from relisten.reports import charts

        records.write_atomic(out / "comparison.json", json.dumps(to_json(change), indent=2) + "\n")
        for dimension, changes in change.by.items():
            figure = charts.changes_figure(changes, change.a, change.b)
            plotting.save(figure, out / f"changes-{dimension.replace('_', '-')}.svg")
        notes.append(f"written to {out}")
    for note in notes:
        console().print(note, soft_wrap=True)
    return 0
