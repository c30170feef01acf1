"""One answer while it is generated: its trace, its listener, its limits, and the tokens the model has not read yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relisten.engine.generation import GenerationConfig
from relisten.engine.listener import Action, Force, Hear, Listener, Refuse
from relisten.engine.question import BEGIN, END, MARGIN, Question, answer_tokens, too_long
from relisten.engine.repetition import WINDOW, repeats
from relisten.engine.sampling import row_generator
from relisten.engine.words import Words
from relisten.types import Audio, Finish, Listen, Refusal, Segment, Trace

if TYPE_CHECKING:
    from relisten.models.base import AudioLM

LEAD = "</{}></think><answer>"
"""The longest text that is forced when a limit closes the reasoning, with the longest name of a tag in it."""


@dataclass(frozen=True)
class Text:
    """Newly written text, including forced text. It never ends in the middle of a character."""

    text: str


@dataclass(frozen=True)
class Heard:
    """A segment was heard again: its audio now stands in the sequence. The text of its tag came before."""

    listen: Listen


@dataclass(frozen=True)
class Refused:
    """A segment was not heard again. The text of its tag came before."""

    refusal: Refusal


@dataclass(frozen=True)
class Finished:
    """The answer is complete."""

    trace: Trace


AnswerEvent = Text | Heard | Refused | Finished


class Row:
    """One answer while it is generated. `push` takes a sampled token; `chunk` is what the model has to read next."""

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
        self.question, self.config = question, config
        self.place = question.index, sample
        """Which answer this is. A row is younger than another if its place is greater."""
        self.room = room
        """The most tokens that the whole trace may have."""
        self.rng = row_generator(config.seed, question.id, sample)
        self._drawn: float | None = None
        self.chunk: list[int] = []
        """Tokens of the trace that the model has not read yet."""
        self.pieces: list[Audio] = []
        """The audio that the audio tokens in the chunk stand for, in order."""
        self.waited = 0
        """Steps for which the chunk has waited to be read together with others."""
        self.events: list[AnswerEvent] = []
        self.done = False
        self.num_sampled = 0
        ids = list(question.token_ids)
        self.trace = Trace(
            ids, [False] * len(ids), [0.0] * len(ids), [question.listen], len(ids), operations=tuple(operations)
        )
        self._model, self._words, self._operations = model, words, operations
        self._bound = config.only_choices and bool(question.choices)  # whether the answer must be a choice
        self._answer_tokens = answer_tokens(question, config)
        self._listener = Listener(
            question.duration,
            config.format,
            operations.keys(),
            config.max_listens,
            config.min_segment,
            model.rate / 2,
            self._bound,
        )
        self._budget = config.max_new_tokens
        self._held: list[int] = []  # tokens that end in the middle of a character
        self._texts: list[str] = []
        self._latest = ""  # the last WINDOW characters
        self._ended = False  # </answer> is written
        self._closed = False  # a limit has closed the reasoning
        self._over = False  # the model asked for more segments than it may hear
        # The model may have begun a tag itself, and only the rest of it is forced.
        self._after = words.longest_rest(END) + 1
        self._before = (
            self._after
            + self._answer_tokens
            + words.longest_rest(LEAD.format(max(operations, key=len, default="")))
            + MARGIN
        )
        self._check()

    @property
    def num_own(self) -> int:
        """Tokens after its prefix: the rest of its prompt, and what is written, forced and heard."""
        return len(self.trace.token_ids) - self.question.prefix.length

    def draw(self) -> float:
        """The number in 0 .. 1 that decides the next token. It stays the same until the token is pushed."""
        if self._drawn is None:
            self._drawn = float(self.rng.random())
        return self._drawn

    def resume(self) -> None:
        """Let the model read everything after the prefix: at the start, or because keys and values were given up."""
        self.chunk = self.trace.token_ids[self.question.prefix.length :]
        pieces = (self._operations[x.operation](self.question.audio, x.segment) for x in self.trace.listens[1:])
        self.pieces = list(pieces)

    @property
    def written(self) -> str:
        """The text so far, forced text included."""
        return "".join(self._texts)

    @property
    def closed(self) -> bool:
        """Whether a limit has closed the reasoning."""
        return self._closed

    @property
    def num_wanted(self) -> int:
        """The most tokens that may be sampled before a limit of this row decides what follows; at least 1."""
        return max(1, min(self._budget - self.num_sampled, self.room - len(self.trace.token_ids)))

    @property
    def allowed(self) -> frozenset[int] | None:
        """The tokens that may follow, so that the answer becomes one of the choices; None: any.

        The last > of <answer> is one of them, because the token that writes it may already begin a choice.
        """
        if not self._bound or self._ended:
            return None
        _, begun, rest = self.written.rpartition(BEGIN[:-1])
        return self._words.next_ones(begun + rest, self._held, self.question.answers) if begun else None

    def push(self, token_id: int, logprob: float) -> None:
        """Take a sampled token and do everything that follows from it."""
        self._drawn = None
        ends = token_id in self._model.end_token_ids
        if self._ended and not ends:  # only an end token may follow </answer>; anything else is dropped
            self._end()
            return
        if ends and self._closed and not self._ended:  # a forced answer is completed with its closing tag
            self._answered()
            return
        if ends and self._bound and not self._ended:  # it must choose: it is led to its answer instead
            self.close("stop")
            return
        self._append([token_id], True, logprob)
        self.num_sampled += 1
        if ends:
            self._finish()
            return
        self._held.append(token_id)
        text = self._words.decode(*self._held)
        # A character takes at most four tokens, so after that it will not become one.
        if not text.endswith("\N{REPLACEMENT CHARACTER}") or len(self._held) > 3:
            self._held.clear()
            self._write(text)
        self._check()

    def _append(self, token_ids: Sequence[int], sampled: bool, logprob: float = 0.0) -> None:
        self.trace.extend(token_ids, sampled, logprob)
        self.chunk += token_ids

    def _write(self, text: str) -> None:
        if not text:
            return
        self._texts.append(text)
        self._latest = (self._latest + text)[-WINDOW:]
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
        long = too_long(self._model, piece)  # after slow playback, for example
        if not num_tokens or long or not fits:
            self._listener.num_heard -= 1
            self._refuse(Refusal(hear.tag, "too long" if long else "context" if num_tokens else "too short"))
            return
        at = len(self.trace.token_ids) + self._model.num_begin_tokens
        listen = Listen(at, num_tokens, hear.segment, hear.operation)
        self._append(token_ids, False)
        self._latest = ""  # with new audio between, equal words are not a loop, and max_listens bounds them
        self.pieces.append(piece)
        self.trace.listens.append(listen)
        self.events.append(Heard(listen))

    def _check(self) -> None:
        """Enforce the limits. The next step may add two tokens: one sampled, one forced."""
        left = self.room - len(self.trace.token_ids)
        if self._ended:
            if self.num_sampled >= self._budget or left < 1:
                self._end()
        elif self._closed:
            if self.num_sampled >= self._budget or left < self._after + 2:
                self._answered()
        elif self.num_sampled >= self._budget or left < self._before + 2:
            self.close("length" if self.num_sampled >= self._budget else "context")
        elif self._over:
            self.close("listens")
        elif not (self._bound and self._listener.answering) and repeats(self._latest):  # a choice may repeat itself
            self.close("repetition")

    def close(self, finish: Finish) -> None:
        """Close the reasoning and lead the model to its answer, as a limit does."""
        self._closed = True
        self.trace.finish = finish
        self._flush()
        answering, lead = self._listener.answering, self._listener.close()
        left = self.room - len(self.trace.token_ids) - len(self._words.encode(lead)) - self._after
        if left < 0:
            self._finish()
            return
        self._force(lead)
        self._budget = self.num_sampled + min(self._answer_tokens, left)
        if finish == "repetition" and answering:
            self._budget = self.num_sampled  # it is the answer itself that repeats
        self._check()

    def _answered(self) -> None:
        """Close the answer too, because its own limit is reached."""
        self._flush()
        self._force(self._listener.finish())
        self._end()

    def _end(self) -> None:
        """End the turn with a forced end token, which the model did not choose."""
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
