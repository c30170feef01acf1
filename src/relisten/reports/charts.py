"""Charts for reports and papers: plain functions from results to a figure; `svg` and `save` write one.

Colours are those of Okabe and Ito, which people who see fewer colours tell apart; runs differ in their marks as well.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from relisten import records
from relisten.evals.analysis import IOU_NAMES, NUM_PARTS, SECONDS_NAMES, Analysis, AttentionCurve, Bin
from relisten.evals.comparison import Change
from relisten.reports.dynamics import Series, panels
from relisten.reports.tables import Row

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")  # one more than colours: 56 runs before two look alike
WIDTH = 7.0
"""Inches: the text's width on a page."""
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.axisbelow": True, "legend.frameon": False, "svg.hashsalt": "relisten", "figure.constrained_layout.use": True,
}  # fmt: skip
FEW = 20
"""Segments of a run; fewer do not say where they lie."""
PANELS = 24
"""Most panels of a training run that are drawn."""


def svg(figure: Figure) -> str:
    """The figure's SVG, letters as outlines; the same figure gives the same text."""
    _plain(figure)
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write an SVG, PNG or PDF, by the name's ending, whole or not at all."""
    _plain(figure)
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format=path.suffix[1:], dpi=160)
    records.write_atomic(path, file.getvalue())


def _plain(figure: Figure) -> None:
    """No name is a formula: a category may be called `$5` or `$\\frac$`."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


def _label(name: str) -> str:
    """A name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def _axes(height: float, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        return figure, list(np.ravel(figure.subplots(1, columns, **options)))


def _look(index: int) -> dict[str, Any]:
    look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKS[index % len(MARKS)], "markersize": 5}
    return look | ({} if index < len(COLOURS) else {"markerfacecolor": "white"})


def accuracy_figure(rows: Sequence[Row]) -> Figure:
    """Each run's accuracy with its interval; guessing as a tick, the paper's row as a ring.

    The paper's figure is a mean over modalities: a run's own, where it has one, stands beside it as a diamond.
    """
    figure, [axis] = _axes(0.9 + 0.32 * len(rows))
    for place, r in enumerate(rows):
        _point(axis, r.accuracy, place, r.interval, _look(place))
        axis.plot([r.chance], [place], "|", color="#555555", markersize=13, label="guessing" if not place else None)
    for mark, label, found in (
        ("o", "the paper's row", {place: r.paper.accuracy for place, r in enumerate(rows) if r.paper}),
        ("D", "mean of modalities, as in the paper", {n: r.macro for n, r in enumerate(rows) if r.paper and r.macro}),
    ):
        if found:
            axis.plot(list(found.values()), list(found), mark, mfc="none", mec="#555555", markersize=8, label=label)
    axis.set_yticks(range(len(rows)), [r.name for r in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(-0.01, 1.01)
    axis.set_xlabel("accuracy, 95 % interval")
    axis.grid(axis="y", visible=False)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False)
    return figure


def groups_figure(rows: Sequence[Row], dimension: str) -> Figure:
    """Accuracy by a dimension (kind, category ...), runs side by side."""
    names = sorted({b.name for r in rows for b in r.groups.get(dimension, [])})
    figure, [axis] = _axes(1.0 + max(0.22 * len(names) * len(rows), 1.2) * 0.75)
    step = 0.75 / max(len(rows), 1)
    for index, r in enumerate(rows):
        found = {b.name: b for b in r.groups.get(dimension, [])}
        for place, name in enumerate(names):
            if name in found:
                y = place + (index - (len(rows) - 1) / 2) * step
                label = _label(r.name) if name == next(iter(found)) else None
                _point(axis, found[name].accuracy, y, found[name].interval, _look(index), label)
    axis.set_yticks(range(len(names)), [f"{name} (n {_count(rows, dimension, name)})" for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(-0.01, 1.01)
    axis.set_xlabel("accuracy, 95 % interval")
    axis.grid(axis="y", visible=False)
    for edge in range(len(names) - 1):
        axis.axhline(edge + 0.5, color="#dddddd", linewidth=0.8)
    _legend(axis, len(rows))
    return figure


def _count(rows: Sequence[Row], dimension: str, name: str) -> str:
    counts = sorted({b.num for r in rows for b in r.groups.get(dimension, []) if b.name == name})
    return "–".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))


def _point(
    axis: Axes, x: float, y: float, ends: tuple[float, float], look: Mapping[str, Any], label: str | None = None
) -> None:
    spread = [[max(0.0, x - ends[0])], [max(0.0, ends[1] - x)]]
    axis.errorbar([x], [y], xerr=spread, linestyle="none", linewidth=1.3, capsize=2, label=label, **look)


def bins_figure(analyses: Sequence[Analysis], which: str) -> Figure:
    """Accuracy `by_iou` (how well segments meet the events) or `by_seconds` (the recording's length)."""
    found: Mapping[str, Sequence[Bin]] = {a.name: getattr(a, which) for a in analyses if getattr(a, which)}
    order = {"by_iou": IOU_NAMES, "by_seconds": SECONDS_NAMES}[which]
    names = [name for name in order if any(b.name == name for bins in found.values() for b in bins)]
    figure, [axis] = _axes(2.9)
    for index, (run, bins) in enumerate(found.items()):
        shift = (index - (len(found) - 1) / 2) * min(0.1, 0.6 / len(found))
        x = [names.index(b.name) + shift for b in bins]
        y = [b.accuracy for b in bins]
        spread = [[a - b.interval[0] for a, b in zip(y, bins, strict=True)],
                  [b.interval[1] - a for a, b in zip(y, bins, strict=True)]]  # fmt: skip
        axis.errorbar(x, y, yerr=np.maximum(spread, 0), linewidth=1.3, capsize=2, label=_label(run), **_look(index))
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.5, max(len(names) - 0.5, 0.5))
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("accuracy, 95 % interval")
    axis.set_xlabel({"by_iou": "overlap (IoU) of the labelled events with the segments named",
                     "by_seconds": "length of the recording"}[which])  # fmt: skip
    _legend(axis, len(found))
    return figure


def listening_figure(analyses: Sequence[Analysis]) -> Figure:
    """How many segments an answer has, and where on the timeline they lie (of runs with more than a few)."""
    shown = [a for a in analyses if a.references > 0]
    figure, [left, right] = _axes(2.5 + 0.17 * math.ceil((len(shown) + 2) / 4), 2)
    most = min(max((max(a.counts) for a in shown), default=0), 8)
    width = 0.8 / max(len(shown), 1)
    for index, a in enumerate(shown):
        shares = [sum(n for k, n in a.counts.items() if min(k, most) == count) / a.num for count in range(most + 1)]
        places = np.arange(most + 1) + (index - (len(shown) - 1) / 2) * width
        left.bar(places, shares, width * 0.92, color=COLOURS[index % len(COLOURS)], label=_label(a.name))
        if a.timeline and a.references * a.num >= FEW:
            right.plot(_middles(), a.timeline, linewidth=1.5, label=_label(a.name), **_look(index))
    gold = next((a.timeline_gold for a in shown if a.timeline_gold), None)
    if gold:
        right.plot(_middles(), gold, color="#777777", linestyle=":", linewidth=1.5, label="labelled events")
    right.axhline(1 / NUM_PARTS, color="#777777", linestyle="--", linewidth=1, label="uniform")
    left.set_xticks(range(most + 1), [str(n) if n < most or most < 8 else f"{n}+" for n in range(most + 1)])
    left.set_xlabel("segments in an answer")
    left.set_ylabel("share of the answers")
    right.set_xlim(0, 1)
    right.set_ylim(bottom=0)
    right.set_xlabel("place in the recording (0 start, 1 end)")
    right.set_ylabel("share of the segments")
    left.grid(axis="x", visible=False)
    known: dict[str, Any] = {}
    for axis in (right, left):  # a bar's colour is its line's
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    with matplotlib.rc_context(STYLE):
        figure.legend(known.values(), known.keys(), loc="outside upper left", ncols=4, fontsize=8)
    return figure


def _middles() -> NDArray[np.float64]:
    return (np.arange(NUM_PARTS) + 0.5) / NUM_PARTS


def attention_figure(curves: Sequence[AttentionCurve], least: int = 3) -> Figure:
    """Share of attention on audio by decoding step, while at least `least` answers are as long; heard again dashed."""
    figure, [axis] = _axes(3.1)
    longest = max((int((c.num >= least).sum()) for c in curves), default=0)
    for index, c in enumerate(curves):
        length = int((c.num >= least).sum())
        steps, colour = np.arange(1, length + 1), COLOURS[index % len(COLOURS)]
        again = 100 * c.shares[:length, 1]
        total, name = 100 * c.shares[:length, 0] + again, _label(c.name)
        axis.plot(steps, total, color=colour, linewidth=1.6, label=f"{name}: all audio (n {c.num.max(initial=0)})")
        if again.any():
            axis.plot(steps, again, color=colour, linewidth=1.3, linestyle="--",
                      label=f"{name}: heard again")  # fmt: skip
    if longest > 25:
        axis.plot([25, longest], [5, 5], color="#777777", linestyle=":", label="Echo's paper: text reasoning, below")
    axis.axhspan(10, 14, color="#777777", alpha=0.18, linewidth=0, label="Echo's paper: with re-listening")
    axis.set_xlabel("decoding step (sampled tokens)")
    axis.set_ylabel("attention on audio, %")
    axis.set_xlim(1, max(longest, 2))
    axis.set_ylim(bottom=0)
    _legend(axis, 2)
    return figure


def changes_figure(changes: Sequence[Change], a: str, b: str) -> Figure:
    """What changes from run A to run B, the greatest gain first."""
    figure, [axis] = _axes(0.8 + 0.3 * len(changes))
    for place, c in enumerate(changes):
        colour = {1: COLOURS[0], -1: COLOURS[1], 0: "#777777"}[c.paired.surely]
        look = {"color": colour, "marker": "o", "markersize": 5}
        _point(axis, c.paired.difference, place, c.paired.interval, look)
    axis.axvline(0, color="#333333", linewidth=1)
    axis.set_yticks(range(len(changes)), [f"{c.name} (n {c.paired.num})" for c in changes])
    axis.set_ylim(len(changes) - 0.5, -0.5)
    axis.set_xlabel(f"change in accuracy, {a} to {b}, 95 % interval", loc="right")
    axis.grid(axis="y", visible=False)
    return figure


def dynamics_figure(series: Sequence[Series]) -> Figure:
    """A training run over its steps: what belongs together in a panel, then the rest; at most `PANELS` of them.

    What never changed, and what was logged once, is in no panel: the table has it.
    """
    shown = panels(series)[:PANELS]
    columns = min(3, max(len(shown), 1))
    rows = max(math.ceil(len(shown) / columns), 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.5 + 1.55 * rows))
        axes = list(np.ravel(figure.subplots(rows, columns, sharex=True, squeeze=False)))
    for axis, (title, together) in zip(axes, shown, strict=False):
        for index, metric in enumerate(together):
            _curve(axis, metric, COLOURS[index % len(COLOURS)])
        axis.set_title(title, fontsize=8, loc="left")
        axis.tick_params(labelsize=7)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
        if len(together) > 1:
            axis.legend(fontsize=6.5, loc="best", framealpha=0.85, edgecolor="none", handlelength=1.2, labelspacing=0.2)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for axis in axes[max(len(shown) - columns, 0) : len(shown)]:
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelbottom=True)
    return figure


def _curve(axis: Axes, metric: Series, colour: str) -> None:
    """The values; of a long run pale, with their running mean over them."""
    label, many = metric.name.removeprefix("reward_").replace("_", " "), len(metric.values) > 30
    if many:
        axis.plot(metric.steps, metric.values, color=colour, linewidth=0.7, alpha=0.3)
        axis.plot(metric.steps, _smooth(metric.values), color=colour, linewidth=1.6, label=label)
    else:
        axis.plot(metric.steps, metric.values, color=colour, linewidth=1.4, label=label)


def _smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """Mean around each step, near ones counting more (a tenth of the run to either side)."""
    half = max(len(values) // 10, 1)
    weights = np.hanning(2 * half + 3)[1:-1]
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def _legend(axis: Axes, columns: int) -> None:
    if axis.get_legend_handles_labels()[1]:
        axis.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=min(columns, 4),
            fontsize=8,
            borderaxespad=0.2,
            frameon=False,
        )
