"""Settings from a YAML file, under those given on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cyclopts.config import Yaml


def from_yaml(app: Any, commands: Any, arguments: Any) -> None:
    """Fill every setting that the command line leaves out from the file it names (a cyclopts config)."""
    for argument in arguments:
        if argument.field_info.name == "settings" and argument.tokens:
            path = Path(argument.tokens[0].value)
            if not path.is_file():
                raise ValueError(f"{path}: no such file of settings; runs/ in the repository has examples")
            # Without command names for keys, cyclopts leaves out what is called like a command of ours (`data`).
            Yaml(path, use_commands_as_keys=True)(app, (), arguments)
            return
