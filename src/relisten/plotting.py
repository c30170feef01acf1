"""The style that all charts share, and writing figures to files. matplotlib is imported only when it is used.

Colours are those of Okabe and Ito, which stay distinct for people who see fewer colours; marks differ as well.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relisten import records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")
"""One more than there are colours, so 56 runs have a look of their own."""
GREY = "#777777"
WIDTH = 7.0
"""Inches: the width of the text on a page."""
NARROW = 3.6
"""Inches: the width of a chart that is drawn for a phone."""
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 8, "svg.hashsalt": "relisten",
    "figure.constrained_layout.use": True, "text.parse_math": False,
}  # fmt: skip
"""`text.parse_math` is off because names come from data: a category may be called `$5` or `$\\frac$`."""


def axes(height: float, rows: int = 1, columns: int = 1, width: float = WIDTH, **options: Any) -> tuple[Figure, Any]:
    """A figure of that size (inches) and its axes as a flat array [rows * columns], in the shared style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        return figure, np.ravel(figure.subplots(rows, columns, **options))


def is_wide(figure: Any) -> bool:
    """Whether a figure is drawn for a page, and not for a phone."""
    return bool(figure.get_figwidth() > NARROW)


def look(index: int) -> dict[str, Any]:
    """The colour and mark of a run, by its place."""
    found = {"color": COLOURS[index % len(COLOURS)], "marker": MARKS[index % len(MARKS)], "markersize": 5}
    return found | ({} if index < len(COLOURS) else {"markerfacecolor": "white"})


def label(name: str) -> str:
    """A name for a legend. matplotlib leaves names out that begin with an underscore, so those get a blank before."""
    return f" {name}" if name.startswith("_") else name


def legend(axis: Axes, columns: int) -> None:
    """A legend above the axes, in fewer columns where the figure is narrow."""
    if axis.get_legend_handles_labels()[1]:
        columns = min(columns, 4) if is_wide(axis.get_figure()) else 1
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2, frameon=False,
                    fontsize=8)  # fmt: skip


def svg(figure: Figure) -> str:
    """The figure as SVG, letters as outlines. The same figure gives the same text."""
    return _written(figure, "svg").decode()


def save(figure: Figure, path: Path) -> None:
    """Write an SVG, PNG or PDF, by the ending of the name. The file appears whole or not at all."""
    records.write_atomic(path, _written(figure, path.suffix[1:]))


def _written(figure: Figure, format: str) -> bytes:
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # a tick's text keeps what the style said when the figure was made elsewhere
        text.set_parse_math(False)
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format=format, dpi=160, metadata={"Date": None} if format == "svg" else None)
    return file.getvalue()
