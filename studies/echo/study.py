"""The paper's ablation at a small scale, from nothing: its rows, how each model comes about, how it is read.

Every model is one run folder of `train_sft` or `train_grpo`, every row one of `evaluate`; so a study that was stopped
goes on where it was. All rows share data, budgets and seeds, which stand in one settings file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from relisten import records, run
from relisten.engine.generation import GenerationConfig
from relisten.evals.hearing import Hears
from relisten.evals.runner import Asking, evaluate
from relisten.models import load
from relisten.training.config import GrpoConfig, SftConfig, TrainingConfig
from relisten.training.grpo import train_grpo
from relisten.training.sft import train_sft
from relisten.types import Format
from studies.echo import side_by_side
from studies.echo import world as small_world
from studies.echo.localisation import located

WORLD = "studies.echo.world"


@dataclass(frozen=True)
class StudyConfig:
    """Settings of a study. The four stages take any setting of `relisten train`."""

    output: Path = Path("out/study")
    """A folder for each seed, and the report."""
    seeds: int = 1
    """How often it is made from nothing, with another seed."""
    side_seeds: int = 1
    """How many of them have the rows beside the claim, too: RL without cold start or on other questions, grounded RL
    from F, and captions that tell all."""
    rows: tuple[str, ...] = ()
    """The rows that are made, by their keys in ARMS, with the models that they need; none: all."""
    jobs: int = 2
    """How many models are trained or read at a time, each in a process of its own with its share of the cores."""
    num_scenes: int = 600
    """Held-out scenes; about two questions each."""
    num_control_scenes: int = 300
    """The first of them, on which the controls are read."""
    questions_seed: int = 0
    """Of the held-out scenes; choose settings on another one."""
    clips: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    cold: dict[str, Any] = field(default_factory=dict)
    grpo: dict[str, Any] = field(default_factory=dict)
    gentle: dict[str, Any] = field(default_factory=dict)
    """What the rows `gentle` have otherwise than `grpo`: more questions to a step, smaller steps. Empty: there are no
    such rows."""
    located: float = 0.0
    """Least share of events that the base must locate (`localisation.located`); below it a study stops and says so, for
    a model that does not know where things are cannot gain from hearing them again."""


@dataclass(frozen=True)
class Stage:
    """How a model comes about."""

    settings: str
    """clips, base, cold, grpo or gentle."""
    data: str
    start: str
    """The model it starts from; "" for random weights."""
    format: Format = "grounded"


@dataclass(frozen=True)
class Arm:
    """One row: a model, read in one way."""

    title: str
    model: str
    format: Format
    paper: str = ""
    """The key of the paper's row that it repeats."""
    hears: Hears = "own"
    fine: bool = False
    """Of the arm in which scenes' captions tell all that clips tell."""

    @property
    def control(self) -> bool:
        """Whether something is changed to see what a row rests on."""
        return self.fine or self.hears != "own"


STAGES = {
    "clips": Stage("clips", "clip_rows", ""),
    "base": Stage("base", "base_rows", "clips"),
    "cold-p": Stage("cold", "paper_rows", "base"),
    "cold-f": Stage("cold", "mixed_rows", "base"),
    "rl-grounded": Stage("grpo", "rl_rows", "cold-p", "grounded"),
    "rl-echo": Stage("grpo", "rl_rows", "cold-p", "interleaved"),
    "rl-echo-other": Stage("grpo", "other_rl_rows", "cold-p", "interleaved"),
    "rl-direct": Stage("grpo", "rl_rows", "base", "conditioned"),
    "rl-direct-other": Stage("grpo", "other_rl_rows", "base", "conditioned"),
    "rl-mixed": Stage("grpo", "rl_rows", "cold-f", "interleaved"),
    "rl-mixed-grounded": Stage("grpo", "rl_rows", "cold-f", "grounded"),
    "rl-grounded-more": Stage("grpo", "more_rl_rows", "rl-grounded", "grounded"),
    "rl-echo-more": Stage("grpo", "more_rl_rows", "rl-echo", "interleaved"),
    "base-mid": Stage("base", "mid_base_rows", "clips"),
    "cold-mid": Stage("cold", "mid_paper_rows", "base-mid"),
    "rl-grounded-mid": Stage("grpo", "rl_rows", "cold-mid", "grounded"),
    "rl-echo-mid": Stage("grpo", "rl_rows", "cold-mid", "interleaved"),
    "rl-grounded-gentle": Stage("gentle", "rl_rows", "cold-mid", "grounded"),
    "rl-echo-gentle": Stage("gentle", "rl_rows", "cold-mid", "interleaved"),
    "rl-grounded-gentle-more": Stage("gentle", "more_rl_rows", "rl-grounded-gentle", "grounded"),
    "rl-echo-gentle-more": Stage("gentle", "more_rl_rows", "rl-echo-gentle", "interleaved"),
    "base-fine": Stage("base", "fine_base_rows", "clips"),
    "cold-fine": Stage("cold", "fine_mixed_rows", "base-fine"),
}
KINDS: dict[str, type[SftConfig | GrpoConfig]] = {
    "clips": SftConfig, "base": SftConfig, "cold": SftConfig, "grpo": GrpoConfig, "gentle": GrpoConfig,
}  # fmt: skip
"""What the settings of each kind of stage are settings of."""
SHIPPED = "nano"
"""The model that comes with relisten, of recipe F: made in a larger world and with more steps, so beside the study."""
SIDE = ("rl-direct", "rl-mixed-grounded", "rl-echo-other", "rl-direct-other", "base-fine", "cold-fine")
"""Stages beside the claim, which the first `side_seeds` seeds alone have."""

ARMS = {
    "A": Arm("base model", "base", "conditioned", "A"),
    "B": Arm("cold start P, grounded", "cold-p", "grounded", "B"),
    "C": Arm("cold start P, interleaved", "cold-p", "interleaved", "C"),
    "B'": Arm("P, then RL, grounded", "rl-grounded", "grounded", "B'"),
    "D": Arm("P, then RL, interleaved (Echo)", "rl-echo", "interleaved", "D"),
    "B' more": Arm("B', RL as long again", "rl-grounded-more", "grounded"),
    "D more": Arm("D, RL as long again", "rl-echo-more", "interleaved"),
    "D'": Arm("P, then RL on other questions", "rl-echo-other", "interleaved", "D'"),
    "E": Arm("RL without cold start", "rl-direct", "conditioned", "E"),
    "E'": Arm("RL on other questions, no cold start", "rl-direct-other", "conditioned", "E'"),
    "BF": Arm("cold start F, grounded", "cold-f", "grounded"),
    "CF": Arm("cold start F, interleaved", "cold-f", "interleaved"),
    "B'F": Arm("F, then RL, grounded", "rl-mixed-grounded", "grounded"),
    "DF": Arm("F, then RL, interleaved", "rl-mixed", "interleaved"),
    "A mid": Arm("A, of a base that knows sound in mid-text", "base-mid", "conditioned", "A"),
    "B mid": Arm("B, on that base", "cold-mid", "grounded", "B"),
    "C mid": Arm("C, on that base", "cold-mid", "interleaved", "C"),
    "B' mid": Arm("B', on that base", "rl-grounded-mid", "grounded", "B'"),
    "D mid": Arm("D, on that base", "rl-echo-mid", "interleaved", "D"),
    "B' gentle": Arm("B', on that base, gentler RL", "rl-grounded-gentle", "grounded", "B'"),
    "D gentle": Arm("D, on that base, gentler RL", "rl-echo-gentle", "interleaved", "D"),
    "B' gentle more": Arm("B' gentle, RL as long again", "rl-grounded-gentle-more", "grounded"),
    "D gentle more": Arm("D gentle, RL as long again", "rl-echo-gentle-more", "interleaved"),
    "nano": Arm("the nano that ships, interleaved", SHIPPED, "interleaved"),
    "nano grounded": Arm("the nano that ships, grounded", SHIPPED, "grounded"),
    "D other": Arm("D, another recording heard", "rl-echo", "interleaved", hears="other"),
    "D silence": Arm("D, silence heard", "rl-echo", "interleaved", hears="silence"),
    "D random": Arm("D, random stretches heard", "rl-echo", "interleaved", hears="random"),
    "D off": Arm("D, nothing inserted", "rl-echo", "interleaved", hears="off"),
    "D oracle": Arm("D, the right stretch heard", "rl-echo", "interleaved", hears="oracle"),
    "DF other": Arm("DF, another recording heard", "rl-mixed", "interleaved", hears="other"),
    "DF silence": Arm("DF, silence heard", "rl-mixed", "interleaved", hears="silence"),
    "DF random": Arm("DF, random stretches heard", "rl-mixed", "interleaved", hears="random"),
    "DF off": Arm("DF, nothing inserted", "rl-mixed", "interleaved", hears="off"),
    "DF oracle": Arm("DF, the right stretch heard", "rl-mixed", "interleaved", hears="oracle"),
    "C oracle": Arm("C, the right stretch heard", "cold-p", "interleaved", hears="oracle"),
    "CF oracle": Arm("CF, the right stretch heard", "cold-f", "interleaved", hears="oracle"),
    "C mid oracle": Arm("C mid, the right stretch heard", "cold-mid", "interleaved", hears="oracle"),
    "D mid other": Arm("D mid, another recording heard", "rl-echo-mid", "interleaved", hears="other"),
    "D mid off": Arm("D mid, nothing inserted", "rl-echo-mid", "interleaved", hears="off"),
    "D mid oracle": Arm("D mid, the right stretch heard", "rl-echo-mid", "interleaved", hears="oracle"),
    "D gentle other": Arm("D gentle, another recording heard", "rl-echo-gentle", "interleaved", hears="other"),
    "D gentle silence": Arm("D gentle, silence heard", "rl-echo-gentle", "interleaved", hears="silence"),
    "D gentle random": Arm("D gentle, random stretches heard", "rl-echo-gentle", "interleaved", hears="random"),
    "D gentle off": Arm("D gentle, nothing inserted", "rl-echo-gentle", "interleaved", hears="off"),
    "D gentle oracle": Arm("D gentle, the right stretch heard", "rl-echo-gentle", "interleaved", hears="oracle"),
    "BF fine": Arm("BF, captions tell all that clips tell", "cold-fine", "grounded", fine=True),
    "CF fine": Arm("CF, captions tell all that clips tell", "cold-fine", "interleaved", fine=True),
}
"""P is the paper's cold start, grounded chains alone; F, beyond the paper, holds truly interleaved ones too."""


def make(config: StudyConfig) -> list[Path]:
    """Train and read everything that is not there yet; the folder of each seed, with `models/` and `arms/` in it."""
    check(config)
    folders = [config.output / f"seed-{seed}" for seed in range(config.seeds)]
    tasks: dict[str, side_by_side.Task] = {}
    needs: dict[str, list[str]] = {}
    for side, (seed, folder) in product((False, True), enumerate(folders)):  # what is beside the claim comes last
        stages = {name: stage for name, stage in stages_of(config, seed).items() if (name in SIDE) is side}
        arms = {key: arm for key, arm in arms_of(config, seed).items() if (arm.model in SIDE) is side}
        for name, stage in stages.items():
            tasks[f"{folder.name} {name}"] = partial(make_model, name, folder, seed, config)
            needs[f"{folder.name} {name}"] = [f"{folder.name} {stage.start}"] if stage.start else []
        for key, arm in arms.items():
            tasks[f"{folder.name} row {key}"] = partial(read, arm, folder, key, config)
            needs[f"{folder.name} row {key}"] = [f"{folder.name} {arm.model}"] if arm.model in STAGES else []
    side_by_side.run(tasks, needs, config.jobs, config.output / "logs")
    return folders


def stages_of(config: StudyConfig, seed: int) -> dict[str, Stage]:
    """The stages that a seed has: those that its rows need."""
    needed = {arm.model for arm in arms_of(config, seed).values()}
    for name, stage in reversed(STAGES.items()):  # a stage comes after the one that it starts from
        needed |= {stage.start} if name in needed else set()
    return {name: stage for name, stage in STAGES.items() if name in needed}


def arms_of(config: StudyConfig, seed: int) -> dict[str, Arm]:
    """The rows that a seed has."""
    found = {key: arm for key, arm in ARMS.items() if not config.rows or key in config.rows}
    if not config.gentle:  # else they would be the `mid` rows once more
        found = {key: arm for key, arm in found.items() if "gentle" not in arm.model}
    seeds = {SHIPPED: 1} | dict.fromkeys(SIDE, config.side_seeds)
    return {key: arm for key, arm in found.items() if seed < seeds.get(arm.model, seed + 1)}


def make_model(name: str, folder: Path, seed: int, config: StudyConfig) -> None:
    """A stage's model; a base that locates too little raises ValueError."""
    stage = STAGES[name]
    settings = config.grpo | config.gentle if stage.settings == "gentle" else getattr(config, stage.settings)
    train(stage, folder / "models", name, settings, seed)
    if stage.settings == "base":
        gate(folder, config, name)


def train(stage: Stage, models: Path, name: str, settings: Mapping[str, Any], seed: int) -> Path:
    """The model of a stage; a run that is finished is not made again."""
    model = models / name / "model"
    if (model / "prompts.json").is_file():  # written last
        return model
    start = str(models / stage.start / "model") if stage.start else f"{WORLD}:new_model"
    given = {"data": f"{WORLD}:{stage.data}", "model": start, "output": models / name, "seed": seed} | dict(settings)
    if KINDS[stage.settings] is GrpoConfig:
        return train_grpo(GrpoConfig(format=stage.format, **_typed(GrpoConfig, given)))
    return train_sft(SftConfig(**_typed(SftConfig, given)))


def _typed(kind: type[TrainingConfig], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the fields are: YAML takes 2e-3 for a text, and [a] for a list."""
    defaults = {field.name: field.default for field in fields(kind)}
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
    for name in ("seeds", "side_seeds", "jobs", "num_scenes", "num_control_scenes", "questions_seed"):
        if not isinstance(getattr(config, name), int):
            raise ValueError(f"{name}: {getattr(config, name)!r} is no whole number")
    if not isinstance(config.located, int | float) or not 0 <= config.located <= 1:
        raise ValueError(f"located: {config.located!r} is no share from 0 to 1")
    if unknown := [key for key in config.rows if key not in ARMS]:
        raise ValueError(f"rows: there is no row {unknown[0]!r}; there are {', '.join(ARMS)}")
    if min(config.seeds, config.jobs) < 1 or min(config.questions_seed, config.side_seeds) < 0:
        raise ValueError("seeds and jobs must be at least 1, questions_seed and side_seeds not negative")
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
        _typed(kind, settings)


def gate(folder: Path, config: StudyConfig, base: str = "base") -> float:
    """Share of events that a base locates, kept in the seed's folder. Raises ValueError where it is too small."""
    kept = located_file(folder, base)
    if not kept.is_file():
        clips = small_world.heldout_scenes(200, config.questions_seed)
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


OWN = {"data", "model", "output", "seed", "format"}
"""Settings of a stage that follow from the study."""


def read(arm: Arm, folder: Path, key: str, config: StudyConfig) -> None:
    """Answer the held-out questions as an arm does, greedily."""
    out = arm_folder(folder, key)
    generation = GenerationConfig(format=arm.format, max_new_tokens=200)
    num = config.num_control_scenes if arm.control else config.num_scenes
    examples = small_world.heldout(num, config.questions_seed)
    settings = {"study": key, "format": arm.format, "hears": arm.hears}
    run.start(out, settings | {"num_scenes": num, "questions_seed": config.questions_seed})
    model = str(folder / "models" / arm.model / "model") if arm.model in STAGES else arm.model
    evaluate(load(model), examples, out / "answers.jsonl", generation, Asking(hears=arm.hears), max_rows=64)


def arm_folder(folder: Path, key: str) -> Path:
    """Where a seed's folder keeps the answers of a row."""
    return folder / "arms" / key.replace("'", "2").replace(" ", "-")
