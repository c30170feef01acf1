"""`relisten ask questions.jsonl`: many questions in batches, written as they finish, resumable."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from relisten import audio, records
from relisten.choices import is_right
from relisten.commands.options import as_json, load
from relisten.engine.answer import answer_each, answered
from relisten.engine.engine import Engine, GenerationConfig
from relisten.files import check_size, resolved, size_of
from relisten.reports.text import console
from relisten.types import Example

Line = dict[str, Any]
_ANSWER = ("answer_prediction", "thinking_prediction", "relisten", "error")
"""What a line says of its answer."""


def ask_many(
    questions: Path, out: Path | None, model: str, options: dict[str, Any], max_seconds: float, place: dict[str, str]
) -> int:
    """Answer every question that `out` has no answer to yet; 1 when some could not be answered.

    A line of the output is the question's own object with `answer_prediction` and `thinking_prediction` (the names
    MMAR's scripts read) and everything else under `relisten`, or `error` where the
    recording could not be read, or is too long for the model.
    """
    out = None if out is None else resolved(out)
    with nullcontext() if out is None else records.sole_writer(out):
        lines = _answer(records.read_examples(questions), questions, out, model, options, max_seconds, place)
    print(_summary(lines), file=sys.stderr)
    return int(any(line.get("answer_prediction") is None for line in lines))


def _answer(
    examples: Sequence[Example],
    questions: Path,
    out: Path | None,
    model: str,
    options: dict[str, Any],
    max_seconds: float,
    place: dict[str, str],
) -> list[Line]:
    """The lines of all questions, those of an earlier run first."""
    settings = {"model": model, **options}
    lines: list[Line] = []
    if out is not None and out.exists():
        _check_same(out, {e.id: _question(e, questions.parent) for e in examples}, settings)
        lines = records.resume(out)
    done = {line["id"] for line in lines}
    waiting = [example for example in examples if example.id not in done]
    if len(waiting) < len(examples):
        print(f"{out}: {len(examples) - len(waiting)} of {len(examples)} are answered already", file=sys.stderr)
    if waiting:
        config, loaded = load(model, options, **place)
        engine = Engine(loaded)
        size = 0 if out is None else size_of(out)
        with _progress() as progress:
            task = progress.add_task("", total=len(waiting))
            for line in _lines(engine, config, waiting, questions.parent, max_seconds):
                if "relisten" in line:
                    line["relisten"]["settings"] = settings
                if out is None:
                    print(json.dumps(line, ensure_ascii=False), flush=True)
                else:
                    size = records.append(out, line, size)
                lines.append(line)
                progress.advance(task)
        if out is not None:
            check_size(out, size)
    return lines


def _question(example: Example, folder: Path) -> Line:
    """A question's own object, without what another model's answer to it may have left there."""
    return {key: value for key, value in records.record_from_example(example, folder).items() if key not in _ANSWER}


def _check_same(out: Path, asked: Mapping[str, Line], settings: Line) -> None:
    """Raises ValueError where the lines of `out` are no answers to these questions with these settings."""
    for number, line in enumerate(records.read(out, torn=True), start=1):
        if "answer_prediction" not in line:
            raise ValueError(f"{out}: line {number} is no answer of an earlier `relisten ask`; choose another --out")
        question = asked.get(str(line.get("id")))
        if question is None or any(line.get(name) != value for name, value in question.items()):
            raise ValueError(f"{out}: line {number} answers another question than is asked; choose a new --out")
        if line.get("relisten", {}).get("settings", settings) != settings:
            raise ValueError(f"{out}: line {number} was answered with another model or options; choose a new --out")


def _lines(
    engine: Engine, config: GenerationConfig, waiting: Sequence[Example], folder: Path, max_seconds: float
) -> Iterator[Line]:
    """Lines as they finish, in no fixed order; a recording that cannot be read or is too long gives an `error`."""

    def ready(example: Example) -> Example:
        assert isinstance(example.audio, Path)
        return replace(example, audio=audio.load(example.audio, engine.model.rate, max_seconds))

    for index, _, trace in answer_each(engine, waiting, config, ready):
        question = _question(waiting[index], folder)
        if isinstance(trace, str):
            yield {**question, "answer_prediction": None, "error": trace}
            continue
        answer = answered(trace, waiting[index].choices, {})
        everything = as_json(answer)
        del everything["seconds"]  # rows share every step, so no row has seconds of its own
        yield {
            **question,
            "answer_prediction": answer.choice or answer.answer,
            "thinking_prediction": answer.response.think,
            "relisten": everything,
        }


def _progress() -> Progress:
    """A bar on stderr, drawn only where stderr is a terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("answered"), TimeElapsedColumn(), TimeRemainingColumn())
    where = console(stderr=True)
    return Progress(*columns, console=where, disable=not where.is_terminal)


def _summary(lines: Sequence[Line]) -> str:
    """How many were answered, and how many rightly where the right answer is known."""
    failed = sum(line.get("answer_prediction") is None for line in lines)
    known = [line for line in lines if isinstance(line.get("answer"), str)]
    text = f"{len(lines)} questions, {failed} without an answer"
    if known:
        right = sum(is_right(line.get("answer_prediction"), line["answer"]) for line in known)
        text += f", {right} of {len(known)} right ({100 * right / len(known):.1f} %)"
    return text
