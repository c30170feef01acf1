"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from relisten import records

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("reward", ("reward",)),
    ("rewards", ("reward_*",)),
    ("share of answers", ("well_formed", "heard_once", "heard_twice", "over_limit")),
    ("segments an answer", ("segments",)),
    ("mean segment (s)", ("segment_seconds",)),
    ("overlap of segments (IoU)", ("segment_overlap",)),
    ("sampled tokens an answer", ("tokens",)),
    ("loss", ("loss",)),
    ("KL to the reference (nats)", ("kl",)),
    ("entropy (nats a token)", ("entropy",)),
    ("groups of equal reward", ("equal_groups",)),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("learning_rate",)),
)
"""What stands above a panel, and the names in metrics.jsonl that it shows; `reward_*` are all that begin so."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def training_curves(metrics: Path, picture: Path) -> None:
    """Every figure of a run over its steps, as a PNG; panels for what the run did not measure are left out."""
    if not metrics.exists():
        return
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    from matplotlib import pyplot

    # Where a resumed run logged a step again, its line comes last and counts.
    by_step = {row["step"]: row for row in records.read(metrics, torn=True) if "loss" in row}
    rows = [by_step[step] for step in sorted(by_step)]
    known = {name for row in rows for name, value in row.items() if value is not None}
    panels = named_panels(known)
    if not panels:
        return
    columns = 1 if len(panels) <= 3 else 2
    height = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(height, columns, sharex=True, figsize=(7 * columns, 2 * height), squeeze=False)
    for axis, (label, names) in zip(axes.flat, panels, strict=False):
        for name, colour in zip(names, COLOURS, strict=False):
            points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            dot = "." if len(points) < 3 else None
            axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, marker=dot, label=_words(name))
        if len(names) > 1:
            axis.legend(fontsize=8, frameon=False, loc="best")
        axis.set_title(label, fontsize=10, loc="left")
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def named_panels(known: Collection[str]) -> list[tuple[str, list[str]]]:
    """`PANELS` with those of their names that a run has; empty ones are left out."""
    return [(label, names) for label, patterns in PANELS if (names := _names(patterns, known))]


def _names(patterns: tuple[str, ...], known: Collection[str]) -> list[str]:
    return [
        name
        for pattern in patterns
        for name in (sorted(n for n in known if n.startswith(pattern[:-1])) if pattern.endswith("*") else [pattern])
        if name in known
    ]


def _words(name: str) -> str:
    return name.removeprefix("reward_").replace("_", " ")
