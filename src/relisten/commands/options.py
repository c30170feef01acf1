"""What several commands share: groups of options, loading a model, the command as it was typed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Group, Parameter

from relisten import records
from relisten.fields import documented
from relisten.reports.text import console, printable
from relisten.types import MAX_SECONDS

if TYPE_CHECKING:
    from relisten.models.base import AudioLM

OUTPUT = Parameter(group=Group("Output", sort_key=1))
GENERATION = Parameter(name="*", group=Group("Generation", sort_key=2))
"""For an argument that is a `GenerationConfig`: each of its fields becomes an option."""
MODEL = Parameter(name="*", group=Group("Model and recording", sort_key=3))
"""For an argument that is a `ModelOptions`."""


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
    max_seconds: float = MAX_SECONDS
    """The longest recording that is accepted, in seconds. Longer ones are refused."""

    def load(self) -> AudioLM:
        """Load the model; a spinner on stderr turns meanwhile. Raises ValueError if it cannot be loaded."""
        with console(stderr=True).status(f"loading {printable(self.model)} …"):
            from transformers.utils.logging import disable_progress_bar

            from relisten import models

            disable_progress_bar()
            return models.load(self.model, device=self.device, dtype=self.dtype)


@contextmanager
def keeping(kept: Callable[[], str]) -> Iterator[None]:
    """If the user stops the command (Ctrl-C), say on stderr what is kept, and that the same command continues."""
    try:
        yield
    except KeyboardInterrupt:
        console(stderr=True).print(printable(f"Stopped. {kept()}; the same command continues."), soft_wrap=True)
        raise


def kept_answers(path: Path, num: int) -> str:
    """How many of `num` answers lie in a file, as a clause for people."""
    there = sum(1 for _ in records.read(path, torn=True)) if path.is_file() else 0
    return f"{path}: {there} of {num} answers are kept"


def command_line(tokens: Sequence[str] | None = None) -> str:
    """The command as it was typed, quoted for a shell."""
    import shlex

    return shlex.join(["relisten", *(sys.argv[1:] if tokens is None else tokens)])
