"""`relisten leaderboard`: a Markdown table for a paper, with a row for each run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from relisten.commands.options import PREDICTIONS, PredictionOptions
from relisten.evals.predictions import read_runs
from relisten.reports.leaderboard import leaderboard as table_of
from relisten.reports.table import markdown_table
from relisten.reports.text import console


def leaderboard(*runs: Path, given: Annotated[PredictionOptions, PREDICTIONS] = PredictionOptions()) -> int:
    """Print a Markdown table with a row for each run: accuracy with its interval, and the columns of the paper.

    The columns are those by which the benchmark's own paper gives accuracy (modalities for MMAR, tasks for AIR-Bench),
    and the mean of them. If `relisten judge` has scored a run, its score is the last column.

    Parameters
    ----------
    runs
        Output folders of `relisten eval`, or files of anybody's predictions (.jsonl or .json), all on one benchmark.
        The shards of one run become one row.
    """
    if not runs:
        raise ValueError("name one or more folders of `relisten eval`, or files of predictions")
    found = read_runs(runs, given.questions, given.key)
    console().out(markdown_table(table_of(found, given.failed)), end="", highlight=False)
    for note in (note for run in found for note in run.notes):
        console(stderr=True).print(note, soft_wrap=True)
    return 0
