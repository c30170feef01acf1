"""`relisten report`: runs and anybody's predictions on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from relisten.commands.options import command_line
from relisten.evals.analysis import read_attention
from relisten.evals.predictions import read_runs
from relisten.evals.runs import Run
from relisten.reports.table import terminal_table
from relisten.reports.tables import PAPER, PaperRow, result, short_table
from relisten.reports.text import console


def report(
    *runs: Path,
    out: Path = Path("report.html"),
    title: str = "Evaluation",
    examples: int = 2,
    questions: Path | None = None,
    key: str | None = None,
    paper: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)] = (),
) -> int:
    """Put runs on one self-contained page: tables, charts, examples to listen to, settings and versions.

    The same report without the examples is written as Markdown beside the page, with its charts in a folder.

    Parameters
    ----------
    runs
        Output folders of `relisten eval`, or files of anybody's predictions (.jsonl or .json). The shards of one run
        become one run. All others are compared with the first.
    out
        The page (.html).
    title
        The heading of the page.
    examples
        How many right, wrong and unparsed answers of each run are shown, so many of each.
    questions
        The file of questions, for files of predictions that hold ids alone, and to play their recordings.
    key
        The name under which files hold their predictions, if `relisten score` does not know it.
    paper
        Rows of the paper's ablation that runs repeat: --paper own=D grounded=B'. A base model, B and C cold start
        grounded and interleaved, B' and D after RL, D' and E' with AVQA, E RL without cold start.
    """
    if not runs:
        raise ValueError("name one or more folders of `relisten eval`, or files of predictions")
    if out.suffix.lower() != ".html":
        raise ValueError(f"--out {out}: name a file that ends in .html")
    if examples < 0:
        raise ValueError(f"--examples {examples}: must not be negative")
    from relisten.reports import page, runs_page

    found = read_runs(runs, questions, key)
    papers = _papers(paper, found)
    curves = [curve for run in found if (curve := read_attention(run)) is not None]
    written = page.write(runs_page.build(found, title, command_line(), papers, curves, examples), out)
    console().print(terminal_table(short_table([result(run) for run in found]), title))
    for line in [*(note for run in found for note in run.notes), *map(str, written[:2])]:
        console().print(line, soft_wrap=True)
    return 0


def _papers(given: Sequence[str], runs: Sequence[Run]) -> dict[str, PaperRow]:
    """The rows that --paper gives, as RUN=ROW."""
    found = {}
    for pair in given:
        name, _, key = pair.rpartition("=")
        if key not in PAPER or name not in {run.name for run in runs}:
            rows, names = ", ".join(PAPER), ", ".join(run.name for run in runs)
            raise ValueError(f"--paper {pair}: write RUN=ROW, a run of {names} and a row of {rows}")
        found[name] = PAPER[key]
    return found
