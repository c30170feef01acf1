"""A strip of the waveform for the terminal: block characters, a time axis, brackets under what was heard again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import ceil

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from relisten.types import Audio, Segment

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
"""One per heard segment, in order, then again from the first; all legible on light and dark terminals."""
BLOCKS = " ▁▂▃▄▅▆▇█"


def colour(index: int) -> str:
    """The colour of the segment heard `index`-th (from 0)."""
    return COLOURS[index % len(COLOURS)]


def levels(audio: Audio, num_columns: int) -> NDArray[np.float32]:
    """Root of the peak in each column, 0 (silence) .. 1 (the loudest), so that quiet events show: [num_columns]."""
    edges = np.linspace(0, len(audio.samples), num_columns + 1).round().astype(int)
    starts = np.minimum(edges[:-1], max(len(audio.samples) - 1, 0))
    peaks = np.maximum.reduceat(np.abs(audio.samples), starts) if len(audio.samples) else np.zeros(num_columns)
    loudest = float(peaks.max(initial=0.0))
    if loudest <= 0.0:
        return np.zeros(num_columns, np.float32)
    return np.sqrt(peaks / loudest).astype(np.float32)


def draw(audio: Audio, segments: Sequence[Segment] = (), width: int = 80, height: int = 3) -> Text:
    """The strip, `width` columns wide: `height` rows of waveform, one or more of brackets, the time axis."""
    width = max(width, 20)
    owner = _owners(audio, segments, width)
    rows = [_wave_row(levels(audio, width), owner, row, height) for row in reversed(range(height))]
    return Text("\n").join([*rows, *_brackets(audio, segments, width), _axis(audio.duration, width)])


def _columns(audio: Audio, segment: Segment, width: int) -> tuple[int, int]:
    """First and last column of a segment."""
    scale = width / max(audio.duration, 1e-9)
    first = min(max(int(segment.start * scale), 0), width - 1)
    return first, min(max(ceil(segment.end * scale) - 1, first), width - 1)


def _owners(audio: Audio, segments: Sequence[Segment], width: int) -> list[int | None]:
    """Which segment colours each column; the one heard last wins."""
    owner: list[int | None] = [None] * width
    for index, segment in enumerate(segments):
        first, last = _columns(audio, segment, width)
        owner[first : last + 1] = [index] * (last + 1 - first)
    return owner


def _wave_row(level: NDArray[np.float32], owner: Sequence[int | None], row: int, height: int) -> Text:
    """One row of blocks, `row` 0 at the bottom; the bottom row shows silence as a thin line."""
    text = Text(no_wrap=True)
    eighths = np.clip(np.round(level * height * 8).astype(int) - row * 8, 1 if row == 0 else 0, 8)
    for index, run in groupby(range(len(owner)), key=owner.__getitem__):
        text.append("".join(BLOCKS[eighths[n]] for n in run), "dim" if index is None else f"bold {colour(index)}")
    return text


def _brackets(audio: Audio, segments: Sequence[Segment], width: int) -> list[Text]:
    """Numbered brackets, `└─1─┘`, in as few rows as hold them without overlap."""
    lanes: list[tuple[list[tuple[str, str]], int]] = []
    for index, segment in enumerate(segments):
        first, last = _columns(audio, segment, width)
        number = str(index + 1)
        span = max(last - first + 1, len(number))
        first = min(first, width - span)
        mark = number if span < len(number) + 2 else "└" + number.center(span - 2, "─") + "┘"
        lane = next((n for n, (_, end) in enumerate(lanes) if end <= first), len(lanes))
        pieces, end = lanes[lane] if lane < len(lanes) else ([], 0)
        pieces += [(" " * (first - end), ""), (mark, f"bold {colour(index)}")]
        lanes[lane : lane + 1] = [(pieces, first + span)]
    return [Text.assemble(*pieces, no_wrap=True) for pieces, _ in lanes]


def _axis(duration: float, width: int) -> Text:
    """Round times under their columns; the unit stands at the right."""
    step = _step(duration, width)
    marks = [" "] * width
    tick = 0
    while duration > 0 and tick * step < duration:
        label = f"{tick * step:g}"
        column = int(tick * step / duration * width)
        if column + len(label) <= width - 2:
            marks[column : column + len(label)] = label
        tick += 1
    marks[width - 1] = "s"
    return Text("".join(marks), style="dim", no_wrap=True)


def _step(duration: float, width: int) -> float:
    """Seconds between labels: 1, 2 or 5 times a power of ten, at least 8 columns apart."""
    least = max(duration, 1e-3) * 8 / width
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= least * 0.999))
