"""`relisten ask questions.jsonl`: many questions in batches. Each answer is written when it is finished."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from relisten import audio, records
from relisten.commands.options import ModelOptions, keeping, kept_answers
from relisten.engine.answer import answer_each, answered
from relisten.engine.answering import Answering
from relisten.engine.generation import GenerationConfig
from relisten.files import check_size, resolved, size_of
from relisten.models.scope import notice_of
from relisten.reports.answer_json import as_json
from relisten.reports.text import console
from relisten.same_text import is_right
from relisten.types import Example

Line = dict[str, Any]
_ANSWER = ("answer_prediction", "thinking_prediction", "relisten", "error")
"""The keys of a line that belong to its answer."""


def ask_many(questions: Path, out: Path | None, config: GenerationConfig, options: ModelOptions) -> int:
    """Answer every question that has no answer in `out` yet. Returns 1 if some could not be answered.

    A line of the output is the question's own object with `answer_prediction` and `thinking_prediction` (the names that
    MMAR's scripts read) and everything else under `relisten`. If the recording could not be read, or is too long for
    the model, the line has `error` instead.
    """
    out = None if out is None else resolved(out)
    with nullcontext() if out is None else records.sole_writer(out):
        examples = records.read_examples(questions)
        with keeping(lambda: kept_answers(out, len(examples)) if out else "The lines that were printed are whole"):
            lines = _answer(examples, questions, out, config, options)
    print(_summary(lines), file=sys.stderr)
    return int(any(line.get("answer_prediction") is None for line in lines))


def _answer(
    examples: Sequence[Example], questions: Path, out: Path | None, config: GenerationConfig, options: ModelOptions
) -> list[Line]:
    """The lines of all questions, those of an earlier run first."""
    settings = {**options.told(), **asdict(config)}
    if options.operations != "model":
        settings["operations"] = options.operations
    lines: list[Line] = []
    if out is not None and out.exists():
        _check_same(out, {e.id: _question(e, questions.parent) for e in examples}, settings)
        lines = records.resume(out)
    done = {line["id"] for line in lines}
    waiting = [example for example in examples if example.id not in done]
    if len(waiting) < len(examples):
        print(f"{out}: {len(examples) - len(waiting)} of {len(examples)} are answered already", file=sys.stderr)
    if waiting:
        model, make = options.open()
        engine = make(model)
        size = 0 if out is None else size_of(out)
        with _progress() as progress:
            task = progress.add_task("", total=len(waiting))
            for line in _lines(engine, config, waiting, questions.parent, options.max_seconds):
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
    """A question's own object, without the keys of an answer that another model may have left in it."""
    return {key: value for key, value in records.record_from_example(example, folder).items() if key not in _ANSWER}


def _check_same(out: Path, asked: Mapping[str, Line], settings: Line) -> None:
    """Raises ValueError if the lines of `out` are not answers to these questions with these settings."""
    for number, line in enumerate(records.read(out, torn=True), start=1):
        if "answer_prediction" not in line:
            raise ValueError(f"{out}: line {number} was not written by `relisten ask`; choose another --out")
        question = asked.get(str(line.get("id")))
        if question is None or any(line.get(name) != value for name, value in question.items()):
            raise ValueError(f"{out}: line {number} answers a question that is not in the file now; choose a new --out")
        if _told(line).get("settings", settings) != settings:
            raise ValueError(f"{out}: line {number} was answered with another model or options; choose a new --out")


def _told(line: Line) -> Line:
    """The object under `relisten` in a line; an empty dict if there is none."""
    told = line.get("relisten")
    return told if isinstance(told, dict) else {}


def _lines(
    engine: Answering, config: GenerationConfig, waiting: Sequence[Example], folder: Path, max_seconds: float
) -> Iterator[Line]:
    """Yield lines as answers finish, in no fixed order. A question that cannot be asked gives a line with `error`."""

    def ready(example: Example) -> Example:
        assert isinstance(example.audio, Path)
        return replace(example, audio=audio.load(example.audio, engine.model.rate, max_seconds))

    for index, _, trace in answer_each(engine, waiting, config, ready):
        question = _question(waiting[index], folder)
        if isinstance(trace, str):
            yield {**question, "answer_prediction": None, "error": trace}
            continue
        example = waiting[index]
        told = notice_of(engine.model, trace, example.question, example.choices)
        answer = answered(trace, example.choices, {}, told)
        everything = as_json(answer)
        del everything["seconds"]  # rows share every step, so an answer has no time of its own
        yield {
            **question,
            "answer_prediction": answer.choice or answer.answer,
            "thinking_prediction": answer.response.think,
            "relisten": everything,
        }


def _progress() -> Progress:
    """A progress bar on stderr, drawn only if stderr is a terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("answered"), TimeElapsedColumn(), TimeRemainingColumn())
    where = console(stderr=True)
    return Progress(*columns, console=where, disable=not where.is_terminal)


def _summary(lines: Sequence[Line]) -> str:
    """How many questions were answered, and how many correctly among those whose answer is known."""
    failed = sum(line.get("answer_prediction") is None for line in lines)
    known = [line for line in lines if isinstance(line.get("answer"), str)]
    text = f"{len(lines)} questions, {failed} without an answer"
    if known:
        right = sum(
            is_right(line.get("answer_prediction"), line["answer"], line.get("choices") or ()) for line in known
        )
        text += f", {right} of {len(known)} right ({100 * right / len(known):.1f} %)"
    outside = sum(bool(_told(line).get("notice")) for line in lines)
    if outside:
        text += f"; {outside} lie outside of what the model was trained on, see `notice` in their lines"
    return text
