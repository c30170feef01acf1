"""`relisten judge`: have a language model behind an OpenAI-compatible server score the answers of a finished run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from relisten import records
from relisten.commands.options import keeping
from relisten.data.budget import Budget, Stopped
from relisten.data.caller import Caller
from relisten.data.servers import Server
from relisten.data.store import Spent, Store
from relisten.data.teachers import Teacher, open_teacher
from relisten.evals import judges
from relisten.evals.benchmarks import BENCHMARKS, Benchmark
from relisten.evals.figures import GROUPS, Record, write_summary
from relisten.evals.judges import Judge, Judged, Row
from relisten.evals.predictions import read_runs
from relisten.evals.runs import Run, benchmark_of
from relisten.reports.judged import table
from relisten.reports.table import terminal_table
from relisten.reports.text import console

ATTEMPTS = 4
"""How many replies to one request are tried before the answer counts as not judged."""


def judge(
    *runs: Path,
    judge: str,
    url: str = "",
    key: str = Server.key,
    price_in: float = 0.0,
    price_out: float = 0.0,
    max_cost: float = 0.0,
    in_flight: int = 16,
    questions: Path | None = None,
) -> int:
    """Score the reasoning of MMAR's answers (MMAR-Rubrics), MMAU-Pro's open answers, or Big Bench Audio's answers.

    Each right answer to MMAR is judged five times by the rubric of its question, and the mean of the middle three
    counts; a wrong answer scores 0. Every reply is stored before it is read, so the same command continues after a
    stop and pays for nothing twice. The run's folder then holds judged.jsonl (one line for each answer), judged.json
    (the figures) and judge.sqlite (the replies). The exit code is 1 if some answers could not be judged.

    Parameters
    ----------
    runs
        An output folder of `relisten eval`, or the folders of a run's shards.
    judge
        The model that judges, as its server calls it. Published scores of MMAR-Rubrics are of gpt-4o-2024-11-20, those
        of MMAU-Pro of Qwen2.5-7B-Instruct. recorded:FILE replays replies, as in `relisten data build`.
    url
        Address of an OpenAI-compatible server, up to and including /v1. By default OPENAI_BASE_URL, or OpenAI's own.
    key
        Name of the environment variable that holds the key (never the key itself).
    price_in
        Price of a million tokens of prompt.
    price_out
        Price of a million tokens of reply.
    max_cost
        Stop before this much is spent, over all starts. 0 sets no limit; it needs the prices.
    in_flight
        Most requests that are sent at the same time.
    questions
        The file of questions, if it is no longer where the run found it.
    """
    if in_flight < 1:
        raise ValueError(f"--in-flight {in_flight}: must be at least 1")
    if max_cost and not (price_in or price_out):
        raise ValueError(f"--max-cost {max_cost:g}: needs --price-in and --price-out, or no cost is known")
    found = read_runs(runs)
    if len(found) != 1:
        raise ValueError(f"one run is judged at a time, and {len(found)} were named; name one run, or its shards")
    run, out = found[0], found[0].folder
    benchmark, how = _benchmark(run)
    pairs = _with_rows(run, benchmark, questions)
    server = Server(url=url, key=key, temperature=0.0, price_in=price_in, price_out=price_out)
    teacher = open_teacher(judge, server)
    with Store(out / "judge.sqlite") as store, keeping(lambda: f"{out / 'judge.sqlite'}: every reply is kept"):
        caller = Caller(store, Budget(store.spent(), max_cost), in_flight, prices=(price_in, price_out))
        judged = asyncio.run(_judged(pairs, how, teacher, caller))
        spent = store.spent()
    return _told(run, how, judge, judged, spent, caller.stopped)


def _benchmark(run: Run) -> tuple[Benchmark, Judge]:
    """The benchmark of a run, and how it is judged. Raises ValueError if it is not judged by a model."""
    benchmark = benchmark_of(run)
    if benchmark is None or benchmark.judge is None:
        names = ", ".join(name for name, each in BENCHMARKS.items() if each.judge)
        raise ValueError(f"{run.folder}: is no run of a benchmark that a model judges; there are {names}")
    if not run.traced:
        raise ValueError(f"{run.folder}: holds predictions without their reasoning; name a folder of `relisten eval`")
    return benchmark, benchmark.judge


def _with_rows(run: Run, benchmark: Benchmark, questions: Path | None) -> list[tuple[Record, Row]]:
    """Each answer with the entry of its question. Raises ValueError if the question file is missing or differs."""
    path = questions or Path(str(run.config.get("questions", "")))
    if not path.is_file():
        raise ValueError(f"{run.folder}: its questions, {path}, are not there; name the file with --questions")
    rows = {str(row.get(benchmark.id, "")): row for _, row in records.entries(path)}
    if strange := [r["id"] for r in run.records if str(r["id"]) not in rows]:
        raise ValueError(f"{path}: has no question {strange[0]!r} ({len(strange)} such); name the file that was asked")
    return [(r, rows[str(r["id"])]) for r in run.records]


async def _judged(pairs: Sequence[tuple[Record, Row]], how: Judge, teacher: Teacher, caller: Caller) -> list[Judged]:
    """Every answer with its scores, in order."""
    bar = tqdm(total=len(pairs), desc="judged", unit="a")

    async def one(record: Record, row: Row) -> Judged:
        try:
            return await _scores(record, row, how, teacher, caller)
        finally:
            bar.update()

    try:
        return list(await asyncio.gather(*(one(record, row) for record, row in pairs)))
    finally:
        bar.close()
        await teacher.close()


async def _scores(record: Record, row: Row, how: Judge, teacher: Teacher, caller: Caller) -> Judged:
    """An answer with the score of each run of the judge, or with the reason why one has none."""
    request = how.request(record, row)
    if request is None:
        return Judged(record, ())

    async def once(number: int) -> float | str:
        error = ""
        for attempt in range(ATTEMPTS):
            try:
                # The same request has the same reply in the store: each run, and each attempt, asks for another one.
                call = await caller.ask("judge", str(record["id"]), teacher, request, number + how.runs * attempt)
            except Stopped as stopped:
                caller.stopped = caller.stopped or str(stopped)
                return str(stopped)
            if call.error:
                return call.error
            try:
                return how.read(call.text, row)
            except ValueError as wrong:
                error = str(wrong)
        return error

    found = await asyncio.gather(*map(once, range(how.runs)))
    errors = [each for each in found if isinstance(each, str)]
    return Judged(record, tuple(each for each in found if not isinstance(each, str)), errors[0] if errors else "")


def _told(run: Run, how: Judge, model: str, judged: Sequence[Judged], spent: Spent, stopped: str) -> int:
    """Write and print what was found. Returns the exit code."""
    out, found = run.folder, judges.summary(judged, GROUPS)
    without = [each for each in judged if each.error]
    lines = [
        {"id": each.record["id"], "sample": each.record.get("sample", 0)}
        | ({"error": each.error} if each.error else {"score": each.score, "runs": list(each.scores)})
        for each in judged
    ]
    records.write_atomic(out / "judged.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    about = {"score": how.name, "judge": model, "runs": how.runs, "not_judged": len(without), "spent": asdict(spent)}
    write_summary(out / "judged.json", about | {"figures": found})
    console().print(terminal_table(table(found, f"{run.name} · {how.name} · judged by {model}")))
    cost = f", cost {spent.cost:.4g}" if spent.cost else ""
    tokens = f"{spent.prompt_tokens:,} tokens in, {spent.completion_tokens:,} out"
    told = f"{spent.calls - spent.failed:,} replies, {tokens}{cost}"
    notes = [*run.notes, f"{out / 'judged.json'}: {told}"]
    if without:
        why = stopped or without[0].error
        notes.append(f"not judged, and in no figure: {len(without)} answers ({why}); the same command continues")
    console().print("\n".join(notes), soft_wrap=True)
    return int(bool(without))
