"""`relisten data build` and `relisten data stats`: make two training sets from labelled recordings; describe them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from relisten.commands.options import keeping
from relisten.data.build import build as run_build
from relisten.data.build_config import BuildConfig
from relisten.reports.text import console, printable


def build(
    settings: Path | None = None,
    /,
    *,
    config: Annotated[BuildConfig, Parameter(name="*")],
    dry_run: bool = False,
    sample: int = 5,
) -> int:
    """Make training sets for SFT and RL: questions with choices, answers, and chains of thought that name segments.

    Each clip is described, a teacher composes questions about it, code checks them, a judge reads them, and they are
    divided into sft.jsonl, rl.jsonl and rejected.jsonl; manifest.json says how. If a build is stopped, even by force,
    the same command continues it and pays for no call twice. Exits with 1 when the build stopped early (budget, server
    down), when no question was kept, or when the text alone gives the answers away.

    Parameters
    ----------
    settings
        A YAML file with any of the options below, written with underscores; options on the command line win over it.
    dry_run
        Estimate calls, tokens and cost from a few clips. The server is really asked, and these calls are kept.
    sample
        Number of clips for --dry-run.
    """
    if sample < 1:
        raise ValueError(f"sample is {sample}; an estimate needs at least 1 clip")
    with keeping(lambda: f"{config.out}: every reply so far is kept in its store"):
        made = run_build(config, sample if dry_run else 0)
    told = estimate if dry_run else shard if config.shard else summary
    console().print(told(made))
    if said := _trouble(made, config.out):
        console(stderr=True).print(printable(said))
    return int(bool(said))


def _trouble(made: dict[str, Any], out: Path) -> str:
    """What went wrong in a build, a shard or an estimate; empty if nothing did."""
    if made["stopped"]:
        return f"stopped early: {made['stopped']}; start again to go on"
    if failed := made.get("failed"):
        why = "; ".join(f"{num} x {reason}" for reason, num in failed.items())
        return f"the server failed for {sum(failed.values())} clips of the sample, which are not counted: {why}"
    if "blind" not in made:  # an estimate or a shard
        return ""
    if not made["counts"]["sft"] + made["counts"]["rl"]:
        return f"no question was kept; {out / 'rejected.jsonl'} says why"
    if not (blind := made["blind"])["passed"]:
        return (
            f"the text alone gives {blind['accuracy']:.3f} of the answers (chance {blind['chance']:.3f}, margin"
            f" {blind['margin']:g}); draw other wrong choices, or ask for other kinds of questions"
        )
    return ""


def summary(manifest: dict[str, Any]) -> Table:
    """A table of how many clips and questions reached each stage, why others did not, and the cost."""
    counts, spent, blind = manifest["counts"], manifest["calls"]["all"], manifest["blind"]
    measured = (
        f"{blind['accuracy']:.3f}" if blind["accuracy"] or not blind["num"] else "not measured: too few questions"
    )
    caption = f"{_calls(spent)}\nblind guesser {measured}, chance {blind['chance']:.3f} (n = {blind['num']:,})"
    rows = {name: counts[name] for name in FUNNEL}
    source = manifest["source"]
    for what, reasons in (
        ("left out:", source["left out"]),
        ("kept, but", source["notes"]),
        ("out at", counts["reasons"]),
    ):
        rows |= _reasons(what, reasons)
    return _table("data build", rows, caption)


def _calls(spent: dict[str, Any]) -> str:
    return (
        f"calls {spent['calls']:,} ({spent['failed']:,} failed, {spent['attempts']:,} requests),"
        f" tokens {spent['prompt_tokens']:,} in, {spent['completion_tokens']:,} out, cost {spent['cost']:.2f}"
    )


def shard(made: dict[str, Any]) -> str:
    """The cost of a shard, and what to do next."""
    if made["stopped"]:
        return f"shard {made['shard']}: {_calls(made['calls'])}"
    return (
        f"shard {made['shard']} is done: {_calls(made['calls'])}\n"
        "When all shards are done, build again without --shard: that joins them and writes the sets."
    )


MOST_REASONS = 10
FUNNEL = ("left out by the source", "clips", "described", "asked", "composed", "checked", "judged", "sft", "rl")


def _reasons(what: str, reasons: dict[str, int]) -> dict[str, int]:
    """A row for each of the most frequent reasons, and one for all the others."""
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    rows = {f"{what} {reason}": count for reason, count in ordered[:MOST_REASONS]}
    if rest := ordered[MOST_REASONS:]:
        rows[f"{what} {len(rest)} other reasons"] = sum(count for _, count in rest)
    return rows


def estimate(made: dict[str, Any]) -> Table:
    """The cost of a sample, and an estimate for the whole build."""
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
