"""Answers to questions: `ask` for one question, `answer_each` for many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from relisten import tags
from relisten.choices import read_choice
from relisten.engine.answering import Answering, Failed
from relisten.engine.generation import GenerationConfig
from relisten.engine.row import Finished
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


def answer_each(
    engine: Answering,
    examples: Sequence[Example],
    config: GenerationConfig,
    ready: Callable[[Example], Example] = lambda example: example,
    num_samples: int | Sequence[int] = 1,
) -> Iterator[tuple[int, int, Trace | str]]:
    """Yield (index, sample, trace) as answers finish, in no fixed order.

    If an example cannot be asked, it gives (index, 0, reason) once for all of its samples: `ready` raised a ValueError
    or an OSError, or the prompt does not fit into the context of the model.

    ready: prepares an example, for instance by loading its recording. It is called when the example's turn comes, so
    that no more recordings are held than the engine has rows, and one. num_samples: the number of answers to every
    example, or a list with the number for each.
    """
    counts = [num_samples] * len(examples) if isinstance(num_samples, int) else num_samples
    left = iter(range(len(examples)))
    asked: dict[int, int] = {}
    with engine.session() as session:
        while True:
            # One more waits than there are free rows, so that no row is ever free while questions are left.
            while session.num_waiting <= engine.max_rows - session.num_live and (index := next(left, None)) is not None:
                try:
                    asked[session.submit(ready(examples[index]), config, counts[index])] = index
                except (ValueError, OSError) as error:
                    yield index, 0, str(error)
            if not session.busy:
                return
            for question, sample, event in session.step():
                if isinstance(event, Finished):
                    yield asked[question], sample, event.trace
                elif isinstance(event, Failed):
                    yield asked[question], 0, event.reason


def answered(trace: Trace, choices: Sequence[str], seconds: dict[str, float], notice: str | None = None) -> Answer:
    """The answer that a finished trace gives."""
    response = tags.parse(trace.text, trace.operations)
    segments = tuple(listen.segment for listen in trace.listens[1:])
    return Answer(response.answer, read_choice(response.answer, choices), response, trace, seconds, segments, notice)
