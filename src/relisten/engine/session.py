"""A running batch: questions join it at any time, and each step decodes one token for every row.

Rows are admitted by what they are likely to need, so that many are decoded side by side. When memory runs out
nevertheless, the youngest row waits again. It goes on later where it stopped, so its answer stays the same.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from relisten.engine.answering import Failed, Update
from relisten.engine.decoder import NARROW, Decoder
from relisten.engine.generation import GenerationConfig
from relisten.engine.memory import GROWTH, Usage, max_tokens
from relisten.engine.question import PromptPrefix, Question, check_choices_fit, most_tokens
from relisten.engine.row import Finished, Row
from relisten.types import Audio, Example

if TYPE_CHECKING:
    from relisten.engine.engine import Engine

SHRINK = 0.8
"""After PyTorch ran out of memory, the cache may hold this part of what it held or was about to hold."""


@dataclass(slots=True)
class _Asked:
    """A submitted question. Its recording and its prompt are prepared when its first answer is admitted."""

    example: Example
    config: GenerationConfig
    unfinished: int
    """How many of its answers wait or are being decoded."""
    question: Question | None = None


class Session:
    """Answers that are decoded together, a step at a time; made by `Engine.session`.

    All methods must be called from one thread. Questions are admitted in the order in which they were submitted. An
    answer depends only on its question, its config and its sample number, not on what else is in the batch.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        most = max_tokens(engine.model, engine.max_cache_bytes)
        self._decoder = Decoder(engine.model, engine.choose, most, engine.capture(engine.model))
        self._most = min(self._decoder.context, most or self._decoder.context)
        """The most tokens of a row. It stays when the cache gets smaller, because no answer is to be cut for that."""
        self._longest = 1 if engine.operations.keys() == {"seg"} else 2  # a slow segment is twice as long
        self._num_submitted = 0
        self._asked: dict[int, _Asked] = {}
        self._prefixes = Counter[PromptPrefix]()  # how many questions start from each
        self._waiting: deque[tuple[int, int]] = deque()  # places (question, sample), oldest first
        self._away: dict[tuple[int, int], Row] = {}  # rows that were put back and wait again
        self._joining: list[Row] = []  # rows that are being started
        self._alone: tuple[Row, int] | None = None  # a row on which memory ran out alone, and its length then
        self._failed: list[Update] = []

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds so far: prefill, listen (encode and forward inserted audio), decode."""
        return self._decoder.seconds

    @property
    def usage(self) -> Usage:
        """Rows, forwards and memory so far."""
        return self._decoder.usage

    @property
    def busy(self) -> bool:
        """Whether an answer is unfinished, or something has not been told yet."""
        return bool(self._waiting or self._decoder.rows or self._failed)

    @property
    def num_waiting(self) -> int:
        """Number of answers that wait for a place in the batch."""
        return len(self._waiting)

    @property
    def num_live(self) -> int:
        """Number of answers that are being decoded."""
        return len(self._decoder.rows)

    def submit(self, example: Example, config: GenerationConfig | None = None, num_samples: int = 1) -> int:
        """Ask a question. Its answers join the batch as soon as there is room. Returns the question's number.

        The recording is read and checked when the first answer is admitted; if that fails, a step tells `Failed`.
        """
        number, self._num_submitted = self._num_submitted, self._num_submitted + 1
        if num_samples:
            self._asked[number] = _Asked(example, config or GenerationConfig(), num_samples)
        self._waiting.extend((number, sample) for sample in range(num_samples))
        return number

    def cancel(self, question: int, sample: int | None = None) -> None:
        """Give up an answer (None: all answers of the question). Nothing more is told of it, and its row is free.

        An answer that has finished, or was never asked, is ignored.
        """

        def meant(place: tuple[int, int]) -> bool:
            return place[0] == question and sample in (None, place[1])

        given_up = [place for place in self._waiting if meant(place)]
        self._waiting = deque(place for place in self._waiting if not meant(place))
        for place in given_up:
            self._away.pop(place, None)
            self._end(question)
        for row in self._decoder.rows:
            if meant(row.place):
                row.done = True
                row.events.clear()
        self._leave()

    @torch.no_grad()
    def step(self) -> list[Update]:
        """Admit waiting answers, decode one token for each row, and return what happened, in order for each answer."""
        updates: list[Update] = []
        ran_out = False
        try:
            self._admit()
            updates += self._updates()
            while self._decoder.too_full():
                self._put_back(self._decoder.remove_youngest())
            self._decoder.step()
        except torch.OutOfMemoryError:
            ran_out = True  # what the failed forward holds is only freed after this block
        if ran_out:
            self._recover()
        return updates + self._updates()

    # --- rows that come and go ----------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start the oldest waiting answers for which there is room. If memory runs out, `_recover` puts them back."""
        self._joining = self._next_rows()
        if not self._joining:
            return
        for row in self._joining:
            self._waiting.popleft()
            self._away.pop(row.place, None)
        self._decoder.start(self._joining)
        self._joining = []

    def _next_rows(self) -> list[Row]:
        """The oldest waiting answers for which there is room. They stay in the queue until they are started."""
        rows: list[Row] = []
        needs = [self._need(row.question, row.config, row.num_own) for row in self._decoder.rows]
        while len(rows) < len(self._waiting) and len(needs) < self._engine.max_rows:
            number, sample = place = self._waiting[len(rows)]
            asked = self._asked[number]
            try:
                question = self._question(asked, number)
            except (ValueError, OSError) as error:
                self._fail(number, str(error))
                continue
            row = self._away.get(place)
            need = self._need(question, asked.config, row.num_own if row else 0)
            if needs and not self._decoder.fits([*needs, need], [question, *(other.question for other in rows)]):
                break
            needs.append(need)
            rows.append(row or self._new_row(question, sample, asked.config))
        return rows

    def _need(self, question: Question, config: GenerationConfig, own: int) -> tuple[Question, int]:
        """How many tokens after its prefix an answer is likely to get that has `own` of them now."""
        rest = len(question.token_ids) - question.prefix.length
        most = most_tokens(question, config, self._longest)
        likely = min(max(own - rest + GROWTH, self._engine.lengths.likely), most)
        return question, max(own, rest + likely) + NARROW

    def _question(self, asked: _Asked, number: int) -> Question:
        if asked.question is None:
            near = self._near(asked.example, number)
            read = next((other for other in near if other is not None), None)
            config = asked.config
            question = Question(self._engine.model, asked.example, number, config.format, read, config.only_choices)
            length, most = len(question.token_ids), self._most
            if length > most:
                what = "the model's context" if most == self._decoder.context else "the cache (max_cache_bytes)"
                too_long = "cut the recording" if 2 * question.listen.num_tokens > length else "shorten the question"
                raise ValueError(
                    f"{question.id}: {question.duration:.1f} s of audio and the question take {length} tokens,"
                    f" {what} has room for {most}; {too_long}"
                )
            check_choices_fit(question, config, most)
            sharing = [other for other in near if other is None or other.prefix.length < len(other.token_ids)]
            if sharing:
                question.share(next((other for other in sharing if other is not None), None))
            self._prefixes[question.prefix] += 1
            asked.question = question
        return asked.question

    def _near(self, example: Example, number: int) -> list[Question | None]:
        """Other questions about the same recording whose answers are decoded now or soon; None if not prepared yet."""
        live = {row.question.index for row in self._decoder.rows}
        soon = {place[0] for place in islice(self._waiting, 2 * self._engine.max_rows)}
        others = (self._asked[other] for other in sorted((live | soon) - {number}))
        return [asked.question for asked in others if _same_recording(asked.example, example)]

    def _new_row(self, question: Question, sample: int, config: GenerationConfig) -> Row:
        engine = self._engine
        return Row(engine.model, engine.words, engine.operations, question, sample, config, self._most)

    def _put_back(self, row: Row) -> None:
        """Let a row that was removed wait again, as the first. Its keys and values are computed again later."""
        self._away[row.place] = row
        self._waiting.appendleft(row.place)
        self.usage.put_back += 1

    def _recover(self) -> None:
        """After PyTorch ran out of memory: put all rows back and go on with a smaller cache, which holds fewer."""
        self._failed = self._updates()
        rows = list({row.place: row for row in [*self._decoder.rows, *self._joining] if not row.done}.values())
        self._joining = []
        self._decoder.clear()
        for row in sorted(rows, key=lambda row: row.place, reverse=True):
            self._put_back(row)
        if len(rows) > 1:
            held = len(rows) * max(len(row.trace.token_ids) for row in rows)
            self._decoder.max_cells = int(SHRINK * min(held, self._decoder.max_cells or held))
            self.usage.max_cache_tokens = self._decoder.max_cells
        elif (rows[0], rows[0].num_own) != self._alone:
            # What the cache held for rows that have left is free now, so try once more.
            self._alone = rows[0], rows[0].num_own
        else:
            question = rows[0].question
            self._fail(question.index, f"{question.id}: memory ran out on it alone; cut the recording")

    def _fail(self, number: int, reason: str) -> None:
        self.cancel(number)
        self._failed.append(Update(number, 0, Failed(reason)))

    def _updates(self) -> list[Update]:
        """What happened to all rows; rows that are done are removed."""
        updates, self._failed = self._failed, []
        for row in self._decoder.rows:
            updates += [Update(*row.place, event) for event in row.events]
            if any(isinstance(event, Finished) for event in row.events):
                self._engine.lengths.add(len(row.trace.token_ids) - row.trace.num_prompt)
            row.events.clear()
        self._leave()
        return updates

    def _leave(self) -> None:
        for index in reversed(range(len(self._decoder.rows))):
            row = self._decoder.rows[index]
            if row.done:
                self._decoder.remove(index)
                self._end(row.question.index)

    def _end(self, number: int) -> None:
        """One answer of a question has ended. Its recording and its prefix are kept until all have."""
        asked = self._asked[number]
        asked.unfinished -= 1
        if not asked.unfinished:
            del self._asked[number]
            if asked.question is not None:
                prefix = asked.question.prefix
                self._prefixes[prefix] -= 1
                if not self._prefixes[prefix]:
                    del self._prefixes[prefix]
                    self._decoder.forget(prefix)


def _same_recording(one: Example, other: Example) -> bool:
    """Whether two examples are about one file, or one recording in memory."""
    if isinstance(one.audio, Audio) or isinstance(other.audio, Audio):
        return one.audio is other.audio  # samples are not compared
    return one.audio == other.audio
