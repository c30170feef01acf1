"""Charts of results: plain functions from results to a figure, in the look of `relisten.plotting`.

Each takes its width in inches and arranges itself anew when it is drawn narrow, for a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relisten.evals.analysis import IOU_NAMES, NUM_PARTS, SECONDS_NAMES, Analysis, AttentionCurve
from relisten.evals.comparison import Change
from relisten.evals.figures import Tally
from relisten.plotting import COLOURS, GREY, WIDTH, axes, is_wide, label, legend, look
from relisten.reports.tables import Result
from relisten.reports.text import broken

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 20
"""Segments of a run; fewer do not say where they lie."""


def accuracy_figure(results: Sequence[Result], width: float = WIDTH) -> Figure:
    """The accuracy of each run with its interval; guessing as a tick, the paper's row as a ring.

    The paper's figure is a mean over modalities. Where a run has that mean too, a diamond shows it.
    """
    figure, [axis] = axes(0.9 + 0.32 * len(results), width=width)
    for place, r in enumerate(results):
        _point(axis, r.tally.accuracy, place, r.tally.interval, look(place))
        guessing = None if place else "guessing"
        axis.plot([r.tally.chance], [place], "|", color="#555555", markersize=13, label=guessing)
    papers = {place: r for place, r in enumerate(results) if r.paper}
    for mark, name, found in (
        ("o", "the paper's row", {place: r.paper.accuracy for place, r in papers.items() if r.paper}),
        ("D", "mean of modalities, as in the paper", {place: r.macro for place, r in papers.items() if r.macro}),
    ):
        if found:
            axis.plot(list(found.values()), list(found), mark, mfc="none", mec="#555555", markersize=8, label=name)
    _rows(axis, [r.name for r in results], "accuracy, 95 % interval")
    axis.set_xlim(-0.01, 1.01)
    legend(axis, 3)
    return figure


def groups_figure(results: Sequence[Result], dimension: str, width: float = WIDTH) -> Figure:
    """Accuracy by a dimension (kind, category ...), runs side by side."""
    groups = [r.groups.get(dimension, {}) for r in results]
    names = sorted({name for group in groups for name in group})
    figure, [axis] = axes(1.0 + max(0.22 * len(names) * len(results), 1.2) * 0.75, width=width)
    step = 0.75 / max(len(results), 1)
    for index, (r, group) in enumerate(zip(results, groups, strict=True)):
        for place, name in enumerate(names):
            if name in group:
                y = place + (index - (len(results) - 1) / 2) * step
                told = label(r.name) if name == next(iter(group)) else None
                _point(axis, group[name].accuracy, y, group[name].interval, look(index), told)
    counts = {name: sorted({group[name].num for group in groups if name in group}) for name in names}
    ends = {name: "–".join(map(str, dict.fromkeys((c[0], c[-1])))) for name, c in counts.items()}
    _rows(axis, [f"{name} (n {ends[name]})" for name in names], "accuracy, 95 % interval")
    axis.set_xlim(-0.01, 1.01)
    for edge in range(len(names) - 1):
        axis.axhline(edge + 0.5, color="#dddddd", linewidth=0.8)
    legend(axis, len(results))
    return figure


def bins_figure(analyses: Sequence[Analysis], which: str, width: float = WIDTH) -> Figure:
    """Accuracy `by_iou` (how well segments meet the events) or `by_seconds` (the length of the recording)."""
    found: Mapping[str, Mapping[str, Tally]] = {a.name: getattr(a, which) for a in analyses if getattr(a, which)}
    order = {"by_iou": IOU_NAMES, "by_seconds": SECONDS_NAMES}[which]
    names = [name for name in order if any(name in groups for groups in found.values())]
    figure, [axis] = axes(2.9 if width == WIDTH else 3.4, width=width)
    for index, (run, groups) in enumerate(found.items()):
        shift = (index - (len(found) - 1) / 2) * min(0.1, 0.6 / len(found))
        x = [names.index(name) + shift for name in groups]
        y = np.array([t.accuracy for t in groups.values()])
        low, high = np.array([t.interval for t in groups.values()]).T
        spread = np.maximum([y - low, high - y], 0)
        axis.errorbar(x, y, yerr=spread, linewidth=1.3, capsize=2, label=label(run), **look(index))
    axis.set_xticks(range(len(names)), names, rotation=0 if is_wide(figure) else 45)
    axis.set_xlim(-0.5, max(len(names) - 0.5, 0.5))
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("accuracy, 95 % interval")
    axis.set_xlabel({"by_iou": "overlap (IoU) of events and segments", "by_seconds": "length of the recording"}[which])
    legend(axis, len(found))
    return figure


def listening_figure(analyses: Sequence[Analysis], width: float = WIDTH) -> Figure:
    """How many segments an answer has, and where in the recording they lie (of runs with more than a few)."""
    shown = [a for a in analyses if a.references > 0]
    wide = width == WIDTH
    height = 2.5 + 0.17 * math.ceil((len(shown) + 2) / 4) if wide else 4.8 + 0.17 * (len(shown) + 2)
    figure, [left, right] = axes(height, *((1, 2) if wide else (2, 1)), width=width)
    most = min(max((max(a.counts) for a in shown), default=0), 8)
    bar = 0.8 / max(len(shown), 1)
    for index, a in enumerate(shown):
        shares = [sum(n for k, n in a.counts.items() if min(k, most) == count) / a.num for count in range(most + 1)]
        places = np.arange(most + 1) + (index - (len(shown) - 1) / 2) * bar
        left.bar(places, shares, bar * 0.92, color=COLOURS[index % len(COLOURS)], label=label(a.name))
        if a.timeline and a.references * a.num >= FEW:
            right.plot(_middles(), a.timeline, linewidth=1.5, label=label(a.name), **look(index))
    gold = next((a.timeline_gold for a in shown if a.timeline_gold), None)
    if gold:
        right.plot(_middles(), gold, color=GREY, linestyle=":", linewidth=1.5, label="labelled events")
    right.axhline(1 / NUM_PARTS, color=GREY, linestyle="--", linewidth=1, label="uniform")
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
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            known.setdefault(name, handle)
    figure.legend(list(known.values()), list(known), loc="outside upper left", ncols=4 if wide else 1, fontsize=8,
                  frameon=False)  # fmt: skip
    return figure


def attention_figure(curves: Sequence[AttentionCurve], least: int = 3, width: float = WIDTH) -> Figure:
    """Share of attention on audio by decoding step, while at least `least` answers are as long; heard again dashed."""
    figure, [axis] = axes(3.1 if width == WIDTH else 3.8, width=width)
    longest = max((int((c.num >= least).sum()) for c in curves), default=0)
    for index, c in enumerate(curves):
        length = int((c.num >= least).sum())
        steps, colour = np.arange(1, length + 1), COLOURS[index % len(COLOURS)]
        again = 100 * c.shares[:length, 1]
        total, name = 100 * c.shares[:length, 0] + again, label(c.name)
        axis.plot(steps, total, color=colour, linewidth=1.6, label=f"{name}: all audio (n {c.num.max(initial=0)})")
        if again.any():
            axis.plot(steps, again, color=colour, linewidth=1.3, linestyle="--", label=f"{name}: heard again")
    if longest > 25:
        axis.plot([25, longest], [5, 5], color=GREY, linestyle=":", label="Echo's paper: text reasoning, below")
    axis.axhspan(10, 14, color=GREY, alpha=0.18, linewidth=0, label="Echo's paper: with re-listening")
    axis.set_xlabel("decoding step (sampled tokens)")
    axis.set_ylabel("attention on audio, %")
    axis.set_xlim(1, max(longest, 2))
    axis.set_ylim(bottom=0)
    legend(axis, 2)
    return figure


def changes_figure(changes: Sequence[Change], a: str, b: str, width: float = WIDTH) -> Figure:
    """What changes from run A to run B, in the order given."""
    figure, [axis] = axes(0.8 + 0.3 * len(changes), width=width)
    for place, c in enumerate(changes):
        colour = {1: COLOURS[0], -1: COLOURS[1], 0: GREY}[c.paired.surely]
        style = {"color": colour, "marker": "o", "markersize": 5}
        _point(axis, c.paired.difference, place, c.paired.interval, style)
    axis.axvline(0, color="#333333", linewidth=1)
    names = [f"{c.name} (n {c.paired.num})" for c in changes]
    _rows(axis, names, f"change in accuracy, {a} to {b}, 95 % interval" if is_wide(figure) else "change, 95 % interval")
    return figure


def _rows(axis: Axes, names: Sequence[str], quantity: str) -> None:
    """A row of the chart for each name, the first at the top; long names are broken into lines where it is narrow."""
    most = 40 if is_wide(axis.get_figure()) else 16
    axis.set_yticks(range(len(names)), ["\n".join(broken(name, most)) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel(quantity)
    axis.grid(axis="y", visible=False)


def _point(
    axis: Axes, x: float, y: float, ends: tuple[float, float], style: Mapping[str, Any], name: str | None = None
) -> None:
    spread = [[max(0.0, x - ends[0])], [max(0.0, ends[1] - x)]]
    axis.errorbar([x], [y], xerr=spread, linestyle="none", linewidth=1.3, capsize=2, label=name, **style)


def _middles() -> NDArray[np.float64]:
    return (np.arange(NUM_PARTS) + 0.5) / NUM_PARTS
