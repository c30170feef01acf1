"""A question that is ready to be asked, and a recording as a model takes it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soxr
from torch import Tensor

from relisten import audio as audio_files
from relisten import tags
from relisten.engine.generation import GenerationConfig
from relisten.types import Audio, Example, Format, Listen, Segment

if TYPE_CHECKING:
    from relisten.models.base import AudioLM

BEGIN, END = "<answer>", "</answer>"
ANSWER_TOKENS = 64
"""How many tokens may still be sampled for the answer after a limit has closed the reasoning."""
MARGIN = 8
"""Tokens that are kept free in addition to the forced ones."""


def audible(model: AudioLM, audio: Audio) -> Audio:
    """The recording at the model's rate, padded with silence if it is too short for one audio token."""
    if audio.rate == model.rate and model.num_audio_tokens(len(audio.samples)):
        return audio  # itself, not a copy: an operation may recognise a recording by its identity
    samples = audio.samples
    if audio.rate != model.rate:
        samples = soxr.resample(samples, audio.rate, model.rate).astype(np.float32)
    least = len(samples)
    while model.num_audio_tokens(least) == 0:
        least += model.rate // 100
    return Audio(np.pad(samples, (0, least - len(samples))), model.rate)


def too_long(model: AudioLM, piece: Audio) -> bool:
    """Whether an operation has made a piece of audio longer than the model takes at once."""
    return model.max_seconds is not None and len(piece.samples) > model.max_seconds * model.rate


def _check(example: Example, audio: Audio) -> None:
    """Raises ValueError for an example that no model can be asked. Files are checked when they are read."""
    if isinstance(example.choices, str):
        raise ValueError(f"choices must be a list of texts, not one text: {example.choices!r}")
    samples = audio.samples
    if samples.ndim != 1 or samples.dtype.kind != "f" or audio.rate <= 0:
        shape = f"{samples.dtype} {list(samples.shape)} at {audio.rate} Hz"
        raise ValueError(f"a recording in memory needs float samples [T] in -1 .. 1 and a rate above 0, not {shape}")
    if not np.isfinite(samples).all():
        raise ValueError("a recording in memory has samples that are NaN or infinite; replace them")
    if not example.question.strip():
        raise ValueError("the question is empty; write a question")
    for text in (example.question, *example.choices):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{text!r} contains half a character (a lone surrogate); write it again") from None


def _check_choices(choices: Sequence[str]) -> None:
    """Raises ValueError for a choice that cannot stand between <answer> and </answer>."""
    for choice in choices:
        if not choice.strip():
            raise ValueError("one of the choices is empty, and the answer must be a choice; write it, or leave it out")
        if tags.marks(tags.EVERY).search(choice) or BEGIN[:-1] in choice:
            raise ValueError(f"the choice {choice!r} contains a tag that answers are read by; write it without")


class PromptPrefix(NamedTuple):
    """Tokens at the start of prompts whose keys and values are stored once."""

    question: int
    """Number of the question whose prompt it was taken from."""
    length: int
    """Tokens."""


class Question:
    """An example that is ready to be asked: its recording in memory, its prompt as tokens."""

    def __init__(
        self,
        model: AudioLM,
        example: Example,
        index: int,
        format: Format,
        sibling: Question | None = None,
        only_choices: bool = False,
    ) -> None:
        """sibling: another question about the same recording, which is then in memory already. only_choices: whether
        the answer must be a choice, which some choices cannot be."""
        if sibling is not None:
            given = sibling.audio
        else:
            given = example.audio if isinstance(example.audio, Audio) else audio_files.load(example.audio, model.rate)
        _check(example, given)
        if only_choices:
            _check_choices(example.choices)
        self.index = index
        self.id = example.id
        self.choices = tuple(choice.strip() for choice in example.choices)
        self._model = model
        self.duration: float = given.duration if sibling is None else sibling.duration
        """Length of the recording in seconds, without padding."""
        self.audio: Audio = audible(model, given)
        self.token_ids, at = model.prompt(example.question, example.choices, format, len(self.audio.samples))
        # In an ablation the prompt may leave the recording out. Its segments can still be heard.
        num_tokens = 0 if at is None else model.num_audio_tokens(len(self.audio.samples))
        self.listen = Listen(at or 0, num_tokens, Segment(0.0, self.duration))
        self._shared: PromptPrefix | None = None

    @property
    def prefix(self) -> PromptPrefix:
        """What its rows start from: the whole prompt, if nothing is shared with other questions."""
        return self._shared or PromptPrefix(self.index, len(self.token_ids))

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The answers that name a choice, with their tags, as the tokenizer writes them (it may compose characters)."""
        spelled = (self._model.encode(f"{BEGIN}{choice}{END}") for choice in self.choices)
        return tuple(self._model.decode(token_ids) for token_ids in spelled)

    @cached_property
    def longest_answer(self) -> int:
        """Tokens of the longest of these answers."""
        return max((len(self._model.encode(answer)) for answer in self.answers), default=0)

    def share(self, sibling: Question | None = None) -> None:
        """Let its rows start from the end of the recording, so that other questions about it may start from there too.

        sibling: one of these, if there is one. Nothing is shared by a prompt that begins differently or has no audio.
        """
        length = self.listen.at + self.listen.num_tokens
        if not self.listen.num_tokens:
            return
        if sibling is None:
            self._shared = PromptPrefix(self.index, length)
        elif self.token_ids[:length] == sibling.token_ids[: sibling.prefix.length]:
            self._shared = sibling.prefix

    def features(self, model: AudioLM) -> list[Tensor]:
        """The log-mel of the recording; none if the prompt leaves the recording out.

        It takes far more memory than the prompt, so check first that the prompt fits.
        """
        return [model.features(self.audio)] if self.listen.num_tokens else []


def answer_tokens(question: Question, config: GenerationConfig) -> int:
    """The most tokens of an answer that is sampled after a limit: enough for every choice, if it must be one."""
    return max(ANSWER_TOKENS, question.longest_answer if config.only_choices else 0)


def check_choices_fit(question: Question, config: GenerationConfig, room: int) -> None:
    """Raises ValueError if the answer must be a choice, and the longest one leaves no place for a thought.

    room: the most tokens of prompt and answer together.
    """
    left = room - len(question.token_ids)
    if config.only_choices and left < question.longest_answer + 8 * MARGIN:
        raise ValueError(
            f"{question.id}: the longest choice takes {question.longest_answer} tokens, and {max(left, 0)} are left"
            " after the question; shorten the choice, or cut the recording"
        )


def most_tokens(question: Question, config: GenerationConfig, longest: int = 1) -> int:
    """The most tokens that an answer to the question can hardly exceed, after its prompt.

    longest: how many times as long as its segment a piece of audio may become.
    """
    sampled = config.max_new_tokens + answer_tokens(question, config)
    heard = config.max_listens * (longest * question.listen.num_tokens + 2) if config.format == "interleaved" else 0
    # A tag takes at least three sampled tokens and one forced token.
    return sampled + sampled // 3 + heard + 8 * MARGIN
