"""The values that flow through relisten: plain dataclasses, with shapes and units.

This module imports numpy and the standard library alone, so that reading a result needs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from relisten.fields import documented

Format = Literal["conditioned", "grounded", "interleaved"]
"""How the model may reason: text alone; segments named in text; segments named and heard again (Echo, section 3)."""

MAX_SECONDS = 600.0
"""The longest recording that is accepted by default, in seconds: Qwen2.5-Omni was trained on up to ten minutes."""

Finish = Literal["stop", "length", "listens", "context", "repetition"]
"""Why a trace ended. `stop`: the model ended it; where the answer must be a choice and the model ended before it, the
model was led to one. In all other cases its reasoning was closed and the answer was forced (which may be cut short
too): `length`: the limit on sampled tokens was reached. `listens`: the model asked for more segments than it may hear.
`context`: the model's context or the cache was full. `repetition`: the model wrote the same stretch of text again and
again."""


@documented
@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the ORIGINAL recording, whatever operation is applied to it."""

    start: float
    """Seconds from the start of the recording."""
    end: float
    """Seconds from the start of the recording; the segment ends before it."""
    band: tuple[float, float] | None = None
    """The lowest and the highest frequency (Hz) that `<band>` names; None for all other tags."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


@documented
@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Audio:
    """A mono recording in memory."""

    samples: NDArray[np.float32]
    """[T], nominally within -1 .. 1."""
    rate: int = 16_000
    """Samples a second (Hz)."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate


@documented
@dataclass(frozen=True, slots=True)
class Listen:
    """One piece of audio in a trace; a trace's first is the whole recording."""

    at: int
    """Index in `token_ids` of the first audio token (the one after the audio-begin token)."""
    num_tokens: int
    """How many audio tokens it takes there."""
    segment: Segment
    """The segment that was heard, after clamping to the recording."""
    operation: str = "seg"
    """The tag's name, which is the key of the operation that made the audio."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A tag whose segment was not heard, and why. It earns no reward."""

    text: str
    """The tag as the model wrote it, cut to 80 characters."""
    reason: str
    """One of: unreadable, too short, too long (for the model), outside, too many, context (a limit on tokens left no
    room for it)."""


@documented
@dataclass(slots=True)
class Trace:
    """One answer's sequence exactly as the model saw it; append-only. L tokens."""

    token_ids: list[int]
    """[L] prompt, sampled, forced and audio tokens in order."""
    sampled: list[bool]
    """[L] whether the policy chose this token. This is the loss mask; it is set when the token is appended."""
    logprobs: list[float]
    """[L] log-probability of each sampled token: nats, placeholders banned, at the temperature that sampled it (greedy
    tokens: 1); 0.0 elsewhere. NaN if a vLLM server does not give it."""
    listens: list[Listen]
    """In order of `at`; listens[0] is the whole recording (absent when a question has no audio)."""
    num_prompt: int
    """How many of the tokens are the prompt."""
    refusals: list[Refusal] = field(default_factory=list)
    finish: Finish = "stop"
    text: str = ""
    """The decoded text of the response, including forced text, without audio."""
    operations: tuple[str, ...] = ("seg",)
    """The tags that the model could use, by name. Any other tag in the text is plain text."""
    sound: tuple[float, ...] | None = field(default=None, compare=False, repr=False)
    """[D] the mean of what the audio tower made of the recording. Only the engine in this process tells it, and only of
    a model with a scope, for its notice."""

    @property
    def text_alone(self) -> bool:
        """Whether there is only text, because the answer comes from a chat API. Then `token_ids` is empty, and the
        listens have only their segments."""
        return bool(self.listens) and not self.token_ids

    def extend(self, token_ids: Sequence[int], sampled: bool, logprob: float = 0.0) -> None:
        """Append tokens that were all sampled, or were all forced or heard. logprob: that of a single sampled token."""
        self.token_ids += token_ids
        self.sampled += [sampled] * len(token_ids)
        self.logprobs += [logprob] * len(token_ids)


@documented
@dataclass(frozen=True, slots=True)
class Response:
    """What a finished text says: `tags.parse(text)`."""

    text: str
    think: str | None
    """Text between <think> and </think>, or None."""
    answer: str | None
    """Text of the last complete <answer>, stripped, or None."""
    segments: tuple[Segment, ...]
    """Every readable, ordered, non-negative tag, as written (not clamped)."""
    well_formed: bool
    """Whether it is exactly one <think> block and then exactly one <answer> block, with every tag readable."""


@documented
@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One question about one recording: for SFT (with `cot`), RL (without) and evaluation alike."""

    id: str
    audio: Path | Audio
    question: str
    choices: tuple[str, ...] = ()
    """Texts to choose from; empty for an open question."""
    answer: str | None = None
    """The right answer's text (a member of `choices`, where there are choices)."""
    cot: str | None = None
    """The chain of thought, without the <think> tags; segments as <seg>s, e</seg>."""
    labels: dict[str, Any] = field(default_factory=dict)
    """Other facts, such as the kind of question, events, gold segments and the source."""


SftExample = tuple[Example, Format]
"""An example and the format in which it is trained."""


@dataclass(frozen=True, slots=True)
class Event:
    """A sound with known times."""

    label: str
    start: float
    """Seconds from the start of the recording."""
    end: float
    """Seconds from the start of the recording."""
    labels: dict[str, Any] = field(default_factory=dict)
    """Attributes (word, pitch, level, voice ...)."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A recording and what is known about it, before there is a question."""

    id: str
    audio: Path | Audio
    duration: float
    """Seconds."""
    events: tuple[Event, ...] = ()
    descriptions: dict[str, str] = field(default_factory=dict)
