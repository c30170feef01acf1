"""`relisten train`: settings from a YAML file and from options; options win.

Settings, data and rewards are checked before torch is imported, so that a mistake is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from relisten.commands.options import hide_bars, keeping
from relisten.fields import documented
from relisten.reports.text import console
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.plan import planned


@documented
@dataclass(frozen=True)
class DryRunOptions:
    """Options to learn what a run would need, without training."""

    dry_run: bool = False
    """Train nothing. Say how many steps and tokens the run has, how much memory each GPU needs, with LoRA and with full
    tuning, and how large a checkpoint is. No weights are loaded or fetched."""
    gpus: int = 8
    """With `dry_run`: how many GPUs train together."""
    gpu_memory: float = 80.0
    """With `dry_run`: the memory of each GPU in GB (10**9 bytes)."""

    def __post_init__(self) -> None:
        if self.gpus < 1 or not 0 < self.gpu_memory < float("inf"):
            raise ValueError(f"gpus is {self.gpus} and gpu_memory is {self.gpu_memory:g}; both must be above 0")


DRY = Parameter(name="*", group=Group("Dry run", sort_key=2))


def sft(
    settings: Path | None = None,
    /,
    *,
    config: Annotated[SftConfig, Parameter(name="*")],
    dry: Annotated[DryRunOptions, DRY] = DryRunOptions(),
) -> Path | None:
    """Fine-tune a model on chains of thought: cross-entropy on what it should write. Inserted audio is not trained.

    If a run was stopped, the same command continues it. With more --steps or --epochs a finished run goes on as well.

    Parameters
    ----------
    settings
        A YAML file with any of the options below; write underscores for dashes. Options on the command line win.
    """
    return _train(config, dry)


def grpo(
    settings: Path | None = None,
    /,
    *,
    config: Annotated[GrpoConfig, Parameter(name="*")],
    dry: Annotated[DryRunOptions, DRY] = DryRunOptions(),
) -> Path | None:
    """Train a model with GRPO: it answers each question several times, hears the segments that it names, and learns
    from what the better answers did.

    If a run was stopped, the same command continues it. With more --steps or --epochs a finished run goes on as well.

    Parameters
    ----------
    settings
        A YAML file with any of the options below; write underscores for dashes. Options on the command line win.
    """
    return _train(config, dry)


def _train(config: SftConfig | GrpoConfig, dry: DryRunOptions) -> Path | None:
    """Train, or say what the training would need. Returns the folder of the trained model."""
    if dry.dry_run:
        _reckon(config, dry)
        return None
    plan = planned(config)
    hide_bars()
    with keeping(lambda: _kept(config)):
        if isinstance(config, SftConfig):
            from relisten.training.sft import run_sft

            return run_sft(plan)
        from relisten.remote.rollouts import connect_rollouts
        from relisten.training.grpo import run_grpo

        return run_grpo(plan, connect_rollouts)


def _reckon(config: SftConfig | GrpoConfig, dry: DryRunOptions) -> None:
    plan = planned(config, weights=False)
    hide_bars()
    with console(stderr=True).status("reckoning with the shapes of the model …"):
        from relisten.reports.needs import needs_table
        from relisten.reports.table import terminal_table
        from relisten.training.dry_run import reckoned

        found = reckoned(plan, dry.gpus, dry.gpu_memory)
    for line in [*plan.lines(), *found.lines]:
        console().print(line, markup=False, highlight=False)
    console().print(terminal_table(needs_table(found, config.gradient_checkpointing)))


def _kept(config: SftConfig | GrpoConfig) -> str:
    from relisten.training.checkpoint import latest

    last = latest(config.output / "checkpoints")
    if last is None:
        return f"{config.output}: no checkpoint was written yet (one is written every {config.save_steps} steps)"
    return f"{config.output}: {Path(last).name} is kept"
