"""`relisten eval`: answer a file of questions whose answers are known, and score them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from relisten import records, run
from relisten.engine import GenerationConfig
from relisten.evals.runner import Hears, evaluate, summary, write_summary
from relisten.models import load
from relisten.types import Format


def eval_file(
    questions: Path,
    out: Path,
    /,
    *,
    model: str = "nano",
    format: Format = "interleaved",
    hears: Hears = "own",
    max_rows: int = 32,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> int:
    """Answer every question of a file and score the answers; the same command goes on after a stop.

    Parameters
    ----------
    questions
        A JSONL or JSON in MMAR's form, with answers.
    out
        Folder for answers.jsonl (one record a question), summary.json and the settings.
    model
        nano (built in), a folder, or a hub name.
    format
        conditioned: reasons in text alone. grounded: names segments. interleaved: names segments and hears them again.
    hears
        What a segment gives: own (the recording's), other (another question's recording, same times), silence.
    max_rows
        Answers made side by side.
    max_new_tokens
        Tokens the model may write for an answer.
    temperature
        0 is greedy.
    seed
        Of the sampling.
    device
        auto (CUDA, then MPS, then CPU) or a torch device such as cuda:1.
    dtype
        auto (the checkpoint's own), float32, bfloat16 or float16.
    """
    examples = records.read_examples(questions)
    if without := [e.id for e in examples if e.answer is None]:
        raise ValueError(
            f"{questions}: {len(without)} questions have no answer, {without[0]} for one; nothing to score"
        )
    config = GenerationConfig(format=format, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    settings = {"questions": questions, "model": model, "hears": hears, "dtype": dtype, "config": config}
    loaded = load(model, dtype=dtype, device=device)
    run.start(out, settings)
    result = summary(evaluate(loaded, examples, out / "answers.jsonl", config, hears, max_rows))
    write_summary(out / "summary.json", result)
    Console().print(table(result, f"{questions.name} · {model} · {format} · hears {hears}"))
    return 0


def table(result: dict[str, Any], title: str) -> Table:
    """Accuracy by question kind, beside chance."""
    overlap = "-" if result["mean_iou"] is None else f"{result['mean_iou']:.2f}"
    caption = (
        f"segments named per answer {result['segments_per_answer']:.2f}, mean IoU with the events {overlap},"
        f" well formed {result['well_formed']:.0%}"
    )
    shown = Table(title=title, caption=caption)
    for column in ("questions", "n", "accuracy", "95 % interval", "chance", "unparsed"):
        shown.add_column(column, justify="left" if column == "questions" else "right")
    for name, row in result["rows"].items():
        low, high = row["interval"]
        shown.add_row(
            name, str(row["n"]), f"{row['accuracy']:.3f}", f"{low:.3f} to {high:.3f}", f"{row['chance']:.3f}",
            str(row["unparsed"]), end_section=name == "all",
        )  # fmt: skip
    return shown
