"""`relisten analyse`: how runs listened, what their accuracy depends on, where the model looked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from relisten import records
from relisten.evals.analysis import Analysis, AttentionCurve, Run, read_runs, to_json, write_attention
from relisten.evals.analysis import analyse as analyse_run
from relisten.reports.dynamics import dynamics_table, read_metrics
from relisten.reports.tables import Table, attention_table, bins_table, listening_table, terminal_table
from relisten.reports.text import console

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        Make so many answers of each run again and watch where the model looks at each step; attention.json is written
        into the run's folder, where `relisten report` finds it.
    model
        The model for --attention; the run's own if left out.
    device
        auto (CUDA, then MPS, then CPU) or a torch device such as cuda:1.
    dtype
        auto (the checkpoint's own), float32, bfloat16 or float16.
    """
    if not runs:
        raise ValueError("name one or more folders of runs, as `relisten eval` writes them")
    if attention < 0:
        raise ValueError(f"--attention {attention}: say how many answers are to be watched")
    trained = [folder for folder in runs if not (folder / "answers.jsonl").is_file() and _is_training(folder)]
    evaluated = read_runs([folder for folder in runs if folder not in trained])
    analyses = [analyse_run(run) for run in evaluated]
    curves = [_watch(run, attention, model, device, dtype) for run in evaluated] if attention else []
    tables = _tables(analyses, curves)
    for folder in trained:
        tables[f"training {folder.name}"] = dynamics_table(read_metrics(folder))
    for title, table in tables.items():
        console().print(terminal_table(table, title))
    for note in filter(None, (run.unfinished for run in evaluated)):
        console().print(note, soft_wrap=True)
    found = {"runs": [to_json(a) for a in analyses]}
    records.write_atomic(out / "analysis.json", json.dumps(found, indent=2) + "\n")
    _draw(analyses, curves, trained, out)
    console().print(f"written to {out}", soft_wrap=True)
    return 0


def _is_training(folder: Path) -> bool:
    return (folder / "metrics.jsonl").is_file()


def _tables(analyses: Sequence[Analysis], curves: Sequence[AttentionCurve]) -> dict[str, Table]:
    tables = {"how it listens": listening_table(analyses)} if analyses else {}
    for which, title in (("by_iou", "accuracy by overlap with the events"), ("by_seconds", "accuracy by length")):
        if any(getattr(a, which) for a in analyses):
            tables[title] = bins_table(analyses, which)
    return tables | ({"attention": attention_table(curves)} if curves else {})


def _watch(run: Run, num: int, model: str | None, device: str, dtype: str) -> AttentionCurve:
    from relisten.evals.attention import attention_of_run
    from relisten.models import load

    name = model or str(run.config.get("model", "nano"))
    curve = attention_of_run(load(name, dtype=dtype, device=device), run, num)
    write_attention(run, curve, name)
    return curve


def _draw(analyses: Sequence[Analysis], curves: Sequence[AttentionCurve], trained: Sequence[Path], out: Path) -> None:
    from relisten.reports import charts

    figures: dict[str, Figure] = {}
    if any(a.references for a in analyses):
        figures["listening"] = charts.listening_figure(analyses)
    for which in ("by_iou", "by_seconds"):
        if any(getattr(a, which) for a in analyses):
            figures[which.replace("_", "-")] = charts.bins_figure(analyses, which)
    if curves:
        figures["attention"] = charts.attention_figure(curves)
    for folder in trained:
        figures[f"training-{folder.name}"] = charts.dynamics_figure(read_metrics(folder))
    for name, figure in figures.items():
        charts.save(figure, out / f"{name}.svg")
