"""`relisten analyse`: how runs listened, what their accuracy depends on, where the model looked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from relisten import records
from relisten.evals.analysis import Analysis, AttentionCurve, to_json, write_attention
from relisten.evals.analysis import analyse as analyse_run
from relisten.evals.figures import tally
from relisten.evals.predictions import read_runs
from relisten.evals.runs import Run
from relisten.reports.table import Table, terminal_table
from relisten.reports.tables import attention_table, bins_table, dynamics_table, listening_table, uses_table
from relisten.reports.text import console
from relisten.training.plots import Series, read_metrics


def analyse(
    *runs: Path,
    out: Path = Path("analysis"),
    attention: int = 0,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> int:
    """Say how runs listened, beside the paper's figures; for a training run, how its metrics moved.

    Parameters
    ----------
    runs
        Output folders of `relisten eval`, or of `relisten train` (they have metrics.jsonl).
    out
        Folder for analysis.json and the charts (SVG).
    attention
        Make this many answers of each run again and watch where the model looks at each step. attention.json is
        written into the run's folder, where `relisten report` finds it.
    model
        The model for --attention; by default the one that made the run.
    device
        auto (CUDA, then MPS, then CPU) or a torch device such as cuda:1.
    dtype
        auto (the checkpoint's own), float32, bfloat16 or float16.
    """
    if not runs:
        raise ValueError("name one or more folders of runs, as `relisten eval` writes them")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; name a folder")
    if attention < 0:
        raise ValueError(f"--attention {attention}: give the number of answers to watch, 0 or more")
    trained = {folder: read_metrics(folder) for folder in runs if _is_training(folder)}
    evaluated = read_runs([folder for folder in runs if folder not in trained])
    analyses = [analyse_run(run) for run in evaluated]
    curves = [_watch(run, attention, model, device, dtype) for run in evaluated] if attention else []
    tables = _tables(analyses, curves)
    tables |= {f"training {folder.name}": dynamics_table(series) for folder, series in trained.items()}
    for title, table in tables.items():
        console().print(terminal_table(table, title))
    unknown = "the right answers are withheld, or a model judges the answers, so no accuracy is shown"
    for run in evaluated:
        for note in [*run.notes, *([] if tally(run.records).known else [f"{run.folder}: {unknown}"])]:
            console().print(note, soft_wrap=True)
    found = {"runs": [to_json(a) for a in analyses]}
    records.write_atomic(out / "analysis.json", json.dumps(found, indent=2) + "\n")
    _draw(analyses, curves, trained, out)
    console().print(f"written to {out}", soft_wrap=True)
    return 0


def _is_training(folder: Path) -> bool:
    return (folder / "metrics.jsonl").is_file() and not (folder / "answers.jsonl").is_file()


def _tables(analyses: Sequence[Analysis], curves: Sequence[AttentionCurve]) -> dict[str, Table]:
    tables = {"how it listens": listening_table(analyses)} if analyses else {}
    for which, title in (("by_iou", "accuracy by overlap with the events"), ("by_seconds", "accuracy by length")):
        if any(getattr(a, which) for a in analyses):
            tables[title] = bins_table(analyses, which)
    if any(a.uses for a in analyses):
        tables["accuracy by operation"] = uses_table(analyses)
    return tables | ({"attention": attention_table(curves)} if curves else {})


def _watch(run: Run, num: int, model: str | None, device: str, dtype: str) -> AttentionCurve:
    from relisten.evals.attention import attention_of_run
    from relisten.models import load

    name = model or str(run.config.get("model", "nano"))
    curve = attention_of_run(load(name, dtype=dtype, device=device), run, num)
    write_attention(run, curve, name)
    return curve


def _draw(
    analyses: Sequence[Analysis], curves: Sequence[AttentionCurve], trained: dict[Path, list[Series]], out: Path
) -> None:
    from relisten import plotting
    from relisten.reports import charts
    from relisten.training.plots import dynamics_figure

    figures = {}
    if any(a.references for a in analyses):
        figures["listening"] = partial(charts.listening_figure, analyses)
    for which in ("by_iou", "by_seconds"):
        if any(getattr(a, which) for a in analyses):
            figures[which.replace("_", "-")] = partial(charts.bins_figure, analyses, which)
    if curves:
        figures["attention"] = partial(charts.attention_figure, curves)
    for folder, series in trained.items():
        figures[f"training-{folder.name}"] = partial(dynamics_figure, series)
    for name, draw in figures.items():
        plotting.save(draw(), out / f"{name}.svg")
