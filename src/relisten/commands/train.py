"""`relisten train`: settings from a YAML file and from options; options win.

Settings, data and rewards are checked before torch is imported, so that a mistake is told at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from relisten.commands.options import keeping
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.plan import planned


def sft(settings: Path | None = None, /, *, config: Annotated[SftConfig, Parameter(name="*")]) -> Path:
    """Fine-tune a model on chains of thought: cross-entropy on what it should write. Inserted audio is not trained.

    If a run was stopped, the same command continues it.

    Parameters
    ----------
    settings
        A YAML file with any of the options below; write underscores for dashes. Options on the command line win.
    """
    plan = planned(config)
    _hide_bars()
    from relisten.training.sft import run_sft

    with keeping(lambda: _kept(config)):
        return run_sft(plan)


def grpo(settings: Path | None = None, /, *, config: Annotated[GrpoConfig, Parameter(name="*")]) -> Path:
    """Train a model with GRPO: it answers each question several times, hears the segments that it names, and learns
    from what the better answers did.

    If a run was stopped, the same command continues it.

    Parameters
    ----------
    settings
        A YAML file with any of the options below; write underscores for dashes. Options on the command line win.
    """
    plan = planned(config)
    _hide_bars()
    from relisten.training.grpo import run_grpo

    with keeping(lambda: _kept(config)):
        return run_grpo(plan)


def _kept(config: SftConfig | GrpoConfig) -> str:
    from relisten.training.checkpoint import latest

    last = latest(config.output)
    if last is None:
        return f"{config.output}: no checkpoint was written yet (one is written every {config.save_steps} steps)"
    return f"{config.output}: {Path(last).name} is kept"


def _hide_bars() -> None:
    """Leave the terminal to our own progress bar: transformers draws one for each file that it reads or writes."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
