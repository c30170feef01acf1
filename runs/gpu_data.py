"""Training data for a GPU: a bank read at once, scenes made by many processes, batches that are always ready."""

from __future__ import annotations

import argparse
import csv
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from gpu_model import GpuNano, Tensors, Waves, pack_waves
from torch.utils.data import DataLoader, Dataset

from relisten.data.worlds import curriculum, scenes
from relisten.data.worlds.sounds import Sound
from relisten.training.batch import encode
from relisten.types import Format, SftExample

STARTED = time.perf_counter()
LENGTHS = (((3.0, 8.0), 0.4, 96), ((8.0, 16.0), 0.27, 56), ((16.0, 30.0), 0.18, 28), ((30.0, 60.0), 0.15, 14))
"""Seconds of the scenes of a batch, how often there is such a batch, and how many scenes it has on a GPU."""
STAGES: dict[str, tuple[tuple[Format, ...], int, int]] = {
    "clips": ((), 0, 6),
    "base": (("grounded", "interleaved"), 0, 2),
    "sft": (("interleaved", "interleaved", "grounded"), 1, 1),
}
"""Of each scene: chains in these formats, questions without a chain, clips; and always a caption and a time."""
JUDGES = re.compile(
    r"^Asterisk|gm:(?:0|13|40|42|56|60|68):|OpenSFX.*clip (?:4|6|14|24|29|33|35|36|37|38|40|56|68):"
    r"|drum_cowbell|misc_crow|perc_till|camera-shutter"
)
"""The sources of the shipped bank that are kept for judging (runs/keep_out.txt)."""
REUSED_AFTER, MOST_USES = 60, 3
"""A batch may be given again after so many others, and so often in all."""


def tell(*what: object) -> None:
    """One line with the seconds since the start."""
    print(f"[{time.perf_counter() - STARTED:6.1f}]", *what, flush=True)


def read_bank(folder: Path, processes: int) -> list[Sound]:
    """The sounds of a bank with a sounds.csv, in its order, read by several processes with soundfile alone."""
    with (folder / "sounds.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    files = sorted({row["file"] for row in rows})
    with ProcessPoolExecutor(max(1, processes)) as pool:
        recordings = dict(zip(files, pool.map(_read_file, [folder / name for name in files], chunksize=8), strict=True))
    found = []
    for row in rows:
        samples = recordings[row["file"]]
        if row.get("end"):
            samples = samples[round(float(row["start"]) * 16_000) : round(float(row["end"]) * 16_000)]
        if len(samples) >= 800 and np.any(samples):
            found.append(
                Sound(
                    row["label"], row.get("kind") or "sound", samples.astype(np.float32) / 32768, row.get("voice", ""),
                    row.get("pitch", ""), row.get("split") or "both",  # type: ignore[arg-type]
                    row.get("source", ""),
                )
            )  # fmt: skip
    return found


def own_banks(sounds: Sequence[Sound], wide: scenes.Bank) -> dict[str, scenes.Bank]:
    """The shipped bank's splits; nothing that is kept for judging trains, and the wider bank fills the gaps."""
    taught = [s for s in sounds if s.split == "heldout" or not JUDGES.search(s.source)]
    known = {s.label for s in taught if s.split != "heldout"}
    missing = {s.label for s in sounds} - known
    taught += [s for label in sorted(missing) for s in wide.sounds.get(label, ())]
    tell(
        "filled from the wider bank:",
        *sorted(missing & set(wide.sounds)),
        "- not trained:",
        *sorted(missing - set(wide.sounds)),
    )
    return {"train": scenes.bank_of(taught, "train"), "heldout": scenes.bank_of(sounds, "heldout")}


def _read_file(path: Path) -> np.ndarray[Any, np.dtype[np.int16]]:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:  # one file does not end a run that nobody watches
        print(f"{path}: {error}", file=sys.stderr, flush=True)
        return np.zeros(0, np.int16)
    mono = samples.mean(1)
    mono = mono if rate == 16_000 else soxr.resample(mono, rate, 16_000)
    return (np.clip(mono, -1, 1) * 32767).astype(np.int16)


class Batches(Dataset[Tensors]):
    """Whole batches by number, made by the processes of a `DataLoader`."""

    def __init__(self, model: Waves, stage: str, scale: float, first: int) -> None:
        self.model, self.stage, self.scale, self.first = model, stage, scale, first

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, number: int) -> Tensors:
        rng = np.random.default_rng([self.first + number, 71])
        lengths = LENGTHS[:2] if self.stage == "clips" else LENGTHS
        shares = np.array([share for _, share, _ in lengths])
        seconds, _, size = lengths[int(rng.choice(len(lengths), p=shares / shares.sum()))]
        size = max(2, round(size * self.scale))
        begin = (self.first + number) * 128
        found: list[list[SftExample]] = []
        for index in range(size):
            try:
                found.append(self.rows(begin + index, seconds))
            except Exception as error:  # one odd scene does not end a run that nobody watches
                print(f"scene {begin + index}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return self.packed(found)

    def rows(self, index: int, seconds: tuple[float, float]) -> list[SftExample]:
        """The rows of one scene."""
        formats, num_asked, num_clips = STAGES[self.stage]
        rows = curriculum.wide_rows(index, formats, num_asked, num_clips, seconds)
        return rows[2:] if self.stage == "clips" else rows

    def packed(self, rows: Sequence[Sequence[SftExample]]) -> Tensors:
        """Rows as one batch."""
        encoded = []
        for own in rows:
            mel: dict[int, Any] = {}
            encoded.append([encode(self.model, example, format, mel) for example, format in own])
        return pack_waves(self.model, encoded)


class Supply:
    """Batches of a stage on the device, without end. Where none is ready, one of the latest is given once more."""

    def __init__(self, model: GpuNano, stage: str, options: argparse.Namespace, workers: int, first: int) -> None:
        self.made: queue.Queue[Tensors] = queue.Queue(8)
        self.recent: deque[tuple[Tensors, int]] = deque()
        self.num_new, self.num_old, self.closed = 0, 0, False
        batches = Batches(Waves.of(model), stage, options.scale, first)
        self.loader = iter(
            DataLoader(
                batches, batch_size=None, num_workers=workers, prefetch_factor=6 if workers else None,
                pin_memory=torch.cuda.is_available(),
            )
        )  # fmt: skip
        self.device = model.module.device
        self.thread = threading.Thread(target=self._fill, daemon=True)
        self.thread.start()

    def _fill(self) -> None:
        failures = 0
        while not self.closed and failures < 50:
            try:
                batch = {name: value.to(self.device, non_blocking=True) for name, value in next(self.loader).items()}
            except Exception as error:
                failures += 1
                tell(f"a batch failed: {type(error).__name__}: {str(error)[:300]}")
                continue
            while not self.closed:
                try:
                    self.made.put(batch, timeout=1.0)
                    break
                except queue.Full:
                    continue

    def next(self) -> Tensors:
        """A new batch, or one that was used at most twice, or a new one after waiting."""
        try:
            batch = self.made.get_nowait()
        except queue.Empty:
            if len(self.recent) > REUSED_AFTER:
                batch, uses = self.recent.popleft()
                if uses < MOST_USES - 1:
                    self.recent.append((batch, uses + 1))
                self.num_old += 1
                return batch
            batch = self.made.get(timeout=120.0)
        self.num_new += 1
        self.recent.append((batch, 1))
        if len(self.recent) > 3 * REUSED_AFTER:
            self.recent.popleft()
        return batch

    def close(self) -> None:
        """End the processes."""
        self.closed = True
        self.thread.join(5.0)
        del self.loader
