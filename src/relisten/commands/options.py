"""What several commands share: groups of options, loading a model, what is said after Ctrl-C."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

from relisten import records, remote
from relisten.evals.figures import Failed
from relisten.fields import documented
from relisten.models import weight_files
from relisten.reports.text import console, printable
from relisten.types import MAX_SECONDS

if TYPE_CHECKING:
    from relisten.engine.answering import EngineFactory
    from relisten.models.base import AudioLM

OUTPUT = Parameter(group=Group("Output", sort_key=1))
GENERATION = Parameter(name="*", group=Group("Generation", sort_key=2))
"""For an argument that is a `GenerationConfig`: each of its fields becomes an option."""
PREDICTIONS = Parameter(name="*")
"""For an argument that is a `PredictionOptions`."""
MODEL = Parameter(name="*", group=Group("Model and recording", sort_key=3))
"""For an argument that is a `ModelOptions`."""


@documented
@dataclass(frozen=True)
class PredictionOptions:
    """How files of predictions are read and counted."""

    questions: Path | None = None
    """The file of questions, if files of predictions contain only ids. Questions without a prediction then count as
    failed."""
    key: str | None = None
    """The name under which files contain their predictions, if it is not answer_prediction, model_prediction or
    model_output."""
    failed: Failed = "wrong"
    """How a question without an answer counts. wrong: as wrong. first-choice: as choices[0], as in the paper's release,
    which gives points for nothing (see docs/evaluation.md)."""


@documented
@dataclass(frozen=True)
class ModelOptions:
    """Which model answers, where it runs, and how long a recording may be."""

    model: str = "nano"
    """nano (built in), a folder, or a name on the Hugging Face hub such as Qwen/Qwen2.5-Omni-7B."""
    device: str = "auto"
    """auto (CUDA if there is one, else MPS, else the CPU), or a torch device such as cuda:1."""
    dtype: str = "auto"
    """Precision of the weights: auto (that of the checkpoint), float32, bfloat16 or float16."""
    operations: str = "model"
    """Ways to listen to a segment that the model may use (see docs/operations.md): model (those that it knows), all,
    none, or names with commas, such as slow,low. An operation that it does not know is explained in its prompt."""
    max_seconds: float = MAX_SECONDS
    """The longest recording that is accepted, in seconds. Longer ones are refused."""
    engine: str = "local"
    """What generates the answers. local: this process. http://HOST:PORT: a vLLM server that serves the model (see
    `relisten export vllm`); several addresses with commas share the work. chat+http://HOST:PORT/v1#NAME: the model NAME
    behind a chat API that takes audio; --model, --device and --dtype are then not used."""

    @property
    def name(self) -> str:
        """The name of the model that answers."""
        return self.engine.rpartition("#")[2] if remote.kind(self.engine) == "chat" else self.model

    def told(self) -> dict[str, Any]:
        """What a run records about the model and the engine."""
        return {"model": self.name, **remote.told(self.engine)}

    def weights(self) -> list[Path]:
        """The files of the model's weights, if they are on this machine."""
        kind = remote.kind(self.engine)
        return [] if kind == "chat" else weight_files(self.model, fetch=kind == "local")

    def open(self, live: bool = False) -> tuple[AudioLM, EngineFactory]:
        """The model, and what makes an engine for it; a spinner on stderr turns meanwhile.

        live: whether every token is to be passed on at once. Raises ValueError, in one line, if the model cannot be
        loaded, or if no server answers.
        """
        doing = "loading" if self.engine == "local" else "connecting to"
        with console(stderr=True).status(f"{doing} {printable(self.name)} …"):
            hide_bars()
            from relisten.engine.operations import offering

            model, make = remote.open_engine(self.model, self.engine, self.device, self.dtype, live)
            return offering(model, self.operations), make


def hide_bars() -> None:
    """Leave the terminal to our own progress bars: transformers draws one for each file that it reads or writes."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """If the user stops the command (Ctrl-C), say on stderr what is kept, and that the same command continues."""
    try:
        yield
    except KeyboardInterrupt:
        console(stderr=True).print(printable(f"Stopped. {kept()}; the same command continues."), soft_wrap=True)
        raise


def kept_answers(path: Path, num: int) -> str:
    """A clause that says how many of `num` answers are in a file."""
    there = sum(1 for _ in records.read(path, torn=True)) if path.is_file() else 0
    return f"{path}: {there} of {num} answers are kept"


def command_line(program: str = "relisten") -> str:
    """The command as it was typed, quoted for a shell. program: how it is started."""
    return f"{program} {shlex.join(sys.argv[1:])}".rstrip()
