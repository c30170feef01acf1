"""`relisten report`: runs on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from relisten.commands.options import command_line
from relisten.evals.analysis import Run, read_attention, read_runs
from relisten.reports.tables import PAPER, PaperRow, row, short_table, terminal_table
from relisten.reports.text import console


def report(
    *runs: Path,
    out: Path = Path("report.html"),
    title: str = "Evaluation",
    examples: int = 2,
    paper: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)] = (),
) -> int:
    """Put runs on one self-contained page: tables, charts, examples to listen to, settings and versions.

    The same without the examples is written as Markdown beside it, its charts in a folder.

    Parameters
    ----------
    runs
        Output folders of `relisten eval`; the others are compared with the first.
    out
        The page (.html).
    title
        Its heading.
    examples
        Right, wrong and unparsed answers shown, so many of each for every run.
    paper
        Rows of the paper's ablation that runs repeat: --paper own=D grounded=B'. A base model, B and C cold start
        grounded and interleaved, B' and D after RL, D' and E' with AVQA, E RL without cold start.
    """
    if not runs:
        raise ValueError("name one or more folders of runs, as `relisten eval` writes them")
    if out.suffix.lower() != ".html":
        raise ValueError(f"--out {out}: name a file that ends in .html")
    if examples < 0:
        raise ValueError(f"--examples {examples}: must not be negative")
    from relisten.reports import page as report_page

    found = read_runs(runs)
    papers = _papers(paper, found)
    curves = [curve for run in found if (curve := read_attention(run)) is not None]
    written = report_page.write(report_page.build(found, title, command_line(), papers, curves), out, examples)
    console().print(terminal_table(short_table([row(run) for run in found]), title))
    for note in filter(None, (run.unfinished for run in found)):
        console().print(note, soft_wrap=True)
    for path in written[:2]:
        console().print(str(path), soft_wrap=True)
    return 0


def _papers(given: Sequence[str], runs: Sequence[Run]) -> dict[str, PaperRow]:
    """What --paper says: RUN=ROW."""
    found = {}
    for pair in given:
        name, _, key = pair.rpartition("=")
        if key not in PAPER or name not in {run.name for run in runs}:
            rows, names = ", ".join(PAPER), ", ".join(run.name for run in runs)
            raise ValueError(f"--paper {pair}: write RUN=ROW, a run of {names} and a row of {rows}")
        found[name] = PAPER[key]
    return found
