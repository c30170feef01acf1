"""A study's tables: the rows beside the paper's, the differences that decide and how they vary from seed to seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from relisten import records
from relisten.evals.analysis import Analysis
from relisten.evals.comparison import Change, compare
from relisten.evals.runs import Run, read_run
from relisten.reports import charts
from relisten.reports import page as pages
from relisten.reports.page import Chart, Page, Section, chart
from relisten.reports.runs_page import origin
from relisten.reports.table import Table
from relisten.reports.tables import (
    PAPER,
    Result,
    beside,
    bins_table,
    changes_table,
    listening_table,
    paper_table,
    result,
)
from relisten.reports.text import interval, number, percent, share
from relisten.training.plots import dynamics_figure, read_metrics
from studies.echo.rows import ARMS, DIFFERENCES, DYNAMICS, LISTENING, SHIPPED, STAGES
from studies.echo.study import StudyConfig, arm_folder, arms_of, is_base, located_file, stages_of

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 % for 1 to 9 degrees of freedom."""


FROM = {False: "random weights", True: "the same trained base"}
"""What each seed begins with, by whether the study is given a base."""


def over_seeds(differences: Sequence[float]) -> tuple[float, float] | None:
    """95 % of the mean of one difference a seed (Student's t); None with fewer than two."""
    if len(differences) < 2:
        return None
    half = T95[min(len(differences) - 1, len(T95)) - 1] * stdev(differences) / sqrt(len(differences))
    return fmean(differences) - half, fmean(differences) + half


def write(config: StudyConfig, folders: Sequence[Path], command: str) -> list[Path]:
    """The report of the seeds that are complete: study.html, study.md and its charts; what was written."""
    runs: dict[str, list[Run]] = {}
    for key in ARMS:
        having = [folder for seed, folder in enumerate(folders) if key in arms_of(config, seed)]
        if having:
            runs[key] = [read_run(arm_folder(folder, key)) for folder in having]
    pooled = {key: _pooled(key, found) for key, found in runs.items()}
    results = {key: result(run, PAPER.get(ARMS[key].paper)) for key, run in pooled.items()}
    main = [r for key, r in results.items() if not ARMS[key].control]
    title = "What hearing again gives: the paper's ablation at a small scale"
    lead = (
        f"{len(folders)} seed{'s' * (len(folders) > 1)}, each from {FROM[bool(config.given)]}; greedy answers to"
        " held-out questions, from other waveforms and voices than training's. Rows of one recipe share data and"
        " budgets (config.json). Intervals are 95 %."
    )
    sections = [
        _rows(main, runs, config.given),
        _differences(runs),
        _controls([r for key, r in results.items() if ARMS[key].control], runs),
        _kinds(main),
        *_listening([shown for key in LISTENING if key in results and (shown := results[key].shown)]),
        _dynamics(folders),
        _stages(config, folders, runs),
        Section("The paper's figures", "For orientation, as published.", [paper_table()]),
    ]
    made = {run.name: origin(run) for run in list(pooled.values())[:1]}
    return pages.write(Page(title, lead, [s for s in sections if s.parts], made, command), config.output / "study.html")


def _pooled(key: str, runs: Sequence[Run]) -> Run:
    """A row's answers of all seeds, as one run named by its key: a seed's model gives one more answer to a question."""
    found = [r | {"sample": seed} for seed, run in enumerate(runs) for r in run.records]
    return replace(runs[0], name=key, records=found)


def _seed(run: Run) -> Path:
    """The folder of the seed that a run belongs to."""
    return run.folder.parent.parent


def _accuracies(runs: Sequence[Run]) -> list[float]:
    """Of each seed."""
    return [result(run).tally.accuracy for run in runs]


def _rows(results: Sequence[Result], runs: dict[str, list[Run]], given: str) -> Section:
    found = [_line(r, _accuracies(runs[r.name])) for r in results]
    columns = ["row", "what it is", "n", "accuracy", "95 %", "seeds", "segments", "events found", "words"]
    note = (
        "A and E answer at once (conditioned). n: answers of all seeds. Seeds: the least and the greatest accuracy of"
        " a seed. Events found: labelled events that a named segment meets at IoU 0.5. ms: a thousandth of a second for"
        " an answer, in batches of 64. The paper's: accuracy, words, seconds of Qwen2.5-Omni-7B on MMAR."
    )
    caption = "Accuracy with Wilson's interval; the tick is what guessing gives, the ring the paper's row."
    text = (
        "P: the paper's cold start, grounded chains alone. F, beyond the paper: two of three chains truly interleaved."
    )
    models = [ARMS[r.name].model for r in results]
    if given:
        text += " mid: the base's sound in mid-text is kept alive in the cold start."
    elif any(model.endswith("-mid") or "gentle" in model for model in models):
        text += (
            " mid: on a base whose text had sound in its midst, with no question asked; gentle: with RL of more"
            " questions and smaller steps."
        )
    if SHIPPED in models:
        text += " nano was made beside the study, by the recipe of F: in a larger world, with more steps."
    picture = chart("accuracy", caption, charts.accuracy_figure, results)
    return Section("Rows", text, [Table([*columns, "ms", "the paper's"], found, note), picture])


def _line(r: Result, seeds: Sequence[float]) -> list[str]:
    assert r.shown is not None, "a study's rows are runs whose questions could be asked"
    words, latency = r.shown.words, r.shown.latency
    return [
        r.name, ARMS[r.name].title, f"{r.tally.num:,}", share(r.tally.accuracy), interval(r.tally.interval),
        f"{share(min(seeds))} to {share(max(seeds))}", number(r.shown.references), percent(r.shown.hit_rate),
        number(words.mean if words else None, 0), number(1000 * latency.mean if latency else 0, 0), beside(r.paper),
    ]  # fmt: skip


def _differences(runs: dict[str, list[Run]]) -> Section:
    changes: list[Change] = []
    by_seed: list[list[float]] = []
    for a, b, what in DIFFERENCES:
        if a in runs and b in runs:
            pairs = [(x, y) for x in runs[a] for y in runs[b] if _seed(x) == _seed(y)]
            both = _pooled(a, [x for x, _ in pairs]), _pooled(b, [y for _, y in pairs])
            changes.append(Change(f"{a} to {b}: {what}", compare(*both).total.paired))
            by_seed.append([compare(x, y).total.paired.difference for x, y in pairs])
    if not changes:
        return Section("What decides", "")
    num = max(map(len, by_seed))
    rows = []
    for change, seeds in zip(changes, by_seed, strict=True):
        each = [*(f"{x:+.3f}" for x in seeds), *[""] * (num - len(seeds))]
        rows.append([change.name, *each, f"{fmean(seeds):+.3f}", interval(over_seeds(seeds), "+.3f")])
    note = "95 %: over seeds, Student's t. So few seeds make it wide; the table above is over questions."
    seeds_table = Table(["", *(f"seed {n}" for n in range(num)), "mean", "95 %"], rows, note)
    pairs_alone = [replace(change, name=change.name.split(":")[0]) for change in changes]  # the table says the rest
    caption = "Differences, paired by question (the mean over its seeds): orange is worse, blue better, grey unsure."
    picture = chart("decides", caption, charts.changes_figure, pairs_alone, "first", "second")
    parts: list[Table | Chart] = [changes_table(changes, "first", "second"), picture, seeds_table]
    return Section("What decides", "Over all questions first, then each seed by itself.", parts)


def _controls(results: Sequence[Result], runs: dict[str, list[Run]]) -> Section:
    if not results:
        return Section("Controls", "")
    found = [
        [r.name, ARMS[r.name].title, f"{r.tally.num:,}", share(r.tally.accuracy), interval(r.tally.interval),
         ", ".join(map(share, _accuracies(runs[r.name]))), str(r.tally.counts["unparsed"])]
        for r in results
    ]  # fmt: skip
    columns = ["row", "what it is", "n", "accuracy", "95 %", "each seed", "none of the choices"]
    caption = "The same models, where what is heard, or when, is changed."
    picture = chart("controls", caption, charts.accuracy_figure, results)
    text = "Is it hearing that helps? On the first of the held-out scenes."
    return Section("Controls", text, [Table(columns, found), picture])


def _kinds(results: Sequence[Result]) -> Section:
    """A row of the study to a row, a kind of question to a column."""
    kinds = {name: t.num for r in results for name, t in r.groups.get("kind", {}).items()}
    found = []
    for r in results:
        by_kind = r.groups.get("kind", {})
        found.append([r.name, *(share(by_kind[kind].accuracy) if kind in by_kind else "-" for kind in kinds)])
    return Section("By kind of question", "", [Table(["row", *(f"{k} (n {n:,})" for k, n in kinds.items())], found)])


def _listening(analyses: Sequence[Analysis]) -> list[Section]:
    if not analyses:
        return []
    caption = "Accuracy by how well the named segments meet the events that hold the answer."
    picture = chart("by-iou", caption, charts.bins_figure, analyses, "by_iou")
    return [
        Section("How it listens", "", [listening_table(analyses)]),
        Section("Finding the event, and being right", "", [bins_table(analyses, "by_iou"), picture]),
    ]


def _dynamics(folders: Sequence[Path]) -> Section:
    """The paper's curves, from the RL of D in each way, of the first seed."""
    parts: list[Chart] = []
    for key, name in (("D", "dynamics"), ("D mid", "dynamics-mid"), ("D gentle", "dynamics-gentle")):
        folder = folders[0] / "models" / ARMS[key].model
        if folder.is_dir():
            series = {s.name: s for s in read_metrics(folder)}
            shown = [series[figure] for figure in DYNAMICS if figure in series]
            caption = f"RL of row {key}, {folders[0].name}, step by step."
            parts.append(chart(name, caption, dynamics_figure, shown))
    return Section("During RL", "", parts)


def _stages(config: StudyConfig, folders: Sequence[Path], runs: dict[str, list[Run]]) -> Section:
    """How each model came about, and how long it took: what a second study would cost."""
    if not stages_of(config, 0):
        return Section("How it was made", "")
    found, total = [], 0.0
    for name in stages_of(config, 0):
        lines = [list(records.read(f / "models" / name / "metrics.jsonl")) for n, f in enumerate(folders)
                 if name in stages_of(config, n)]  # fmt: skip
        minutes = [next((r["train_runtime"] / 60 for r in reversed(of) if "train_runtime" in r), 0.0) for of in lines]
        total += sum(minutes)
        steps = max((int(r["step"]) for r in lines[0]), default=0)
        stage = STAGES[name]
        start = stage.start or "random weights"
        start = "the given base" if config.given and is_base(start) else start
        cells = [f"{m:.1f}" for m in minutes] + ["-"] * (len(folders) - len(minutes))
        found.append([name, start, stage.format, stage.data, str(steps), *cells])
    answering = [sum(float(r.get("seconds") or 0) for of in runs.values() for run in of for r in run.records
                     if _seed(run) == folder) / 60 for folder in folders]  # fmt: skip
    found.append(["all rows read", "", "", "", "", *(f"{minutes:.1f}" for minutes in answering)])
    shares = [_located(base, folders) for base in stages_of(config, 0) if STAGES[base].settings == "base"]
    text = (
        f"Minutes of each stage (its last start, where it was stopped), {config.jobs} side by side;"
        f" {(total + sum(answering)) / 60:.1f} hours of a process in all. {' '.join(filter(None, shares))}"
    )
    columns = ["stage", "starts from", "format", "data", "steps", *(f"{folder.name}, min" for folder in folders)]
    return Section("How it was made", text, [Table(columns, found)])


def _located(base: str, folders: Sequence[Path]) -> str:
    """What a base locates in each seed that has it."""
    kept = [located_file(folder, base) for folder in folders]
    shares = [json.loads(file.read_text())["located"] for file in kept if file.is_file()]
    return f"Events that {base} locates by name, within 0.2 s: {', '.join(f'{x:.2f}' for x in shares)}." * bool(shares)
