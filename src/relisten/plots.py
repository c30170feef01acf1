"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen is needed

from matplotlib import pyplot

from relisten import records

CURVES = (("loss", "loss (nats a token)"), ("grad_norm", "gradient norm"), ("learning_rate", "learning rate"))
"""Names in metrics.jsonl, and what stands beside their axes."""


def training_curves(metrics: Path, picture: Path) -> None:
    """Loss, gradient norm and learning rate over the steps of a run, one below the other, as a PNG."""
    # Where a resumed run logged a step again, its line comes last and counts.
    by_step = {row["step"]: row for row in records.read(metrics, torn=True) if "loss" in row}
    rows = [by_step[step] for step in sorted(by_step)]
    shown = [(name, label) for name, label in CURVES if any(row.get(name) is not None for row in rows)]
    if not shown:
        return
    figure, axes = pyplot.subplots(len(shown), 1, sharex=True, figsize=(7, 2 * len(shown)), squeeze=False)
    for axis, (name, label) in zip(axes[:, 0], shown, strict=True):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        axis.plot(*zip(*points, strict=True), color="#0072b2", linewidth=1.5)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("optimiser step")
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
