"""How the study is made: a run folder for every model, one of `evaluate` for every row, so it goes on after a stop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from relisten import records, run
from relisten.engine.answering import Answering
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import WAYS, Operation
from relisten.evals.runner import evaluate
from relisten.models import load
from relisten.models.base import AudioLM
from relisten.types import Audio, Format, Segment
from studies.echo import side_by_side
from studies.echo import study as echo
from studies.echo.rows import Stage
from studies.operations import world

WORLD = "studies.operations.world"
Heard = Literal["asked", "plain", "random", "wrong"]
"""What a listen gives: what was asked for; the plain crop; an operation that is drawn; one that cannot help."""
WRONG = {"slow": "low", "loud": "slow", "high": "low", "low": "high", "seg": "seg"}
"""The operation that is heard in place of another one."""


@dataclass(frozen=True)
class Row:
    """A model, read in one way."""

    title: str
    model: str
    heard: Heard = "asked"
    format: Format = "interleaved"


STAGES = {
    "clips": Stage("clips", "clip_rows", ""),
    "base": Stage("base", "base_rows", "clips"),
    "cold-crop": Stage("cold", "crop_rows", "base"),
    "cold-ways": Stage("cold", "way_rows", "base-ways"),
    "cold-random": Stage("cold", "random_rows", "base-ways"),
    "rl-crop": Stage("grpo", "rl_rows", "cold-crop", "interleaved"),
    "rl-ways": Stage("grpo", "rl_rows", "cold-ways", "interleaved"),
}
OPENED = "base-ways"
"""The base, whose prompts.json says that it knows the operations; nothing else differs."""
ROWS = {
    "named": Row("crop, nothing heard", "cold-crop", format="grounded"),
    "crop": Row("crop alone", "cold-crop"),
    "offered": Row("operations offered", "cold-ways"),
    "offered plain": Row("offered, the plain crop heard", "cold-ways", "plain"),
    "offered random": Row("offered, an operation at random heard", "cold-ways", "random"),
    "offered wrong": Row("offered, a wrong operation heard", "cold-ways", "wrong"),
    "random": Row("trained with operations at random", "cold-random"),
    "crop RL": Row("crop alone, then RL", "rl-crop"),
    "offered RL": Row("operations offered, then RL", "rl-ways"),
    "offered RL plain": Row("that, the plain crop heard", "rl-ways", "plain"),
    "offered RL wrong": Row("that, a wrong operation heard", "rl-ways", "wrong"),
}
DIFFERENCES = (
    ("crop", "offered", "H1: operations offered"),
    ("offered plain", "offered", "H2: what the operation does"),
    ("offered wrong", "offered", "H3: that it is the right one"),
    ("offered random", "offered", "that it is not any"),
    ("random", "offered", "H4: trained with the right ones"),
    ("crop RL", "offered RL", "H5: operations offered, after RL"),
    ("offered RL wrong", "offered RL", "that it is the right one, after RL"),
)
"""From row, to row, what the difference shows."""


@dataclass(frozen=True)
class StudyConfig:
    """Settings of the study. The four stages take any setting of `relisten train`."""

    output: Path = Path("out/operations")
    seeds: int = 3
    jobs: int = 2
    """How many models are trained or read at a time."""
    num_scenes: int = 400
    """Held-out scenes, with about two questions each."""
    clips: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    cold: dict[str, Any] = field(default_factory=dict)
    grpo: dict[str, Any] = field(default_factory=dict)


def make(config: StudyConfig) -> list[Path]:
    """Train and read what is not there yet. Returns the folder of each seed, which holds models/ and rows/."""
    tasks: dict[str, side_by_side.Task] = {}
    needs: dict[str, list[str]] = {}
    folders = [config.output / f"seed-{seed}" for seed in range(config.seeds)]
    for seed, folder in enumerate(folders):
        for name, stage in STAGES.items():
            tasks[f"{folder.name} {name}"] = partial(make_model, name, folder, seed, config)
            start = "base" if stage.start == OPENED else stage.start
            needs[f"{folder.name} {name}"] = [f"{folder.name} {start}"] if start else []
        for key, row in ROWS.items():
            tasks[f"{folder.name} row {key}"] = partial(read, row, folder, key, config)
            needs[f"{folder.name} row {key}"] = [f"{folder.name} {row.model}"]
    side_by_side.run(tasks, needs, config.jobs, config.output / "logs")
    return folders


def make_model(name: str, folder: Path, seed: int, config: StudyConfig) -> None:
    """Make the model of a stage."""
    stage = STAGES[name]
    if stage.start == OPENED:
        _open(folder / "models", name)
        stage = Stage(stage.settings, stage.data, f"{OPENED}-{name}", stage.format)
    echo.train(stage, folder / "models", name, getattr(config, stage.settings), seed, WORLD)


def _open(models: Path, name: str) -> None:
    """A copy of the base that knows the operations, for one stage: two of them may be made at the same time."""
    opened = models / f"{OPENED}-{name}" / "model"
    if (opened / "prompts.json").is_file():
        return
    shutil.copytree(
        models / "base" / "model", opened, ignore=shutil.ignore_patterns("prompts.json"), dirs_exist_ok=True
    )
    prompts = json.loads((models / "base" / "model" / "prompts.json").read_text(encoding="utf-8"))
    prompts["operations"] = dict.fromkeys(world.OPERATIONS, "")
    records.write_atomic(opened / "prompts.json", json.dumps(prompts, indent=2) + "\n")  # last: then it is whole


def read(row: Row, folder: Path, key: str, config: StudyConfig) -> None:
    """Answer the held-out questions as a row does, greedily."""
    out = row_folder(folder, key)
    generation = GenerationConfig(format=row.format, max_new_tokens=200)
    run.start(out, {"study": key, "format": row.format, "heard": row.heard, "num_scenes": config.num_scenes})
    model = load(str(folder / "models" / row.model / "model"))
    make = partial(_engine, row.heard)
    evaluate(model, world.heldout(config.num_scenes), out / "answers.jsonl", generation, max_rows=64, make=make)


def row_folder(folder: Path, key: str) -> Path:
    """Where a seed's folder keeps the answers of a row."""
    return folder / "rows" / key.replace(" ", "-")


def _engine(
    heard: Heard, model: AudioLM, operations: Mapping[str, Operation] | None = None, max_rows: int = 32
) -> Answering:
    """An engine whose operations are not those that the model asks for."""
    names = list(operations or {"seg": WAYS["seg"].operation})
    return Engine(model, {name: instead(heard, name) for name in names}, max_rows)


def instead(heard: Heard, name: str) -> Operation:
    """What is heard when the model asks for an operation."""
    if heard == "random" and name != "seg":
        return _drawn
    taken = {"plain": "seg", "wrong": WRONG[name]}.get(heard, name)
    return WAYS[taken].operation


def _drawn(audio: Audio, segment: Segment) -> Audio:
    """One of the operations, drawn by the recording and the segment alone, so that a replay hears the same."""
    digest = blake2b(f"{segment.start} {segment.end} {len(audio.samples)}".encode(), digest_size=8).digest()
    return WAYS[world.OPERATIONS[int.from_bytes(digest, "big") % len(world.OPERATIONS)]].operation(audio, segment)
