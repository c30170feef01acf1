"""`relisten data build`: a source and settings in, two training sets and a manifest out."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from relisten import records, redact, run
from relisten.data import compose, export, leakage, shards, sources
from relisten.data import describers as describe
from relisten.data.blind import guess
from relisten.data.pipeline import SURVEYED, USED, Build, Limits, Plan, Rejected, Stopped, left_out
from relisten.data.route import Funnel, route
from relisten.data.servers import Server, check_key
from relisten.data.store import Spent, Store
from relisten.data.teachers import open_teachers
from relisten.types import Clip, Event

LEFT_OUT = ".left-out.jsonl"
DESCRIBED_FIRST = 40
"""Recordings of a source without labels that are described before all else: wrong choices are drawn from theirs."""
DESCRIBING = 4
"""Recordings sent to a describing server at the same time; models in this process take one after another."""
NOT_NEGATIVE = (
    "clips", "seed", "repairs", "retries", "workers", "requests_per_minute", "temperature", "max_tokens", "price_in",
    "price_out", "describer_price_in", "describer_price_out", "max_cost", "max_total_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class BuildConfig(Server):
    """Settings of a build: those of the server that is asked, and these."""

    source: str
    """A source (`relisten data sources` lists them), or `module:function` (folder -> clips)."""
    root: Path
    """The folder that the source reads."""
    out: Path
    """Folder for the sets, the manifest, and the store of all that was done so far."""
    describer: str = ""
    """Who describes recordings first: ears (offline), a model's name, a server's address#model, `module:function`;
    empty: nobody, what the source knows is all."""
    teacher: str = "rules"
    """Who composes: rules (offline), recorded:FILE, or a model at `url`."""
    judge: str = ""
    """Who judges; empty: the teacher."""
    judge_url: str = ""
    """The judge's server, where it is another than the teacher's."""
    prompts: Path | None = None
    """A folder with compose*.md or judge*.md that take the place of the shipped ones."""
    questions: int = 1
    """About each recording."""
    manner: str = ""
    """How every chain of thought shall go: overview, plain, guess, choices, brief, sure, short (for small models), or a
    sentence of your own; empty: one of the first six, drawn."""
    clips: int = 0
    """Take the source's first so many; 0: all."""
    seed: int = 0
    """Of all that is drawn: kinds of questions, prompts, choices."""
    repairs: int = 1
    """Times a teacher is told what was wrong with its reply, and asked again."""
    in_flight: int = 64
    """Calls at the same time."""
    describer_price_in: float = 0.0
    """As price_in, where a server describes; describing inside this process costs nothing."""
    describer_price_out: float = 0.0
    """As price_out, where a server describes."""
    max_cost: float = 0.0
    """Stop when this is spent, over all runs into the folder; 0: no limit. Needs the prices."""
    max_total_tokens: int = 0
    """Stop when so many tokens went both ways, over all runs into the folder; 0: no limit."""
    benchmarks: tuple[Path, ...] = ()
    """Lists (MMAR-meta.jsonl, ids, SHA-256) or folders of recordings that must not be trained on."""
    blind_margin: float = 0.1
    """How much above chance a guesser may get that reads the text alone, before the set is called unfit."""
    export: tuple[str, ...] = ()
    """Further forms: parquet, swift (ms-swift), verl."""
    copy_audio: bool = False
    """Copy the recordings of the sets into OUT/audio, so that the folder can be moved without them."""
    workers: int = 0
    """Processes on Ray that share the work, on the machines of RAY_ADDRESS or else on this one; 0: this process alone.
    Calls in flight, requests a minute and the budget are for all of them together."""
    shard: str = ""
    """Which part of the clips, of how many: 0/4. For a machine of several that share the folder; then build without."""


def build(config: BuildConfig, sample: int = 0) -> dict[str, Any]:
    """Run, or go on where a stopped run was; what the manifest holds. Raises ValueError on bad settings.

    sample: only so many clips, for an estimate; no set is written, the calls are kept for the real run.
    """
    _check(config)
    begun = time.perf_counter()
    part = shards.read(config.shard)
    stopped = ""
    if config.workers and not sample:
        from relisten.data.spread import over_ray

        stopped = over_ray(config)
    with shards.open_store(config.out, part) as store:
        before = store.spent()
        labels, total = asyncio.run(_survey(config, store))
        plan = make_plan(config, labels)
        runner = asyncio.run(_run(config, plan, store, sample or total // part[1], sample, stopped))
        seconds = time.perf_counter() - begun
        if sample:
            return _estimate(config, runner, store, before, total, seconds)
        if config.shard:
            return {"stopped": runner.stopped, "shard": config.shard, "calls": asdict(store.spent())}
        return _finish(config, plan, store, runner.stopped, seconds)


def survey(config: BuildConfig) -> None:
    """Note what every shard needs to know of the source as a whole, and take over what earlier shards did."""
    _check(config)
    with shards.open_store(config.out, shards.WHOLE) as store:
        asyncio.run(_survey(config, store))


def _limits(config: BuildConfig, store: Store) -> Limits:
    """How much at once and in all; a shard's share of it."""
    num = shards.read(config.shard)[1]
    spent = store.spent_earlier()

    def share(limit: float, used: float) -> float:  # 0 is no limit; what is used up leaves less than any call
        return max(limit - used, 1e-9) / num if limit else 0.0

    return Limits(
        in_flight=max(config.in_flight // num, 1),
        describing=max(DESCRIBING // num, 1) if "://" in config.describer else 1,
        max_cost=share(config.max_cost, spent.cost),
        max_total_tokens=math.ceil(share(config.max_total_tokens, spent.tokens)),
    )


def make_plan(config: BuildConfig, labels: compose.Labels) -> Plan:
    """Teachers, prompts and all else that decides what comes of a clip."""
    first = replace(config, requests_per_minute=config.requests_per_minute / shards.read(config.shard)[1])
    second = replace(first, url=config.judge_url or config.url, temperature=0.0, json_mode=False)
    composer, judge = open_teachers((config.teacher, first), (config.judge or config.teacher, second))
    return Plan(
        composer=composer,
        judge=judge,
        prices=(config.price_in, config.price_out),
        prompts=compose.read_prompts(config.prompts),
        labels=labels,
        describer=describe.find(config.describer, config) if config.describer else None,
        describer_name=config.describer,
        describer_prices=(config.describer_price_in, config.describer_price_out),
        benchmarks=leakage.read_benchmarks(config.benchmarks),
        questions=config.questions,
        repairs=config.repairs,
        seed=config.seed,
        manner=compose.find_manner(config.manner),
    )


def _check(config: BuildConfig) -> None:
    shards.read(config.shard)
    if config.shard and config.workers:
        raise ValueError("workers share out the shards themselves; leave one of the two away")
    for name in ("questions", "in_flight"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1")
    for name in NOT_NEGATIVE:
        if not 0 <= getattr(config, name) < float("inf"):
            raise ValueError(f"{name} is {getattr(config, name)}; it must be a number that is not negative")
    if not config.timeout > 0:
        raise ValueError(f"timeout is {config.timeout:g}; give seconds, more than 0")
    check_key(config.key)
    compose.read_prompts(config.prompts)
    compose.find_manner(config.manner)
    named = ":" in config.source or sources.named(config.source)
    if "rules" in (config.teacher, config.judge) and not named:
        raise ValueError(f"rules needs sounds by name, and {config.source} has captions; name a language model instead")
    if config.max_cost and not any(
        (config.price_in, config.price_out, config.describer_price_in, config.describer_price_out)
    ):
        raise ValueError("max_cost needs price_in and price_out, of a million tokens; give them, or max_total_tokens")
    if unknown := [name for name in config.export if name not in export.EXPORTS]:
        raise ValueError(f"no export {unknown[0]!r}; there are {', '.join(export.EXPORTS)}")


def clips(config: BuildConfig, note: sources.LeftOut | None = None) -> Iterator[Clip]:
    """The clips that a config asks for."""
    read = sources.read(config.source, config.root, note or sources.LeftOut())
    return map(whole, itertools.islice(read, config.clips or None))


def whole(clip: Clip) -> Clip:
    """The clip with texts that can be written as UTF-8, whatever its source read; its path stays as it is.

    An id keeps the odd bytes as escapes (`caf\\udce9`), so that two ids stay two; other texts have U+FFFD for them.
    """
    events = [(event.label, event.start, event.end, event.labels) for event in clip.events]
    known = [clip.id, events, clip.descriptions]
    if (mended := redact.each_text(redact.whole, known)) == known:
        return clip
    id = clip.id.encode("utf-8", "backslashreplace").decode()
    return Clip(id, clip.audio, clip.duration, tuple(Event(*event) for event in mended[1]), mended[2])


async def _survey(config: BuildConfig, store: Store) -> tuple[compose.Labels, int]:
    """Labels of the source's first clips, and how many are asked for; noted at the first start.

    The labels do not depend on `clips`: with other wrong choices every question would be composed and paid for anew.
    """
    noted = f"survey {config.source} {config.root} {config.describer}"
    count = f"clips {config.source} {config.root} {config.clips}"
    labels, total = store.fact(noted), store.fact(count)
    if labels is not None and total is not None:
        return labels, total
    if config.shard and config.describer:
        raise ValueError("a shard with a describer needs what is known of the whole; run once with --dry-run first")
    found = iter(tqdm(clips(replace(config, clips=0)), desc="survey", unit="clip", leave=False))
    first = list(itertools.islice(found, SURVEYED))
    if not first:
        raise ValueError(f"{config.root}: the source {config.source} found no usable recording there")
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
        await store.keep_fact(noted, labels)
    await store.keep_fact(count, total)
    return labels, total


async def _labels_heard(config: BuildConfig, store: Store, first: list[Clip]) -> compose.Labels | None:
    """Labels that a describer finds in a source that has none; its replies are kept, the run finds them again.

    None where it failed for a reason that may pass: then the next start looks anew.
    """
    plan = make_plan(config, {})
    runner = Build(plan, _limits(config, store), store, config.out)
    described = []
    try:
        for clip in tqdm(first, desc="survey by describer", unit="clip", leave=False):
            try:
                described.append(await runner.described(clip))
            except Rejected as rejected:
                if rejected.again:
                    return None
            except Stopped:  # the run itself will say so
                return None
    finally:
        await plan.composer.close()
        await plan.judge.close()
    return compose.survey(described)


async def _run(config: BuildConfig, plan: Plan, store: Store, total: int, sample: int, stopped: str) -> Build:
    part = shards.read(config.shard)
    note = sources.LeftOut(None if config.shard else left_out(config.out / LEFT_OUT))
    runner = Build(plan, _limits(config, store), store, config.out, note)
    runner.stopped = stopped
    found = (clip for clip in clips(config, note) if shards.holds(part, clip.id))
    try:
        await runner.run(itertools.islice(found, sample) if sample else found, total)
    finally:
        await plan.composer.close()
        await plan.judge.close()
    return runner


def _finish(config: BuildConfig, plan: Plan, store: Store, stopped: str, seconds: float) -> dict[str, Any]:
    """Write the sets and their manifest."""
    out = config.out
    funnel = Funnel()
    routed = route(store.outcomes(), config.source, config.seed, funnel)
    export.write_sets(out, tqdm(routed, desc="sets", unit="question", leave=False), out / LEFT_OUT, config.copy_audio)
    first = itertools.chain.from_iterable(
        itertools.islice(export.read_set(out / f"{s}.jsonl"), 20_000) for s in export.SETS
    )
    blind = guess(list(first), config.blind_margin, config.seed)
    spent = {stage: asdict(store.spent(stage)) for stage in store.stages()} | {"all": asdict(store.spent())}
    manifest: dict[str, Any] = {
        "stopped": stopped,
        "config": asdict(config),
        "plan": plan.identity(),
        "prompts": compose.hashes(plan.prompts),
        "licences": {config.source: licence(config.source)},
        "counts": asdict(funnel) | {"left out by the source": _lines(out / LEFT_OUT)},
        "calls": spent,
        "blind": blind.record(),
        "files": {name: _lines(out / name) for name in ("sft.jsonl", "rl.jsonl", "rejected.jsonl")},
        "versions": run.versions(),
        "git": run.git(),
        "seconds": round(seconds, 1),
    }
    for name in config.export:
        for path in export.EXPORTS[name](out):
            manifest["files"][path.name] = path.stat().st_size
    records.write_atomic(out / "manifest.json", pretty(redact.each_text(redact.redact, manifest)))
    return manifest


def pretty(value: Any) -> str:
    """JSON for people; paths as texts."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def licence(source: str) -> str:
    """What a source says of its licence."""
    return "not known: a source of one's own" if ":" in source else sources.about()[source].licence


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _estimate(
    config: BuildConfig, runner: Build, store: Store, before: Spent, total: int, seconds: float
) -> dict[str, Any]:
    """What the whole source would take, from the calls that a sample of it needed, now or in an earlier run."""
    used = [outcome["used"] for _, _, outcome in store.outcomes() if "used" in outcome]
    if not used and not runner.stopped:
        raise ValueError(f"{config.out}: does not say what its clips took (an older build); estimate in a new folder")
    after, factor = store.spent(), total / max(len(used), 1)
    return {
        "clips": total,
        "sample": len(used),
        "paid now": {name: getattr(after, name) - getattr(before, name) for name in USED},
        "whole": {name: sum(one[name] for one in used) * factor for name in USED},
        "stopped": runner.stopped,
        "seconds": seconds,
    }
