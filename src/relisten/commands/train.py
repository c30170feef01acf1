"""`relisten train`: settings from a YAML file, and from flags, which win."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from relisten.training.grpo import GrpoConfig, train_grpo
from relisten.training.sft import SftConfig, train_sft


def sft(settings: Path | None = None, /, *, config: Annotated[SftConfig, Parameter(name="*")]) -> Path:
    """Fine-tune a model on chains of thought: cross-entropy on what it should write, the audio it hears left out.

    A run that was stopped goes on where it was when it is started again.

    Parameters
    ----------
    settings
        A YAML file with any of the options below, their dashes as underscores; flags win over it.
    """
    return train_sft(config)


def grpo(settings: Path | None = None, /, *, config: Annotated[GrpoConfig, Parameter(name="*")]) -> Path:
    """Train a model with GRPO: it answers each question several times, hears what it names, and learns from what the
    better answers earned.

    A run that was stopped goes on where it was when it is started again.

    Parameters
    ----------
    settings
        A YAML file with any of the options below, their dashes as underscores; flags win over it.
    """
    return train_grpo(config)
