"""How the study is made: settings, and the tasks that train every model and read every row.

Every model is one run folder of `train_sft` or `train_grpo`, every row one of `evaluate`, so a study that was stopped
continues where it was. All rows share data, budgets and seeds, which stand in one settings file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

from relisten import records, run
from relisten.engine.generation import GenerationConfig
from relisten.evals.runner import Asking, evaluate
from relisten.models import find, load
from relisten.training.config import GrpoConfig, SftConfig, TrainingConfig
from relisten.training.config import check as check_training
from relisten.training.grpo import train_grpo
from relisten.training.sft import train_sft
from studies.echo import side_by_side
from studies.echo.localisation import located
from studies.echo.rows import ARMS, KINDS, SHIPPED, SIDE, STAGES, Arm, Stage

WORLD = "studies.echo.world"


@dataclass(frozen=True)
class StudyConfig:
    """Settings of a study. The four stages take any setting of `relisten train`."""

    output: Path = Path("out/study")
    """A folder for each seed, and the report."""
    seeds: int = 1
    """How many times everything is made, each time with another seed: from random weights, or from the base `given`."""
    side_seeds: int = 1
    """How many of the seeds also have the rows that the claim does not need: RL without cold start or on other
    questions, grounded RL from F, and captions that tell all."""
    rows: tuple[str, ...] = ()
    """Keys of the rows (in `rows.ARMS`) to make, with the models that they need. Empty: all rows."""
    jobs: int = 2
    """How many models are trained or read at a time, each in a process of its own with its share of the cores."""
    num_scenes: int = 600
    """Held-out scenes, with about two questions each."""
    num_control_scenes: int = 300
    """The controls are read on this many of the held-out scenes, the first ones."""
    questions_seed: int = 0
    """Random seed of the held-out scenes. Use another one while you choose settings."""
    world: str = WORLD
    """The module that gives the rows of each stage and the held-out questions."""
    given: str = ""
    """A trained model, by folder or name, that takes the place of every base, so that no seed makes clips or a base."""
    max_new_tokens: int = 200
    """The most tokens of an answer."""
    clips: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    cold: dict[str, Any] = field(default_factory=dict)
    grpo: dict[str, Any] = field(default_factory=dict)
    gentle: dict[str, Any] = field(default_factory=dict)
    """Settings in which the rows `gentle` differ from `grpo`: more questions per step, smaller steps. Empty: there are
    no such rows."""
    located: float = 0.0
    """The share of events that the base must locate (`localisation.located`). With less, the study stops with an error,
    because a model that does not know where things are cannot gain from hearing them again."""


def make(config: StudyConfig) -> list[Path]:
    """Train and read what is not there yet. Returns the folder of each seed, which holds models/ and arms/."""
    check(config)
    folders = [config.output / f"seed-{seed}" for seed in range(config.seeds)]
    tasks: dict[str, side_by_side.Task] = {}
    needs: dict[str, list[str]] = {}
    for side, (seed, folder) in product((False, True), enumerate(folders)):  # what is beside the claim comes last
        made = stages_of(config, seed)
        stages = {name: stage for name, stage in made.items() if (name in SIDE) is side}
        arms = {key: arm for key, arm in arms_of(config, seed).items() if (arm.model in SIDE) is side}
        for name, stage in stages.items():
            tasks[f"{folder.name} {name}"] = partial(make_model, name, folder, seed, config)
            needs[f"{folder.name} {name}"] = [f"{folder.name} {stage.start}"] if stage.start in made else []
        for key, arm in arms.items():
            tasks[f"{folder.name} row {key}"] = partial(read, arm, folder, key, config)
            needs[f"{folder.name} row {key}"] = [f"{folder.name} {arm.model}"] if arm.model in made else []
    side_by_side.run(tasks, needs, config.jobs, config.output / "logs")
    return folders


def stages_of(config: StudyConfig, seed: int) -> dict[str, Stage]:
    """The stages that a seed has: those that its rows need."""
    needed = {arm.model for arm in arms_of(config, seed).values()}
    for name, stage in reversed(STAGES.items()):  # a stage comes after the one that it starts from
        needed |= {stage.start} if name in needed else set()
    return {name: stage for name, stage in STAGES.items() if name in needed and not (config.given and is_base(name))}


def is_base(name: str) -> bool:
    """Whether a stage comes before the cold start, so that a given base takes its place."""
    return STAGES[name].settings in ("clips", "base")


def model_of(name: str, folder: Path, config: StudyConfig) -> str:
    """The model of a stage, or one that no stage makes, as `load` takes it."""
    if name not in STAGES:
        return name
    return config.given if config.given and is_base(name) else str(folder / "models" / name / "model")


def arms_of(config: StudyConfig, seed: int) -> dict[str, Arm]:
    """The rows that a seed has."""
    found = {key: arm for key, arm in ARMS.items() if not config.rows or key in config.rows}
    if not config.gentle:  # else they would be the `mid` rows once more
        found = {key: arm for key, arm in found.items() if "gentle" not in arm.model}
    seeds = {SHIPPED: 1} | dict.fromkeys(SIDE, config.side_seeds)
    return {key: arm for key, arm in found.items() if seed < seeds.get(arm.model, seed + 1)}


def make_model(name: str, folder: Path, seed: int, config: StudyConfig) -> None:
    """Make the model of a stage. ValueError where it is a base that locates too few events."""
    stage = STAGES[name]
    settings = config.grpo | config.gentle if stage.settings == "gentle" else getattr(config, stage.settings)
    start = config.given if stage.start and is_base(stage.start) else ""
    train(stage, folder / "models", name, settings, seed, config.world, start)
    if stage.settings == "base":
        gate(folder, config, name)


def train(
    stage: Stage, models: Path, name: str, settings: Mapping[str, Any], seed: int, world: str = WORLD, start: str = ""
) -> Path:
    """Train the model of a stage, unless that is done already; returns its folder.

    world: the module with the functions that give the rows and the first model. start: a model in place of the one that
    the stage starts from.
    """
    model = models / name / "model"
    if (model / "prompts.json").is_file():  # written last
        return model
    start = start or (str(models / stage.start / "model") if stage.start else f"{world}:new_model")
    given = {"data": f"{world}:{stage.data}", "model": start, "output": models / name, "seed": seed} | dict(settings)
    if KINDS[stage.settings] is GrpoConfig:
        return train_grpo(GrpoConfig(format=stage.format, **_typed(GrpoConfig, given)))
    return train_sft(SftConfig(**_typed(SftConfig, given)))


def _typed(kind: type[TrainingConfig], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in the types of the fields: YAML reads 2e-3 as a text, and gives lists for tuples."""
    defaults = {field.name: field.default for field in fields(kind)}
    defaults["learning_rate"] = kind.FULL_RATE  # its own default is None
    return {name: _like(defaults[name], name, value) for name, value in settings.items()}


def _like(default: Any, name: str, value: Any) -> Any:
    try:
        if isinstance(default, float):
            return float(value)
        if isinstance(default, tuple):
            return (value,) if isinstance(value, str) else tuple(value)
    except (TypeError, ValueError):
        raise ValueError(f"a study's stage has {name}: {value!r}, which is no {type(default).__name__}") from None
    if isinstance(default, int | str) and not isinstance(value, type(default)):
        raise ValueError(f"a study's stage has {name}: {value!r}, which is no {type(default).__name__}")
    return value


def check(config: StudyConfig) -> None:
    """Raises ValueError on settings that cannot be used, before anything is made."""
    for name in ("seeds", "side_seeds", "jobs", "num_scenes", "num_control_scenes", "questions_seed", "max_new_tokens"):
        if type(getattr(config, name)) is not int:
            raise ValueError(f"{name}: {getattr(config, name)!r} is no whole number")
    for name in ("world", "given"):
        if not isinstance(getattr(config, name), str):
            raise ValueError(f"{name}: {getattr(config, name)!r} is no text")
    GenerationConfig(max_new_tokens=config.max_new_tokens)  # raises if it is less than 1
    if not isinstance(config.located, int | float) or not 0 <= config.located <= 1:
        raise ValueError(f"located: {config.located!r} is no share from 0 to 1")
    if unknown := [key for key in config.rows if key not in ARMS]:
        raise ValueError(f"rows: there is no row {unknown[0]!r}; there are {', '.join(ARMS)}")
    if min(config.seeds, config.jobs) < 1 or min(config.questions_seed, config.side_seeds) < 0:
        raise ValueError("seeds and jobs must be at least 1, questions_seed and side_seeds not negative")
    if config.given:
        try:
            find(config.given)
        except ValueError as error:
            raise ValueError(f"given: {error}") from None
        if config.located or any(arm.fine for arm in arms_of(config, 0).values()):
            raise ValueError("given: leave out `located` and the rows `fine`, which are about a base that is made")
    stages = stages_of(config, 0)
    wanted = {stage.data: f"the model {name!r} is trained on" for name, stage in stages.items()}
    if any(not stage.start for stage in stages.values()):
        wanted |= {"new_model": "the first stage starts from", "heldout_scenes": "a base is judged by"}
    for function, what in ({"heldout": "all rows are asked"} | wanted).items():
        if not hasattr(_module(config.world), function):
            raise ValueError(f"world: {config.world} has no {function}, which {what}")
    if not config.gentle and (left := [key for key in config.rows if "gentle" in ARMS[key].model]):
        raise ValueError(f"rows: {left[0]} needs settings `gentle`: what it has otherwise than `grpo`")
    if not any(arms_of(config, seed) for seed in range(config.seeds)):
        raise ValueError(f"rows: no seed has {', '.join(config.rows)}; set side_seeds to 1 or more")
    if not 2 <= config.num_control_scenes <= config.num_scenes:
        raise ValueError("num_control_scenes must be at least 2, and num_scenes no fewer")
    for name, kind in KINDS.items():
        settings = getattr(config, name)
        if not isinstance(settings, dict):
            raise ValueError(f"{name}: must hold settings of `relisten train`, not {settings!r}")
        if taken := sorted(OWN & set(settings)):
            raise ValueError(f"{name}: {taken[0]} is set by the study itself; leave it out")
        if unknown := sorted(set(map(str, settings)) - {field.name for field in fields(kind)}):
            raise ValueError(f"{name}: holds the setting {unknown[0]!r}, which `relisten train` does not know")
        given: dict[str, Any] = {"data": "", "model": "", "output": config.output}
        try:
            check_training(kind(**given, **_typed(kind, config.grpo | settings if name == "gentle" else settings)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def gate(folder: Path, config: StudyConfig, base: str = "base") -> float:
    """The share of events that a base locates, kept in the seed's folder. Raises ValueError where it is too small."""
    kept = located_file(folder, base)
    if not kept.is_file():
        clips = _module(config.world).heldout_scenes(200, config.questions_seed)
        share = located(load(str(folder / "models" / base / "model")), clips)
        records.write_atomic(kept, json.dumps({"located": round(share, 4), "scenes": len(clips)}) + "\n")
    share = float(json.loads(kept.read_text())["located"])
    if share < config.located:
        raise ValueError(
            f"{folder}: {base} locates {share:.2f} of the events, less than {config.located:g}; give base more steps"
            " and choose a new output, or lower `located`"
        )
    return share


def located_file(folder: Path, base: str = "base") -> Path:
    """Where a seed's folder keeps what a base locates."""
    return folder / ("located.json" if base == "base" else f"located-{base}.json")


def _module(world: str) -> ModuleType:
    try:
        return import_module(world)
    except (ImportError, TypeError, ValueError) as error:  # "" and relative names are not only ImportErrors
        raise ValueError(f"world: {world!r} cannot be imported ({error})") from None


OWN = {"data", "model", "output", "seed", "format"}
"""Settings of a stage that the study sets by itself."""


def read(arm: Arm, folder: Path, key: str, config: StudyConfig) -> None:
    """Answer the held-out questions as an arm does, greedily."""
    out = arm_folder(folder, key)
    generation = GenerationConfig(format=arm.format, max_new_tokens=config.max_new_tokens)
    num = config.num_control_scenes if arm.control else config.num_scenes
    examples = _module(config.world).heldout(num, config.questions_seed)
    settings = {"study": key, "format": arm.format, "hears": arm.hears}
    run.start(out, settings | {"num_scenes": num, "questions_seed": config.questions_seed})
    evaluate(
        load(model_of(arm.model, folder, config)),
        examples,
        out / "answers.jsonl",
        generation,
        Asking(hears=arm.hears),
        max_rows=64,
    )


def arm_folder(folder: Path, key: str) -> Path:
    """Where a seed's folder keeps the answers of a row."""
    return folder / "arms" / key.replace("'", "2").replace(" ", "-")
