"""The study's tables: rows by what the sound needs, differences on hard and on plain sounds, seed by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from relisten.evals.comparison import Change, compare
from relisten.evals.figures import Record
from relisten.evals.runs import Run, read_run
from relisten.reports import charts
from relisten.reports import page as pages
from relisten.reports.page import Page, Section, chart
from relisten.reports.runs_page import origin
from relisten.reports.table import Table
from relisten.reports.tables import Result, changes_table, result
from relisten.reports.text import interval, percent, share
from studies.echo.report import over_seeds
from studies.operations import world
from studies.operations.study import DIFFERENCES, ROWS, StudyConfig, row_folder

KINDS = ("plain", *world.OPERATIONS)


def write(config: StudyConfig, folders: Sequence[Path], command: str) -> list[Path]:
    """The report of all seeds: study.html, study.md and its charts; what was written."""
    runs = {key: [read_run(row_folder(folder, key)) for folder in folders] for key in ROWS}
    results = {key: result(_pooled(key, found)) for key, found in runs.items()}
    title = "Do operations help? Slow, loud, high and low against the crop alone, at a small scale"
    lead = (
        f"{len(folders)} seeds, each from random weights; greedy answers to held-out questions. Half of the sounds are"
        " hard to make out, and one operation makes each of them plain. Settings and expectations stand in study.yaml"
        " and were fixed beforehand. Intervals are 95 %."
    )
    sections = [
        _rows(results, runs),
        _differences("On hard sounds", runs, lambda r: r["kind"] != "plain"),
        _differences("On plain sounds", runs, lambda r: r["kind"] == "plain"),
        _uses(runs),
    ]
    made = {run.name: origin(run) for run in runs["crop"][:1]}
    return pages.write(Page(title, lead, [s for s in sections if s.parts], made, command), config.output / "study.html")


def _pooled(key: str, runs: Sequence[Run], kept: Callable[[Record], bool] = lambda r: True) -> Run:
    """The answers of all seeds as one run: a seed's model gives one more answer to a question."""
    found = [r | {"sample": seed} for seed, run in enumerate(runs) for r in run.records if kept(r)]
    return replace(runs[0], name=key, records=found)


def _rows(results: dict[str, Result], runs: dict[str, list[Run]]) -> Section:
    lines = []
    for key, r in results.items():
        kinds = r.groups.get("kind", {})
        seeds = [result(run).tally.accuracy for run in runs[key]]
        by_kind = [share(kinds[kind].accuracy) if kind in kinds else "-" for kind in KINDS]
        lines.append([key, ROWS[key].title, f"{r.tally.num:,}", share(r.tally.accuracy), interval(r.tally.interval),
                      f"{share(min(seeds))} to {share(max(seeds))}", *by_kind])  # fmt: skip
    columns = ["row", "what it is", "n", "accuracy", "95 %", "seeds", *KINDS]
    note = "plain, slow, ...: accuracy on questions about sounds that need nothing, or that operation."
    picture = chart("accuracy", "Accuracy over all questions.", charts.accuracy_figure, list(results.values()))
    return Section("Rows", "", [Table(columns, lines, note), picture])


def _differences(title: str, runs: dict[str, list[Run]], kept: Callable[[Record], bool]) -> Section:
    changes, lines = [], []
    for a, b, what in DIFFERENCES:
        pair = _pooled(a, runs[a], kept), _pooled(b, runs[b], kept)
        if not pair[0].records:
            continue
        changes.append(Change(f"{a} to {b}: {what}", compare(*pair).total.paired))
        seeds = [
            compare(_pooled(a, [x], kept), _pooled(b, [y], kept)).total.paired.difference
            for x, y in zip(runs[a], runs[b], strict=True)
        ]
        each = [f"{x:+.3f}" for x in seeds]
        lines.append([f"{a} to {b}", *each, f"{fmean(seeds):+.3f}", interval(over_seeds(seeds), "+.3f")])
    if not changes:
        return Section(title, "")
    columns = ["", *(f"seed {n}" for n in range(len(runs[DIFFERENCES[0][0]]))), "mean", "95 % over seeds"]
    return Section(title, "", [changes_table(changes, "first", "second"), Table(columns, lines)])


def _uses(runs: dict[str, list[Run]]) -> Section:
    """Which operation a row listens with, by what the sound needs."""
    lines = []
    for key, found in runs.items():
        if ROWS[key].heard != "asked" or ROWS[key].format != "interleaved":
            continue
        for kind in KINDS:
            asked = [r for run in found for r in run.records if r["kind"] == kind]
            used = Counter(way for r in asked for way in r.get("operations") or ["seg"] * len(r["heard"]))
            total = sum(used.values())
            cells = [percent(used[name] / total) if total else "-" for name in ("seg", *world.OPERATIONS)]
            never = sum(not r["heard"] for r in asked)
            lines.append([key, kind, f"{len(asked):,}", f"{never:,}", f"{total:,}", *cells])
    columns = ["row", "the sound needs", "answers", "without a listen", "listens", "seg", *world.OPERATIONS]
    return Section("What they listen with", "", [Table(columns, lines)])
