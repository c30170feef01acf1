"""Results as tables: one row a run, beside the paper's; the same table as Markdown, HTML or text on a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from relisten.evals.analysis import (
    DIMENSIONS,
    ECHO,
    IOU_NAMES,
    SECONDS_NAMES,
    Analysis,
    AttentionCurve,
    Bin,
    Run,
    Spread,
    analyse,
    by,
)
from relisten.evals.comparison import Change, Comparison
from relisten.evals.figures import tally


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


COUNTS = ("unparsed", "errors")
"""Shown even where all are 0."""
LONG = " class='long'"
"""What a cell is called that may be broken into lines."""
_BRACKETS, _SMALL = re.compile(r"^(\S+) (\(.+\))$"), r"\1 <small>\2</small>"


@dataclass(frozen=True)
class Row:
    """One run among others. Where several samples a question were drawn, an answer is a sample."""

    name: str
    format: str
    num: int
    accuracy: float
    interval: tuple[float, float]
    """95 % (Wilson)."""
    chance: float
    unparsed: int
    refused: int
    """Declined to answer."""
    errors: int
    references: float
    """Segments per answer."""
    macro: float | None
    """Mean of the modalities' accuracies, which is the paper's figure on MMAR; None without modalities."""
    iou: float | None
    """Of labelled events with the segments."""
    words: float | None
    seconds: float | None
    """For one answer, mean."""
    paper: PaperRow | None = None
    """The paper's row that this one repeats."""
    groups: dict[str, list[Bin]] = field(default_factory=dict)
    """Dimension (kind, category ...) -> accuracy by it."""


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns; the first column is to be set left, numbers right."""

    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    """One sentence that says how to read it."""


def row(run: Run, paper: PaperRow | None = None) -> Row:
    """A run's figures."""
    shown = analyse(run) if run.answered else None
    counts = tally(run.records)
    if not counts.known:
        raise ValueError(f"{run.folder}: the right answers are withheld; there is no accuracy to report")
    groups = {dimension: found for dimension in DIMENSIONS if len(found := by(run.records, dimension)) > 1}
    modalities = [b.accuracy for b in groups.get("modality", [])]
    return Row(
        name=run.name,
        format=run.format,
        num=counts.num,
        accuracy=counts.accuracy,
        interval=counts.interval,
        chance=counts.chance,
        unparsed=counts.counts["unparsed"],
        refused=counts.counts["refused"],
        errors=counts.counts["failed"],
        references=shown.references if shown else 0.0,
        macro=float(np.mean(modalities)) if modalities else None,
        iou=shown.iou if shown else None,
        words=shown.words.mean if shown and shown.words else None,
        seconds=shown.latency.mean if shown and shown.latency else None,
        paper=paper,
        groups=groups,
    )


def results_table(rows: Sequence[Row]) -> Table:
    """What was reached, a run a row; beside the paper's rows where some are named."""
    cells: dict[str, Callable[[Row], str]] = {
        "run": lambda r: r.name,
        "format": lambda r: r.format,
        "n": lambda r: f"{r.num:,}",
        "accuracy": lambda r: _share(r.accuracy),
        "95 % interval": lambda r: interval(r.interval),
        "mean of modalities": lambda r: number(r.macro, 3),
        "chance": lambda r: _share(r.chance),
        "unparsed": lambda r: str(r.unparsed),
        "refused": lambda r: str(r.refused),
        "errors": lambda r: str(r.errors),
        "segments": lambda r: f"{r.references:.2f}",
        "IoU": lambda r: number(r.iou),
        "words": lambda r: number(r.words, 0),
        "s/answer": lambda r: number(r.seconds),
    }
    columns = [name for name, cell in cells.items() if any(cell(r) not in ("-", "0") or name in COUNTS for r in rows)]
    found = [[cells[name](r) for name in columns] for r in rows]
    note = "Unparsed, refused and errors count as wrong. Segments per answer; IoU of labelled events with those named."
    note += " s/answer is latency where a run made one answer at a time."
    if any(r.paper for r in rows):
        columns += ["the paper's row"]
        found = [[*line, _beside(r.paper)] for line, r in zip(found, rows, strict=True)]
        note += " The paper's: accuracy, words, s/answer of Qwen2.5-Omni-7B on MMAR, mean over seven modalities."
    return Table(columns, found, note)


def _beside(paper: PaperRow | None) -> str:
    if paper is None:
        return "-"
    return f"{paper.key}: {_share(paper.accuracy)}, {paper.words:.0f}, {paper.seconds:.2f}"


def short_table(rows: Sequence[Row]) -> Table:
    """`results_table` for a terminal: what is needed most."""
    found = [
        [
            r.name,
            f"{r.num:,}",
            _share(r.accuracy),
            interval(r.interval),
            _share(r.chance),
            str(r.unparsed),
            str(r.errors),
        ]
        for r in rows
    ]
    return Table(["run", "n", "accuracy", "95 % interval", "chance", "unparsed", "errors"], found)


def groups_table(rows: Sequence[Row], dimension: str) -> Table:
    """Accuracy by a dimension (kind, category ...), a group a row and a run a column."""
    names = sorted({b.name for r in rows for b in r.groups.get(dimension, [])})
    found = []
    for name in names:
        bins = [next((b for b in r.groups.get(dimension, []) if b.name == name), None) for r in rows]
        counts = sorted({b.num for b in bins if b is not None})
        cells = ["-" if b is None else f"{b.accuracy:.3f} ({b.interval[0]:.2f}–{b.interval[1]:.2f})" for b in bins]
        found.append([name, "/".join(map(str, counts)), *cells])
    return Table([dimension.replace("_", "-"), "n", *(r.name for r in rows)], found, "In brackets: 95 % (Wilson).")


def paper_table() -> Table:
    """The paper's own ablation."""
    found = [
        [r.key, r.name, r.format, _share(r.accuracy), f"{r.words:.0f}", f"{r.seconds:.2f}"] for r in PAPER.values()
    ]
    note = "Echo's ablation: Qwen2.5-Omni-7B on MMAR, mean over seven modalities. Another model on other questions."
    return Table(["row", "model", "format", "accuracy", "words", "seconds"], found, note)


def listening_table(analyses: Sequence[Analysis]) -> Table:
    """How runs listened, a figure a row and a run a column, beside Echo's where the paper has it."""
    lines: list[tuple[str, list[str], str]] = [
        ("references per response", [f"{a.references:.2f}" for a in analyses], f"{ECHO['references']:.1f}"),
        ("responses with at least one", [percent(a.with_one) for a in analyses], percent(ECHO["with_one"])),
        ("responses with at least two", [percent(a.with_two) for a in analyses], percent(ECHO["with_two"])),
        ("mean duration of a segment, s", [number(a.seconds) for a in analyses], f"{ECHO['seconds']:.1f}"),
        ("overlap of a response's segments", [number(a.overlap) for a in analyses], f"about {ECHO['overlap']:.1f}"),
        ("middle of a segment, s: median", [_middle(a.place) for a in analyses], "-"),
        ("in the recording's first half", [_half(a.timeline) for a in analyses], "uniform"),
        ("  of the labelled events", [_half(a.timeline_gold) for a in analyses], "-"),
        ("IoU of labelled events", [number(a.iou) for a in analyses], "-"),
        ("events met at IoU 0.5", [percent(a.hit_rate) for a in analyses], "-"),
        ("segments that meet one", [percent(a.precision) for a in analyses], "-"),
        ("words per response", [_spread(a.words, 0) for a in analyses], f"{ECHO['words']:.0f}"),
        ("seconds per response", [_spread(a.latency, 2) for a in analyses], f"{PAPER['D'].seconds:.2f}"),
        ("tags refused", [counted(a.refusals) for a in analyses], "-"),
        ("how answers ended", [counted(a.finishes) for a in analyses], "-"),
    ]
    kept = [[name, *cells, echo] for name, cells, echo in lines if any(cell not in ("-", "none") for cell in cells)]
    note = "Echo: after RL, Qwen2.5-Omni-7B on MMAR. Words and seconds: mean (5th to 95th percentile)."
    return Table(["", *(a.name for a in analyses), "Echo (paper)"], kept, note)


def bins_table(analyses: Sequence[Analysis], which: str) -> Table:
    """Accuracy by `by_iou` or `by_seconds`, a bin a row and a run a column."""
    found: Mapping[str, list[Bin]] = {a.name: getattr(a, which) for a in analyses}
    names = {"by_iou": IOU_NAMES, "by_seconds": SECONDS_NAMES}[which]
    order = [name for name in names if any(b.name == name for bins in found.values() for b in bins)]
    rows = [[name, *(_bin(bins, name) for bins in found.values())] for name in order]
    first = {"by_iou": "IoU with the events", "by_seconds": "recording"}[which]
    return Table([first, *found], rows, "Accuracy, in brackets its 95 % interval (Wilson) and the number of answers.")


def attention_table(curves: Sequence[AttentionCurve]) -> Table:
    """Shares of attention on audio early and late, and what the rest falls on."""
    found = []
    for c in curves:
        total = np.average(c.shares, axis=0, weights=c.num) if len(c.num) else np.zeros(4)
        early, late = c.audio(0, 25), c.audio(25)
        cells = [percent(early), percent(late), *(percent(float(share)) for share in total)]
        found.append([c.name, str(int(c.num.max(initial=0))), *cells, str(c.differing)])
    found.append(["Echo, text", "-", "-", "under 5 %", *["-"] * 5])
    found.append(["Echo, listens", "-", "-", "10 to 14 %", *["-"] * 5])
    columns = ["run", "n", "audio to 25", "after 25", "recording", "heard again", "prompt", "written"]
    note = "Mean over heads and layers when a token was chosen. Audio: up to step 25, and after. Prompt, written: text."
    note += " Differ: answers that came out otherwise than in the run when they were made again."
    return Table([*columns, "differ"], found, note)


def changes_table(changes: Sequence[Change], a: str, b: str) -> Table:
    """From one run to another, a group a row."""
    rows = [
        [
            c.name, f"{c.paired.num:,}", *(_share(x) for x in c.paired.accuracy), f"{c.paired.difference:+.3f}",
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


def markdown_table(table: Table) -> str:
    """GitHub's pipes; the note stands under it."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_one_line(cell).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"

    rule = "|---|" + "--:|" * (len(table.columns) - 1)
    lines = [line(table.columns), rule, *map(line, table.rows)]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "") + "\n"


def html_table(table: Table) -> str:
    """A <table>, every text escaped; what a figure has in brackets goes under it, so that many runs find room."""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in table.columns)
    body = ""
    for cells in table.rows:
        rest = "".join(f"<td{LONG * (len(c) > 24)}>{_BRACKETS.sub(_SMALL, escape(c))}</td>" for c in cells[1:])
        body += f"<tr><th scope='row'>{escape(cells[0])}</th>{rest}</tr>"
    note = f"<p class='caption'>{escape(table.note)}</p>" if table.note else ""
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"


def terminal_table(table: Table, title: str = "") -> RichTable:
    """For a console; text of runs and questions is printed as it is."""
    shown = RichTable(
        title=Text(title), title_justify="left", caption=Text(table.note), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for index, column in enumerate(table.columns):
        shown.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    for cells in table.rows:
        shown.add_row(*(Text("".join(c if c.isprintable() else "�" for c in cell)) for cell in cells))
    return shown


def number(value: float | None, digits: int = 2) -> str:
    """A dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """99.4 %, and a dash for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def interval(ends: tuple[float, float], form: str = ".3f") -> str:
    """0.412 to 0.533."""
    return f"{ends[0]:{form}} to {ends[1]:{form}}"


def p_value(p: float) -> str:
    """Three digits, or that it is less."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def counted(counts: Mapping[str, int]) -> str:
    """stop 55, length 2."""
    return ", ".join(f"{name} {num}" for name, num in counts.items()) or "none"


def _share(value: float) -> str:
    return f"{value:.3f}"


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:.{digits}f} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"


def _middle(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.1f} ({spread.low:.1f} to {spread.high:.1f})"


def _half(timeline: Sequence[float] | None) -> str:
    return "-" if timeline is None else percent(float(np.sum(timeline[: len(timeline) // 2])))


def _bin(bins: Sequence[Bin], name: str) -> str:
    found = next((b for b in bins if b.name == name), None)
    if found is None:
        return "-"
    return f"{found.accuracy:.3f} ({found.interval[0]:.2f}–{found.interval[1]:.2f}; {found.num})"


def _one_line(text: str) -> str:
    return " ".join(text.split()) if text.strip() else text
