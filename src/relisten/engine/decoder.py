"""The live rows and their cache: starts rows from prompts, and forwards what their model has not read yet.

A prompt, an inserted segment and one sampled token are handled alike: each is a chunk of new tokens on top of a row's
cache. A prompt is forwarded and stored once for all of its rows, and a recording once for all questions about it that
are near each other. Rows pause independently, and rows whose pauses are close to each other are encoded and forwarded
together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from relisten.engine.cache import ROUND, Prefix, Slab, Window, least_cells, window
from relisten.engine.graphs import Capture, Graphs
from relisten.engine.memory import Usage
from relisten.engine.question import PromptPrefix, Question
from relisten.engine.row import Row
from relisten.models.base import AudioLM
from relisten.models.scope import sounds, tapped

NARROW = 4
"""Chunks of up to this many tokens are forwarded together with single tokens. Wider chunks get a forward of their own,
which costs less than padding every row to their width."""
MAX_CHUNK = 8192
"""The most tokens, including padding, that the chunks in one forward may have together."""
PATIENCE = 0.5
"""A paused row waits for others to pause, so that they share a forward. It costs a step of each waiting row, and saves
a forward, which is a step of all rows. So the waiting ends when it has cost half a step of all rows (a single row never
waits). 64 rows with two listens in 110 tokens take 133 forwards in place of 176; see tests/test_engine_session.py."""
LONGEST_WAIT = 8
"""No row waits for more steps than this."""

Choose = Callable[[Sequence[Row], Tensor], list[tuple[int, float]]]
"""Rows and the logits [rows, V] after them -> a token and its log-probability for each row."""


class _Kept(NamedTuple):
    """A prefix whose keys and values are stored."""

    place: int
    """In the slab."""
    logits: Tensor
    """[V] after its last token."""
    sound: tuple[float, ...] | None
    """See `Trace.sound`."""


class Decoder:
    """Rows that are decoded together. Row i of `rows` is row i of the cache.

    max_cells: the most tokens that the cache may hold over all rows; None for no bound. capture: how steps are
    recorded; None: they are not.
    """

    def __init__(self, model: AudioLM, choose: Choose, max_cells: int | None, capture: Capture | None) -> None:
        self.rows: list[Row] = []
        self.max_cells = max_cells
        self.context = int(model.module.config.get_text_config().max_position_embeddings)
        self.seconds = {"prefill": 0.0, "listen": 0.0, "decode": 0.0}
        """Wall-clock seconds so far."""
        self.usage = Usage(max_cache_tokens=max_cells)
        self._model, self._choose = model, choose
        self._device = model.module.device
        self._prefixes: dict[PromptPrefix, _Kept] = {}
        self._slab: Slab | None = None
        self._capture = capture
        self._graphs: Graphs | None = None

    # --- rows ---------------------------------------------------------------------------------------------------

    def start(self, rows: Sequence[Row]) -> None:
        """Let rows join: forward the prefixes that are not in memory, and choose each row's first token.

        A row that was live before reads everything after its prefix again in the next steps.
        """
        started, first = perf_counter(), len(self.rows)
        self._prefill(list({row.question.prefix: row.question for row in rows}.values()))
        for row in rows:
            assert self._slab is not None
            kept = self._prefixes[row.question.prefix]
            self._slab.add(kept.place)
            row.trace.sound = kept.sound
            if row.num_own:
                row.resume()
            self.rows.append(row)
        fresh = [row for row in rows if not row.chunk and not row.done]
        if fresh:
            self._push(fresh, torch.stack([self._prefixes[row.question.prefix].logits for row in fresh]))
        self._note()
        self.seconds["prefill"] += perf_counter() - started
        rests = [first + i for i, row in enumerate(rows) if row.chunk and not row.num_sampled]
        for indices in self._together(rests):  # the rest of each prompt, where the prefix ends with the recording
            self._read("prefill", indices, [self.rows[index] for index in indices])

    def remove(self, index: int) -> None:
        """End a row. The last row takes its number, so that the live rows stay together."""
        assert self._slab is not None
        self._slab.remove(index)
        last = self.rows.pop()
        if index < len(self.rows):
            self.rows[index] = last

    def remove_youngest(self) -> Row:
        """End the row that was submitted last, so that its memory is free. Returns it."""
        row = max(self.rows, key=lambda row: row.place)
        self.remove(self.rows.index(row))
        return row

    def forget(self, prefix: PromptPrefix) -> None:
        """Free a prefix when its live rows have left. Rows that start later forward it again."""
        if prefix in self._prefixes:
            assert self._slab is not None
            self._slab.release(self._prefixes.pop(prefix).place)

    def clear(self) -> None:
        """Free the whole cache. The rows are gone; they may start again."""
        self.rows, self._slab, self._graphs = [], None, None
        self._prefixes.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # --- memory -------------------------------------------------------------------------------------------------

    def fits(self, needs: Sequence[tuple[Question, int]], joining: Collection[Question] = ()) -> bool:
        """Whether rows with these questions and numbers of tokens after their prefixes fit into memory.

        Every row takes as much as the longest. joining: questions whose prefixes are needed as well.
        """
        if self.max_cells is None:
            return True
        kept = [] if self._slab is None else self._slab.prompt_lengths
        new = {question.prefix for question in joining} - set(self._prefixes)
        longest = max(own for _, own in needs)
        return least_cells(kept, [length for _, length in new], len(needs), longest) <= self.max_cells

    def too_full(self) -> bool:
        """Whether the next tokens of all rows do not fit. A single row always fits."""
        needs = [(row.question, row.num_own + NARROW) for row in self.rows]
        if len(needs) < 2 or self.fits(needs):
            return False
        used = {row.question.prefix for row in self.rows}
        for prefix in [prefix for prefix in self._prefixes if prefix not in used]:
            self.forget(prefix)
        return not self.fits(needs)

    def _note(self) -> None:
        assert self._slab is not None
        self.usage.rows = max(self.usage.rows, len(self.rows))
        self.usage.cache_tokens = max(self.usage.cache_tokens, self._slab.cells)

    # --- forwards -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One forward for rows that pause, if they have waited enough, and one for all others."""
        paused = [index for index, row in enumerate(self.rows) if len(row.chunk) > NARROW]
        if self._patient(paused):
            for index in paused:
                self.rows[index].waited += 1
        else:
            for indices in self._together(paused):
                self._read("listen", indices, [self.rows[index] for index in indices])
        # Rows that wait are forwarded too, with a token that is not kept: all rows together are one contiguous piece of
        # the slab, so attention reads them without a copy.
        reading = [row for row in self.rows if len(row.chunk) <= NARROW and not row.done]
        self._read("decode", list(range(len(self.rows))), reading)

    def _patient(self, paused: Sequence[int]) -> bool:
        """Whether it is better that the paused rows wait for others."""
        waited = [self.rows[index].waited for index in paused]
        enough = not paused or len(paused) == len(self.rows) or max(waited) >= LONGEST_WAIT
        return not enough and sum(waited) < PATIENCE * len(self.rows)

    def _together(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Rows whose chunks may be padded to one width: not too many tokens, and no more memory than without."""
        most = max((row.num_own for row in self.rows), default=0)
        if self.max_cells is not None and self._slab is not None and self.rows:
            most = max(most, (self.max_cells - self._slab.prompts.cells) // len(self.rows) // ROUND * ROUND)
        left = sorted(indices, key=lambda index: len(self.rows[index].chunk))
        while left:
            batch = [left.pop()]
            width = len(self.rows[batch[0]].chunk)
            for index in reversed(left):
                start = self.rows[index].num_own - len(self.rows[index].chunk)
                if (len(batch) + 1) * width <= MAX_CHUNK and (self.max_cells is None or start + width <= most):
                    batch.append(index)
            left = [index for index in left if index not in batch]
            yield sorted(batch)

    def _prefill(self, questions: Sequence[Question]) -> None:
        """Forward the prefixes that are not in memory; prefixes of similar length go together."""
        new = sorted((q for q in questions if q.prefix not in self._prefixes), key=lambda q: q.prefix.length)
        while new:
            longest, batch = new[-1].prefix.length, [new.pop()]
            while new and (len(batch) + 1) * longest <= MAX_CHUNK and new[-1].prefix.length >= 0.75 * longest:
                batch.append(new.pop())
            prefix = Prefix()
            self.usage.forwards["prefill"] += 1
            features = [feature for question in batch for feature in question.features(self._model)]
            with tapped(self._model) as encoded:
                logits = self._forward(
                    [question.token_ids[: question.prefix.length] for question in batch], features, prefix
                )
            heard = sounds(encoded, [question.listen.num_tokens for question in batch])
            if self._slab is None:
                self._slab = Slab(prefix, self.context, self.max_cells)
                self._graphs = Graphs(self._model, self._slab, self._capture) if self._capture else None
            for i, question in enumerate(batch):
                place = self._slab.keep(prefix, i, question.prefix.length)
                self._prefixes[question.prefix] = _Kept(place, logits[i], heard[i])

    def _read(self, name: str, indices: Sequence[int], reading: Sequence[Row]) -> None:
        """Forward the chunks of the rows `reading`, which are among rows number `indices`. Choose their next tokens."""
        if not reading:
            return
        started = perf_counter()
        assert self._slab is not None
        chunks = [row.chunk if row in reading else [] for row in (self.rows[index] for index in indices)]
        if self._graphs is not None and len(chunks) == len(self.rows) and max(map(len, chunks)) == 1:
            logits = self._graphs.decode([chunk[0] if chunk else None for chunk in chunks])
        else:
            view = window(self._slab, indices, [len(chunk) for chunk in chunks], self._device)
            features = [self._model.features(piece) for row in reading for piece in row.pieces]
            logits = self._forward(chunks, features, view)
            if not view.attended:
                raise ValueError(f"{self._model.name}: its forward ignores the cache's attention; see AudioLM.forward")
        self._note()
        self.usage.forwards[name] += 1
        for row in reading:
            row.chunk, row.pieces, row.waited = [], [], 0
        if len(reading) < len(indices):
            logits = logits[[i for i, chunk in enumerate(chunks) if chunk]]
        self._push(reading, logits)
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
        last = torch.tensor([max(width - 1, 0) for width in widths], device=self._device)
        keep = (torch.arange(len(chunks), device=self._device), last)
        return self._model.forward(input_ids, positions, features, None, cache, keep)

    def _push(self, rows: Sequence[Row], logits: Tensor) -> None:
        for row, (token_id, logprob) in zip(rows, self._choose(rows, logits), strict=True):
            row.push(token_id, logprob)
