"""`relisten ask questions.jsonl`: many questions in batches, written as they finish, resumable."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from relisten import audio, records
from relisten.answer import answered
from relisten.commands.ask import as_json, load
from relisten.commands.terminal import console
from relisten.engine import Engine, GenerationConfig
from relisten.types import Example

BLOCK = 128
"""Questions whose recordings are in memory together: 30 s each makes 250 MB."""

Line = dict[str, Any]


def ask_many(
    questions: Path, out: Path | None, model: str, options: dict[str, Any], max_seconds: float, place: dict[str, str]
) -> int:
    """Answer every question that `out` has no answer to yet; 1 when some could not be answered.

    A line of the output is the question's own object with `answer_prediction` and `thinking_prediction` (the names
    MMAR's scripts read) and everything else under `relisten`, or `error` where the recording could not be read.
    """
    examples = records.read_examples(questions)
    lines = earlier(out)
    done = {line.get("id") for line in lines}
    waiting = [example for example in examples if example.id not in done]
    if len(waiting) < len(examples):
        print(f"{out}: {len(examples) - len(waiting)} of {len(examples)} are answered already", file=sys.stderr)
    if waiting:
        config, loaded = load(model, options, **place)
        engine = Engine(loaded)
        write = _writer(out)
        with _progress() as progress:
            task = progress.add_task("", total=len(waiting))
            for block in (waiting[n : n + BLOCK] for n in range(0, len(waiting), BLOCK)):
                for line in _answer_block(engine, config, block, questions.parent, max_seconds):
                    write(line)
                    lines.append(line)
                    progress.advance(task)
    print(_summary(lines), file=sys.stderr)
    return int(any(line.get("answer_prediction") is None for line in lines))


def earlier(out: Path | None) -> list[Line]:
    """What an earlier run wrote; lines with an error are taken out of the file, so that they are tried again."""
    if out is None or not out.exists():
        return []
    lines = list(records.read(out, torn=True))
    kept = [line for line in lines if "error" not in line]
    if len(kept) < len(lines):
        records.write_atomic(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    return kept


def _answer_block(
    engine: Engine, config: GenerationConfig, block: Sequence[Example], folder: Path, max_seconds: float
) -> Iterator[Line]:
    """Lines as they finish, in no fixed order; a recording that cannot be read gives a line with `error`."""
    readable: list[Example] = []
    asked: list[Line] = []
    for example in block:
        assert isinstance(example.audio, Path)
        question = records.record_from_example(example, folder)
        try:
            recording = audio.load(example.audio, max_seconds=max_seconds)
        except (ValueError, OSError) as error:
            yield {**question, "answer_prediction": None, "error": str(error)}
            continue
        readable.append(replace(example, audio=recording))
        asked.append(question)
    for index, _, trace in engine.run(readable, config):
        answer = answered(trace, readable[index].choices, {})
        everything = as_json(answer)
        del everything["seconds"]  # rows share every step, so no row has seconds of its own
        yield {
            **asked[index],
            "answer_prediction": answer.choice or answer.answer,
            "thinking_prediction": answer.response.think,
            "relisten": everything,
        }


def _writer(out: Path | None) -> Callable[[Line], None]:
    if out is None:
        return lambda line: print(json.dumps(line, ensure_ascii=False), flush=True)
    return lambda line: records.append(out, line)


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
        right = sum(line.get("answer_prediction") == line["answer"] for line in known)
        text += f", {right} of {len(known)} right ({100 * right / len(known):.1f} %)"
    return text
