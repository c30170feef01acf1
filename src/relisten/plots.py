"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path

from relisten import records


def training_curves(metrics: Path, picture: Path) -> None:
    """Loss, gradient norm and learning rate over the steps of a run, one below the other, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(records.read(metrics, torn=True))
    shown = [(name, label) for name, label in _CURVES if any(name in row for row in rows)]
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


_CURVES = (("loss", "loss (nats a token)"), ("grad_norm", "gradient norm"), ("learning_rate", "learning rate"))
