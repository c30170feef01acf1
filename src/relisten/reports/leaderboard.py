"""A row for a paper's table: what a run reached on a benchmark, with the columns of the benchmark's own paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from relisten import records
from relisten.evals.benchmarks import Benchmark
from relisten.evals.figures import Failed, Record, mean, tally
from relisten.evals.runs import Run, benchmark_of, is_number
from relisten.reports.table import Table

JUDGED = "judged.json"
OWN = ("kind", "modality", "category")
"""The groups of a file of one's own questions: the first that it has."""


def leaderboard(runs: Sequence[Run], failed: Failed = "wrong") -> Table:
    """A run to a row, in percent. Raises ValueError if runs are of different questions, or their answers withheld."""
    benchmark = next(filter(None, map(benchmark_of, runs)), None)
    questions = next(filter(None, map(_questions, runs)), "")
    for run in runs[1:]:
        if not _is_alike(run, runs[0]):
            raise ValueError(f"{run.folder}: is of other questions than {runs[0].folder}; make a table of each")
    alone = benchmark is not None and benchmark.judge is not None and benchmark.judge.alone
    for run in runs:
        if not alone and not tally(run.records, failed).known:
            raise ValueError(f"{run.folder}: the right answers are withheld; there is no accuracy to report")
    parts = _parts(runs, benchmark)
    judged = [_judged(run) for run in runs]
    if alone and None in judged:
        run = runs[judged.index(None)]
        raise ValueError(f"{run.folder}: has no {JUDGED}; open answers are scored by `relisten judge` first")
    columns = ["model", "settings", "n", *([] if alone else ["accuracy (95 %)"]), *parts]
    columns += [f"mean of {len(parts)}"] if len(parts) > 1 else []
    columns += [_score_name(judged)] if any(judged) else []
    rows = []
    for run, score in zip(runs, judged, strict=True):
        whole = tally(run.records, failed)
        cells = [_model(run), settings(run), f"{whole.questions:,}"]
        cells += [] if alone else [_percent(whole.accuracy, whole.interval)]
        shares = [_share(run, right, failed) for right in parts.values()]
        cells += map(_percent, shares) if not alone else []
        cells += [_percent(mean(share for share in shares if share is not None))] if len(parts) > 1 else []
        cells += [_score(score)] if any(judged) else []
        rows.append(cells)
    return Table(columns, rows, _note(benchmark, runs, questions, failed))


def settings(run: Run) -> str:
    """What of a run's settings changes its figures, in a few words."""
    config = run.config
    temperature, samples = config.get("temperature", 0), config.get("samples", 1)
    words = [str(run.format)] if run.traced else []
    if run.traced:  # of anybody's predictions it is not known
        words.append(f"T = {temperature:g}" if is_number(temperature) and temperature else "greedy")
    words += [f"{samples} samples"] if samples != 1 else []
    words += ["shuffled choices"] if config.get("shuffle") is not None else []
    words += [f"at most {listens} listens"] if (listens := config.get("max_listens", 8)) != 8 else []
    words += [f"hears {hears}"] if (hears := config.get("hears", "own")) != "own" else []
    words += [f"prompt holds {held}"] if (held := config.get("recording", "own")) != "own" else []
    return ", ".join(words) or "-"


def _model(run: Run) -> str:
    """The model's name, or for a folder its last part; for anybody's predictions the file's name."""
    name = str(run.config.get("model") or run.name)
    return Path(name).name if name.startswith(("/", ".")) else name


_Which = Callable[[Record], bool]


def _parts(runs: Sequence[Run], benchmark: Benchmark | None) -> dict[str, _Which]:
    """The columns, and which answers each is of, in the order of the first run's questions."""
    found: dict[str, _Which] = {}
    rows = runs[0].records
    names = (
        tuple(name for name in OWN if any(r.get(name) for r in rows))[:1] if benchmark is None else benchmark.columns
    )
    for group in dict.fromkeys(tuple(str(r.get(name) or "") for name in names) for r in rows):
        if all(group) and group:
            found[": ".join(group)] = partial(_is_of, names, group)
    return found if len(found) > 1 else {}


def _is_of(names: Sequence[str], group: tuple[str, ...], record: Record) -> bool:
    return tuple(record.get(name) for name in names) == group


def _share(run: Run, which: _Which, failed: Failed) -> float | None:
    some = [r for r in run.records if which(r)]
    return tally(some, failed).accuracy if some else None


def _questions(run: Run) -> str:
    """SHA-256 of the question file; "" of anybody's predictions."""
    return next((str(v) for k, v in run.config.items() if k == f"sha256 of {_file(run)}"), "")


def _is_alike(run: Run, other: Run) -> bool:
    """Whether two runs are of the same questions. Anybody's predictions may lack some of them."""
    benchmarks, hashes = {benchmark_of(run), benchmark_of(other)}, {_questions(run), _questions(other)}
    if len(benchmarks - {None}) > 1 or len(hashes - {""}) > 1:
        return False
    if "" not in hashes:
        return len(benchmarks) == 1
    asked, there = ({(str(r["id"]), r["answer"]) for r in each.records} for each in (run, other))
    return asked <= there or there <= asked


def _file(run: Run) -> str:
    return Path(str(run.config.get("questions", ""))).name


def _judged(run: Run) -> Mapping[str, Any] | None:
    """What `relisten judge` wrote into a run's folder; None if it judged no answer. ValueError if it is damaged."""
    path = run.folder / JUDGED
    if not run.folder.is_dir() or not path.is_file():
        return None
    found = records.read_object(path)
    try:
        whole = found["figures"]["all"]["all"]
        if whole["score"] is None and whole["n"] == 0:  # no reply came, and the same command continues
            return None
        right = is_number(whole["score"]) and all(map(is_number, whole["interval"])) and isinstance(found["score"], str)
    except (KeyError, TypeError):
        right = False
    if not right:
        raise ValueError(f"{path}: holds no figures of a judge; run `relisten judge` again")
    return found


def _score_name(judged: Sequence[Mapping[str, Any] | None]) -> str:
    return next(f"{each['score']} (95 %)" for each in judged if each)


def _score(judged: Mapping[str, Any] | None) -> str:
    if judged is None:
        return "-"
    whole = judged["figures"]["all"]["all"]
    return f"{_percent(whole['score'], whole['interval'])}, {judged.get('judge')}"


def _percent(share: float | None, ends: Sequence[float] | None = None) -> str:
    """`68.5 (65.5–71.3)`."""
    if share is None or math.isnan(share):
        return "-"
    return f"{100 * share:.1f}" + (f" ({100 * ends[0]:.1f}–{100 * ends[1]:.1f})" if ends else "")


def _note(benchmark: Benchmark | None, runs: Sequence[Run], questions: str, failed: Failed) -> str:
    what = _file(runs[0]) or "predictions"
    if benchmark is not None and benchmark.about is not None:
        what = f"{benchmark.about.title} (by {benchmark.about.metric.partition(';')[0]})"
    lacking = "as wrong" if failed == "wrong" else "as the first choice, which gives points for nothing"
    hashed = f", SHA-256 of the questions {questions[:12]}…" if questions else ""
    return f"{what}, in percent{hashed}. Interval: Wilson, over questions. Answers that cannot be read count {lacking}."
