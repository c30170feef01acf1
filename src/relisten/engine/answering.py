"""What every engine offers: answers to a list of questions as they finish, or one answer as a stream of events.

An engine decides only how a session generates: in this process, on vLLM servers, or with a model behind a chat API.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from relisten.engine.generation import GenerationConfig
from relisten.engine.memory import Usage
from relisten.engine.operations import Operation, offered
from relisten.engine.row import AnswerEvent, Finished
from relisten.models.base import AudioLM
from relisten.types import Example, Trace


@dataclass(frozen=True)
class Failed:
    """The question cannot be asked: its recording is unreadable, its prompt does not fit, memory ran out on it, or a
    server refuses it."""

    reason: str


class Update(NamedTuple):
    """Something that happened to one answer."""

    question: int
    """The number that `submit` returned."""
    sample: int
    """Which of the question's answers, counted from 0. `Failed` is told once, with 0, for all that are unfinished."""
    event: AnswerEvent | Failed


class AnswerSession(Protocol):
    """A running batch that questions may join at any time. All methods must be called from one thread."""

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds so far, by what they went into."""

    def submit(self, example: Example, config: GenerationConfig | None = None, num_samples: int = 1) -> int:
        """Ask a question. Returns its number."""

    def cancel(self, question: int, sample: int | None = None) -> None:
        """Give up an answer (None: all answers of the question). Nothing more is told of it."""

    @property
    def busy(self) -> bool:
        """Whether an answer is unfinished, or something has not been told yet."""

    @property
    def num_waiting(self) -> int:
        """Number of answers that have not been started."""

    @property
    def num_live(self) -> int:
        """Number of answers that are being generated."""

    def step(self) -> list[Update]:
        """Go on, and return what happened, in order for each answer."""


class Answering(ABC):
    """An engine; `session` is what its kinds differ in.

    operations: what each tag does, by the tag's name (default: `<seg>` crops the recording, and the operations of the
    model's prompts do what `engine/operations.py` says). max_rows: how many answers are generated side by side.
    """

    def __init__(self, model: AudioLM, operations: Mapping[str, Operation] | None, max_rows: int) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, not {max_rows}")
        self.model = model
        self.operations = offered(model.prompts.operations) if operations is None else dict(operations)
        self.max_rows = max_rows
        self.seconds: dict[str, float] = {}
        """Wall-clock seconds of the latest session. In this process: prefill, listen (encode and forward inserted
        audio), decode. Elsewhere: server."""
        self.usage = Usage()
        """Rows, forwards and memory of the latest session in this process."""

    @abstractmethod
    def session(self) -> AbstractContextManager[AnswerSession]:
        """A running batch. Use an engine for one session at a time."""

    def new_weights(self) -> None:  # noqa: B027
        """Called before a rollout, when the model's weights have changed. An engine elsewhere fetches them here."""

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


class EngineFactory(Protocol):
    """Makes an engine: the class `Engine` is one."""

    def __call__(
        self, model: AudioLM, operations: Mapping[str, Operation] | None = None, max_rows: int = 32
    ) -> Answering:
        """An engine for a model. Raises ValueError if max_rows is less than 1."""
