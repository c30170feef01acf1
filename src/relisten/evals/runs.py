"""Runs of `relisten eval` as they lie on the disk: every line is checked, so that figures meet no surprise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeGuard, cast, get_args

from relisten import records
from relisten.evals.benchmarks import BENCHMARKS, Benchmark, belonging
from relisten.evals.figures import GROUPS, Record, Rule, status_of
from relisten.evals.reading import Status
from relisten.types import Example, Format, Listen, Segment

ANSWERS, CONFIG, ORIGIN = "answers.jsonl", "config.json", "run.json"
_SHARD = re.compile(r"(\d{1,9})/([1-9]\d{0,8})")
_HERTZ = r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?"
_WAY = re.compile(rf"(?!band\b)\w+|band {_HERTZ} {_HERTZ}")
"""An operation in a record: its name, and for a band its two frequencies in Hz."""
_REQUIRED = ("id", "choices", "answer", "answer_prediction", "response", "named", "heard", "refusals", "finish")
_FREE = {"shard", "num_answers"}
"""Settings in which the shards of one run differ."""
_MOVED = {"questions", "data", "model"}
"""Settings that may differ where the hashes of these files are among the settings."""


@dataclass(frozen=True)
class Run:
    """The answers of one model to a file of questions, with the settings that gave them."""

    name: str
    folder: Path
    """The output folder of `relisten eval` (the first one, of several shards), or a file of predictions."""
    records: list[Record]
    config: dict[str, Any] = field(default_factory=dict)
    """The run's settings (config.json)."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Versions, commit and commands (run.json)."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures has to know, for example that answers are still missing."""

    @property
    def format(self) -> Format:
        """How the answers reason. ValueError where the settings name no such format."""
        found = self.config.get("format", "interleaved")
        if found not in get_args(Format):
            raise ValueError(f"{self.folder / CONFIG}: no format {found!r}; correct or remove it")
        return cast(Format, found)

    @property
    def answered(self) -> list[Record]:
        """The records of questions that could be asked."""
        return [r for r in self.records if status_of(r) != "failed"]

    @property
    def traced(self) -> bool:
        """Whether the records say what was named and heard, which anybody's predictions do not."""
        return all("named" in r for r in self.records)


def read_run(folder: Path) -> Run:
    """The answers and settings in an output folder. ValueError names the file and line that cannot be used."""
    path = folder / ANSWERS
    if not path.is_file():
        raise ValueError(f"{folder}: no {ANSWERS}; name an output folder of `relisten eval`")
    found = known(records.entries(path, torn=True))
    if not found:
        raise ValueError(f"{path}: holds no answers yet; let `relisten eval` finish")
    config = settings(folder)
    missing = unfinished(folder, config, found)
    return Run(folder.resolve().name, folder, found, config, _origin(folder), [missing] if missing else [])


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs of the same name get longer ones, from their folders. ValueError where a run is given twice."""
    runs = list(runs)
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise ValueError("the same run is named twice; name each once")
    while clash := {name for name, num in Counter(run.name for run in runs).items() if num > 1}:
        runs = [_longer(run) if run.name in clash else run for run in runs]
    return runs


def _longer(run: Run) -> Run:
    parts = run.folder.resolve().parts
    return replace(run, name="/".join(parts[-1 - len(Path(run.name).parts) :]))


def benchmark_of(run: Run) -> Benchmark | None:
    """The benchmark that a run was asked, from what it noted, or else from the name of its questions' file."""
    if isinstance(name := run.origin.get("benchmark"), str) and name in BENCHMARKS:
        return BENCHMARKS[name]
    return belonging(Path(str(run.config.get("questions", ""))))


def questions_of(run: Run) -> list[Example]:
    """The questions that a run was asked, from the file its settings name. ValueError where the file is gone."""
    path, data = Path(str(run.config.get("questions", ""))), run.config.get("data")
    if not path.is_file():
        raise ValueError(f"{run.folder}: its questions, {path}, are not there; put the file back, or start from there")
    if benchmark := benchmark_of(run):
        return benchmark.examples(path.parent)
    return records.read_examples(path, None if data is None else str(data))


# --- the files of a run -----------------------------------------------------------------------------------------------


def settings(folder: Path) -> dict[str, Any]:
    """The settings of a run; {} where it has no config.json."""
    path = folder / CONFIG
    found = records.read_object(path) if path.is_file() else {}
    shard = found.get("shard", "0/1")
    if not isinstance(shard, str) or not (parts := _SHARD.fullmatch(shard)) or int(parts[1]) >= int(parts[2]):
        raise ValueError(f"{path}: no shard {shard!r:.40}; it is written as 0/2, which of how many; correct it")
    return found


def shard_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """(which, of how many) of the run with these settings."""
    which, _, num = str(config.get("shard", "0/1")).partition("/")
    return int(which), int(num)


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """The name of a setting that tells two runs apart; None where they are the same run but for the shard."""
    hashed = all(any(name.startswith("sha256 of ") for name in each) for each in (a, b))
    free = _FREE | (_MOVED if hashed else set())
    return next((name for name in sorted({*a, *b} - free) if a.get(name) != b.get(name)), None)


def shards_together(folders: Sequence[Path]) -> list[list[Path]]:
    """Run folders in groups: the shards of one run together, every other run by itself, in the order given."""
    found: list[tuple[dict[str, Any], list[Path]]] = []
    for folder in folders:
        config = settings(folder)
        for other, group in found:
            if shard_of(config)[1] > 1 and shard_of(config)[1] == shard_of(other)[1] and not difference(config, other):
                group.append(folder)
                break
        else:
            found.append((config, [folder]))
    return [group for _, group in found]


def shards_missing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note on the shards that were not given; [] where none is missing."""
    given = {shard_of(config) for config in configs}
    without = [f"{i}/{n}" for n in sorted({n for _, n in given}) for i in range(min(n, 1000)) if (i, n) not in given]
    shown = ", ".join(without[:20]) + (" and more" if len(without) > 20 else "")
    return [f"not given: shard {shown}"] if without else []


def common_name(names: Sequence[str]) -> str:
    """A name for several shards: what their names begin with, or the first one's."""
    alike = [letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))]
    return "".join(alike).rstrip("-_. 0") or names[0]


def unfinished(folder: Path, config: Mapping[str, Any], answers: Iterable[Record]) -> str:
    """What to say of a run that lacks answers; "" where it has all of them, or does not say how many."""
    expected, num = config.get("num_answers"), len({(r["id"], r.get("sample", 0)) for r in answers})
    if not isinstance(expected, int) or num >= expected:
        return ""
    return f"{folder}: {num} of {expected} answers, the shorter ones first; let `relisten eval` finish it"


def _origin(folder: Path) -> dict[str, Any]:
    """run.json, checked."""
    path = folder / ORIGIN
    found = records.read_object(path) if path.is_file() else {}
    starts = found.get("starts") or []
    each = starts if isinstance(starts, list) else []
    for name, value, kind in (
        ("versions", found.get("versions") or {}, dict),
        ("git", found.get("git") or {}, dict),
        ("starts", starts, list),
        *(("starts", start, dict) for start in each),
        *(("command", start.get("command") or [], list) for start in each if isinstance(start, dict)),
    ):
        if not isinstance(value, kind):
            raise ValueError(f"{path}: {name!r} holds {value!r:.40}, no {kind.__name__}; correct or remove the file")
    return found


# --- the lines of a run -----------------------------------------------------------------------------------------------


def known(placed: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Record]:
    """Checked records of `relisten eval`, one for each answer. Of an error and a later answer the answer counts."""
    found: dict[tuple[str, int], Record] = {}
    for place, row in placed:
        row = checked(place, row)
        key = row["id"], row.get("sample", 0)
        if key in found and "error" not in found[key] and "error" not in row:
            raise ValueError(f"{place}: answers {key[0]!r} a second time; give each shard and each answer once")
        if key not in found or "error" not in row:
            found[key] = row
    return list(found.values())


def checked(place: str, row: Mapping[str, Any]) -> Record:
    """A line of answers.jsonl whose every field is of the kind that figures take. ValueError names the place."""
    if lacking := [name for name in _REQUIRED if name not in row]:
        raise ValueError(f"{place}: has no {lacking[0]!r}; name a folder that `relisten eval` wrote")
    for (what, right), names in _FIELDS:
        for name in names:
            if name in row and not right(row[name]):
                raise ValueError(f"{place}: {name!r} must be {what}, not {row[name]!r:.60}; correct that line")
    if row.get("rule") == "instruction" and "followed" not in row:
        raise ValueError(f"{place}: has no 'followed'; name a folder that `relisten eval` wrote")
    if len(row.get("operations", row["heard"])) != len(row["heard"]):
        raise ValueError(f"{place}: 'operations' must have an entry for each of 'heard'; correct that line")
    order = row.get("order")
    if order is not None and sorted(order) != list(range(len(row["choices"]))):
        raise ValueError(f"{place}: 'order' must hold the places of the choices, each once; correct that line")
    return dict(row)


def way(listen: Listen) -> str:
    """How a segment was heard, as a record says it in `operations`: "seg", "slow", "band 300 3400"."""
    return " ".join([listen.operation, *(f"{hertz:g}" for hertz in listen.segment.band or ())])


def listens(record: Record) -> list[Listen]:
    """What a record says was heard, and how; plain crops if it says nothing of operations. Their tokens are unknown."""
    heard = record.get("heard", ())
    found = []
    for (start, end), written in zip(heard, record.get("operations") or ["seg"] * len(heard), strict=True):
        name, *hertz = written.split()
        band = (float(hertz[0]), float(hertz[1])) if hertz else None
        found.append(Listen(0, 0, Segment(start, end, band), name))
    return found


def is_number(value: object) -> TypeGuard[float]:
    """A finite number that is no truth value; JSON may hold NaN, infinity and numbers of a thousand digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e12 < value < 1e12


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12


def _is_spans(value: object) -> bool:
    """[[start, end], ...] in seconds, in order."""
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)) and 0 <= pair[0] <= pair[1]
        for pair in value
    )


def _is_way(value: object) -> bool:
    """What `way` writes."""
    return isinstance(value, str) and _WAY.fullmatch(value) is not None


def _list_of(right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(right, value))


_FIELDS: tuple[tuple[tuple[str, Callable[[Any], bool]], tuple[str, ...]], ...] = (
    (("a text that is not empty", lambda v: _is_text(v) and bool(v)), ("id",)),
    (("a text", _is_text), ("question", "response", "finish", "error", "kind", *GROUPS)),
    (("a text or null", lambda v: v is None or _is_text(v)), ("answer", "answer_prediction", "choice")),
    (("a list of texts", _list_of(_is_text)), ("choices",)),
    (("a list of operations, such as 'slow' or 'band 300 3400'", _list_of(_is_way)), ("operations",)),
    (("a list of [start, end] in seconds", _is_spans), ("named", "heard", "given", "gold")),
    (("a list of [text, reason]", _list_of(lambda v: _list_of(_is_text)(v) and len(v) == 2)), ("refusals",)),  # type: ignore[arg-type]
    (("a number of seconds", lambda v: is_number(v) and v >= 0), ("seconds",)),
    (("a number of seconds, or null", lambda v: v is None or (is_number(v) and v >= 0)), ("duration",)),
    (("a whole number from 0", _is_count), ("words", "sample")),
    (("a list of whole numbers", _list_of(_is_count)), ("order",)),
    (("true or false", lambda v: isinstance(v, bool)), ("well_formed", "followed")),
    ((f"one of {', '.join(get_args(Rule))}", lambda v: v in get_args(Rule)), ("rule",)),
    ((f"one of {', '.join(get_args(Status))}", lambda v: v in get_args(Status)), ("status",)),
)
