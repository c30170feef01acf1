"""`python -m benchmarks.evaluation`: questions answered a second, by the engine and by a usual evaluation loop.

That loop asks one question after another, and at every pause reads everything anew. Both sides have the same model,
the same recordings in memory and greedy decoding, so they write the same; how often they do is part of the result.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from relisten import models, records
from relisten.audio import load
from relisten.cli import main, standalone
from relisten.engine.engine import Engine, GenerationConfig
from relisten.engine.naive import naive
from relisten.models.base import AudioLM
from relisten.types import Audio, Example, Format, Trace

Side = Callable[[], list[Trace]]


def evaluation(
    questions: Path,
    /,
    *,
    model: str = "nano",
    num: int = 32,
    format: Format = "interleaved",
    max_rows: int = 32,
    max_new_tokens: int = 512,
    repeats: int = 3,
    device: str = "auto",
    dtype: str = "auto",
    out: Path | None = None,
) -> int:
    """Measure how fast a file's questions are answered, beside a loop that asks one by one and re-reads everything.

    Parameters
    ----------
    questions
        A JSONL or JSON in MMAR's form.
    model
        nano (built in), a folder, or a hub name.
    num
        Questions of the file that are asked, from its start.
    format
        conditioned, grounded or interleaved.
    max_rows
        Answers made side by side.
    max_new_tokens
        Tokens the model may write for an answer.
    repeats
        How often every side is run; the table has the median.
    device
        auto (CUDA, then MPS, then CPU) or a torch device such as cuda:1.
    dtype
        auto (the checkpoint's own), float32, bfloat16 or float16.
    out
        A JSON file for all figures.
    """
    if num < 1 or repeats < 1:
        raise ValueError(f"num and repeats must be at least 1, not {num} and {repeats}")
    loaded = models.load(model, device=device, dtype=dtype)
    given = records.read_examples(questions)[:num]
    examples = [replace(e, audio=e.audio if isinstance(e.audio, Audio) else load(e.audio, loaded.rate)) for e in given]
    result = measure(loaded, examples, GenerationConfig(format, max_new_tokens=max_new_tokens), max_rows, repeats)
    Console().print(_table(result))
    if out is not None:
        records.write_atomic(out, json.dumps(result, indent=2) + "\n", follow=True)
    return 0


def measure(
    model: AudioLM, examples: Sequence[Example], config: GenerationConfig, max_rows: int = 32, repeats: int = 3
) -> dict[str, Any]:
    """CPU and wall seconds of every side and repeat, and what share of the answers is that of the loop."""

    def engine(rows: int) -> Side:
        return lambda: [traces[0] for traces in Engine(model, max_rows=rows).generate(examples, config)]

    sides: dict[str, Side] = {
        "one by one, all read anew at a pause": lambda: [naive(model, e, config) for e in examples],
        "engine, one by one": engine(1),
        f"engine, {max_rows} side by side": engine(max_rows),
    }
    times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    traces: dict[str, list[Trace]] = {}
    for _ in tqdm(range(repeats), desc="repeats"):
        for name, run in sides.items():
            cpu, wall = process_time(), perf_counter()
            traces[name] = run()
            times[name].append({"cpu": process_time() - cpu, "wall": perf_counter() - wall})
    loop = next(iter(traces.values()))
    # At the limit the engine goes on to force an answer and the loop stops: what the loop has is what is compared.
    same = {
        name: sum(a.token_ids == b.token_ids[: len(a.token_ids)] for a, b in zip(loop, found, strict=True))
        for name, found in traces.items()
    }
    pauses = sum(len(trace.listens) - 1 for trace in loop)
    return {"num": len(examples), "repeats": repeats, "pauses": pauses, "times": times, "same": same}


def _table(result: dict[str, Any]) -> Table:
    num = result["num"]
    title = f"{num} questions, {result['pauses']} pauses, median of {result['repeats']} repeats"
    table = Table(title=title, title_justify="left")
    for name in ("", "answers/s", "CPU s", "ratio of CPU", "of wall time", "same tokens"):
        table.add_column(name, justify="left" if not name else "right")
    first = next(iter(result["times"].values()))
    for name, times in result["times"].items():
        ratios = {
            clock: statistics.median(a[clock] / b[clock] for a, b in zip(first, times, strict=True))
            for clock in ("cpu", "wall")
        }
        cpu, wall = (statistics.median(t[clock] for t in times) for clock in ("cpu", "wall"))
        table.add_row(
            name, f"{num / wall:.2f}", f"{cpu:.2f}", f"{ratios['cpu']:.2f}", f"{ratios['wall']:.2f}",
            f"{result['same'][name]}/{num}",
        )  # fmt: skip
    return table


commands = standalone(evaluation, "python -m benchmarks.evaluation")

if __name__ == "__main__":
    main(commands=commands)
