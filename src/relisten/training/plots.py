"""The metrics of a training run over its steps, from metrics.jsonl, as numbers and as a chart."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from relisten import plotting, records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("held-out questions", ("eval_accuracy", "eval_well_formed")),
    ("reward", ("reward",)),
    ("rewards", ("reward_*",)),
    ("share of answers", ("well_formed", "heard_once", "heard_twice", "over_limit")),
    ("segments per answer", ("segments", "eval_segments")),
    ("mean segment (s)", ("segment_seconds",)),
    ("overlap of segments (IoU)", ("segment_overlap",)),
    ("sampled tokens per answer", ("tokens",)),
    ("loss", ("loss",)),
    ("KL to the reference (nats)", ("kl",)),
    ("entropy (nats per token)", ("entropy",)),
    ("groups of equal reward", ("equal_groups",)),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("learning_rate",)),
)
"""The title of a panel and the metrics in it; `reward_*` stands for all metrics that begin with `reward_`."""
FIRST = ("reward", "accuracy", "segment", "listen")
"""Metrics whose names begin with these come first. The others follow in the order in which they were logged."""
NOT_DRAWN = ("epoch", "eval_seconds", "forward_tokens")
"""Metrics about progress and cost, which are not drawn."""
MOST_PANELS = 24
LARGEST = 1e100
"""Values beyond this are left out, like NaN: a chart cannot show them."""


@dataclass(frozen=True)
class Series:
    """One metric, at the steps that have it."""

    name: str
    steps: list[int]
    values: list[float]


def read_metrics(folder: Path) -> list[Series]:
    """Every metric of a run that is a number. When a step was logged twice, the later line counts.

    Raises ValueError if there is no metric, or if a line has no step.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder}: no metrics.jsonl and no answers.jsonl; name the folder of a run")
    found: dict[str, dict[int, float]] = {}
    for place, line in records.entries(path, torn=True):
        step = line.get("step")
        if not isinstance(step, int) or not 0 <= step < 10**12:
            raise ValueError(f"{place}: `step` must be a whole number from 0, not {step!r:.60}; correct that line")
        for name, value in line.items():
            # The comparison is false for NaN as well.
            if name not in ("step", "time") and records.is_number(value) and -LARGEST < value < LARGEST:
                found.setdefault(name, {})[step] = float(value)
    if not found:
        raise ValueError(f"{path}: holds no metrics yet")
    series = [Series(name, sorted(values), [values[s] for s in sorted(values)]) for name, values in found.items()]
    return sorted(series, key=lambda s: next((n for n, word in enumerate(FIRST) if s.name.startswith(word)), 9))


def panels(series: Sequence[Series]) -> list[tuple[str, list[Series]]]:
    """A title, and the metrics that share a panel: those of `PANELS` first, then each other metric by itself.

    Left out are panels in which nothing ever changes, metrics with one value, and those of `NOT_DRAWN`.
    """
    by_name = {s.name: s for s in series if len(s.values) > 1}
    grouped = [(title, _names(patterns, by_name)) for title, patterns in PANELS]
    known = [(title, [by_name.pop(name) for name in names]) for title, names in grouped if names]
    found = known + [(s.name.replace("_", " "), [s]) for s in by_name.values() if s.name not in NOT_DRAWN]
    return [(title, together) for title, together in found if any(min(s.values) < max(s.values) for s in together)]


def dynamics_figure(series: Sequence[Series], width: float = plotting.WIDTH) -> Figure:
    """A training run over its steps, at most `MOST_PANELS` panels. The table has what is not drawn."""
    shown = panels(series)[:MOST_PANELS]
    columns = min(3 if width > plotting.NARROW else 1, max(len(shown), 1))
    rows = max(math.ceil(len(shown) / columns), 1)
    figure, axes = plotting.axes(0.5 + 1.55 * rows, rows, columns, width, sharex=True, squeeze=False)
    for axis, (title, together) in zip(axes, shown, strict=False):
        for metric, colour in zip(together, plotting.COLOURS * len(together), strict=False):
            _curve(axis, metric, colour)
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


def training_curves(metrics: Path, picture: Path) -> None:
    """Draw a run's metrics.jsonl to a picture (by the ending of its name). Nothing is drawn where nothing changed."""
    if not metrics.exists():
        return
    try:
        series = read_metrics(metrics.parent)
    except ValueError:  # a run must not end because its picture cannot be drawn; `relisten analyse` names the line
        return
    if panels(series):
        plotting.save(dynamics_figure(series), picture)


def _curve(axis: Axes, metric: Series, colour: str) -> None:
    """The values; those of a long run are pale, with their running mean over them."""
    name = plotting.label(metric.name.removeprefix("reward_").replace("eval_", "held-out ").replace("_", " "))
    if len(metric.values) <= 30:
        axis.plot(metric.steps, metric.values, color=colour, linewidth=1.4, label=name)
        return
    axis.plot(metric.steps, metric.values, color=colour, linewidth=0.7, alpha=0.3)
    axis.plot(metric.steps, _smooth(metric.values), color=colour, linewidth=1.6, label=name)


def _smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """The mean around each step, weighted towards it, over a tenth of the run to either side."""
    half = max(len(values) // 10, 1)
    weights = np.hanning(2 * half + 3)[1:-1]
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def _names(patterns: tuple[str, ...], known: Collection[str]) -> list[str]:
    """The known names that match the patterns, in the order of the patterns."""
    return [
        name
        for pattern in patterns
        for name in (sorted(n for n in known if n.startswith(pattern[:-1])) if pattern.endswith("*") else [pattern])
        if name in known
    ]
