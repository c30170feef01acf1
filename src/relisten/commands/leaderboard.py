"""`relisten leaderboard`: a Markdown table for a paper, with a row for each run."""

from __future__ import annotations

from pathlib import Path

from relisten.evals.figures import Failed
from relisten.evals.predictions import read_runs
from relisten.reports.leaderboard import leaderboard as table_of
from relisten.reports.table import markdown_table
from relisten.reports.text import console


def leaderboard(*runs: Path, questions: Path | None = None, key: str | None = None, failed: Failed = "wrong") -> int:
    """Print a Markdown table with a row for each run: accuracy with its interval, and the columns of the paper.

    The columns are those by which the benchmark's own paper gives accuracy (modalities for MMAR, tasks for AIR-Bench),
    and the mean of them. If `relisten judge` has scored a run, its score is the last column.

    Parameters
    ----------
    runs
        Output folders of `relisten eval`, or files of anybody's predictions (.jsonl or .json), all on one benchmark.
        The shards of one run become one row.
    questions
        The file of questions, for files of predictions that hold ids alone.
    key
        The name under which files hold their predictions, if `relisten score` does not know it.
    failed
        How a question without an answer counts. wrong: as wrong. first-choice: as choices[0], as in the paper's
        release, which gives points for nothing.
    """
    if not runs:
        raise ValueError("name one or more folders of `relisten eval`, or files of predictions")
    found = read_runs(runs, questions, key)
    console().out(markdown_table(table_of(found, failed)), end="", highlight=False)
    for note in (note for run in found for note in run.notes):
        console(stderr=True).print(note, soft_wrap=True)
    return 0
