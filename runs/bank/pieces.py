"""One sound of the wide bank, how it is cut, and the files into which many of them are packed (make_bank.py)."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

RATE = 16_000
PEAK = 10 ** (-3 / 20)
GAP = round(0.1 * RATE)
"""Samples of silence between two sounds of a file, so that the encoder mixes nothing of one into the other."""
ABOUT = ("label", "kind", "split", "voice", "pitch", "source", "author", "licence", "synthetic", "take")
COLUMNS = ("file", "start", "end", *ABOUT)
Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """What is known of one sound."""

    label: str
    kind: str
    split: str
    source: str
    author: str
    licence: str
    voice: str = ""
    pitch: str = ""
    synthetic: bool = False
    take: str = ""
    """The recording it was cut from. Pieces of one recording are in one split."""


def at_16k(samples: Wave, rate: int) -> Wave:
    mono = samples.mean(axis=1) if samples.ndim > 1 else samples
    return np.asarray(soxr.resample(mono, rate, RATE, quality="VHQ"), dtype=np.float32)


def trim(samples: Wave, duration: float) -> Wave:
    """Without silence (40 dB below the peak) at the ends, at most `duration` seconds, faded out, peak at -3 dBFS."""
    frames = np.abs(samples[: len(samples) // 80 * 80]).reshape(-1, 80).max(axis=1)  # 5 ms
    loud = np.flatnonzero(frames > 0.01 * frames.max())
    first, last = max(loud[0] - 1, 0), min(loud[-1] + 3, len(frames))
    cut = samples[first * 80 : last * 80]
    cut = cut[: round(duration * RATE)]
    cut = cut - cut.mean()
    still_loud = np.abs(cut[-480:]).max() > 0.1 * np.abs(cut).max()
    fade = round(len(cut) * 0.15) if still_loud else min(480, len(cut) // 5)
    cut[len(cut) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return np.asarray(cut * (PEAK / np.abs(cut).max()), dtype=np.float32)


def stretches(samples: Wave, number: int, seconds: float) -> list[Wave]:
    """Up to `number` parts of a recording: its sounds if silence lies between them, else one part after the other."""
    if number == 1:
        return [samples[: round((seconds + 2) * RATE)]]
    frames = np.abs(samples[: len(samples) // 160 * 160]).reshape(-1, 160).max(axis=1)  # 10 ms
    loud = frames > 0.05 * frames.max()
    quiet_run, starts = 100, []
    for index, is_loud in enumerate(loud):
        if is_loud and quiet_run >= 12:
            starts.append(max(index - 2, 0) * 160)
        quiet_run = 0 if is_loud else quiet_run + 1
    if len(starts) < 2:  # one long sound
        step = round(min(seconds, len(samples) / RATE / number) * RATE)
        starts = list(range(0, max(len(samples) - step // 2, 1), max(step, RATE // 4)))
    ends = [*starts[1:], len(samples)]
    parts = [samples[start : min(end, start + round(seconds * RATE))] for start, end in zip(starts, ends, strict=True)]
    parts = [part for part in parts if len(part) > 0.1 * RATE and np.abs(part).max() > 0.05 * np.abs(samples).max()]
    chosen = np.linspace(0, len(parts) - 1, min(number, len(parts))).round().astype(int)
    return [parts[index] for index in chosen]


def pack(out: Path, name: str, pieces: Iterable[tuple[Piece, Wave]], bits: int) -> None:
    """Writes out/name.opus (`bits` a second, at most) and, last, out/name.csv with a row for each sound."""
    path = out / f"{name}.opus"
    path.parent.mkdir(parents=True, exist_ok=True)
    silence, waves, rows, at = np.zeros(GAP, np.float32), [], [], GAP
    for piece, samples in pieces:
        waves += [silence, samples]
        about = {key: getattr(piece, key) for key in ABOUT} | {"synthetic": "yes" if piece.synthetic else "no"}
        where = {"start": f"{at / RATE:.4f}", "end": f"{(at + len(samples)) / RATE:.4f}"}
        rows.append({"file": f"{name}.opus"} | where | about)
        at += len(samples) + GAP
    level = 1 - (bits - 6_000) / 250_000  # libsndfile maps 0 .. 1 to 256,000 .. 6,000 bits a second
    sf.write(path, np.concatenate([*waves, silence]), RATE, format="OGG", subtype="OPUS", compression_level=level)
    unfinished = path.with_suffix(".tmp")
    write_rows(unfinished, rows)
    unfinished.rename(path.with_suffix(".csv"))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
