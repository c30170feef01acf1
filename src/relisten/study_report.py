"""A study's tables: the rows beside the paper's, each seed by itself, and the differences that decide."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from relisten import charts, records, report_page
from relisten.analysis import Run, read_run
from relisten.comparison import Change, compare
from relisten.report import PAPER, Table, changes_table, row
from relisten.report_page import Chart, Report, Section
from relisten.study import ARMS, STAGES, StudyConfig, arm_folder

DIFFERENCES = (
    ("A", "B", "the cold start"),
    ("B", "C", "listening without having learnt to"),
    ("B", "B'", "RL, grounded"),
    ("B", "D", "RL, interleaved, over the cold start"),
    ("B'", "D", "hearing again, after RL (the paper's claim)"),
    ("A", "E", "RL without cold start"),
    ("B", "CF", "interleaved chains in the cold start, no RL"),
    ("B'", "CF", "the same, against grounded RL"),
    ("CF", "DF", "RL over that"),
    ("D other", "D", "what is heard, in D"),
    ("DF other", "DF", "what is heard, in DF"),
    ("DF", "DF oracle", "the right stretch, in DF"),
)
"""From row, to row, what the difference shows."""


def write(config: StudyConfig, folders: Sequence[Path], command: str) -> list[Path]:
    """The report of the seeds that are complete: study.html, study.md and its charts; what was written."""
    runs = {key: _pooled(folders, key) for key in ARMS}
    papers = {key: PAPER[arm.paper] for key, arm in ARMS.items() if arm.paper}
    title = "What hearing again gives: the paper's ablation at a small scale"
    report = report_page.build(list(runs.values()), title, command, papers)
    titles = Table(["row", "what it is", "format"], [[k, arm.title, arm.format] for k, arm in ARMS.items()])
    first = Section("Rows", "P: grounded chains alone. F: two of three chains truly interleaved.", [titles])
    added = [first, _differences(runs), _seeds(folders), _stages(folders)]
    lead = f"{report.lead} Seeds: {len(folders)}. All rows share data and budgets, fixed beforehand (config.json)."
    whole = Report(report.title, lead, [*added, *report.sections], report.runs[:1], report.command)
    return report_page.write(whole, config.output / "study.html", num_examples=0)


def _pooled(folders: Sequence[Path], key: str) -> Run:
    """A row's answers of all seeds, as one run named by its key."""
    runs = [read_run(arm_folder(folder, key)) for folder in folders]
    records = [r | {"id": f"{folder.name}/{r['id']}"} for folder, run in zip(folders, runs, strict=True)
               for r in run.records]  # fmt: skip
    return replace(runs[0], name=key, records=records)


def _differences(runs: dict[str, Run]) -> Section:
    changes = [Change(f"{a} to {b}: {what}", compare(runs[a], runs[b]).total.paired) for a, b, what in DIFFERENCES]
    picture = charts.svg(charts.changes_figure(changes, "the first row", "the second"))
    caption = "Differences, paired by question and seed: orange is worse, blue better, grey unsure."
    text = "The interval is over questions: how far seeds differ, the next table shows."
    table = changes_table(changes, "first", "second")
    return Section("What decides", text, [table, Chart("decides", caption, picture)])


def _seeds(folders: Sequence[Path]) -> Section:
    found = []
    for key in ARMS:
        rows = [row(read_run(arm_folder(folder, key))) for folder in folders]
        shares = [r.accuracy for r in rows]
        spread = f"{min(shares):.3f} to {max(shares):.3f}"
        found.append([key, *(f"{share:.3f}" for share in shares), f"{sum(shares) / len(shares):.3f}", spread])
    return Section("Seed by seed", "", [Table(["row", *(f.name for f in folders), "mean", "range"], found)])


def _stages(folders: Sequence[Path]) -> Section:
    """How each model came about, and how long it took: what a second study would cost."""
    found = []
    for name, stage in STAGES.items():
        lines = [list(records.read(folder / "models" / name / "metrics.jsonl")) for folder in folders]
        minutes = [next((r["train_runtime"] / 60 for r in reversed(of) if "train_runtime" in r), 0.0) for of in lines]
        steps = max((int(r["step"]) for r in lines[0]), default=0)
        start = stage.start or "random weights"
        found.append([name, start, stage.format, stage.data, str(steps), *(f"{m:.1f}" for m in minutes)])
    answering = []
    for folder in folders:
        runs = [read_run(arm_folder(folder, key)) for key in ARMS]
        answering.append(sum(float(r.get("seconds") or 0) for run in runs for r in run.records) / 60)
    found.append(["all rows read", "", "", "", "", *(f"{minutes:.1f}" for minutes in answering)])
    shares = [json.loads((folder / "located.json").read_text())["located"] for folder in folders]
    text = (
        "Minutes of each stage (its last start, where it was stopped). Events that the base locates by name, within"
        f" 0.2 s: {', '.join(f'{share:.2f}' for share in shares)}."
    )
    columns = ["stage", "starts from", "format", "data", "steps", *(f"{folder.name}, min" for folder in folders)]
    return Section("How it was made", text, [Table(columns, found)])
