"""The batch loop: admit questions, forward the tokens that each row's model has not read yet, choose the next tokens.

A prompt, an inserted segment and one sampled token are handled alike: each is a chunk of new tokens on top of a row's
cache. A prompt is forwarded once and copied to its rows. Rows pause independently, and all rows that pause in the same
step are encoded and forwarded together. A finished row makes room for a waiting one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor

from relisten.engine.cache import Prefix, Slab, Window
from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import Operation, crop
from relisten.engine.row import (
    ANSWER_TOKENS,
    MARGIN,
    AnswerEvent,
    Finished,
    Heard,
    Question,
    Refused,
    Row,
    Text,
    Words,
    audible,
)
from relisten.engine.sampling import choose, token_logprobs
from relisten.models.base import AudioLM
from relisten.types import Example, Trace

__all__ = [
    "AnswerEvent",
    "Engine",
    "Finished",
    "GenerationConfig",
    "Heard",
    "Refused",
    "Text",
    "audible",
    "token_logprobs",
]

NARROW = 4
"""Chunks of up to this many tokens are forwarded together with single tokens. Wider chunks get a forward of their own,
which costs less than padding every row to their width."""
MAX_CHUNK = 8192
"""The most tokens, including padding, that the prompts in one forward may have together."""


class Engine:
    """Generates answers with a model.

    operations: what each tag does, by the tag's name (default: `<seg>` crops the recording). max_rows: how many answers
    are generated side by side. max_cache_bytes: the memory for keys and values (None: half of the free memory on a CUDA
    device, no bound elsewhere). Rows that do not fit wait; a single row that does not fit ends early, as if the context
    of the model were that short.
    """

    def __init__(
        self,
        model: AudioLM,
        operations: Mapping[str, Operation] | None = None,
        max_rows: int = 32,
        max_cache_bytes: int | None = None,
    ) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, not {max_rows}")
        self.model = model
        self.words = Words(model)
        self.operations = {"seg": crop} if operations is None else dict(operations)
        self.max_rows = max_rows
        self.max_cache_bytes = max_cache_bytes
        self.seconds: dict[str, float] = {}
        """Wall-clock seconds of the latest run: prefill, listen (encode and forward inserted audio), decode."""

    def generate(
        self,
        examples: Sequence[Example],
        config: GenerationConfig | None = None,
        num_samples: int = 1,
        failed: Callable[[int, str], None] | None = None,
    ) -> list[list[Trace]]:
        """`num_samples` answers for each example.

        If an example cannot be asked, ValueError is raised. If `failed` is given, the example gets no answers instead,
        and the reason is passed to `failed`, as in `run`.
        """
        traces: list[list[Trace | None]] = [[None] * num_samples for _ in examples]
        for index, sample, trace in self.run(examples, config, num_samples, failed):
            traces[index][sample] = trace
        return [[trace for trace in group if trace is not None] for group in traces]

    def run(
        self,
        examples: Sequence[Example],
        config: GenerationConfig | None = None,
        num_samples: int = 1,
        failed: Callable[[int, str], None] | None = None,
    ) -> Iterator[tuple[int, int, Trace]]:
        """Yield (index of the example, index of the sample, trace) as each answer finishes.

        If an example cannot be asked (its recording is unreadable, or longer than the context), ValueError is raised.
        If `failed` is given, it is called with the example's index and the reason instead, and the other examples are
        answered.
        """
        for row, event in self._events(examples, config or GenerationConfig(), num_samples, failed):
            if isinstance(event, Finished):
                yield row.question.index, row.sample, event.trace

    def stream(self, example: Example, config: GenerationConfig | None = None) -> Iterator[AnswerEvent]:
        """Yield one answer while it is written: Text, Heard and Refused events, and Finished at the end."""
        for _, event in self._events([example], config or GenerationConfig(), 1):
            yield event

    def _events(
        self,
        examples: Sequence[Example],
        config: GenerationConfig,
        num_samples: int,
        failed: Callable[[int, str], None] | None = None,
    ) -> Iterator[tuple[Row, AnswerEvent]]:
        module = self.model.module
        training = module.training
        module.eval()  # in training mode, gradient checkpointing silently drops the cache
        run = _Generation(self, examples, config, num_samples)
        run.failed = failed
        self.seconds = run.seconds
        try:
            while run.waiting or run.live:
                run.admit()
                yield from run.events()
                if run.live:
                    run.step()
                    yield from run.events()
        finally:
            module.train(training)

    def _choose(self, config: GenerationConfig, rows: Sequence[Row], logits: Tensor) -> list[tuple[int, float]]:
        """A token and its log-probability for each row; logits: [rows, V]."""
        uniforms = [float(row.rng.random()) for row in rows] if config.temperature > 0 else []
        chosen = choose(logits, self.model.banned_token_ids, uniforms, config.temperature, config.top_p, config.top_k)
        return list(zip(*chosen, strict=True))


class _Generation:
    """The state of one call of `Engine.run`: waiting answers, live rows (row i is row i of the slab), the slab."""

    def __init__(self, engine: Engine, examples: Sequence[Example], config: GenerationConfig, num_samples: int) -> None:
        self.engine, self.model, self.examples, self.config = engine, engine.model, examples, config
        self.num_samples = num_samples
        self.failed: Callable[[int, str], None] | None = None
        self.waiting = deque((i, s) for i in range(len(examples)) for s in range(num_samples))
        self.live: list[Row] = []
        self.seconds = {"prefill": 0.0, "listen": 0.0, "decode": 0.0}
        self.device = self.model.module.device
        text_config = self.model.module.config.get_text_config()
        self.context = int(text_config.max_position_embeddings)
        self.max_cells = _max_cells(engine.max_cache_bytes, self.model, self.device)
        self._questions: dict[int, Question] = {}
        self._prompts: dict[int, tuple[Prefix, Tensor]] = {}  # forwarded, and some of its answers still wait
        self._slab: Slab | None = None

    def events(self) -> Iterator[tuple[Row, AnswerEvent]]:
        """Yield the events of all rows, then remove finished rows."""
        for row in self.live:
            for event in row.events:
                yield row, event
            row.events.clear()
        index = 0
        while index < len(self.live):
            if not self.live[index].done:
                index += 1
                continue
            last = self.live.pop()
            if index < len(self.live):
                assert self._slab is not None
                self._slab.move(len(self.live), index)
                self.live[index] = last

    # --- admission ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def admit(self) -> None:
        """Start as many waiting answers as there is room for, and choose their first tokens."""
        started = perf_counter()
        rows: list[Row] = []
        while self.waiting and len(self.live) + len(rows) < self.engine.max_rows:
            index, sample = self.waiting[0]
            try:
                question = self._question(index)
            except (ValueError, OSError) as error:
                if self.failed is None:
                    raise
                self.waiting = deque(place for place in self.waiting if place[0] != index)
                self.failed(index, str(error))
                continue
            room = self._room(question)
            others = [*self.live, *rows]
            longest = max([room, *(row.room for row in others)])
            if self.max_cells and others and longest * (len(others) + 1) > self.max_cells:
                break
            self.waiting.popleft()
            rows.append(Row(self.model, self.engine.words, self.engine.operations, question, sample, self.config, room))
        if not rows:
            return
        self._prefill(list(dict.fromkeys(row.question.index for row in rows)))
        num_rows = len(self.live) + len(rows)
        logits = [self._start(row, num_rows) for row in rows]
        ready = [i for i, row in enumerate(rows) if not row.chunk and not row.done]
        if ready:
            self._push([rows[i] for i in ready], torch.stack([logits[i] for i in ready]))
        self.seconds["prefill"] += perf_counter() - started

    def _question(self, index: int) -> Question:
        if index not in self._questions:
            question = Question(self.model, self.examples[index], index, self.config.format)
            length, most = len(question.token_ids), self.context
            if self.max_cells is not None:
                most = min(most, self.max_cells)
            if length > most:
                what = "the model's context" if most == self.context else "max_cache_bytes"
                too_long = "cut the recording" if 2 * question.listen.num_tokens > length else "shorten the question"
                raise ValueError(
                    f"{question.id}: {question.duration:.1f} s of audio and the question take {length} tokens,"
                    f" {what} has room for {most}; {too_long}"
                )
            question.transform(self.model)
            self._questions[index] = question
        return self._questions[index]

    def _room(self, question: Question) -> int:
        """The most tokens that a row may have. If memory is bounded, no more than it can need, to admit more rows."""
        if self.max_cells is None:
            return self.context
        sampled = self.config.max_new_tokens + ANSWER_TOKENS
        heard = self.config.max_listens * (question.listen.num_tokens + 2)
        # A tag takes at least three sampled tokens and one forced token.
        needed = len(question.token_ids) + sampled + sampled // 3 + heard + 8 * MARGIN
        return min(self.context, self.max_cells, needed)

    def _prefill(self, indices: list[int]) -> None:
        """Forward the prompts that were not forwarded yet; prompts of similar length go together."""
        new = sorted((self._questions[i] for i in indices if i not in self._prompts), key=lambda q: len(q.token_ids))
        while new:
            longest, batch = len(new[-1].token_ids), [new.pop()]
            while new and (len(batch) + 1) * longest <= MAX_CHUNK and len(new[-1].token_ids) >= 0.75 * longest:
                batch.append(new.pop())
            prefix = Prefix()
            chunks = [question.token_ids for question in batch]
            logits = self._forward(chunks, [f for q in batch for f in q.features], prefix)
            for i, question in enumerate(batch):
                self._prompts[question.index] = prefix.row(i, len(question.token_ids)), logits[i]
                question.features = []

    def _start(self, row: Row, num_rows: int) -> Tensor:
        """Copy the cache of the prompt to the row, and drop it when no other answer needs it."""
        prefix, logits = self._prompts[row.question.index]
        if self._slab is None:
            self._slab = Slab(prefix, self.context, self.max_cells)
            self._slab.reserve(num_rows, prefix.length + 1)
        self._slab.put(len(self.live), prefix)
        self.live.append(row)
        if row.sample == self.num_samples - 1:
            del self._prompts[row.question.index], self._questions[row.question.index]
        return logits

    # --- steps --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self) -> None:
        """One forward for the rows that pause, then one for all rows, which by then have one or two new tokens each."""
        self._read("listen", [i for i, row in enumerate(self.live) if len(row.chunk) > NARROW])
        # All rows together are one contiguous piece of the slab, so attention reads them without a copy.
        self._read("decode", [i for i, row in enumerate(self.live) if len(row.chunk) <= NARROW and not row.done])

    def _read(self, name: str, indices: list[int]) -> None:
        """Forward the chunks of some rows, and choose the next token of each."""
        if not indices:
            return
        started = perf_counter()
        rows = [self.live[i] for i in indices]
        assert self._slab is not None
        chunks = [row.chunk for row in rows]
        window = Window(self._slab, indices, [len(chunk) for chunk in chunks], self.device, len(self.live))
        logits = self._forward(chunks, [f for row in rows for f in row.features], window)
        for row in rows:
            row.chunk, row.features = [], []
        self._push(rows, logits)
        self.seconds[name] += perf_counter() - started

    def _forward(self, chunks: Sequence[list[int]], features: Sequence[Tensor], cache: Prefix | Window) -> Tensor:
        """Logits [B, V] after each chunk."""
        widths = [len(chunk) for chunk in chunks]
        pad = self.model.end_token_id
        padded = [chunk + [pad] * (max(widths) - len(chunk)) for chunk in chunks]
        input_ids = torch.tensor(padded, device=self.device)
        if isinstance(cache, Window):
            positions, mask = cache.positions, cache.mask
        else:
            positions, mask = torch.arange(max(widths), device=self.device).expand(len(chunks), -1), None
        last = torch.tensor(widths, device=self.device) - 1
        keep = (torch.arange(len(chunks), device=self.device), last)
        return self.model.forward(input_ids, positions, features, mask, cache, keep)

    def _push(self, rows: Sequence[Row], logits: Tensor) -> None:
        for row, (token_id, logprob) in zip(rows, self.engine._choose(self.config, rows, logits), strict=True):
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
