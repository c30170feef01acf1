"""The folder of a run. It records the settings, the versions of the code, and the metrics.

- config.json: the settings, which must be the same when the run is resumed
- run.json: versions, the git commit, and the time, command line and seed of each start
- metrics.jsonl: one object for each step; if a step is logged twice after a resume, the later line counts
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import relisten
from relisten import records

_PACKAGES = ("torch", "transformers", "numpy")


MayChange = Callable[[str, Any, Any], bool]
"""Given (name, old value, new value) of a setting: whether a run may be resumed with the new value. Values are JSON."""


def never(name: str, old: Any, new: Any) -> bool:
    """A run is resumed only with the settings that it began with."""
    return False


def start(folder: str | os.PathLike[str], config: Any, may_change: MayChange = never) -> None:
    """Begin a run, or resume one with the same config. Raises ValueError if the folder holds another run.

    config: a dataclass or a mapping. Paths and functions in it are recorded by name.
    """
    folder = Path(folder)
    settings = _settings(config)
    previous = check(folder, config, may_change)
    starts = [*previous.get("starts", []), _start(settings.get("seed"))]
    told = previous | {"versions": versions(), "git": git(), "starts": starts}
    records.write_atomic(folder / "run.json", _pretty(told))
    records.write_atomic(folder / "config.json", _pretty(settings))


def check(folder: str | os.PathLike[str], config: Any, may_change: MayChange = never) -> dict[str, Any]:
    """Raise ValueError as `start` would, without writing. Returns run.json of the run to resume, or {}."""
    return _previous(Path(folder), _settings(config), _defaults(config), may_change)


def note(folder: Path, what: Mapping[str, Any]) -> None:
    """Add facts to run.json; those with the same name are replaced."""
    records.write_atomic(folder / "run.json", _pretty(records.read_object(folder / "run.json") | dict(what)))


def check_kept(folder: Path) -> None:
    """Raise ValueError if a run's folder was removed since `start`, even if files were written there again."""
    if gone := [name for name in ("config.json", "run.json") if not (folder / name).is_file()]:
        raise ValueError(f"{folder}: was removed while this run wrote to it; {gone[0]} and earlier results are lost")


def log_metrics(folder: str | os.PathLike[str], step: int, metrics: Mapping[str, Any]) -> None:
    """Add one line to metrics.jsonl. Values may be numbers of numpy and torch; NaN and infinity become null."""
    values = {name: _number(name, value) for name, value in metrics.items()}
    time = datetime.now(UTC).isoformat(timespec="seconds")
    records.append(Path(folder) / "metrics.jsonl", {"step": step, "time": time, **values})


def resolve(name: str) -> Callable[..., Any]:
    """The function that "package.module:function" names. The current folder is searched first."""
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ValueError(f"{name!r}: write a function as module:function, for example mypackage.rewards:brevity")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # an installed command, unlike `python -m`, does not look there
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            hint = "check the spelling, or start relisten from the folder that holds it"
        else:
            hint = f"{module_name} needs it; install it"
        raise ValueError(f"{name!r}: there is no module {missing!r}; {hint}") from None
    except Exception as error:  # the user's own module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{name!r}: importing {module_name} failed ({reason}); correct it") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "check the spelling"
            raise ValueError(f"{name!r}: {module_name} has no {part!r}; {hint}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name!r}: is {type(found).__name__}, not a function; name a function")
    return found  # type: ignore[no-any-return]


def versions() -> dict[str, str | None]:
    """Versions of Python, relisten and the packages that affect results; None if one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "relisten": relisten.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git() -> dict[str, Any] | None:
    """The commit of the current checkout, and whether its tracked files were changed; None outside a checkout.

    `dirty` is None if git fails. A checkout that came from somebody else can name commands in its `.git`
    (core.fsmonitor, filters, hooks), which `git status` would run. So only `git rev-parse`, which runs none, sees that
    configuration; the files are compared from an empty git folder that borrows the checkout's index and objects.
    """
    told = _git("rev-parse", "HEAD", "--show-toplevel", "--git-path", "index", "--git-path", "objects")
    if told is None:
        return None
    commit, *places = told.splitlines()
    if len(places) != 3:  # a line break in a path
        return {"commit": commit, "dirty": None}
    tree, index, objects = (str(Path(place).absolute()) for place in places)
    with tempfile.TemporaryDirectory() as empty:
        (Path(empty) / "HEAD").write_text(commit + "\n")
        (Path(empty) / "refs").mkdir()
        where = {"GIT_DIR": empty, "GIT_WORK_TREE": tree, "GIT_INDEX_FILE": index, "GIT_OBJECT_DIRECTORY": objects}
        # Submodules have a configuration of their own.
        changed = _git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all", **where)
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(*arguments: str, **variables: str) -> str | None:
    """The output of git; None if it fails. variables: added to the environment."""
    safe = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | safe | variables,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _start(seed: Any) -> dict[str, Any]:
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "command": sys.argv, "seed": seed}


def _settings(config: Any) -> dict[str, Any]:
    """The config after a round trip through JSON, so that it can be compared with a stored one."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    if not isinstance(config, Mapping):
        raise ValueError(f"a config must be a dataclass or a mapping, not {type(config).__name__}")
    settings: dict[str, Any] = json.loads(json.dumps(dict(config), default=_plain))
    return settings


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    return str(value)


def _defaults(config: Any) -> dict[str, Any]:
    """The defaults of a config. If an older release began the run, they stand for settings that did not exist yet."""
    if not dataclasses.is_dataclass(config):
        return {}
    given = {f.name: f.default for f in dataclasses.fields(config) if f.default is not dataclasses.MISSING}
    return _settings(given)


def _previous(
    folder: Path, settings: dict[str, Any], defaults: dict[str, Any], may_change: MayChange
) -> dict[str, Any]:
    """run.json of the run in the folder, or {}. Raises ValueError if that run has another config."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is not a folder; name a folder for the run")
    if not (folder / "config.json").is_file():
        return {}
    old = defaults | records.read_object(folder / "config.json")
    keys = [key for key in {**old, **settings} if old.get(key, _ABSENT) != settings.get(key, _ABSENT)]
    keys = [key for key in keys if key != "output"]  # the folder itself, which may have been moved
    keys = [key for key in keys if not may_change(key, old.get(key), settings.get(key))]
    if keys:
        shown = ", ".join(f"{key} is {_show(old, key)} there, {_show(settings, key)} here" for key in keys[:5])
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise ValueError(f"{folder}: holds another run ({shown}{more}); choose a new folder, or the same settings")
    return records.read_object(folder / "run.json") if (folder / "run.json").is_file() else {}


_ABSENT = object()


def _show(settings: Mapping[str, Any], key: str) -> str:
    text = json.dumps(settings[key], ensure_ascii=False) if key in settings else "not set"
    return text if len(text) <= 60 else text[:57] + "..."


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=True) + "\n"


def _number(name: str, value: Any) -> Any:
    """A metric as a JSON value."""
    if value is None or isinstance(value, str | bool):
        return value
    try:
        number = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"metric {name!r} must be a number or a text, not {type(value).__name__}") from None
    return number if math.isfinite(number) else None
