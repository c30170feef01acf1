"""`relisten.ask` for Python. Its answers can be shown in a notebook and saved as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from html import escape
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import overload

from relisten import audio as audio_files
from relisten.engine.answer import Answer, answer_each, answered
from relisten.engine.answering import Answering
from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import offering
from relisten.models.base import AudioLM
from relisten.models.scope import notice_of
from relisten.remote import open_engine
from relisten.reports.answer_page import page, write_page
from relisten.types import Audio, Example

EXAMPLE = Path(str(files("relisten") / "assets" / "example.flac"))
"""A recording of 7 s that comes with relisten: a word, a choir, a kick drum, a guitar, steam."""
FRAME_HEIGHT = 760
"""Pixels of an answer in a notebook."""


@dataclass(frozen=True)
class ShownAnswer(Answer):
    """An answer with its recording and question. As the last value of a notebook's cell it is shown as a page."""

    audio: Audio | Path = EXAMPLE
    """The recording, or its file, which is read again when the answer is shown."""
    question: str = ""
    choices: tuple[str, ...] = ()
    name: str = "the recording"
    """The name of the recording on the page."""
    model: str = ""

    def save(self, path: Path | str) -> Path:
        """Write one self-contained page: the waveform, the reasoning, and every heard segment playable."""
        write_page(Path(path), self, self._recording(), self.question, self.choices, name=self.name, model=self.model)
        return Path(path)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style and script stay apart from the notebook's."""
        html = page(self, self._recording(), self.question, self.choices, self.name, self.model, "relisten.ask")
        sandbox = 'sandbox="allow-scripts" style="border: 0; width: 100%"'
        return f'<iframe srcdoc="{escape(html)}" height="{FRAME_HEIGHT}" {sandbox}></iframe>'

    def __repr__(self) -> str:
        heard = ", ".join(f"{s.start:g} to {s.end:g} s" for s in self.segments) or "nothing"
        said = f"Answer({self.choice or self.answer!r}; heard again: {heard})"
        return f"{said}\n{self.notice}" if self.notice else said

    def _recording(self) -> Audio:
        return self.audio if isinstance(self.audio, Audio) else audio_files.load(self.audio)


@overload
def ask(
    model: AudioLM | str,
    audio: Path | str | Audio,
    question: str,
    choices: Sequence[str] = (),
    config: GenerationConfig | None = None,
    *,
    engine: str = "local",
    operations: str = "model",
) -> ShownAnswer: ...
@overload
def ask(
    model: AudioLM | str,
    audio: Sequence[Example],
    *,
    config: GenerationConfig | None = None,
    max_rows: int = 32,
    engine: str = "local",
    operations: str = "model",
) -> list[ShownAnswer]: ...
def ask(
    model: AudioLM | str,
    audio: Path | str | Audio | Sequence[Example],
    question: str | None = None,
    choices: Sequence[str] = (),
    config: GenerationConfig | None = None,
    max_rows: int = 32,
    engine: str = "local",
    operations: str = "model",
) -> ShownAnswer | list[ShownAnswer]:
    """Ask a model a question about a recording, or many questions at once.

    Args:
        model: What `relisten.load` gave, or a model's name or folder.
        audio: A file, a recording in memory, or a list of `Example`s, each with its recording and question.
        question: The question, where `audio` is one recording.
        choices: Texts to choose from; without them the question is open.
        config: How to generate; greedy and interleaved if left out.
        max_rows: How many questions are answered side by side, where there are many.
        engine: What generates the answer, as `--engine` of `relisten ask` says: "local" (this process), the address of
            a vLLM server, or "chat+http://HOST/v1#NAME".
        operations: Ways to listen to a segment that the model may use: "model" (those that it knows), "all", "none", or
            names with commas, such as "slow,low".

    Returns:
        The answer; for a list of examples their answers, in the same order.

    Raises:
        ValueError: In one line, if a recording or a question cannot be used, or if no server answers.

    >>> ask(load("nano"), "door.wav", "What is heard after the knock?", ["a dog", "a bell"]).choice
    'a bell'
    """
    if not isinstance(audio, Path | str | Audio):
        if question is not None or choices:
            raise ValueError("a list of examples holds its own questions and choices; leave yours out")
        loaded, make = open_engine(model, engine)
        loaded = offering(loaded, operations)
        return _ask_all(loaded, audio, config or GenerationConfig(), make(loaded, max_rows=max_rows))
    if question is None:
        raise ValueError("what do you ask? Give a question after the recording")
    started = perf_counter()
    # Sampling depends on the name: as in the command `relisten ask`, the folder is no part of it.
    name = "the recording" if isinstance(audio, Audio) else Path(audio).name
    given = (
        choices if isinstance(choices, str) else tuple(choices)
    )  # a single text is refused later, and must not become a tuple of letters
    example = Example(name, audio if isinstance(audio, Audio) else Path(audio), question, given)  # type: ignore[arg-type]
    loaded, make = open_engine(model, engine)
    loaded = offering(loaded, operations)
    heard = _loaded(loaded, example)
    ready = perf_counter()
    answering = make(loaded, max_rows=1)
    [[trace]] = answering.generate([replace(example, audio=heard)], config)
    seconds = {"load": ready - started, **answering.seconds, "total": perf_counter() - started}
    told = notice_of(loaded, trace, question, choices)
    return _shown(loaded, replace(example, audio=heard), answered(trace, example.choices, seconds, told))


def _ask_all(
    model: AudioLM, examples: Sequence[Example], config: GenerationConfig, engine: Answering
) -> list[ShownAnswer]:
    """Answers of a whole list, in its order; an example that cannot be asked raises ValueError with its id."""
    found: dict[int, ShownAnswer] = {}

    def ready(example: Example) -> Example:
        return replace(example, audio=_loaded(model, example))

    for index, _, trace in answer_each(engine, examples, config, ready):
        example = examples[index]
        if isinstance(trace, str):
            raise ValueError(f"{example.id}: {trace}")
        told = notice_of(model, trace, example.question, example.choices)
        found[index] = _shown(model, example, answered(trace, example.choices, {}, told))
    return [found[index] for index in range(len(examples))]


def _loaded(model: AudioLM, example: Example) -> Audio:
    return example.audio if isinstance(example.audio, Audio) else audio_files.load(example.audio, model.rate)


def _shown(model: AudioLM, example: Example, answer: Answer) -> ShownAnswer:
    made = {field.name: getattr(answer, field.name) for field in fields(Answer)}
    return ShownAnswer(
        **made,
        audio=example.audio,
        question=example.question,
        choices=tuple(example.choices),
        name=example.id,
        model=model.name,
    )
