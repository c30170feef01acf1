"""Checkpoints of a run: the newest one that was written to its end."""

from __future__ import annotations

import json
from pathlib import Path


def latest(folder: Path) -> str | None:
    """The newest whole `checkpoint-N` in a folder, or None.

    `Trainer` writes `trainer_state.json` last, so a checkpoint that a kill has cut short lacks it.
    """
    steps = {int(p.name.partition("-")[2]): p for p in folder.glob("checkpoint-*") if p.name[11:].isdigit()}
    for _, path in sorted(steps.items(), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None
