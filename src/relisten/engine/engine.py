"""The engine: answers to a list of questions, or one answer as a stream of events, with batched generation.

Everything goes through `Session` in `session.py`, which decodes the rows of a running batch step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from relisten.engine.generation import GenerationConfig
from relisten.engine.memory import Lengths, Usage
from relisten.engine.operations import Operation, crop
from relisten.engine.row import AnswerEvent, Finished, Heard, Refused, Row, Text, Words, audible
from relisten.engine.sampling import choose, token_logprobs
from relisten.engine.session import Failed, Session, Update
from relisten.models.base import AudioLM
from relisten.types import Example, Trace

__all__ = [
    "AnswerEvent",
    "Engine",
    "Failed",
    "Finished",
    "GenerationConfig",
    "Heard",
    "Refused",
    "Session",
    "Text",
    "Update",
    "audible",
    "token_logprobs",
]


class Engine:
    """Generates answers with a model.

    operations: what each tag does, by the tag's name (default: `<seg>` crops the recording). max_rows: how many answers
    are generated side by side. max_cache_bytes: the memory for keys and values (None: most of the free memory on a CUDA
    device, no bound elsewhere). Rows that do not fit wait. If memory runs out, the youngest row waits again and goes on
    later where it stopped. A single row that does not fit ends early, as if the context of the model were that short.
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
        """Wall-clock seconds of the latest session: prefill, listen (encode and forward inserted audio), decode."""
        self.usage = Usage()
        """Rows, forwards and memory of the latest session."""
        self.lengths = Lengths()
        """Of the answers so far. They tell how many answers are likely to fit into memory together."""

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A running batch that questions may join at any time. Use the engine for one session at a time.

        >>> with engine.session() as session:
        ...     number = session.submit(example, GenerationConfig())
        ...     while session.busy:
        ...         for update in session.step():
        ...             print(update.question, update.sample, update.event)
        """
        module = self.model.module
        training = module.training
        module.eval()  # in training mode, gradient checkpointing silently drops the cache
        try:
            session = Session(self)
            self.seconds, self.usage = session.seconds, session.usage
            yield session
        finally:
            module.train(training)

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
        for index, sample, event in self._updates(examples, config, num_samples):
            if isinstance(event, Finished):
                yield index, sample, event.trace
            elif isinstance(event, Failed):
                if failed is None:
                    raise ValueError(event.reason)
                failed(index, event.reason)

    def stream(self, example: Example, config: GenerationConfig | None = None) -> Iterator[AnswerEvent]:
        """Yield one answer while it is written: Text, Heard and Refused events, and Finished at the end.

        If the example cannot be asked, ValueError is raised.
        """
        for _, _, event in self._updates([example], config, 1):
            if isinstance(event, Failed):
                raise ValueError(event.reason)
            yield event

    def _updates(
        self, examples: Sequence[Example], config: GenerationConfig | None, num_samples: int
    ) -> Iterator[Update]:
        with self.session() as session:
            for example in examples:
                session.submit(example, config, num_samples)
            while session.busy:
                yield from session.step()

    def choose(self, rows: Sequence[Row], logits: Tensor) -> list[tuple[int, float]]:
        """A token and its log-probability for each row; logits: [rows, V]."""
        kinds: dict[tuple[float, float, int], list[int]] = {}
        for index, row in enumerate(rows):
            kinds.setdefault((row.config.temperature, row.config.top_p, row.config.top_k), []).append(index)
        chosen: dict[int, tuple[int, float]] = {}
        for kind, indices in kinds.items():
            uniforms = [rows[i].draw() for i in indices] if kind[0] > 0 else []
            own = logits if len(kinds) == 1 else logits[indices]
            found = choose(own, self.model.banned_token_ids, uniforms, *kind)
            chosen |= zip(indices, zip(*found, strict=True), strict=True)
        return [chosen[index] for index in range(len(rows))]
