"""Settings of `relisten data build`, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relisten.data import compose, export, shards, sources
from relisten.data.servers import Server, check_key
from relisten.engine import operations

MOST_IN_FLIGHT = 1_000
"""Each call has its own connection, and systems commonly allow a process 1,024 open files."""
MOST_WORKERS = 1_000
NOT_NEGATIVE = (
    "clips", "seed", "repairs", "retries", "workers", "requests_per_minute", "temperature", "max_tokens", "price_in",
    "price_out", "describer_price_in", "describer_price_out", "max_cost", "max_total_tokens", "blind_margin",
)  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """The contents of the sets, and the limits of the build."""

    source: str
    """Name of a source (`relisten data sources` lists them), or `module:function`, which gives clips of a folder."""
    root: Path
    """The folder that the source reads."""
    out: Path
    """Folder for the sets, the manifest, and the store of all that was done so far."""
    describer: str = ""
    """Who describes recordings first: `ears` (offline), a model's name, a server's `address#model`, or
    `module:function`. By default nobody does, and teachers get only what the source knows."""
    teacher: str = "rules"
    """Who composes questions: `rules` (offline), `recorded:FILE`, or the name of a model at `url`."""
    judge: str = ""
    """Who judges them; by default the teacher."""
    judge_url: str = ""
    """Address of the judge's server, if it is not the teacher's."""
    prompts: Path | None = None
    """A folder with compose*.md or judge*.md, which replace the shipped prompts."""
    questions: int = 1
    """Questions about each recording."""
    manner: str = ""
    """How every chain of thought is written: overview, plain, guess, choices, brief, sure, short (for small models), or
    a sentence of your own. By default one of the first six is drawn for each question."""
    operations: str = "none"
    """Ways to listen that chains of thought may use beside `<seg>` (see docs/operations.md): none, all, or names with
    commas, such as slow,loud. The teacher `rules` then prefers questions about sounds that need one. Train on the sets
    with the same --operations."""
    clips: int = 0
    """Use only so many clips, the source's first; 0 uses all."""
    seed: int = 0
    """Random seed for kinds of questions, prompts and choices. The same seed gives the same sets."""
    repairs: int = 1
    """How often a teacher is told what is wrong with its reply and asked again."""
    in_flight: int = 64
    """Calls to the server at the same time, at most 1,000."""
    describer_price_in: float = 0.0
    """Price of a million tokens of prompt at a describing server; a describer in this process costs nothing."""
    describer_price_out: float = 0.0
    """Price of a million tokens of reply at a describing server."""
    max_cost: float = 0.0
    """Stop when this much is spent, over all runs into the folder; 0 sets no limit. Needs the prices."""
    max_total_tokens: int = 0
    """Stop when so many tokens of prompts and replies are used, over all runs into the folder; 0 sets no limit."""
    benchmarks: tuple[Path, ...] = ()
    """Lists (MMAR-meta.jsonl, ids, SHA-256 sums) or folders of recordings that must not be trained on."""
    blind_margin: float = 0.1
    """How far above chance a guesser that reads the text alone may be before the set is called unfit."""
    export: tuple[str, ...] = ()
    """Further formats to write: parquet, swift (ms-swift), verl."""
    copy_audio: bool = False
    """Copy the recordings of the sets into OUT/audio, so that the folder can be moved without them."""
    workers: int = 0
    """Share the work between so many processes on Ray, on the machines of RAY_ADDRESS or else on this one; 0 uses this
    process alone. Calls in flight, requests per minute and the budget are for all of them together."""
    shard: str = ""
    """Build only one part of the clips, such as 0/4 for the first of four, on one of several machines that share the
    folder. When all parts are done, build once without this option: that writes the sets."""


@dataclass(frozen=True)
class BuildConfig(Server, Contents):
    """Settings of a build: its contents, and how its servers are asked (the help lists these fields last)."""


def check(config: BuildConfig) -> None:
    """Raise ValueError on impossible settings, before anything is read or written."""
    shards.read(config.shard)
    if config.shard and config.workers:
        raise ValueError("workers divide the clips into shards themselves; leave out one of workers and shard")
    for name, most in (("questions", float("inf")), ("in_flight", MOST_IN_FLIGHT)):
        if not 1 <= (value := getattr(config, name)) <= most:
            raise ValueError(f"{name} is {value}; it must be at least 1" + (f" and at most {most:,}" * (most < 1e9)))
    for name in NOT_NEGATIVE:
        if not 0 <= getattr(config, name) < float("inf"):
            raise ValueError(f"{name} is {getattr(config, name)}; it must be a number that is not negative")
    if config.workers > MOST_WORKERS:
        raise ValueError(f"workers is {config.workers}; it must be at most {MOST_WORKERS:,}")
    if not config.timeout > 0:
        raise ValueError(f"timeout is {config.timeout:g}; give a number of seconds above 0")
    check_key(config.key)
    compose.read_prompts(config.prompts)
    compose.find_manner(config.manner)
    operations.named(config.operations)
    named = ":" in config.source or sources.named(config.source)
    if "rules" in (config.teacher, config.judge) and not named:
        raise ValueError(
            f"the teacher rules needs sounds by name, and {config.source} has captions; name a language model instead"
        )
    prices = (config.price_in, config.price_out, config.describer_price_in, config.describer_price_out)
    if config.max_cost and not any(prices):
        raise ValueError(
            "max_cost needs the prices of a million tokens, price_in and price_out; or use max_total_tokens"
        )
    export.check_forms(config.export)
