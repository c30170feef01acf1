"""`relisten compare`: two runs on the same questions."""

from __future__ import annotations

import json
from pathlib import Path

from relisten import records
from relisten.analysis import read_runs
from relisten.commands.terminal import console
from relisten.comparison import compare as compare_runs
from relisten.comparison import to_json
from relisten.report import comparison_tables, terminal_table


def compare(a: Path, b: Path, /, *, out: Path | None = None) -> int:
    """Say how accuracy changes from one run to another on the same questions, by group, and how sure that is.

    Parameters
    ----------
    a
        Output folder of `relisten eval`: the one to start from.
    b
        Another, on the same questions.
    out
        Folder for comparison.json and a chart (SVG) of each grouping.
    """
    first, second = read_runs([a, b])
    found = compare_runs(first, second)
    tables = comparison_tables(found)
    for name, table in tables.items():
        console().print(terminal_table(table, "" if name == "all" else f"by {name.replace('_', '-')}"))
    if found.only_a or found.only_b:
        console().print(f"left out: {found.only_a} questions that only A has, {found.only_b} that only B has")
    if out is not None:
        from relisten import charts

        records.write_atomic(out / "comparison.json", json.dumps(to_json(found), indent=2) + "\n")
        for dimension, changes in found.by.items():
            figure = charts.changes_figure(changes, found.a, found.b)
            charts.save(figure, out / f"changes-{dimension.replace('_', '-')}.svg")
        console().print(f"written to {out}", soft_wrap=True)
    return 0
