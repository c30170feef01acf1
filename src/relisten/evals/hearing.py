"""What a model hears: its recording and its segments, or what a control puts in their place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, cast, get_args
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from relisten.audio import MAX_SECONDS, load, sample_at
from relisten.engine.engine import GenerationConfig
from relisten.engine.operations import Operation, crop, offered
from relisten.engine.question import audible
from relisten.models.base import AudioLM
from relisten.records import gold_segments
from relisten.types import Audio, Example, Format, Segment

STAND_INS = 128
"""How many recordings are kept that others are replaced by. At 30 s each they take 250 MB."""

Hears = Literal["own", "other", "silence", "off", "random", "neighbour", "oracle"]
"""What a segment gives: the recording's own crop; another recording's at the same times; silence; nothing (the tag
stays text); a stretch of the same length that is drawn at random, or comes right after; the nearest gold segment."""

PromptAudio = Literal["own", "other", "silence", "none"]
"""What the prompt holds: the recording; another one, or silence, of the same length; no audio."""


@dataclass(frozen=True)
class Hearing:
    """How questions are prepared for the engine, and what their segments give."""

    ready: Callable[[Example], Example]
    """Puts an example's recording in memory; ValueError where it cannot."""
    change: Callable[[Operation], Operation]
    """Gives an operation that does the same to what is heard in place of the segment."""
    where: Callable[[Example, Segment, float], Segment]
    """Given the question, a named segment and the recording's seconds: the stretch that is heard."""

    def operations(self, names: Collection[str] = ()) -> dict[str, Operation]:
        """What each tag does: `<seg>`, and the operations of these names."""
        return {name: self.change(operation) for name, operation in offered(names).items()}


def hearing(
    hears: Hears,
    examples: Sequence[Example],
    model: AudioLM,
    max_seconds: float = MAX_SECONDS,
    recording: PromptAudio = "own",
    seed: int = 0,
) -> Hearing:
    """What is heard in a run over `examples` (all questions, even when a shard asks only some of them).

    For `other`, the recording that lies half the list of different recordings away is used, repeated where it is too
    short; all questions about one recording get the same one. seed: of `random`.
    """
    check_hearing(hears, recording, examples)
    if hears in ("own", "off") and recording in ("own", "none"):

        def ready(example: Example) -> Example:
            return replace(example, audio=_audio(example.audio, model.rate, max_seconds))

        return Hearing(ready, lambda operation: operation, lambda example, segment, duration: segment)
    return _Control(hears, examples, model, max_seconds, recording, seed).hearing()


class AskedAs:
    """A model whose prompt always has one format, whatever the format of the answer, or leaves the recording out."""

    def __init__(self, model: AudioLM, format: Format, without_recording: bool) -> None:
        self._model, self._format, self._without = model, format, without_recording

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def prompt(
        self, question: str, choices: Sequence[str], format: Format, num_samples: int | None
    ) -> tuple[list[int], int | None]:
        """The prompt's tokens, and where its audio begins (None: nowhere)."""
        return self._model.prompt(question, choices, self._format, None if self._without else num_samples)


def asked_as(
    model: AudioLM, config: GenerationConfig, hears: Hears, recording: PromptAudio
) -> tuple[AudioLM, GenerationConfig]:
    """The model and config for `off` (nothing is inserted) and `none` (no audio in the prompt)."""
    check_hearing(hears, recording, (), config.format)
    if hears != "off" and recording != "none":
        return model, config
    asked = cast(AudioLM, AskedAs(model, config.format, recording == "none"))
    return asked, replace(config, format="grounded") if hears == "off" else config


class _Control:
    """`hearing` for controls that swap something; it remembers which recording a piece of audio stands for."""

    def __init__(
        self,
        hears: Hears,
        examples: Sequence[Example],
        model: AudioLM,
        max_seconds: float,
        recording: PromptAudio,
        seed: int,
    ) -> None:
        self.hears, self.model, self.max_seconds, self.recording, self.seed = hears, model, max_seconds, recording, seed
        recordings = list(dict.fromkeys(_whose(e) for e in examples))
        half = len(recordings) // 2
        self.stand_ins = dict(zip(recordings, [*recordings[half:], *recordings[:half]], strict=True))
        # What the prompt holds, which is all that an operation is given -> its example and its source, for as long as
        # the engine holds it: an answer that takes long may be overtaken by any number of others.
        self.places: WeakKeyDictionary[Audio, tuple[Example, Audio]] = WeakKeyDictionary()
        self.loaded = lru_cache(maxsize=STAND_INS)(self._load)

    def hearing(self) -> Hearing:
        return Hearing(self.ready, self.change, self.where)

    def ready(self, example: Example) -> Example:
        # The engine makes what is at another rate, or too short, anew; what is audible already it hands on itself.
        source = self._load(example.audio)
        if "other" in (self.hears, self.recording):
            self._stand_in(example)  # an unreadable one is a reason not to ask, here and not in the midst of others
        given = Audio(self._prompted(example, source), source.rate)
        self.places[given] = example, source
        return replace(example, audio=given)

    def change(self, operation: Operation) -> Operation:
        def changed(audio: Audio, segment: Segment) -> Audio:
            return operation(*self._instead(audio, segment))

        return changed

    def _instead(self, audio: Audio, segment: Segment) -> tuple[Audio, Segment]:
        """The recording and the stretch of it that are heard in place of a segment."""
        example, source = self.places[audio]
        length = len(source.samples)
        if self.hears == "silence":
            return Audio(np.zeros(length, np.float32), source.rate), segment
        if self.hears == "other":
            return Audio(_from(self._stand_in(example).samples, 0, length), source.rate), segment
        placed = self.where(example, segment, source.duration)
        if self.hears == "oracle":
            return source, replace(segment, start=placed.start, end=placed.end)
        num = len(crop(source, segment).samples)
        start = min(sample_at(placed.start, source.rate, length), length - num)
        return source, replace(segment, start=start / source.rate, end=(start + num) / source.rate)

    def where(self, example: Example, segment: Segment, duration: float) -> Segment:
        if self.hears == "oracle":
            return min(gold_segments(example), key=lambda gold: _apart(gold, segment))
        if self.hears not in ("random", "neighbour"):
            return segment
        room = max(0.0, duration - segment.duration)
        if self.hears == "random":
            start = room * _uniform(self.seed, example.id, segment)
        elif segment.end <= room:
            start = segment.end
        else:  # nothing as long comes after it: what comes before, or as much of that as there is
            start = max(0.0, segment.start - segment.duration)
        return Segment(start, start + min(segment.duration, duration))

    def _prompted(self, example: Example, source: Audio) -> NDArray[np.float32]:
        if self.recording == "silence":
            return np.zeros_like(source.samples)
        if self.recording == "other":
            return _from(self._stand_in(example).samples, 0, len(source.samples))
        return source.samples

    def _stand_in(self, example: Example) -> Audio:
        return self.loaded(self.stand_ins[_whose(example)])

    def _load(self, recording: Path | Audio) -> Audio:
        return audible(self.model, _audio(recording, self.model.rate, self.max_seconds))


def check_hearing(
    hears: Hears, recording: PromptAudio, examples: Sequence[Example], format: Format = "interleaved"
) -> None:
    """Raises ValueError where a control cannot be used with these examples or this format."""
    if hears not in get_args(Hears) or recording not in get_args(PromptAudio):
        raise ValueError(
            f"--hears {hears} --recording {recording}: use {', '.join(get_args(Hears))};"
            f" and {', '.join(get_args(PromptAudio))}"
        )
    if hears != "own" and format != "interleaved":
        raise ValueError(f"--hears {hears} goes with --format interleaved: {format} answers hear no segments")
    if examples and "other" in (hears, recording) and len({_whose(e) for e in examples}) < 2:
        raise ValueError(
            "--controls, --hears other and --recording other put another question's recording in place of each, so the"
            " file must have two recordings or more"
        )
    without = [e.id for e in examples if not gold_segments(e)]
    if hears == "oracle" and without:
        raise ValueError(
            f"--hears oracle: {len(without)} questions have no gold segments, {without[0]} for one;"
            " give each a list of [start, end] under `segments`"
        )


def _apart(gold: Segment, named: Segment) -> tuple[float, float]:
    """Seconds between two segments (less than 0 where they overlap), then between their middles."""
    gap = max(gold.start, named.start) - min(gold.end, named.end)
    return gap, abs(gold.start + gold.end - named.start - named.end)


def _uniform(seed: int, example_id: str, segment: Segment) -> float:
    """A number within 0 .. 1 that depends only on the arguments, not on earlier draws."""
    text = f"{seed} {segment.start} {segment.end} {example_id}"
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _from(samples: NDArray[np.float32], start: int, num: int) -> NDArray[np.float32]:
    return np.take(samples, range(start, start + num), mode="wrap")


def _whose(example: Example) -> Path | Audio:
    """Identifies an example's recording: the file, whatever path leads to it, or the object in memory."""
    return example.audio if isinstance(example.audio, Audio) else example.audio.resolve()


def _audio(recording: Path | Audio, rate: int, max_seconds: float) -> Audio:
    """The recording in memory; a file is read at `rate` (Hz)."""
    return recording if isinstance(recording, Audio) else load(recording, rate, max_seconds)
