"""One question about one recording, answered: what `relisten.ask` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from relisten import audio as audio_files
from relisten import tags
from relisten.choices import read_choice
from relisten.engine.engine import Engine, GenerationConfig
from relisten.engine.row import audible
from relisten.models.base import AudioLM
from relisten.models.scope import notice
from relisten.types import Audio, Example, Response, Segment, Trace


@dataclass(frozen=True)
class Answer:
    """What was answered, and how it came about."""

    answer: str | None
    """The text between the answer tags; None where the model gave none."""
    choice: str | None
    """The choice that the answer means; None where it means none, or there were none."""
    response: Response
    trace: Trace
    seconds: dict[str, float]
    """Wall-clock time: load, prefill, listen (encoding and reading segments), decode, total."""
    segments: tuple[Segment, ...]
    """What was heard again, in order."""
    notice: str | None = None
    """Why the answer may mean nothing, in one sentence; None where the question lies within what the model knows."""


def ask(
    model: AudioLM,
    audio: Path | str | Audio,
    question: str,
    choices: Sequence[str] = (),
    config: GenerationConfig | None = None,
) -> Answer:
    """Ask a model about a recording. Raises ValueError, in one line, when the recording cannot be used.

    >>> ask(load("nano"), "door.wav", "What is heard after the knock?", ["a dog", "a bell"]).choice
    'a bell'
    """
    started = perf_counter()
    heard = audio if isinstance(audio, Audio) else audio_files.load(audio, model.rate)
    # Sampling depends on the name: as in `relisten ask`, the folder is no part of it.
    name = "the recording" if isinstance(audio, Audio) else Path(audio).name
    loaded = perf_counter()
    engine = Engine(model, max_rows=1)
    given = choices if isinstance(choices, str) else tuple(choices)  # a text is refused with a word, not taken apart
    [[trace]] = engine.generate([Example(name, heard, question, given)], config)  # type: ignore[arg-type]
    seconds = {"load": loaded - started, **engine.seconds, "total": perf_counter() - started}
    return answered(trace, choices, seconds, notice(model, audible(model, heard), question, choices))


BLOCK = 128
"""Examples whose recordings `answer_each` holds in memory together: 30 s each make 250 MB."""


def answer_each(
    engine: Engine,
    examples: Sequence[Example],
    config: GenerationConfig,
    ready: Callable[[Example], Example],
    num_samples: int = 1,
) -> Iterator[tuple[int, int, Trace | str]]:
    """(index, sample, trace) as answers finish, in no fixed order.

    For an example that cannot be asked it is (index, 0, reason), once for all of its samples.

    ready: gives the example with its recording in memory; a ValueError or OSError of it is a reason, as is a prompt
    that the model's context has no room for.
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
    """What a finished trace says."""
    response = tags.parse(trace.text)
    segments = tuple(listen.segment for listen in trace.listens[1:])
    return Answer(response.answer, read_choice(response.answer, choices), response, trace, seconds, segments, notice)
