"""One answer in the making: its trace, its listener, its limits, and the tokens the model has not been shown yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import soxr
from torch import Tensor

from relisten import audio as audio_files
from relisten.engine.listener import Action, Force, Hear, Listener, Refuse
from relisten.engine.sampling import row_generator
from relisten.types import Audio, Example, Finish, Format, Listen, Refusal, Segment, Trace

if TYPE_CHECKING:
    from relisten.models.base import AudioLM

LEAST_TEMPERATURE = 1e-6
"""Above 0; logits divided by much less are infinite in float32."""
ANSWER_TOKENS = 64
"""Tokens that may still be sampled for the answer once a limit has closed the thought."""
LEAD = "</seg></think><answer>"
"""The longest text that is forced when a limit closes a thought (a longer tag's name adds a token or two)."""
MARGIN = 8
"""Tokens left free beside what is forced."""


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are made. The defaults are greedy; the paper samples at temperature 0.7, and at 1.0 in training."""

    format: Format = "interleaved"
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    seed: int = 0
    max_new_tokens: int = 2048
    """Sampled tokens of the whole trace; then the thought is closed and up to 64 more may be sampled for the answer."""
    max_listens: int = 8
    """Segments heard again; the whole recording does not count. One more closes the thought, as too many tokens do."""
    min_segment: float = 0.2
    """Seconds."""

    def __post_init__(self) -> None:
        if self.format not in ("conditioned", "grounded", "interleaved"):
            raise ValueError(f"format {self.format!r} is none of conditioned, grounded, interleaved")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(f"temperature {self.temperature} is too little to divide by; 0 takes the likeliest token")
        if not (0 <= self.temperature < float("inf") and 0 < self.top_p <= 1 and self.top_k >= 0):
            raise ValueError(
                f"temperature {self.temperature}, top_p {self.top_p}, top_k {self.top_k}: temperature and top_k must"
                " not be negative, and top_p must lie above 0, up to 1"
            )
        if self.max_new_tokens < 1 or self.max_listens < 0 or not self.min_segment >= 0 or self.seed < 0:
            raise ValueError("max_new_tokens must be at least 1; max_listens, min_segment and seed not negative")


@dataclass(frozen=True)
class Text:
    """Newly written text, forced text included; never half a character."""

    text: str


@dataclass(frozen=True)
class Heard:
    """A segment is put into the sequence; its tag's text came before."""

    listen: Listen


@dataclass(frozen=True)
class Refused:
    """A tag is not heard; its text came before."""

    refusal: Refusal


@dataclass(frozen=True)
class Finished:
    """The answer is complete."""

    trace: Trace


Event = Text | Heard | Refused | Finished


class Words:
    """A model's tokenizer, remembering: each step spells one token for each row, and they are few."""

    def __init__(self, model: AudioLM) -> None:
        self.encode = lru_cache(maxsize=256)(lambda text: tuple(model.encode(text)))
        self.decode = lru_cache(maxsize=65_536)(lambda *token_ids: model.decode(token_ids))


def audible(model: AudioLM, audio: Audio) -> Audio:
    """The recording as the model takes it: at its rate, and padded with silence where it is too short for one token."""
    if audio.rate == model.rate and model.num_audio_tokens(len(audio.samples)):
        return audio  # itself, not a copy: an operation may know a recording by its identity
    samples = audio.samples
    if audio.rate != model.rate:
        samples = soxr.resample(samples, audio.rate, model.rate).astype(np.float32)
    least = len(samples)
    while model.num_audio_tokens(least) == 0:
        least += model.rate // 100
    return Audio(np.pad(samples, (0, least - len(samples))), model.rate)


def _check(example: Example, audio: Audio) -> None:
    """Raises ValueError on what no model can be asked; files are checked where they are read, callers' own here."""
    if isinstance(example.choices, str):
        raise ValueError(f"choices are a list of texts, not one text: {example.choices!r}")
    samples = audio.samples
    if samples.ndim != 1 or samples.dtype.kind != "f" or audio.rate <= 0:
        shape = f"{samples.dtype} {list(samples.shape)} at {audio.rate} Hz"
        raise ValueError(f"a recording in memory is float samples [T] within -1 .. 1 and a rate above 0, not {shape}")
    if not np.isfinite(samples).all():
        raise ValueError("a recording in memory holds samples that are NaN or infinite; mend it")
    if not example.question.strip():
        raise ValueError("the question is empty; write what you ask")
    for text in (example.question, *example.choices):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{text!r} holds half a character and is no text; write it anew") from None


class Question:
    """An example made ready: its recording in memory, its prompt in tokens."""

    def __init__(self, model: AudioLM, example: Example, index: int, format: Format) -> None:
        given = example.audio if isinstance(example.audio, Audio) else audio_files.load(example.audio, model.rate)
        _check(example, given)
        self.index = index
        self.id = example.id
        self.duration = given.duration
        """Seconds of the recording itself, without padding."""
        self.audio = audible(model, given)
        self.token_ids, at = model.prompt(example.question, example.choices, format, len(self.audio.samples))
        # A prompt may leave the recording out (an ablation): segments of it can be heard all the same.
        num_tokens = 0 if at is None else model.num_audio_tokens(len(self.audio.samples))
        self.listen = Listen(at or 0, num_tokens, Segment(0.0, self.duration))
        self.features: list[Tensor] = [model.features(self.audio)] if num_tokens else []


class Row:
    """One answer in the making. `push` what was sampled; `chunk` is what the model must be shown before it goes on."""

    def __init__(
        self,
        model: AudioLM,
        words: Words,
        operations: Mapping[str, Callable[[Audio, Segment], Audio]],
        question: Question,
        sample: int,
        config: GenerationConfig,
        room: int,
    ) -> None:
        self.question, self.sample = question, sample
        self.room = room
        """Tokens that the trace may have in all."""
        self.rng = row_generator(config.seed, question.id, sample)
        self.chunk: list[int] = []
        """Tokens of the trace that were not forwarded yet."""
        self.features: list[Tensor] = []
        """What the audio tokens in the chunk stand for."""
        self.events: list[Event] = []
        self.done = False
        self.num_sampled = 0
        ids = list(question.token_ids)
        self.trace = Trace(ids, [False] * len(ids), [0.0] * len(ids), [question.listen], len(ids))
        self._model, self._words, self._operations = model, words, operations
        self._listener = Listener(
            question.duration, config.format, operations.keys(), config.max_listens, config.min_segment
        )
        self._budget = config.max_new_tokens
        self._held: list[int] = []  # tokens that end within a character
        self._texts: list[str] = []
        self._ended = False  # </answer> is written
        self._closed = False  # a limit has closed the thought
        self._over = False  # more was to be heard than may be
        self._after = len(words.encode("</answer>")) + 1
        self._before = self._after + ANSWER_TOKENS + len(words.encode(LEAD)) + MARGIN
        self._check()

    def push(self, token_id: int, logprob: float) -> None:
        """Take a sampled token, and do all that follows from it."""
        ends = token_id in self._model.end_token_ids
        if self._ended and not ends:  # only an end may follow </answer>: anything else is dropped
            self._end()
            return
        if ends and self._closed and not self._ended:  # the answer that a limit asked for is to be complete
            self._answered()
            return
        self._append([token_id], True, logprob)
        self.num_sampled += 1
        if ends:
            self._finish()
            return
        self._held.append(token_id)
        text = self._words.decode(*self._held)
        # A character may take up to four tokens; what is no character after that is not going to be one.
        if not text.endswith("\N{REPLACEMENT CHARACTER}") or len(self._held) > 3:
            self._held.clear()
            self._write(text)
        self._check()

    def _append(self, token_ids: Sequence[int], sampled: bool, logprob: float = 0.0) -> None:
        self.trace.token_ids += token_ids
        self.trace.sampled += [sampled] * len(token_ids)
        self.trace.logprobs += [logprob] * len(token_ids)
        self.chunk += token_ids

    def _write(self, text: str) -> None:
        if not text:
            return
        self._texts.append(text)
        self.events.append(Text(text))
        for action in self._listener.feed(text):
            self._act(action)

    def _act(self, action: Action) -> None:
        if isinstance(action, Force):
            self._force(action.text)
        elif isinstance(action, Hear):
            self._hear(action)
        elif isinstance(action, Refuse):
            self._refuse(action.refusal)
        else:
            self._ended = True

    def _force(self, text: str) -> None:
        self._append(self._words.encode(text), False)
        self._write(text)

    def _refuse(self, refusal: Refusal) -> None:
        self._over |= refusal.reason == "too many"
        self.trace.refusals.append(refusal)
        self.events.append(Refused(refusal))

    def _hear(self, hear: Hear) -> None:
        piece = self._operations[hear.operation](self.question.audio, hear.segment)
        num_tokens = self._model.num_audio_tokens(len(piece.samples))
        token_ids = self._model.audio_tokens(len(piece.samples))
        fits = len(self.trace.token_ids) + len(token_ids) + self._before <= self.room
        if not num_tokens or not fits:
            self._listener.num_heard -= 1
            self._refuse(Refusal(hear.tag, "context" if num_tokens else "too short"))
            return
        listen = Listen(len(self.trace.token_ids) + 1, num_tokens, hear.segment, hear.operation)
        self._append(token_ids, False)
        self.features.append(self._model.features(piece))
        self.trace.listens.append(listen)
        self.events.append(Heard(listen))

    def _check(self) -> None:
        """Keep the limits; the next step may add two tokens (one sampled, one forced)."""
        left = self.room - len(self.trace.token_ids)
        if self._ended:
            if self.num_sampled >= self._budget or left < 1:
                self._end()
        elif self._closed:
            if self.num_sampled >= self._budget or left < self._after + 2:
                self._answered()
        elif self.num_sampled >= self._budget or left < self._before + 2:
            self._close("length" if self.num_sampled >= self._budget else "context")
        elif self._over:
            self._close("listens")

    def _close(self, finish: Finish) -> None:
        """Lead the model on to its answer."""
        self._closed = True
        self.trace.finish = finish
        self._flush()
        lead = self._listener.close()
        left = self.room - len(self.trace.token_ids) - len(self._words.encode(lead)) - self._after
        if left < 0:
            self._finish()
            return
        self._force(lead)
        self._budget = self.num_sampled + min(ANSWER_TOKENS, left)
        self._check()

    def _answered(self) -> None:
        """The answer's own limit: close it as well."""
        self._flush()
        self._force(self._listener.finish())
        self._end()

    def _end(self) -> None:
        """End the turn for the model: this end token is not its own."""
        if len(self.trace.token_ids) < self.room:
            self._append([self._model.end_token_id], False)
        self._finish()

    def _flush(self) -> None:
        if self._held:
            text = self._words.decode(*self._held)
            self._held.clear()
            self._write(text)

    def _finish(self) -> None:
        self._flush()
        self.trace.text = "".join(self._texts)
        self.done = True
        self.events.append(Finished(self.trace))
