"""`relisten score`: count anybody's predictions, by the benchmarks' rule and by the choices that can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from relisten import records
from relisten.commands.options import PREDICTIONS, PredictionOptions
from relisten.evals.benchmarks import BENCHMARKS, export
from relisten.evals.figures import summary, write_summary
from relisten.evals.predictions import read_predictions
from relisten.reports.accuracy import flat_table, shown
from relisten.reports.table import csv_table, markdown_table
from relisten.reports.text import console

FORMATS = {".md": markdown_table, ".csv": csv_table}


def score(
    files: tuple[Path, ...],
    /,
    *,
    given: Annotated[PredictionOptions, PREDICTIONS] = PredictionOptions(),
    out: Path | None = None,
    export_as: str | None = None,
    export_to: Path | None = None,
) -> int:
    """Score predictions, or the shards of one run together.

    The rule is that of MMAR's and MMAU's scripts: the prediction has all words of the right choice, and no word that
    only wrong choices have. `exact` beside it: the choice that can be read from the prediction is the right one. With
    the --questions of a benchmark that compares choices (MMSU, AIR-Bench, ADQA, Big Bench Audio), both are the same.

    Parameters
    ----------
    files
        Files (.jsonl or .json) with predictions under answer_prediction, model_prediction or model_output, or folders
        that `relisten eval` wrote (the shards of one run).
    out
        Write the figures to this file: all of them as JSON (.json), or accuracy by group as a table (.csv or .md).
    export_as
        Write the predictions as this benchmark's own script reads them; needs --questions and --export-to.
    export_to
        The file for --export-as.
    """
    if not files:
        raise ValueError("name a file of predictions, or a folder that `relisten eval` wrote")
    if (export_as is not None or export_to is not None) and None in (export_as, export_to, given.questions):
        raise ValueError("--export-as, --export-to and --questions go together")
    if out is not None and out.suffix.lower() not in ("", ".json", *FORMATS):
        raise ValueError(f"--out {out}: figures are written as .json, .csv or .md; name a file that ends so")
    scripts = [name for name, benchmark in BENCHMARKS.items() if benchmark.keys]
    if export_as is not None and export_as not in scripts:
        raise ValueError(
            f"--export-as {export_as}: no benchmark with a script of its own; there are {', '.join(scripts)}"
        )
    found = read_predictions(files, given.questions, given.key)
    result = summary(found.records, found.format, given.failed)
    screen = console()
    screen.print(shown(result, f"{files[0].name} · {found.key}", found.format))
    for note in found.notes:
        screen.print(note, soft_wrap=True)
    if out is not None and out.suffix.lower() in FORMATS:
        records.write_atomic(out, FORMATS[out.suffix.lower()](flat_table(result, found.format)), follow=True)
    elif out is not None:
        write_summary(out, result | {"key": found.key, "notes": found.notes}, follow=True)
    if export_as is not None and export_to is not None and given.questions is not None:
        without = export(BENCHMARKS[export_as], given.questions, found.records, export_to, given.failed, follow=True)
        screen.print(f"{export_to}: written, {without} without an answer", soft_wrap=True)
    return 0
