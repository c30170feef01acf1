"""Settings from a YAML file. Options on the command line win."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from cyclopts.config import Yaml

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a file; {} if it is empty. Raises ValueError if it holds anything else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: is larger than {MAX_BYTES:,} bytes, which no file of settings is")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        _check_size(path, content, [MAX_VALUES])
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:200]})") from None
    except RecursionError:
        raise ValueError(f"{path}: cannot be read as YAML (it nests too deep); settings are a list of names") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not settings; write a line `name: value` for each")
    return content


def _check_size(path: Path, value: Any, left: list[int]) -> None:
    """Raise ValueError if a file has more values than settings need. Each alias counts as what it stands for.

    A few lines of aliases of aliases stand for billions of values.
    """
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"{path}: holds more than {MAX_VALUES:,} values, which no file of settings does")
    for inner in (
        [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _check_size(path, inner, left)


def from_yaml(app: Any, commands: Any, arguments: Any) -> None:
    """Read the settings that the command line leaves out from the file that it names (a cyclopts config)."""
    for argument in arguments:
        if argument.field_info.name == "settings" and argument.tokens:
            path = Path(argument.tokens[0].value)
            if not path.is_file():
                raise ValueError(f"{path}: no such file of settings; runs/ in the repository has examples")
            content = read_yaml(path)  # says in one line what cyclopts would not
            for other in arguments:  # of which it would take the nearest whole number
                value = content.get(other.field_info.name)
                if other.hint is int and isinstance(value, float) and not value.is_integer():
                    raise ValueError(f"{path}: {other.field_info.name}: {value} is no whole number")
            # Without command names for keys, cyclopts leaves out what is called like a command of ours (`data`).
            Yaml(path, use_commands_as_keys=True)(app, (), arguments)
            return
