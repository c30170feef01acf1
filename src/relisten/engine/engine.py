"""The engine in this process, with batched generation; `answering.py` says what it offers.

Everything goes through `Session` in `session.py`, which decodes the rows of a running batch step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from relisten.engine.answering import Answering, Failed, Update
from relisten.engine.generation import GenerationConfig
from relisten.engine.graphs import Capture
from relisten.engine.memory import Lengths
from relisten.engine.operations import Operation
from relisten.engine.question import audible
from relisten.engine.row import AnswerEvent, Finished, Heard, Refused, Row, Text
from relisten.engine.sampling import allow_only, choose, token_logprobs
from relisten.engine.session import Session
from relisten.engine.words import Words
from relisten.models.base import AudioLM

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


class Engine(Answering):
    """Generates answers with a model in this process.

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
        super().__init__(model, operations, max_rows)
        self.words = Words(model)
        self.max_cache_bytes = max_cache_bytes
        self.capture: Callable[[AudioLM], Capture | None] = lambda model: None
        """How steps are recorded, so that each is started as a whole. `graphs.cuda_capture` records CUDA graphs. It is
        not the default, because it was tested on CPUs only; `python -m benchmarks.gpu --parts graph` compares the two.
        """
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

    def choose(self, rows: Sequence[Row], logits: Tensor) -> list[tuple[int, float]]:
        """A token and its log-probability for each row; logits: [rows, V]."""
        logits = allow_only([row.allowed for row in rows], logits)
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
