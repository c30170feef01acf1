"""A running batch: questions join it at any time, and each step decodes one token for every row.

A prompt, an inserted segment and one sampled token are handled alike: each is a chunk of new tokens on top of a row's
cache. A prompt is forwarded and stored once for all of its rows. Rows pause independently, and all rows that pause in
the same step are encoded and forwarded together. A finished row makes room for a waiting one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from relisten.engine.cache import Prefix, Slab, Window, window
from relisten.engine.generation import GenerationConfig
from relisten.engine.row import ANSWER_TOKENS, MARGIN, AnswerEvent, Question, Row
from relisten.models.base import AudioLM
from relisten.types import Example

if TYPE_CHECKING:
    from relisten.engine.engine import Engine

NARROW = 4
"""Chunks of up to this many tokens are forwarded together with single tokens. Wider chunks get a forward of their own,
which costs less than padding every row to their width."""
MAX_CHUNK = 8192
"""The most tokens, including padding, that the prompts in one forward may have together."""


@dataclass(frozen=True)
class Failed:
    """The question cannot be asked: its recording is unreadable, or its prompt does not fit."""

    reason: str


class Update(NamedTuple):
    """Something that happened to one answer."""

    question: int
    """The number that `submit` returned."""
    sample: int
    """Which of the question's answers, counted from 0. `Failed` is told once for all of them, with 0."""
    event: AnswerEvent | Failed


@dataclass(slots=True)
class _Asked:
    """A submitted question. Its recording and its prompt are prepared when its first answer is admitted."""

    example: Example
    config: GenerationConfig
    waiting: int
    """How many of its answers have not been started."""
    question: Question | None = None
    prompt: tuple[int, Tensor] | None = None
    """The prompt's place in the slab and the logits [V] after it, until its last answer is started."""


class Session:
    """Answers that are decoded together, a step at a time; made by `Engine.session`.

    All methods must be called from one thread. Questions are admitted in the order in which they were submitted. An
    answer depends only on its question, its config and its sample number, not on what else is in the batch.
    """

    def __init__(self, engine: Engine) -> None:
        self.seconds = {"prefill": 0.0, "listen": 0.0, "decode": 0.0}
        """Wall-clock seconds so far."""
        self._engine, self._model = engine, engine.model
        self._device = self._model.module.device
        self._context = int(self._model.module.config.get_text_config().max_position_embeddings)
        self._max_cells = _max_cells(engine.max_cache_bytes, self._model, self._device)
        self._num_submitted = 0
        self._asked: dict[int, _Asked] = {}
        self._waiting: deque[tuple[int, int]] = deque()  # (question, sample)
        self._live: list[Row] = []  # row i is row i of the slab
        self._slab: Slab | None = None
        self._failed: list[Update] = []

    def submit(self, example: Example, config: GenerationConfig | None = None, num_samples: int = 1) -> int:
        """Ask a question. Its answers join the batch as soon as there is room. Returns the question's number.

        The recording is read and checked when the first answer is admitted; if that fails, a step tells `Failed`.
        """
        number, self._num_submitted = self._num_submitted, self._num_submitted + 1
        self._asked[number] = _Asked(example, config or GenerationConfig(), num_samples)
        self._waiting.extend((number, sample) for sample in range(num_samples))
        return number

    def cancel(self, question: int, sample: int | None = None) -> None:
        """Give up an answer (None: all answers of the question). Nothing more is told of it, and its row is free.

        An answer that has finished, or was never asked, is ignored.
        """

        def meant(place: tuple[int, int]) -> bool:
            return place[0] == question and sample in (None, place[1])

        kept = deque(place for place in self._waiting if not meant(place))
        self._started(question, len(self._waiting) - len(kept))
        self._waiting = kept
        for row in self._live:
            if meant((row.question.index, row.sample)):
                row.done = True
                row.events.clear()
        self._leave()

    @property
    def busy(self) -> bool:
        """Whether an answer is unfinished, or something has not been told yet."""
        return bool(self._waiting or self._live or self._failed)

    @property
    def num_waiting(self) -> int:
        """Number of answers that have not been started."""
        return len(self._waiting)

    @property
    def num_live(self) -> int:
        """Number of answers that are being decoded."""
        return len(self._live)

    @torch.no_grad()
    def step(self) -> list[Update]:
        """Admit waiting answers, decode one token for each row, and return what happened, in order for each answer."""
        self._admit()
        updates = self._updates()
        # One forward for the rows that pause, then one for all rows, which by then have one or two new tokens each.
        self._read("listen", [i for i, row in enumerate(self._live) if len(row.chunk) > NARROW])
        # All rows together are one contiguous piece of the slab, so attention reads them without a copy.
        self._read("decode", [i for i, row in enumerate(self._live) if len(row.chunk) <= NARROW and not row.done])
        return updates + self._updates()

    def _updates(self) -> list[Update]:
        """What happened to all rows; rows that are done are removed."""
        updates, self._failed = self._failed, []
        for row in self._live:
            updates += [Update(row.question.index, row.sample, event) for event in row.events]
            row.events.clear()
        self._leave()
        return updates

    def _leave(self) -> None:
        """Remove the rows that are done."""
        index = 0
        while index < len(self._live):
            if not self._live[index].done:
                index += 1
                continue
            assert self._slab is not None
            self._slab.remove(index)
            last = self._live.pop()
            if index < len(self._live):
                self._live[index] = last

    # --- admission ----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start as many waiting answers as there is room for, and choose their first tokens."""
        started = perf_counter()
        rows: list[Row] = []
        while self._waiting and len(self._live) + len(rows) < self._engine.max_rows:
            number, sample = self._waiting[0]
            asked = self._asked[number]
            try:
                question = self._question(number)
            except (ValueError, OSError) as error:
                self.cancel(number)
                self._failed.append(Update(number, 0, Failed(str(error))))
                continue
            room = self._room(question, asked.config)
            others = [*self._live, *rows]
            longest = max([room, *(row.room for row in others)])
            if self._max_cells and others and longest * (len(others) + 1) > self._max_cells:
                break
            self._waiting.popleft()
            engine = self._engine
            rows.append(Row(self._model, engine.words, engine.operations, question, sample, asked.config, room))
        if not rows:
            return
        self._prefill(list(dict.fromkeys(row.question.index for row in rows)))
        logits = [self._start(row) for row in rows]
        ready = [i for i, row in enumerate(rows) if not row.chunk and not row.done]
        if ready:
            self._push([rows[i] for i in ready], torch.stack([logits[i] for i in ready]))
        self.seconds["prefill"] += perf_counter() - started

    def _question(self, number: int) -> Question:
        asked = self._asked[number]
        if asked.question is None:
            question = Question(self._model, asked.example, number, asked.config.format)
            length, most = len(question.token_ids), self._context
            if self._max_cells is not None:
                most = min(most, self._max_cells)
            if length > most:
                what = "the model's context" if most == self._context else "max_cache_bytes"
                too_long = "cut the recording" if 2 * question.listen.num_tokens > length else "shorten the question"
                raise ValueError(
                    f"{question.id}: {question.duration:.1f} s of audio and the question take {length} tokens,"
                    f" {what} has room for {most}; {too_long}"
                )
            question.transform(self._model)
            asked.question = question
        return asked.question

    def _room(self, question: Question, config: GenerationConfig) -> int:
        """The most tokens that a row may have. If memory is bounded, no more than it can need, to admit more rows."""
        if self._max_cells is None:
            return self._context
        sampled = config.max_new_tokens + ANSWER_TOKENS
        heard = config.max_listens * (question.listen.num_tokens + 2)
        # A tag takes at least three sampled tokens and one forced token.
        needed = len(question.token_ids) + sampled + sampled // 3 + heard + 8 * MARGIN
        return min(self._context, self._max_cells, needed)

    def _prefill(self, numbers: list[int]) -> None:
        """Forward the prompts that were not forwarded yet; prompts of similar length go together."""
        questions = [(asked.question, asked) for asked in map(self._asked.__getitem__, numbers) if asked.prompt is None]
        new = sorted(((q, a) for q, a in questions if q is not None), key=lambda pair: len(pair[0].token_ids))
        while new:
            longest, batch = len(new[-1][0].token_ids), [new.pop()]
            while new and (len(batch) + 1) * longest <= MAX_CHUNK and len(new[-1][0].token_ids) >= 0.75 * longest:
                batch.append(new.pop())
            prefix = Prefix()
            chunks = [question.token_ids for question, _ in batch]
            logits = self._forward(chunks, [f for question, _ in batch for f in question.features], prefix)
            self._slab = self._slab or Slab(prefix, self._context, self._max_cells)
            for i, (question, asked) in enumerate(batch):
                asked.prompt = self._slab.keep(prefix, i, len(question.token_ids)), logits[i]
                question.features = []

    def _start(self, row: Row) -> Tensor:
        """Give the row a place in the slab; returns the logits [V] after its prompt."""
        prompt = self._asked[row.question.index].prompt
        assert prompt is not None and self._slab is not None
        place, logits = prompt
        self._slab.add(place)
        self._live.append(row)
        self._started(row.question.index, 1)
        return logits

    def _started(self, number: int, num: int) -> None:
        """Forget a question when none of its answers waits any more; its rows keep what they need."""
        if number in self._asked:
            asked = self._asked[number]
            asked.waiting -= num
            if asked.waiting == 0:
                if asked.prompt is not None and self._slab is not None:
                    self._slab.release(asked.prompt[0])
                del self._asked[number]

    # --- forwards -----------------------------------------------------------------------------------------------

    def _read(self, name: str, indices: list[int]) -> None:
        """Forward the chunks of some rows, and choose the next token of each."""
        if not indices:
            return
        started = perf_counter()
        rows = [self._live[i] for i in indices]
        assert self._slab is not None
        chunks = [row.chunk for row in rows]
        view = window(self._slab, indices, [len(chunk) for chunk in chunks], self._device)
        logits = self._forward(chunks, [f for row in rows for f in row.features], view)
        if not view.attended:
            raise ValueError(f"{self._model.name}: its forward ignores the attention of the cache; see AudioLM.forward")
        for row in rows:
            row.chunk, row.features = [], []
        self._push(rows, logits)
        self.seconds[name] += perf_counter() - started

    def _forward(self, chunks: Sequence[list[int]], features: Sequence[Tensor], cache: Prefix | Window) -> Tensor:
        """Logits [B, V] after each chunk."""
        widths = [len(chunk) for chunk in chunks]
        pad = self._model.end_token_id
        padded = [chunk + [pad] * (max(widths) - len(chunk)) for chunk in chunks]
        input_ids = torch.tensor(padded, device=self._device)
        if isinstance(cache, Window):
            positions = cache.positions
        else:
            positions = torch.arange(max(widths), device=self._device).expand(len(chunks), -1)
        last = torch.tensor(widths, device=self._device) - 1
        keep = (torch.arange(len(chunks), device=self._device), last)
        return self._model.forward(input_ids, positions, features, None, cache, keep)

    def _push(self, rows: Sequence[Row], logits: Tensor) -> None:
        for row, (token_id, logprob) in zip(rows, self._engine.choose(rows, logits), strict=True):
            row.push(token_id, logprob)


def _max_cells(max_cache_bytes: int | None, model: AudioLM, device: torch.device) -> int | None:
    """How many tokens the cache may hold over all rows; None for no bound."""
    if max_cache_bytes is None:
        if device.type != "cuda":
            return None
        max_cache_bytes = int(torch.cuda.mem_get_info(device)[0]) // 2
    config = model.module.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token: int = 2 * config.num_hidden_layers * config.num_key_value_heads * width * model.module.dtype.itemsize
    return max(1, max_cache_bytes // per_token)
