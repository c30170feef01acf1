"""`relisten data build` and `relisten data stats`: two training sets from recordings with times, and what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from relisten.data.build import BuildConfig
from relisten.data.build import build as run_build
from relisten.reports.text import console, printable


def build(
    settings: Path | None = None,
    /,
    *,
    config: Annotated[BuildConfig, Parameter(name="*")],
    dry_run: bool = False,
    sample: int = 5,
) -> int:
    """Make sets for SFT and RL: questions, choices, answers, and chains of thought that name segments.

    Describe, compose, check, judge, route. A run that was stopped goes on where it was when it is started again, and
    pays for no call twice. Writes sft.jsonl, rl.jsonl, rejected.jsonl and manifest.json. Exits with 1 when the run
    stopped early (budget, server down), when no question was kept, or when the text alone gives the answers away (blind
    guesser over its margin).

    Parameters
    ----------
    settings
        A YAML file with any of the options below, their dashes as underscores; flags win over it.
    dry_run
        Estimate calls, tokens and cost from a few clips. These are really asked about; their calls are kept.
    sample
        How many clips that are, with --dry-run.
    """
    if sample < 1:
        raise ValueError(f"sample is {sample}; an estimate needs at least 1 clip")
    made = run_build(config, sample if dry_run else 0)
    told = estimate if dry_run else shard if config.shard else summary
    console().print(told(made))
    if made["stopped"]:
        console(stderr=True).print(f"stopped early: {made['stopped']}; start again to go on")
    elif not dry_run and not config.shard:
        if not made["counts"]["sft"] + made["counts"]["rl"]:
            console(stderr=True).print(f"no question was kept; {config.out / 'rejected.jsonl'} says why")
            return 1
        blind = made["blind"]
        if not blind["passed"]:
            console(stderr=True).print(
                f"the text alone gives {blind['accuracy']:.3f} (chance {blind['chance']:.3f}, margin"
                f" {blind['margin']:g}): choose wrong choices anew, or ask for other kinds of questions"
            )
            return 1
    return int(bool(made["stopped"]))


def summary(manifest: dict[str, Any]) -> Table:
    """How many got how far, and what it took."""
    counts, spent, blind = manifest["counts"], manifest["calls"]["all"], manifest["blind"]
    caption = (
        f"{_calls(spent)}\nblind guesser {blind['accuracy']:.3f}, chance {blind['chance']:.3f} (n = {blind['num']:,})"
    )
    if blind["num"] and not blind["accuracy"]:
        caption = caption.replace(f"{blind['accuracy']:.3f}", "not measured: too few questions")
    return _table("data build", {**{name: counts[name] for name in FUNNEL}, **_reasons(counts["reasons"])}, caption)


def _calls(spent: dict[str, Any]) -> str:
    return (
        f"calls {spent['calls']:,} ({spent['failed']:,} failed, {spent['attempts']:,} requests),"
        f" tokens {spent['prompt_tokens']:,} in, {spent['completion_tokens']:,} out, cost {spent['cost']:.2f}"
    )


def shard(made: dict[str, Any]) -> str:
    """What a shard took, and what comes next."""
    if made["stopped"]:
        return f"shard {made['shard']}: {_calls(made['calls'])}"
    return (
        f"shard {made['shard']} is done: {_calls(made['calls'])}\n"
        "When all are, build again without --shard: that takes them together and writes the sets."
    )


FUNNEL = ("left out by the source", "clips", "described", "asked", "composed", "checked", "judged", "sft", "rl")


def _reasons(reasons: dict[str, int], most: int = 6) -> dict[str, int]:
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    return {f"out at {reason}": count for reason, count in ordered[:most]}


def estimate(made: dict[str, Any]) -> Table:
    """What a sample took, and what the whole would."""
    rows = {
        f"{name.replace('_', ' ')} of all {made['clips']:,} clips": value if name == "cost" else round(value)
        for name, value in made["whole"].items()
    }
    paid = made["paid now"]
    caption = (
        f"from {made['sample']} clips, {paid['calls']} calls that were made now and are kept (cost {paid['cost']:.4f})"
    )
    return _table("estimate", rows, caption)


def _table(title: str, rows: dict[str, float], caption: str) -> Table:
    shown = Table(title=title, caption=Text(caption), show_header=False)
    shown.add_column()
    shown.add_column(justify="right")
    for name, value in rows.items():
        shown.add_row(Text(printable(name)), f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    return shown


def stats(folder: Path, /, *, html: Path | None = None) -> None:
    """Say what a built folder holds, and draw it on one self-contained page.

    Parameters
    ----------
    folder
        What `relisten data build` wrote to.
    html
        Where to put the page; by default FOLDER/report.html.
    """
    from relisten.reports import data_stats as measured
    from relisten.reports.table import terminal_table

    found = measured.read(folder)
    page = html or folder / "report.html"
    measured.write_page(page, found, follow=html is not None)
    console().print(terminal_table(measured.table(found), f"{folder.name} · {found.num:,} questions"))
    console().print(str(page), soft_wrap=True)
