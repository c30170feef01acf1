"""Answers to questions: `ask` for one question, `answer_each` for many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from relisten import tags
from relisten.choices import read_choice
from relisten.engine.answering import Answering
from relisten.engine.generation import GenerationConfig
from relisten.fields import documented
from relisten.types import Example, Response, Segment, Trace


@documented
@dataclass(frozen=True)
class Answer:
    """The answer to one question, with everything that led to it."""

    answer: str | None
    """The text between <answer> and </answer>, or None if the model wrote none."""
    choice: str | None
    """The choice that the answer names; None if it names none, or if the question has no choices."""
    response: Response
    trace: Trace
    seconds: dict[str, float]
    """Wall-clock seconds of: load, prefill, listen (encoding and reading segments), decode, total. If servers answer:
    load, server (waiting for them), total."""
    segments: tuple[Segment, ...]
    """The segments that were heard again, in order."""
    notice: str | None = None
    """One sentence that says why the answer may mean nothing, or None if the question is one that the model knows."""


BLOCK = 128
"""How many recordings `answer_each` holds in memory at a time. At 30 s each they take 250 MB."""


def answer_each(
    engine: Answering,
    examples: Sequence[Example],
    config: GenerationConfig,
    ready: Callable[[Example], Example],
    num_samples: int = 1,
) -> Iterator[tuple[int, int, Trace | str]]:
    """Yield (index, sample, trace) as answers finish, in no fixed order.

    If an example cannot be asked, it gives (index, 0, reason) once for all of its samples: `ready` raised a ValueError
    or an OSError, or the prompt does not fit into the context of the model.

    ready: returns the example with its recording in memory.
    """
    for first in range(0, len(examples), BLOCK):
        places: list[int] = []
        asked: list[Example] = []
        reasons: list[tuple[int, str]] = []
        for place, example in enumerate(examples[first : first + BLOCK], start=first):
            try:
                asked.append(ready(example))
                places.append(place)
            except (ValueError, OSError) as error:
                yield place, 0, str(error)

        def failed(index: int, reason: str, reasons: list[tuple[int, str]] = reasons) -> None:
            reasons.append((index, reason))

        for index, sample, trace in engine.run(asked, config, num_samples, failed=failed):
            yield places[index], sample, trace
        yield from ((places[index], 0, reason) for index, reason in reasons)


def answered(trace: Trace, choices: Sequence[str], seconds: dict[str, float], notice: str | None = None) -> Answer:
    """The answer that a finished trace gives."""
    response = tags.parse(trace.text)
    segments = tuple(listen.segment for listen in trace.listens[1:])
    return Answer(response.answer, read_choice(response.answer, choices), response, trace, seconds, segments, notice)
