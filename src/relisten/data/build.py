"""`relisten data build`: makes two training sets and a manifest from a source."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from relisten import records, redact, run
from relisten.data import compose, describers, export, leakage, shards, sources
from relisten.data.blind import guess
from relisten.data.budget import Budget, Stopped
from relisten.data.build_config import BuildConfig, check
from relisten.data.caller import USED, Caller, NamedDescriber
from relisten.data.job import Plan, Rejected, described
from relisten.data.pipeline import Pipeline
from relisten.data.route import Funnel, route
from relisten.data.spread import over_ray
from relisten.data.store import Spent, Store
from relisten.data.teachers import open_teachers
from relisten.engine.operations import named
from relisten.types import Clip, Event

LEFT_OUT = ".left-out.jsonl"
SURVEYED = 5_000
"""Clips of a source from which the labels for wrong choices are counted."""
DESCRIBED_FIRST = 40
"""Recordings of a source without labels that are described before all else: wrong choices are drawn from theirs."""
DESCRIBING = 4
"""Recordings sent to a describing server at the same time; models in this process take one after another."""
DRY_RETRIES = 2
"""Most retries in a dry run, so that it soon says that a server is down."""


def build(config: BuildConfig, sample: int = 0) -> dict[str, Any]:
    """Run a build, or continue one that was stopped. Returns the manifest.

    sample: use only so many clips, to estimate the cost of the whole. No set is written then, but the calls are kept
    for the real run. Raises ValueError on wrong settings, and if no call can succeed.
    """
    check(config)
    begun = time.perf_counter()
    part = shards.read(config.shard)
    stopped = ""
    if sample:
        config = replace(config, retries=min(config.retries, DRY_RETRIES))
    elif config.workers:
        survey(config)
        stopped = over_ray(build, config)
    with shards.open_store(config.out, part) as store:
        before = store.spent()
        labels, total = asyncio.run(_survey(config, store))
        plan = make_plan(config, labels)
        left = sources.LeftOut(None if config.shard else _noting(config.out / LEFT_OUT))
        caller = make_caller(config, store)
        caller.stopped = stopped
        asyncio.run(_run(config, plan, caller, left, sample or total // part[1], sample))
        if sample:
            return _estimate(caller, before, total)
        if config.shard:
            return {"stopped": caller.stopped, "shard": config.shard, "calls": asdict(store.spent())}
        return _finish(config, plan, caller, left, time.perf_counter() - begun)


def survey(config: BuildConfig) -> None:
    """Store the facts about the whole source that every shard needs, and adopt the stores of earlier shards."""
    with shards.open_store(config.out, shards.WHOLE) as store:
        asyncio.run(_survey(config, store))


def make_caller(config: BuildConfig, store: Store) -> Caller:
    """A caller with the limits of a config; a shard gets its share of them."""
    num = shards.read(config.shard)[1]
    earlier = store.spent_earlier()

    def share(limit: float, used: float) -> float:  # 0 sets no limit, so a used-up limit leaves a little instead
        return max(limit - used, 1e-9) / num if limit else 0.0

    most = math.ceil(share(config.max_total_tokens, earlier.tokens))
    return Caller(
        store,
        Budget(store.spent(), share(config.max_cost, earlier.cost), most),
        in_flight=max(config.in_flight // num, 1),
        describing=max(DESCRIBING // num, 1) if "://" in config.describer else 1,
        prices=(config.price_in, config.price_out),
    )


def make_plan(config: BuildConfig, labels: compose.Labels) -> Plan:
    """The plan of a config: teachers, prompts and everything else that decides the outcome of a clip."""
    first = replace(config, requests_per_minute=config.requests_per_minute / shards.read(config.shard)[1])
    second = replace(first, url=config.judge_url or config.url, temperature=0.0, json_mode=False)
    composer, judge = open_teachers((config.teacher, first), (config.judge or config.teacher, second))
    prices = (config.describer_price_in, config.describer_price_out)
    describer = None
    if config.describer:
        describer = NamedDescriber(config.describer, describers.find(config.describer, config), prices)
    return Plan(
        composer=composer,
        judge=judge,
        prompts=compose.read_prompts(config.prompts),
        labels=labels,
        describer=describer,
        benchmarks=leakage.read_benchmarks(config.benchmarks),
        questions=config.questions,
        repairs=config.repairs,
        seed=config.seed,
        manner=compose.find_manner(config.manner),
        operations=tuple(named(config.operations)),
    )


def clips(config: BuildConfig, left: sources.LeftOut) -> Iterator[Clip]:
    """The clips that a config asks for; `left` is told of those that cannot be used."""
    return map(whole, itertools.islice(sources.read(config.source, config.root, left), config.clips or None))


def whole(clip: Clip) -> Clip:
    """The clip with texts that can be written as UTF-8. Its path stays as it is.

    In the id, bytes that are not UTF-8 are written as escapes (`caf\\udce9`), so that different ids stay different. In
    other texts they become U+FFFD.
    """
    listed = [(event.label, event.start, event.end, event.labels) for event in clip.events]
    events, descriptions = redact.each_text(redact.whole, (listed, clip.descriptions))
    id = clip.id.encode("utf-8", "backslashreplace").decode()
    return replace(clip, id=id, events=tuple(Event(*event) for event in events), descriptions=descriptions)


async def _survey(config: BuildConfig, store: Store) -> tuple[compose.Labels, int]:
    """Labels of the source's first clips, and how many clips are asked for; both are stored at the first start.

    The labels do not depend on `clips`: with other wrong choices every question would be composed and paid for anew.
    """
    noted = f"survey {config.source} {config.root} {config.describer}"
    count = f"clips {config.source} {config.root} {config.clips}"
    labels, total = store.fact(noted), store.fact(count)
    if labels is not None and total is not None:
        return labels, total
    if config.shard and config.describer:
        raise ValueError("a shard with a describer needs what is known of the whole; run once with --dry-run first")
    left = sources.LeftOut()
    found = iter(tqdm(clips(replace(config, clips=0), left), desc="survey", unit="clip", leave=False))
    first = list(itertools.islice(found, SURVEYED))
    if not first:
        why = "; ".join(left.lines()) or "it holds none"
        raise ValueError(f"{config.root}: the source {config.source} found no usable recording there ({why})")
    rest = itertools.islice(found, max(config.clips - len(first), 0) if config.clips else None)
    total = len(first) + sum(1 for _ in rest)
    total = min(total, config.clips or total)
    if labels is None:
        labels = compose.survey(first)
        if config.describer and not labels:
            heard = await _labels_heard(config, store, first[:DESCRIBED_FIRST])
            if heard is None:
                return {}, total
            labels = heard
        store.keep_fact(noted, labels)
    store.keep_fact(count, total)
    return labels, total


async def _labels_heard(config: BuildConfig, store: Store, first: list[Clip]) -> compose.Labels | None:
    """Labels that a describer finds in a source without labels. Its replies are stored, and the run finds them again.

    Returns None if it failed for a reason that may pass; the next start then tries again.
    """
    plan, caller = make_plan(config, {}), make_caller(config, store)
    found = []
    try:
        for clip in tqdm(first, desc="survey by describer", unit="clip", leave=False):
            try:
                found.append(await described(clip, plan, caller))
            except Rejected as rejected:
                if rejected.again:
                    return None
            except Stopped:  # the run itself will say so
                return None
    finally:
        await plan.composer.close()
        await plan.judge.close()
    return compose.survey(found)


async def _run(config: BuildConfig, plan: Plan, caller: Caller, left: sources.LeftOut, total: int, sample: int) -> None:
    part = shards.read(config.shard)
    found = (clip for clip in clips(config, left) if shards.holds(part, clip.id))
    width = 2 * max(config.in_flight // part[1], 1)
    try:
        pipeline = Pipeline(plan, caller, config.out, left, width)
        await pipeline.run(itertools.islice(found, sample) if sample else found, total)
    finally:
        await plan.composer.close()
        await plan.judge.close()


def _noting(path: Path) -> Callable[[str, str], None]:
    """A function that writes down what a source leaves out, in a new file."""
    records.write_atomic(path, "")
    file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1 << 16)

    def note(id: str, reason: str) -> None:
        row = {"id": id, "stage": "source", "reason": redact.redact(reason)}
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()

    return note


def _finish(config: BuildConfig, plan: Plan, caller: Caller, left: sources.LeftOut, seconds: float) -> dict[str, Any]:
    """Write the sets and their manifest."""
    out, store = config.out, caller.store
    funnel = Funnel()
    routed = route(store.outcomes(), config.source, config.seed, funnel)
    export.write_sets(out, tqdm(routed, desc="sets", unit="question", leave=False), out / LEFT_OUT, config.copy_audio)
    first = itertools.chain.from_iterable(
        itertools.islice(export.read_set(out / f"{s}.jsonl"), 20_000) for s in export.SETS
    )
    blind = guess(list(first), config.blind_margin, config.seed)
    spent = store.spent_by_stage() | {"all": store.spent()}
    manifest: dict[str, Any] = {
        "stopped": caller.stopped,
        "config": asdict(config),
        "plan": plan.identity(),
        "prompts": compose.hashes(plan.prompts),
        "licences": {config.source: licence(config.source)},
        "counts": asdict(funnel) | {"left out by the source": left.counts.total()},
        "source": {"left out": dict(left.counts), "notes": dict(left.notes)},
        "calls": {stage: asdict(sums) for stage, sums in spent.items()},
        "blind": blind.record(),
        "files": {name: _lines(out / name) for name in ("sft.jsonl", "rl.jsonl", "rejected.jsonl")},
        "versions": run.versions(),
        "git": run.git(),
        "seconds": round(seconds, 1),
    }
    manifest["files"] |= export.write_forms(out, config.export)
    manifest = redact.each_text(redact.redact, manifest)
    records.write_atomic(out / "manifest.json", pretty(manifest))
    return manifest


def pretty(value: Any) -> str:
    """Indented JSON, with paths as texts."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def licence(source: str) -> str:
    """The licence of a source, as the source states it."""
    return "not known: a source of one's own" if ":" in source else sources.about()[source].licence


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _estimate(caller: Caller, before: Spent, total: int) -> dict[str, Any]:
    """Estimate calls, tokens and cost of the whole source from a sample, whose calls were made now or earlier.

    Clips for which a server failed are left out. Raises ValueError if no clip got a reply.
    """
    every = [outcome for _, outcome in caller.store.outcomes()]
    good = [made["used"] for made in every if not made.get("again") and made["used"]["calls"] > made["used"]["failed"]]
    failed = Counter(_reason(made) for made in every if made.get("again"))
    if not good:
        reasons = Counter(_reason(made) for made in every)
        why = "; ".join(f"{num} x {reason}" for reason, num in reasons.most_common(3)) or caller.stopped
        raise ValueError(f"no estimate is possible, since no clip of the sample got a reply: {why}")
    after, factor = caller.store.spent(), total / len(good)
    return {
        "clips": total,
        "sample": len(good),
        "failed": dict(failed),
        "paid now": {name: getattr(after, name) - getattr(before, name) for name in USED},
        "whole": {name: sum(one[name] for one in good) * factor for name in USED if name != "failed"},
        "stopped": caller.stopped,
    }


def _reason(made: dict[str, Any]) -> str:
    """Why a clip, or its first question that failed, failed."""
    ended = [made, *made["questions"]]
    return next((f"{one['stage']}: {one['reason']}" for one in ended if "stage" in one), "no call was needed")
