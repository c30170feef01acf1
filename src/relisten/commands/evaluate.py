"""`relisten eval`: answer a file of questions whose answers are known, and score them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from relisten import records, run
from relisten.commands.ask import MAX_SECONDS, load
from relisten.commands.terminal import printable
from relisten.evals.runner import Hears, evaluate, summary, write_summary
from relisten.models import find
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
    max_listens: int = 8,
    max_seconds: float = MAX_SECONDS,
    temperature: float = 0.0,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> int:
    """Answer every question of a file and score the answers; the same command goes on after a stop.

    Exits with 1 when some could not be asked (a recording is unreadable or too long); run it again to try those again.

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
        Tokens the model may write for the whole answer; at the limit the answer is forced.
    max_listens
        Segments it may hear again; at one more the answer is forced.
    max_seconds
        Longest recording taken.
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
    options = {
        "format": format, "temperature": temperature, "seed": seed,
        "max_new_tokens": max_new_tokens, "max_listens": max_listens,
    }  # fmt: skip
    config, loaded = load(model, options, device=device, dtype=dtype)
    settings = {"questions": questions, "model": model, "hears": hears, "dtype": dtype, "max_seconds": max_seconds}
    run.start(out, settings | asdict(config) | sums([questions, *sorted(find(model).glob("*.safetensors"))]))
    answers = evaluate(loaded, examples, out / "answers.jsonl", config, hears, max_rows, max_seconds)
    result = summary(answers, format)
    write_summary(out / "summary.json", result)
    Console().print(table(result, f"{questions.name} · {model} · {format} · hears {hears}", format))
    return int(result["rows"]["all"]["errors"] > 0)


def sums(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of files, for the settings: what was answered before stands only while these are the same."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[f"sha256 of {path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def table(result: dict[str, Any], title: str, format: Format = "interleaved") -> Table:
    """Accuracy by question kind, beside chance."""
    overlap = "-" if result["mean_iou"] is None else f"{result['mean_iou']:.2f}"
    over = "answers that name some" if format == "conditioned" else "all answers, none named is 0"
    caption = (
        f"segments named per answer {result['segments_per_answer']:.2f},"
        f" mean IoU with the events {overlap} (over {over}), well formed {result['well_formed']:.0%}"
    )
    shown = Table(title=Text(printable(title), style="table.title"), caption=caption)
    for column in ("questions", "n", "accuracy", "95 % interval", "chance", "unparsed", "errors"):
        shown.add_column(column, justify="left" if column == "questions" else "right")
    for name, row in result["rows"].items():
        low, high = row["interval"]
        shown.add_row(
            Text(printable(name)), str(row["n"]), f"{row['accuracy']:.3f}", f"{low:.3f} to {high:.3f}",
            f"{row['chance']:.3f}", str(row["unparsed"]), str(row["errors"]), end_section=name == "all",
        )  # fmt: skip
    return shown
