"""What the benchmarks share: scripted work, sides timed one after another, ratios of neighbours in time, tables."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from tqdm import tqdm

from relisten import records
from relisten.engine.naive import Script
from relisten.models.base import AudioLM
from relisten.reports.table import Table, terminal_table
from relisten.reports.text import console
from relisten.types import Audio, Example

Result = TypeVar("Result")
Times = dict[str, list[dict[str, float]]]
"""Side -> for each repeat its seconds by each clock (`cpu`, `wall`, and others that a benchmark adds)."""


@contextmanager
def clocks(found: dict[str, float], prefix: str = "") -> Iterator[None]:
    """Puts the seconds of CPU and of wall time that the block takes into `found`."""
    cpu, wall = process_time(), perf_counter()
    yield
    found |= {f"{prefix}cpu": process_time() - cpu, f"{prefix}wall": perf_counter() - wall}


def measure(sides: Mapping[str, Callable[[], Result]], repeats: int) -> tuple[Times, dict[str, Result]]:
    """Run all sides once for each repeat, one after another; their times and what they gave last."""
    times: Times = {name: [] for name in sides}
    results: dict[str, Result] = {}
    for name, run in tqdm([*sides.items()] * repeats, desc="bench", unit="run"):
        found: dict[str, float] = {}
        with clocks(found):
            results[name] = run()
        times[name].append(found)
    return times, results


def median(times: Sequence[Mapping[str, float]], clock: str = "cpu") -> float:
    """The median of a side's repeats, in seconds."""
    return statistics.median(one[clock] for one in times)


def ratio(times: Times, first: str, second: str, clock: str = "cpu") -> dict[str, float]:
    """First side / second side, repeat by repeat: median, lowest, highest."""
    each = [a[clock] / b[clock] for a, b in zip(times[first], times[second], strict=True)]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


def spread(found: Mapping[str, float]) -> list[str]:
    """Two cells of a table: the median, and from lowest to highest."""
    return [f"{found['median']:.2f}", f"{found['low']:.2f} to {found['high']:.2f}"]


def show(tables: Sequence[Table], result: dict[str, Any], out: Path | None) -> None:
    """Print the tables, and write all figures with the versions and the processor to a JSON file."""
    for table in tables:
        console().print(terminal_table(table))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    found = {"versions": versions, "processor": platform.processor() or platform.machine()} | result
    if out is not None:
        records.write_atomic(out, json.dumps(found, indent=2) + "\n", follow=True)


@contextmanager
def with_threads(num: int) -> Iterator[None]:
    """torch computes with so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def noise(model: AudioLM, seconds: float, num: int = 1) -> list[Example]:
    """Questions about recordings of noise."""
    rng = np.random.default_rng(0)
    waves = [rng.standard_normal(round(seconds * model.rate)).astype(np.float32) * 0.1 for _ in range(num)]
    return [Example(f"noise-{i}", Audio(wave, model.rate), "What is it?") for i, wave in enumerate(waves)]


def scripted(model: AudioLM, tags: Sequence[str], num_tokens: int, filler: float = 1.0) -> Script:
    """An answer of `num_tokens` tokens, the end token among them: filler before, between and after the tags.

    tags: without the last `>`, which engine and naive loop force. filler: how much of its share stands before each tag.
    """
    written, blank = [model.encode(tag) for tag in tags], model.encode("a")
    stretch = round((num_tokens - 1 - sum(map(len, written))) // (len(tags) + 1) * filler)
    ids = [token_id for tag in written for token_id in [*blank * stretch, *tag]]
    ids += blank * (num_tokens - 1 - len(ids))
    return dict(enumerate([*ids, model.end_token_id])).get
