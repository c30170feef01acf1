"""`relisten data join`: several built folders as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from relisten.data.join import JoinConfig
from relisten.data.join import join as run_join
from relisten.reports.text import console, printable

DEFAULTS = JoinConfig()


def join(out: Path, /, *builds: Path, config: Annotated[JoinConfig, Parameter(name="*")] = DEFAULTS) -> int:
    """Join several built folders, of AudioSet and MusicBench for example, into one that can be trained on.

    A question that is nearly the same as one in an earlier build is left out, and right answers are spread evenly over
    the positions again. Writes sft.jsonl, rl.jsonl, rejected.jsonl and manifest.json; the same builds in the same order
    give the same sets. Exits with 1 when the text alone gives the answers away.

    Parameters
    ----------
    out
        A new folder, or one that an earlier join wrote.
    builds
        Folders that `relisten data build` or `relisten data join` wrote, the ones whose questions are to be kept first.
    """
    made = run_join(out, builds, config)
    console().print(_table(made))
    for one in made["joined"]:
        if one["stopped"]:
            told = f"{one['folder']}: that build stopped early ({one['stopped']}); its finished questions are joined"
            console(stderr=True).print(printable(told))
        if one["renamed"]:
            told = f"{one['folder']}: {one['renamed']:,} ids were taken already; they begin with {one['folder']}- now"
            console(stderr=True).print(printable(told))
    if not made["blind"]["passed"]:
        blind = made["blind"]
        console(stderr=True).print(
            f"a guesser that reads only the text gets {blind['accuracy']:.3f}, chance is {blind['chance']:.3f} and the"
            f" margin {blind['margin']:g}: build with other wrong choices or other kinds of questions"
        )
    return int(not made["blind"]["passed"])


def _table(made: dict[str, Any]) -> Table:
    """How many questions of each build are kept, and what kinds they are."""
    shown = Table(title="data join")
    for column in ("", "SFT", "RL"):
        shown.add_column(column, justify="left" if not column else "right")
    for one in made["joined"]:
        cells = [f"{one[name]['kept']:,} of {one[name]['questions']:,}" for name in ("sft", "rl")]
        shown.add_row(Text(printable(one["folder"])), *cells)
    shown.add_section()
    kinds = made["kinds"]
    for kind in sorted({*kinds["sft"], *kinds["rl"]}, key=lambda kind: -kinds["sft"].get(kind, 0)):
        name = Text(f"kind: {printable(kind) or 'not named'}")
        shown.add_row(name, *(f"{kinds[name].get(kind, 0):,}" for name in ("sft", "rl")))
    return shown
