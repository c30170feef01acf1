"""Checkpoints of a run: writing them so that they are complete or absent, finding the newest, deleting old ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from relisten.files import make_folder, refuse_links, write_atomic


def latest(folder: Path) -> str | None:
    """The newest complete `checkpoint-N` in a folder, or None.

    `Trainer` writes `trainer_state.json` last, so a checkpoint that was cut short by a kill does not have it.
    """
    for path in reversed(_checkpoints(folder)):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None


def answer_in(folder: Path, dtype: torch.dtype) -> None:
    """Set the precision in which the model in a folder is loaded, whatever the precision of its file."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict) and "dtype" in value)):
        part["dtype"] = str(dtype).removeprefix("torch.")
    write_atomic(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


@contextmanager
def staged(folder: Path, name: str, writer: bool = True) -> Iterator[Path]:
    """A temporary folder in which a checkpoint called `name` is written. At the end it is moved into `folder` at once.

    writer: whether this process moves it (one process does, when all have written). Raises OSError, in one line, if it
    cannot be written; the earlier checkpoints stay as they were.
    """
    part = folder / ".part"
    if writer:
        shutil.rmtree(make_folder(folder) / part.name, ignore_errors=True)
        refuse_links(part)  # a link is left by rmtree, and would be written through
    try:
        yield part
        if writer:
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(part / name, folder / name)  # noqa: PTH105
            shutil.rmtree(part, ignore_errors=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:  # torch, safetensors and the model's own
        shutil.rmtree(part, ignore_errors=True)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"{folder / name}: the checkpoint cannot be written ({reason[:160]}); the one before it is kept; make room"
            " on the disk and start the same command again"
        ) from error


def prune(folder: Path, keep: int, best: int | None = None) -> None:
    """Delete all but the newest `keep` (at least one) and that of the step `best`."""
    for path in _checkpoints(folder)[: -max(1, keep)]:
        if path.name != f"checkpoint-{best}":
            shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, the oldest first."""
    steps = {int(p.name.partition("-")[2]): p for p in folder.glob("checkpoint-*") if p.name[11:].isdigit()}
    return [steps[step] for step in sorted(steps)]
