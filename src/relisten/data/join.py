"""Several built folders as one: near-duplicates go, kinds of questions and positions of answers are balanced.

The joined sets are the same for the same builds, in the same order, with the same settings. A folder gets its manifest
last, so one without a manifest was cut short and is joined again from the start.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from relisten import records, run
from relisten.data import export
from relisten.data.blind import guess
from relisten.data.build import pretty
from relisten.data.checks import alike, words
from relisten.data.leakage import file_hash
from relisten.data.messages import digest
from relisten.data.near import Near
from relisten.data.route import NEAR, Places, Routed
from relisten.types import Example

MADE = "manifest.json"
NEEDED = ("config", "counts", "calls", "blind", "licences")
GUESSED = 20_000
"""Questions of each set that the blind guesser may be trained on, taken evenly from the whole set."""
NEARLY = "nearly the same question is in an earlier build"
SURPLUS = "its kind of question had its share already"


@dataclass(frozen=True)
class JoinConfig:
    """Settings of a join."""

    max_share: float = 1.0
    """Largest share of each set that one kind of question may have; the surplus is left out, drawn by the seed. 1 keeps
    everything."""
    seed: int = 0
    """Random seed for which questions of a kind are left out, and for the order of choices."""
    blind_margin: float = 0.1
    """How far above chance a guesser that reads only the text may be before the joined sets are called unfit."""
    export: tuple[str, ...] = ()
    """Further forms: parquet, swift (ms-swift), verl."""
    copy_audio: bool = False
    """Copy the recordings into OUT/audio, so that the folder can be moved without them."""


@dataclass
class _Build:
    """A folder that is joined, and the fate of each of its questions."""

    folder: Path
    manifest: dict[str, Any]
    prefix: str
    """Is put before an id that an earlier build has too."""
    fates: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """For each set: of each question, its new id and its kind; an empty id and the reason if it is left out."""
    renamed: int = 0
    """Number of questions whose id an earlier build has too."""


def join(out: Path, folders: Sequence[Path], config: JoinConfig = JoinConfig()) -> dict[str, Any]:
    """Write the joined sets and their manifest, which is returned. Raises ValueError on folders that are no builds."""
    _check(out, folders, config)
    builds = [_Build(folder, _manifest(folder), _prefix(folders, number)) for number, folder in enumerate(folders)]
    _decide(builds)
    for name in export.SETS:
        _balance(builds, name, config)
    (out / MADE).unlink(missing_ok=True)
    export.write_sets(out, _routed(builds, config.seed), None, config.copy_audio)
    found = [one for name in export.SETS for one in _evenly(out / f"{name}.jsonl")]
    manifest = _told(builds, config) | {"blind": guess(found, config.blind_margin, config.seed).record()}
    manifest["files"] |= export.write_forms(out, config.export)
    records.write_atomic(out / MADE, pretty(manifest))
    return manifest


def _check(out: Path, folders: Sequence[Path], config: JoinConfig) -> None:
    if len(folders) < 2:
        raise ValueError("name two built folders or more to join")
    places = [os.path.realpath(folder) for folder in folders]
    if twice := [str(folder) for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"{twice[0]}: is named twice; name each build once")
    joined = (out / MADE).is_file() and "joined" in _manifest(out)
    if os.path.realpath(out) in places or (
        not joined and any((out / f"{name}.jsonl").exists() for name in export.SETS)
    ):
        raise ValueError(f"{out}: holds sets that `data join` did not write; choose a new folder")
    if not 0 < config.max_share <= 1:
        raise ValueError(f"max_share is {config.max_share:g}; give a share above 0, up to 1")
    if config.seed < 0:
        raise ValueError(f"seed is {config.seed}; it must not be negative")
    export.check_forms(config.export)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MADE
    if not path.is_file():
        raise ValueError(f"{folder}: holds no manifest.json; name a folder that `relisten data build` finished")
    found = records.read_object(path)
    if missing := [key for key in NEEDED if not isinstance(found.get(key), dict)]:
        raise ValueError(f"{path}: is not the manifest of a build (it has no {missing[0]}); build it again")
    return found


def _prefix(folders: Sequence[Path], number: int) -> str:
    names = [folder.absolute().name for folder in folders]
    return names[number] if names.count(names[number]) == 1 else f"{names[number]}-{number + 1}"


def _decide(builds: Sequence[_Build]) -> None:
    """Decide which questions are kept, and under which ids."""
    shared = _shared(builds)
    near, met = Near(NEAR), set[tuple[str, ...]]()
    before: dict[str, list[tuple[set[str], str, str]]] = defaultdict(list)
    ids: set[str] = set()
    for build, name, example in tqdm(_examples(builds), desc="compare", unit="question", leave=False):
        kind, place = str(example.labels.get("kind", "")), _place(example)
        asked, answer = set(words(example.question)), str(example.answer).casefold()
        again = place in shared and any(
            (answer, kind) == other[1:] and alike(asked, other[0]) >= NEAR for other in before[place]
        )
        if again or _again(example, place, near, met):
            build.fates[name].append(("", NEARLY))
            continue
        if place in shared:
            before[place].append((asked, answer, kind))
        id = example.id if example.id not in ids else f"{build.prefix}-{example.id}"
        if id in ids:
            raise ValueError(f"{build.folder}: the id {example.id!r} is taken, and so is {id!r}; rename it")
        ids.add(id)
        build.renamed += id != example.id
        build.fates[name].append((id, kind))


def _examples(builds: Sequence[_Build]) -> Iterator[tuple[_Build, str, Example]]:
    """Every question with its build and its set."""
    for build in builds:
        for name in export.SETS:
            for example in export.read_set(build.folder / f"{name}.jsonl"):
                yield build, name, example


def _place(example: Example) -> str:
    """A name for an example's recording: what is heard in it when, or the file if nothing is known of it."""
    if events := example.labels.get("events"):
        return digest([example.labels.get("duration"), [_event(event) for event in events]]).hex()
    return os.path.realpath(str(example.audio))


def _event(event: Any) -> list[Any]:
    """[label, start, end]; older builds have lists of these three."""
    return [event.get(key) for key in ("label", "start", "end")] if isinstance(event, dict) else list(event)


def _shared(builds: Sequence[_Build]) -> set[str]:
    """Recordings that several builds ask about."""
    places: dict[str, set[str]] = defaultdict(set)
    for build, _, example in _examples(builds):
        places[str(build.folder)].add(_place(example))
    found = Counter(place for one in places.values() for place in one)
    return {place for place, num in found.items() if num > 1}


def _again(example: Example, place: str, near: Near, met: set[tuple[str, ...]]) -> bool:
    """Whether nearly the same question and chain of thought were kept, about whatever recording.

    A question for RL has no chain of thought: the labels of its events take that place. Without these either, only the
    same question about a recording of the same name is the same.
    """
    heard = [word for event in example.labels.get("events") or [] for word in words(str(_event(event)[0]))]
    told = [word for word in words(example.cot or "") if not word[0].isdigit()] or heard
    shown = [word for choice in sorted(example.choices) for word in words(choice)]
    asked = [*words(example.question), *shown, *words(str(example.answer))]
    if told:
        return near.again([*asked, *told])
    key = (Path(place).name, *asked)
    again = key in met
    met.add(key)
    return again


def _balance(builds: Sequence[_Build], name: str, config: JoinConfig) -> None:
    """Leave out the surplus of each kind that has more than its share of a set."""
    num = Counter(kind for build in builds for id, kind in build.fates[name] if id)
    if config.max_share == 1 or not num:
        return
    most = largest(num.values(), config.max_share)
    if not most:
        raise ValueError(
            f"max_share is {config.max_share:g}, and the {name} set has {len(num)} kinds of questions; give at least"
            f" {1 / len(num):.3f}"
        )
    drawn: dict[str, list[bytes]] = defaultdict(list)
    for build in builds:
        for id, kind in build.fates[name]:
            if id:
                drawn[kind].append(digest([config.seed, id]))
    last = {kind: sorted(each)[most - 1] for kind, each in drawn.items() if len(each) > most}
    for build in builds:
        build.fates[name] = [
            ("", SURPLUS) if id and kind in last and digest([config.seed, id]) > last[kind] else (id, kind)
            for id, kind in build.fates[name]
        ]


def largest(counts: Collection[int], share: float) -> int:
    """The largest number such that, with every count cut to it, none is more than its share of all; 0 if there is none.

    >>> largest([100, 10, 10], 0.5)
    20
    """
    for most in range(max(counts), 0, -1):
        if most <= share * sum(min(count, most) for count in counts) + 1e-9:
            return most
    return 0


def _routed(builds: Sequence[_Build], seed: int) -> Iterator[Routed]:
    """Every question with its fate; right answers are spread evenly over the positions of the whole set."""
    places = Places(seed)
    at: Counter[tuple[str, str]] = Counter()
    for build, name, example in tqdm(_examples(builds), desc="write", unit="question", leave=False):
        key = str(build.folder), name
        id, reason = build.fates[name][at[key]]
        at[key] += 1
        if not id:
            yield Routed(f"{build.prefix}: {example.id}", "", None, "join", reason)
            continue
        choices = example.choices
        if example.answer in choices:
            choices = places.spread(name, id, choices, example.answer)
        yield Routed(id, name, replace(example, id=id, choices=choices))


def _evenly(path: Path) -> list[Example]:
    """At most GUESSED examples of a set, taken evenly from all of it."""
    with path.open("rb") as file:
        step = sum(1 for _ in file) // GUESSED + 1
    return list(islice(export.read_set(path), None, None, step))


def _told(builds: Sequence[_Build], config: JoinConfig) -> dict[str, Any]:
    """The manifest, with the builds' own counts, calls and licences added up."""
    kept = {name: Counter(kind for b in builds for id, kind in b.fates[name] if id) for name in export.SETS}
    num = {name: kinds.total() for name, kinds in kept.items()}
    out = Counter(reason for b in builds for fates in b.fates.values() for id, reason in fates if not id)
    counts = _sum([{k: v for k, v in b.manifest["counts"].items() if k != "reasons"} for b in builds])
    reasons = _sum([b.manifest["counts"].get("reasons", {}) for b in builds])
    stages = {stage for b in builds for stage in b.manifest["calls"]}
    names = {key: [str(b.manifest["config"].get(key) or "") for b in builds] for key in ("source", "teacher", "judge")}
    return {
        "stopped": "",
        "joined": [_one(b) for b in builds],
        "config": {key: " + ".join(filter(None, dict.fromkeys(each))) for key, each in names.items()} | asdict(config),
        "licences": {name: text for b in builds for name, text in b.manifest["licences"].items()},
        "counts": counts | num | {"reasons": reasons | {f"join: {reason}": n for reason, n in out.items()}},
        "kinds": {name: dict(sorted(kinds.items())) for name, kinds in kept.items()},
        "calls": {s: _sum([b.manifest["calls"].get(s, {}) for b in builds]) for s in sorted(stages)},
        "files": {"sft.jsonl": num["sft"], "rl.jsonl": num["rl"], "rejected.jsonl": out.total()},
        "versions": run.versions(),
        "git": run.git(),
    }


def _sum(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for one in counts for name in one)
    return {name: sum(one.get(name, 0) for one in counts) for name in names}


def _one(build: _Build) -> dict[str, Any]:
    """What the manifest says of one build."""
    sets: dict[str, Any] = {}
    for name in export.SETS:
        ids = [id for id, _ in build.fates[name]]
        sets[name] = {"questions": len(ids), "kept": sum(map(bool, ids))}
        sets[f"sha256 of {name}.jsonl"] = file_hash(build.folder / f"{name}.jsonl")
    return {"folder": build.prefix, "stopped": build.manifest.get("stopped", ""), "renamed": build.renamed, **sets}
