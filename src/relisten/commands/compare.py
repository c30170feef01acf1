"""`relisten compare`: two runs, or two files of predictions, on the same questions."""

from __future__ import annotations

import json
from pathlib import Path

from relisten import records
from relisten.evals.analysis import Run, read_run, told_apart
from relisten.evals.comparison import compare as compare_runs
from relisten.evals.comparison import to_json
from relisten.evals.figures import Failed
from relisten.evals.predictions import read_predictions
from relisten.reports.tables import comparison_tables, terminal_table
from relisten.reports.text import console


def compare(
    a: Path,
    b: Path,
    /,
    *,
    questions: Path | None = None,
    key: str | None = None,
    failed: Failed = "wrong",
    out: Path | None = None,
) -> int:
    """Say how accuracy changes from one run to another on the same questions, by group, and how sure that is.

    Parameters
    ----------
    a
        Output folder of `relisten eval`, or a .jsonl or .json of anybody's predictions: the one to start from.
    b
        Another, on the same questions.
    questions
        The benchmark's file, where predictions hold ids alone.
    key
        What predictions are called in the files, if something else than `relisten score` knows.
    failed
        What counts where there is no answer. wrong: wrong. first-choice: choices[0], as in the paper's release.
    out
        Folder for comparison.json and a chart (SVG) of each grouping.
    """
    first, second = told_apart([_run(path, questions, key) for path in (a, b)])
    found = compare_runs(first, second, failed=failed)
    tables = comparison_tables(found)
    for name, table in tables.items():
        console().print(terminal_table(table, "" if name == "all" else f"by {name.replace('_', '-')}"))
    for note in filter(None, (first.unfinished, second.unfinished)):
        console().print(note, soft_wrap=True)
    if found.only_a or found.only_b:
        console().print(f"left out: {found.only_a} questions that only A has, {found.only_b} that only B has")
    if out is not None:
        from relisten.reports import charts

        records.write_atomic(out / "comparison.json", json.dumps(to_json(found), indent=2) + "\n")
        for dimension, changes in found.by.items():
            figure = charts.changes_figure(changes, found.a, found.b)
            charts.save(figure, out / f"changes-{dimension.replace('_', '-')}.svg")
        console().print(f"written to {out}", soft_wrap=True)
    return 0


def _run(path: Path, questions: Path | None, key: str | None) -> Run:
    if path.is_dir():
        return read_run(path)
    given = read_predictions([path], questions, key)
    for note in given.notes:
        console().print(f"{path.name}: {note}", soft_wrap=True)
    return Run(path.name, path, given.records)
