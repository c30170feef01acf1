"""`python -m studies.echo SETTINGS.yaml`: the paper's ablation from nothing, and its report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from relisten import run
from relisten.cli import main, standalone
from relisten.commands.options import command_line
from relisten.commands.settings import read_yaml
from relisten.evals.runs import read_run
from relisten.reports.table import terminal_table
from relisten.reports.tables import result, short_table
from relisten.reports.text import console
from studies.echo import report as study_report
from studies.echo.study import StudyConfig, arm_folder, arms_of, check, make

NAME = "python -m studies.echo"
"""How it is started."""
LATER = {"seeds": None, "side_seeds": None, "rows": None, "jobs": None}
"""Not kept among a folder's settings: they may be others when a study goes on."""


def study(settings: Path, /, *, output: Path | None = None, seeds: int | None = None, rows: str = "") -> int:
    """Make every row of the paper's ablation at a small scale, from nothing, and report them beside the paper's.

    A study that was stopped goes on where it was when it is started again.

    Parameters
    ----------
    settings
        A YAML file: output, seeds, rows, jobs, num_scenes and more, and for each of the stages clips, base, cold and
        grpo any settings of `relisten train`. studies/echo/study.yaml in the repository is one.
    output
        Folder for models, answers and the report.
    seeds
        How often everything is made from nothing.
    rows
        The rows to make and report, with commas between ("A,B,D gentle"), in place of those in the settings.
    """
    config = read(settings)
    config = dataclasses.replace(config, output=output or config.output, seeds=config.seeds if seeds is None else seeds)
    if rows:
        config = dataclasses.replace(config, rows=tuple(filter(None, map(str.strip, rows.split(",")))))
    check(config)
    run.start(config.output, {**dataclasses.asdict(config), **LATER})
    folders = make(config)
    written = study_report.write(config, folders, command_line(NAME))
    shown = [result(read_run(arm_folder(folders[0], key))) for key in arms_of(config, 0)]
    console().print(terminal_table(short_table(shown), f"{folders[0].name} of {len(folders)}"))
    for path in written[:2]:
        console().print(str(path), soft_wrap=True)
    return 0


def read(path: Path) -> StudyConfig:
    """The settings in a file. ValueError where it cannot be used."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file of settings; studies/echo/study.yaml in the repository is one")
    content = read_yaml(path)
    known = {field.name for field in dataclasses.fields(StudyConfig)}
    if unknown := sorted(set(map(str, content)) - known):
        raise ValueError(f"{path}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    rows = content.get("rows") or ()
    if not isinstance(rows, list | tuple):
        raise ValueError(f"{path}: rows: {rows!r} is no list")
    if not isinstance(content.get("output", ""), str):
        raise ValueError(f"{path}: output: {content['output']!r} is no folder")
    given = {"output": Path(str(content.get("output", StudyConfig.output))), "rows": tuple(map(str, rows))}
    return StudyConfig(**content | given)


commands = standalone(study, NAME)

if __name__ == "__main__":
    main(commands=commands)
