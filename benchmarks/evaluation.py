"""`python -m benchmarks.evaluation`: questions answered per second, by the engine and by a usual evaluation loop.

That loop asks one question after another, and at every pause reads everything again. Both sides have the same model,
the same recordings in memory and greedy decoding, so they write the same; how often they do is part of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.timing import measure, median, ratio, show
from relisten import models, records
from relisten.audio import load
from relisten.cli import main, standalone
from relisten.engine.engine import Engine, GenerationConfig
from relisten.engine.naive import naive
from relisten.models.base import AudioLM
from relisten.reports.table import Table
from relisten.types import Audio, Example, Format, Trace

LOOP = "one by one, all read anew at a pause"


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
        How many questions are asked, from the start of the file.
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
    show(*compare(loaded, examples, GenerationConfig(format, max_new_tokens=max_new_tokens), max_rows, repeats), out)
    return 0


def compare(
    model: AudioLM, examples: Sequence[Example], config: GenerationConfig, max_rows: int = 32, repeats: int = 3
) -> tuple[list[Table], dict[str, Any]]:
    """The table, and CPU and wall seconds of every side and repeat with how many answers are those of the loop."""
    sides: dict[str, Callable[[], list[Trace]]] = {LOOP: lambda: [naive(model, e, config) for e in examples]}
    for name, most in (("engine, one by one", 1), (f"engine, {max_rows} side by side", max_rows)):
        sides[name] = partial(_by_engine, Engine(model, max_rows=most), examples, config)
    times, traces = measure(sides, repeats)
    # At the limit the engine goes on to force an answer and the loop stops: what the loop has is what is compared.
    same = {
        name: sum(a.token_ids == b.token_ids[: len(a.token_ids)] for a, b in zip(traces[LOOP], found, strict=True))
        for name, found in traces.items()
    }
    num, pauses = len(examples), sum(len(trace.listens) - 1 for trace in traces[LOOP])
    rows = [
        [name, f"{num / median(found, 'wall'):.2f}", f"{median(found):.2f}",
         *(f"{ratio(times, LOOP, name, clock)['median']:.2f}" for clock in ("cpu", "wall")), f"{same[name]}/{num}"]
        for name, found in times.items()
    ]  # fmt: skip
    title = f"{num} questions, {pauses} pauses, median of {repeats} repeats"
    table = Table(["", "answers/s", "CPU s", "ratio of CPU", "of wall time", "same tokens"], rows, title=title)
    return [table], {"num": num, "repeats": repeats, "pauses": pauses, "times": times, "same": same}


def _by_engine(engine: Engine, examples: Sequence[Example], config: GenerationConfig) -> list[Trace]:
    return [traces[0] for traces in engine.generate(examples, config)]


commands = standalone(evaluation, "python -m benchmarks.evaluation")

if __name__ == "__main__":
    main(commands=commands)
