"""The tables of results: what runs reached, how they listened, how they differ, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from relisten.evals.analysis import (
    DIMENSIONS,
    ECHO,
    IOU_NAMES,
    PARTS,
    SECONDS_NAMES,
    Analysis,
    AttentionCurve,
    Spread,
    analyse,
    by,
)
from relisten.evals.comparison import Change, Comparison
from relisten.evals.figures import Tally, tally
from relisten.evals.runs import Run
from relisten.reports.table import Table
from relisten.reports.text import counted, interval, number, p_value, percent, share
from relisten.training.plots import Series


@dataclass(frozen=True)
class PaperRow:
    """A row of Echo's ablation: Qwen2.5-Omni-7B on MMAR, accuracy as the mean over the seven modalities."""

    key: str
    name: str
    format: str
    accuracy: float
    """0 to 1."""
    words: float
    seconds: float
    """For one answer."""


PAPER = {
    row.key: row
    for row in (
        PaperRow("A", "base model", "conditioned", 0.5180, 67.95, 1.18),
        PaperRow("B", "cold start, grounded", "grounded", 0.5677, 117.06, 2.04),
        PaperRow("B'", "cold start, then RL, grounded", "grounded", 0.6463, 98.12, 1.97),
        PaperRow("C", "cold start, interleaved", "interleaved", 0.5226, 101.73, 2.16),
        PaperRow("D", "Echo", "interleaved", 0.6999, 107.40, 2.12),
        PaperRow("D'", "Echo, RL on AVQA", "interleaved", 0.6758, 120.18, 2.37),
        PaperRow("E", "RL without cold start", "conditioned", 0.6315, 104.42, 2.06),
        PaperRow("E'", "RL without cold start, on AVQA", "conditioned", 0.5951, 111.14, 2.11),
    )
}
ALWAYS = ("unparsed", "errors")
"""Columns that are shown even where all of their figures are 0."""


@dataclass(frozen=True)
class Result:
    """The figures of one run. Where several answers to a question were sampled, each is counted."""

    name: str
    format: str
    """How the answers reason; "" for anybody's predictions, of which it is not known."""
    tally: Tally
    shown: Analysis | None
    """How the run listened; None where no question could be asked, or where the records do not say."""
    paper: PaperRow | None = None
    """The paper's row that this run repeats."""
    groups: dict[str, dict[str, Tally]] = field(default_factory=dict)
    """Dimension (kind, category ...) -> its groups, where there are several."""

    @property
    def macro(self) -> float | None:
        """Mean of the modalities' accuracies, the paper's figure on MMAR; None without modalities."""
        found = [t.accuracy for t in self.groups.get("modality", {}).values()]
        return float(np.mean(found)) if found else None


def result(run: Run, paper: PaperRow | None = None) -> Result:
    """The figures of a run. ValueError where the right answers are withheld, or a model judges the answers."""
    counts = tally(run.records)
    if not counts.known:
        raise ValueError(
            f"{run.folder}: has no accuracy to report; the right answers are withheld, or a model judges the answers"
        )
    shown = analyse(run) if run.answered and run.traced else None
    groups = {dimension: found for dimension in DIMENSIONS if len(found := by(run.records, dimension)) > 1}
    return Result(run.name, run.format if run.traced else "", counts, shown, paper, groups)


def results_table(results: Sequence[Result]) -> Table:
    """What was reached, a run to a row; beside the paper's rows where some are named."""
    cells: dict[str, Callable[[Result], str]] = {
        "run": lambda r: r.name,
        "format": lambda r: r.format or "-",
        "n": lambda r: f"{r.tally.num:,}",
        "accuracy": lambda r: share(r.tally.accuracy),
        "95 % interval": lambda r: interval(r.tally.interval),
        "mean of modalities": lambda r: share(r.macro),
        "chance": lambda r: share(r.tally.chance),
        "unparsed": lambda r: str(r.tally.counts["unparsed"]),
        "refused": lambda r: str(r.tally.counts["refused"]),
        "errors": lambda r: str(r.tally.counts["failed"]),
        "segments": lambda r: number(r.shown.references if r.shown else None),
        "IoU": lambda r: number(r.shown.iou if r.shown else None),
        "words": lambda r: number(r.shown.words.mean if r.shown and r.shown.words else None, 0),
        "s/answer": lambda r: number(r.shown.latency.mean if r.shown and r.shown.latency else None),
    }
    columns = [n for n, cell in cells.items() if n in ALWAYS or any(cell(r) not in ("-", "0") for r in results)]
    found = [[cells[name](r) for name in columns] for r in results]
    note = (
        "Unparsed, refused and errors count as wrong. segments: per answer. IoU: overlap of the labelled events with"
        " the segments named. s/answer: latency, where a run made one answer at a time."
    )
    if any(r.paper for r in results):
        columns += ["the paper's row"]
        found = [[*line, beside(r.paper)] for line, r in zip(found, results, strict=True)]
        note += " The paper's: accuracy, words, s/answer of Qwen2.5-Omni-7B on MMAR, mean over seven modalities."
    return Table(columns, found, note)


def beside(paper: PaperRow | None) -> str:
    """The paper's row in one cell: key, accuracy, words, seconds for one answer."""
    return "-" if paper is None else f"{paper.key}: {share(paper.accuracy)}, {paper.words:.0f}, {paper.seconds:.2f}"


def short_table(results: Sequence[Result]) -> Table:
    """`results_table` for a terminal: what is needed most."""
    found = [
        [r.name, f"{r.tally.num:,}", share(r.tally.accuracy), interval(r.tally.interval), share(r.tally.chance),
         str(r.tally.counts["unparsed"]), str(r.tally.counts["failed"])]
        for r in results
    ]  # fmt: skip
    return Table(["run", "n", "accuracy", "95 % interval", "chance", "unparsed", "errors"], found)


def groups_table(results: Sequence[Result], dimension: str) -> Table:
    """Accuracy by a dimension (kind, category ...), a group to a row and a run to a column."""
    groups = {r.name: r.groups.get(dimension, {}) for r in results}
    names = sorted({name for group in groups.values() for name in group})
    return _by_run(dimension.replace("_", "-"), names, groups)


def bins_table(analyses: Sequence[Analysis], which: str) -> Table:
    """Accuracy by `by_iou` or `by_seconds`, a group to a row and a run to a column."""
    names, first = {"by_iou": (IOU_NAMES, "IoU with the events"), "by_seconds": (SECONDS_NAMES, "recording")}[which]
    return _by_run(first, names, {a.name: getattr(a, which) for a in analyses})


def _by_run(first: str, names: Sequence[str], groups: Mapping[str, Mapping[str, Tally]]) -> Table:
    """A group to a row, a run to a column; the number of answers stands in the cells where runs differ in it."""
    rows = []
    for name in names:
        counts = {group[name].num for group in groups.values() if name in group}
        if counts:
            num = f"{counts.pop():,}" if len(counts) == 1 else "-"
            rows.append([name, num, *(_accuracy(group.get(name), num == "-") for group in groups.values())])
    note = "In brackets: 95 % interval (Wilson), and the number of answers where runs differ in it."
    return Table([first, "n", *groups], rows, note)


def _accuracy(counts: Tally | None, with_num: bool) -> str:
    if counts is None:
        return "-"
    low, high = counts.interval
    return f"{share(counts.accuracy)} ({low:.2f}–{high:.2f}{f'; {counts.num}' if with_num else ''})"


def paper_table() -> Table:
    """The paper's own ablation."""
    found = [[r.key, r.name, r.format, share(r.accuracy), f"{r.words:.0f}", f"{r.seconds:.2f}"] for r in PAPER.values()]
    note = "Echo's ablation: Qwen2.5-Omni-7B on MMAR, mean over seven modalities. Another model on other questions."
    return Table(["row", "model", "format", "accuracy", "words", "seconds"], found, note)


def listening_table(analyses: Sequence[Analysis]) -> Table:
    """How runs listened, a figure to a row and a run to a column, beside Echo's where the paper has it."""
    lines: list[tuple[str, list[str], str]] = [
        ("references per response", [f"{a.references:.2f}" for a in analyses], f"{ECHO['references']:.1f}"),
        ("responses with at least one", [percent(a.with_one) for a in analyses], percent(ECHO["with_one"])),
        ("responses with at least two", [percent(a.with_two) for a in analyses], percent(ECHO["with_two"])),
        ("mean duration of a segment, s", [number(a.seconds) for a in analyses], f"{ECHO['seconds']:.1f}"),
        ("overlap of a response's segments", [number(a.overlap) for a in analyses], f"about {ECHO['overlap']:.1f}"),
        ("middle of a segment, s: median", [_middle(a.place) for a in analyses], "-"),
        ("in the recording's first half", [_half(a.timeline) for a in analyses], "uniform"),
        ("labelled events there", [_half(a.timeline_gold) for a in analyses], "-"),
        ("IoU of labelled events", [number(a.iou) for a in analyses], "-"),
        ("events found at IoU 0.5", [percent(a.hit_rate) for a in analyses], "-"),
        ("segments that find an event", [percent(a.precision) for a in analyses], "-"),
        ("words per response", [_spread(a.words, 0) for a in analyses], f"{ECHO['words']:.0f}"),
        ("seconds per response", [_spread(a.latency, 2) for a in analyses], f"{PAPER['D'].seconds:.2f}"),
        ("tags refused", [counted(a.refusals) for a in analyses], "-"),
        ("how answers ended", [counted(a.finishes) for a in analyses], "-"),
    ]
    kept = [[name, *cells, echo] for name, cells, echo in lines if any(cell not in ("-", "none") for cell in cells)]
    note = "Echo: after RL, Qwen2.5-Omni-7B on MMAR. Words and seconds: mean (5th to 95th percentile)."
    return Table(["", *(a.name for a in analyses), "Echo (paper)"], kept, note)


def uses_table(analyses: Sequence[Analysis]) -> Table:
    """Accuracy by operation, an operation to a row; of several runs, an operation of a run to a row."""
    several = len(analyses) > 1
    rows = [
        [
            f"{a.name}: {name}" if several else name, _accuracy(use.used, True), _accuracy(use.others, True),
            f"{use.num:,}", number(use.seconds),
        ]
        for a in analyses
        for name, use in a.uses.items()
    ]  # fmt: skip
    note = (
        "with it: accuracy of the answers that used the operation at least once; in brackets the 95 % interval (Wilson)"
        " and the number of answers. mean s: mean duration of its segments in the recording, before the operation. A"
        " model chooses its operations, so a difference need not be their effect."
    )
    return Table(
        ["run: operation" if several else "operation", "with it", "without it", "segments", "mean s"], rows, note
    )


def attention_table(curves: Sequence[AttentionCurve]) -> Table:
    """Shares of attention on audio early and late, and what the rest falls on."""
    found = []
    for c in curves:
        total = np.average(c.shares, axis=0, weights=c.num) if c.num.sum() else np.zeros(len(PARTS))
        early, late = c.audio(0, 25), c.audio(25)
        cells = [percent(early), percent(late), *(percent(float(part)) for part in total)]
        found.append([c.name, str(int(c.num.max(initial=0))), *cells, str(c.differing)])
    found.append(["Echo, text", "-", "-", "under 5 %", *["-"] * 5])
    found.append(["Echo, listens", "-", "-", "10 to 14 %", *["-"] * 5])
    columns = ["run", "n", "audio to 25", "after 25", *PARTS, "differ"]
    note = (
        "Mean over heads and layers when a token was chosen. audio to 25: all audio, up to decoding step 25; prompt,"
        " written: text. differ: answers that came out otherwise than in the run when they were made again."
    )
    return Table(columns, found, note)


def changes_table(changes: Sequence[Change], a: str, b: str) -> Table:
    """From one run to another, a group to a row."""
    rows = [
        [
            c.name, f"{c.paired.num:,}", *(share(x) for x in c.paired.accuracy), f"{c.paired.difference:+.3f}",
            interval(c.paired.interval, "+.3f"), f"{c.paired.better[0]} / {c.paired.better[1]}", p_value(c.paired.p),
        ]
        for c in changes
    ]  # fmt: skip
    note = "Interval: paired bootstrap over questions, 95 %. p: McNemar, exact, two-sided, not adjusted for the groups."
    return Table(["questions", "n", a, b, "change", "95 % interval", "only A / only B", "p"], rows, note)


def comparison_tables(comparison: Comparison) -> dict[str, Table]:
    """All questions, and every dimension, by name."""
    a, b = comparison.a, comparison.b
    tables = {"all": changes_table([comparison.total], a, b)}
    return tables | {dimension: changes_table(changes, a, b) for dimension, changes in comparison.by.items()}


def dynamics_table(series: Sequence[Series]) -> Table:
    """Where each metric of a training run began and ended: means over the first and the last tenth of its steps."""
    rows = []
    for s in series:
        part = max(len(s.values) // 10, 1)
        ends = float(np.mean(s.values[:part])), float(np.mean(s.values[-part:]))
        rows.append([s.name, str(len(s.values)), *(f"{x:.4g}" for x in (*ends, min(s.values), max(s.values)))])
    return Table(["metric", "steps", "first tenth", "last tenth", "least", "greatest"], rows)


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:.{digits}f} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"


def _middle(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.1f} ({spread.low:.1f} to {spread.high:.1f})"


def _half(timeline: Sequence[float] | None) -> str:
    return "-" if timeline is None else percent(float(np.sum(timeline[: len(timeline) // 2])))
