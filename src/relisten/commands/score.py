"""`relisten score`: count anybody's predictions, by the benchmarks' rule and by the choices that can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from relisten.evals.benchmarks import BENCHMARKS, export
from relisten.evals.figures import Failed, summary, write_summary
from relisten.evals.predictions import read_predictions
from relisten.reports.accuracy import shown
from relisten.reports.text import console


def score(
    files: tuple[Path, ...],
    /,
    *,
    questions: Path | None = None,
    key: str | None = None,
    failed: Failed = "wrong",
    out: Path | None = None,
    export_as: Literal["mmar", "mmau-mini", "mmau", "mmau-pro"] | None = None,
    export_to: Path | None = None,
) -> int:
    """Score predictions, or the shards of one run together.

    The rule is that of MMAR's and MMAU's scripts: the right choice's words are all there, and none that only wrong
    choices have. `exact` beside it: the choice that can be read from the prediction is the right one.

    Parameters
    ----------
    files
        A .jsonl or .json of predictions under answer_prediction, model_prediction or model_output, or folders that
        `relisten eval` wrote (the shards of one run).
    questions
        The benchmark's file, where the predictions hold ids alone; questions without a prediction then count as failed.
    key
        What the predictions are called, if something else.
    failed
        What counts where there is no answer. wrong: wrong. first-choice: choices[0], as in the paper's release (free
        points: see docs/evaluation.md).
    out
        Write the figures here, as JSON.
    export_as
        Write the predictions as this benchmark's script reads them; goes with --questions and --export-to.
    export_to
        Where to.
    """
    if not files:
        raise ValueError("name a file of predictions, or a folder that `relisten eval` wrote")
    if (export_as is not None or export_to is not None) and None in (export_as, export_to, questions):
        raise ValueError("--export-as, --export-to and --questions go together")
    given = read_predictions(files, questions, key)
    result = summary(given.records, given.format, failed)
    screen = console()
    screen.print(shown(result, f"{files[0].name} · {given.key}", given.format))
    for note in given.notes:
        screen.print(note, soft_wrap=True)
    if out is not None:
        write_summary(out, result | {"key": given.key, "notes": given.notes}, follow=True)
    if export_as is not None and export_to is not None and questions is not None:
        without = export(BENCHMARKS[export_as], questions, given.records, export_to, failed, follow=True)
        screen.print(f"{export_to}: written, {without} without an answer", soft_wrap=True)
    return 0
