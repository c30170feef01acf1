"""`python -m studies.operations SETTINGS.yaml`: whether operations help, from nothing, and its report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from relisten import run
from relisten.cli import main, standalone
from relisten.commands.options import command_line
from relisten.commands.settings import read_yaml
from relisten.reports.text import console
from studies.operations import report
from studies.operations.study import StudyConfig, make

NAME = "python -m studies.operations"
"""How it is started."""


def study(settings: Path, /, *, output: Path | None = None, seeds: int | None = None) -> int:
    """Train models with and without operations in a world where they are needed, read them, and report.

    A study that was stopped goes on where it was when it is started again.

    Parameters
    ----------
    settings
        A YAML file: output, seeds, jobs, num_scenes, and for each of the stages clips, base, cold and grpo any settings
        of `relisten train`. studies/operations/study.yaml in the repository is one.
    output
        Folder for models, answers and the report.
    seeds
        How often everything is made from nothing.
    """
    config = read(settings)
    config = dataclasses.replace(config, output=output or config.output, seeds=config.seeds if seeds is None else seeds)
    run.start(config.output, {**dataclasses.asdict(config), "seeds": None, "jobs": None})  # these two may change
    written = report.write(config, make(config), command_line(NAME))
    for path in written[:2]:
        console().print(str(path), soft_wrap=True)
    return 0


def read(path: Path) -> StudyConfig:
    """The settings in a file. ValueError where it cannot be used."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file of settings; studies/operations/study.yaml in the repository is one")
    content = read_yaml(path)
    known = {field.name for field in dataclasses.fields(StudyConfig)}
    if unknown := sorted(set(map(str, content)) - known):
        raise ValueError(f"{path}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    config = StudyConfig(**content | {"output": Path(str(content.get("output", StudyConfig.output)))})
    for name, least in (("seeds", 1), ("jobs", 1), ("num_scenes", 2)):
        if not isinstance(getattr(config, name), int) or getattr(config, name) < least:
            raise ValueError(f"{path}: {name} is {getattr(config, name)!r}; it must be a whole number from {least}")
    return config


commands = standalone(study, NAME)

if __name__ == "__main__":
    main(commands=commands)
