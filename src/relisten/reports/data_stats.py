"""What a built folder holds, in figures and in pictures: one self-contained page."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relisten import records, tags
from relisten.data import export
from relisten.data.checks import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER_WORDS = 87.5
"""Of a chain of thought in the paper's SFT set, on average."""
MOST = 100_000
"""Questions of each set that are looked at."""
COLOURS = {"sft": "#0072b2", "rl": "#d55e00", "rest": "#8a8f98"}
BINS = 20


@dataclass
class SetStats:
    """Figures of one set."""

    num: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    words: list[int] = field(default_factory=list)
    """Of each chain of thought."""
    segments: list[int] = field(default_factory=list)
    """In each chain of thought."""
    seconds: list[float] = field(default_factory=list)
    """Of each segment."""
    middles: list[float] = field(default_factory=list)
    """Of each segment, as a share of the recording."""
    durations: list[float] = field(default_factory=list)
    """Seconds of each question's recording."""
    positions: Counter[int] = field(default_factory=Counter)
    """Of right answers, from 1, where there are four choices."""
    questions: Counter[str] = field(default_factory=Counter)
    """Questions word for word."""
    grams: dict[int, tuple[int, int]] = field(default_factory=dict)
    """(different, all) n-grams of the chains, n = 1 to 3; for sets without chains, of the questions."""
    openings: Counter[str] = field(default_factory=Counter)
    """First four words of the chains."""

    def distinct(self, n: int) -> float:
        """Distinct-n: different n-grams among all."""
        different, all = self.grams.get(n, (0, 0))
        return different / all if all else 0.0


@dataclass
class Stats:
    """Figures of a folder."""

    folder: Path
    sets: dict[str, SetStats]
    rejected: Counter[str]
    """By stage."""
    manifest: dict[str, Any]

    @property
    def num(self) -> int:
        """Questions in all."""
        return sum(one.num for one in self.sets.values())


def read(folder: Path) -> Stats:
    """Figures of what `build` wrote. Raises ValueError where it wrote nothing."""
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder}: holds no manifest.json; name a folder that `relisten data build` wrote")
    manifest = _manifest(folder / "manifest.json")
    rejected = Counter(str(line.get("stage")) for line in records.read(folder / "rejected.jsonl"))
    return Stats(folder, {name: _measure(folder / f"{name}.jsonl") for name in export.SETS}, rejected, manifest)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if missing := [key for key in ("config", "counts", "calls", "blind") if not isinstance(found[key], dict)]:
            raise ValueError(f"{missing[0]} is no object")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no manifest of a build ({error}); run `relisten data build` again") from None
    return dict(found)


def _measure(path: Path) -> SetStats:
    found = SetStats()
    grams: dict[int, set[tuple[str, ...]]] = {1: set(), 2: set(), 3: set()}
    totals: Counter[int] = Counter()
    for example in export.read_set(path):
        found.num += 1
        if found.num > MOST:
            continue
        found.kinds[str(example.labels.get("kind", "")) or "other"] += 1
        if len(example.choices) == 4:
            found.positions[example.choices.index(str(example.answer)) + 1] += 1
        found.questions[example.question] += 1
        duration = float(example.labels.get("duration", 0.0))
        found.durations.append(duration)
        said = words(example.cot if example.cot is not None else example.question)
        for n in grams:
            every = list(zip(*(said[start:] for start in range(n)), strict=False))
            grams[n].update(every)
            totals[n] += len(every)
        if example.cot is not None:
            found.words.append(len(said))
            found.openings[" ".join(said[:4])] += 1
            segments = tags.parse(example.cot).segments
            found.segments.append(len(segments))
            found.seconds += [s.duration for s in segments]
            found.middles += [(s.start + s.end) / 2 / duration for s in segments if duration]
    found.grams = {n: (len(different), totals[n]) for n, different in grams.items()}
    return found


def table(stats: Stats) -> list[tuple[str, tuple[str, str]]]:
    """Names and figures, a column for each set."""

    def row(name: str, figure: Callable[[SetStats], str]) -> tuple[str, tuple[str, str]]:
        sft, rl = (figure(stats.sets[s]) if stats.sets[s].num else "-" for s in export.SETS)
        return name, (sft, rl)

    def mean(values: Sequence[float]) -> str:
        return f"{np.mean(values):.1f}" if values else "-"

    return [
        row("questions", lambda s: f"{s.num:,}"),
        row("kinds of questions", lambda s: str(len(s.kinds))),
        row("words of a chain (paper 87.5)", lambda s: mean(s.words)),
        row("segments of a chain", lambda s: mean(s.segments)),
        row("seconds of a segment", lambda s: mean(s.seconds)),
        row("seconds of a recording", lambda s: mean(s.durations)),
        row("different questions", lambda s: f"{len(s.questions) / min(s.num, MOST):.0%}"),
        row("distinct-1 / -2 / -3", lambda s: " / ".join(f"{s.distinct(n):.3f}" for n in (1, 2, 3))),
        row("most frequent opening", lambda s: _most_frequent(s.openings)),
        row(
            "right answers at 1, 2, 3, 4 (of four choices)",
            lambda s: ", ".join(f"{s.positions[n]:,}" for n in range(1, 5)),
        ),
    ]


def _most_frequent(counted: Counter[str]) -> str:
    return f"{counted.most_common(1)[0][1] / counted.total():.1%}" if counted else "-"


def write_page(path: Path, stats: Stats) -> None:
    """The page; it appears whole or not at all."""
    pictures = [
        (title, note, _picture(draw, stats)) for title, note, draw in PICTURES if draw is not _cost or _paid(stats)
    ]
    figures = "".join(
        f'<figure><figcaption><b>{escape(title)}</b> {escape(note)}</figcaption><img alt="{escape(title)}"'
        f' src="data:image/svg+xml;base64,{picture}"></figure>'
        for title, note, picture in pictures
    )
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(sft)}</td><td>{escape(rl)}</td></tr>"
        for name, (sft, rl) in table(stats)
    )
    records.write_atomic(
        path,
        PAGE.format(
            title=escape(f"{stats.folder.name}: {stats.num:,} questions"),
            about=escape(_about(stats)),
            rows=rows,
            figures=figures,
            examples="".join(_shown(stats.folder, name) for name in export.SETS),
            manifest=escape(json.dumps(stats.manifest, indent=2, ensure_ascii=False)),
        ),
        follow=True,
    )


def _about(stats: Stats) -> str:
    config, blind = stats.manifest["config"], stats.manifest["blind"]
    guessed = (
        f"a guesser that reads the text alone gets {blind['accuracy']:.1%} (95 %: {blind['interval'][0]:.1%} to"
        f" {blind['interval'][1]:.1%}), chance is {blind['chance']:.1%} (n = {blind['num']:,})"
        if blind["accuracy"]
        else "too few questions to measure what the text gives away"
    )
    teacher = config["teacher"] + (f", judged by {config['judge']}" if config["judge"] else "")
    return f"Source {config['source']}, teacher {teacher}; {guessed}."


def _shown(folder: Path, name: str) -> str:
    """The first three questions of a set, as they are."""
    parts = []
    for _, example in zip(range(3), export.read_set(folder / f"{name}.jsonl"), strict=False):
        choices = "".join(
            f"<li{' class=right' if choice == example.answer else ''}>{escape(choice)}</li>"
            for choice in example.choices
        )
        cot = escape(example.cot or "").replace("&lt;seg&gt;", "<mark>").replace("&lt;/seg&gt;", " s</mark>")
        parts.append(
            f"<article><small>{escape(name.upper())} · {escape(example.id)}</small>"
            f"<p><b>{escape(example.question)}</b></p>"
            f"<ul>{choices}</ul><p>{cot}</p></article>"
        )
    return "".join(parts)


def _picture(draw: Callable[[Axes, Stats], None], stats: Stats) -> str:
    try:
        import matplotlib
    except ImportError:
        raise ValueError("pictures need a package; pip install 'relisten[data]'") from None
    matplotlib.use("Agg")  # no screen is needed
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(figsize=(5.6, 3.2), layout="constrained")
        draw(axes, stats)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return base64.b64encode(written.getvalue().encode()).decode()


def _funnel(axes: Axes, stats: Stats) -> None:
    counts = stats.manifest["counts"]
    names = ("asked", "composed", "checked", "judged", "sft", "rl")
    values = [counts[name] for name in names]
    colours = [COLOURS.get(name, COLOURS["rest"]) for name in names]
    bars = axes.barh([{"sft": "to SFT", "rl": "to RL"}.get(name, name) for name in names], values, color=colours)
    axes.bar_label(bars, [f"{value:,} ({value / max(values[0], 1):.0%})" for value in values], padding=3)
    axes.set_xlim(0, 1.3 * max(*values, 1))
    axes.invert_yaxis()
    axes.set_xlabel("questions")


def _kinds(axes: Axes, stats: Stats) -> None:
    names = [name for name, _ in (stats.sets["sft"].kinds + stats.sets["rl"].kinds).most_common(16)]
    left = np.zeros(len(names))
    for one, found in stats.sets.items():
        values = np.array([found.kinds[name] for name in names])
        axes.barh(names, values, left=left, color=COLOURS[one], label=one.upper())
        left += values
    axes.invert_yaxis()
    axes.set_xlabel("questions")
    axes.legend(frameon=False)


def _lengths(axes: Axes, stats: Stats) -> None:
    found = stats.sets["sft"].words
    axes.hist(found, BINS, color=COLOURS["sft"])
    axes.axvline(PAPER_WORDS, color=COLOURS["rl"], linestyle="--", label=f"paper's mean, {PAPER_WORDS:g}")
    if found:
        axes.axvline(float(np.mean(found)), color="black", label=f"mean here, {np.mean(found):.1f}")
    axes.set_xlabel("words of a chain of thought")
    axes.set_ylabel("chains")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _segments(axes: Axes, stats: Stats) -> None:
    counted = Counter(stats.sets["sft"].segments)
    bars = axes.bar([str(n) for n in sorted(counted)], [counted[n] for n in sorted(counted)], color=COLOURS["sft"])
    axes.bar_label(bars, padding=2)
    axes.set_xlabel("segments in a chain of thought")
    axes.set_ylabel("chains")


def _timeline(axes: Axes, stats: Stats) -> None:
    found = stats.sets["sft"].middles
    axes.hist(found, BINS, range=(0, 1), color=COLOURS["sft"])
    axes.axhline(len(found) / BINS, color="black", linewidth=1, label="evenly spread")
    axes.set_xlabel("middle of a segment, as a share of the recording")
    axes.set_ylabel("segments")
    axes.legend(frameon=False, loc="upper right")


def _durations(axes: Axes, stats: Stats) -> None:
    found = stats.sets["sft"]
    # Times are written in tenths; a segment longer than 10 s is counted in the last bar.
    edges = [float(e) for e in np.arange(0.05, min(max(found.seconds, default=1.0), 10.0) + 0.15, 0.1)]
    axes.hist(np.minimum(found.seconds, 10.0), edges, color=COLOURS["sft"])
    axes.set_xlabel(f"seconds of a segment (recordings: {np.mean(found.durations or [0]):.1f} s on average)")
    axes.set_ylabel("segments")


def _diversity(axes: Axes, stats: Stats) -> None:
    for offset, (one, found) in zip((-0.2, 0.2), stats.sets.items(), strict=True):
        label = "chains of SFT" if one == "sft" else "questions of RL"
        values = [found.distinct(n) for n in (1, 2, 3)]
        bars = axes.bar(np.arange(3) + offset, values, 0.4, color=COLOURS[one], label=label)
        axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=2)
    axes.set_xticks(range(3), ["distinct-1", "distinct-2", "distinct-3"])
    axes.set_ylim(0, 1.1 * max([0.1, *(found.distinct(3) for found in stats.sets.values())]))
    axes.legend(frameon=False, loc="upper left")


def _positions(axes: Axes, stats: Stats) -> None:
    positions = range(1, 5)
    for offset, (one, found) in zip((-0.2, 0.2), stats.sets.items(), strict=True):
        shares = [found.positions[n] / max(found.positions.total(), 1) for n in positions]
        axes.bar(np.array(positions) + offset, shares, 0.4, color=COLOURS[one], label=one.upper())
    axes.set_xlabel("place of the right answer, of four choices")
    axes.set_xticks(list(positions))
    axes.set_ylabel("share of questions")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _paid(stats: Stats) -> bool:
    return bool(stats.manifest["calls"]["all"]["prompt_tokens"])


def _cost(axes: Axes, stats: Stats) -> None:
    calls = {stage: figures for stage, figures in stats.manifest["calls"].items() if stage != "all"}
    names = [f"{stage}\n{figures['calls']:,} calls, cost {figures['cost']:.2f}" for stage, figures in calls.items()]
    into = np.array([figures["prompt_tokens"] for figures in calls.values()])
    out = np.array([figures["completion_tokens"] for figures in calls.values()])
    axes.bar(names, into, color=COLOURS["rest"], label="prompt")
    axes.bar(names, out, bottom=into, color=COLOURS["sft"], label="reply")
    axes.set_ylabel("tokens")
    axes.legend(frameon=False)


PICTURES: tuple[tuple[str, str, Callable[[Axes, Stats], None]], ...] = (
    ("Funnel", "How many questions got how far.", _funnel),
    ("Kinds of questions", "", _kinds),
    ("Length of chains", "", _lengths),
    ("Segments in a chain", "", _segments),
    ("Where they lie", "Segments over the recording's time.", _timeline),
    ("How long they are", "", _durations),
    ("Diversity", "Different n-grams among all; smaller sets have more.", _diversity),
    ("Places of right answers", "", _positions),
    ("Cost", "Tokens of each stage.", _cost),
)

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #1c2024 }}
h1 {{ font-size: 1.6rem; margin-bottom: .2rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th {{ text-align: left; font-weight: normal }}
td, thead th {{ text-align: right; font-variant-numeric: tabular-nums }}
th, td {{ padding: .25rem .8rem; border-bottom: 1px solid #e3e6ea }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1.2rem }}
figure {{ margin: 0; border: 1px solid #e3e6ea; border-radius: 8px; padding: .8rem }}
figcaption {{ color: #5a6068 }} figcaption b {{ color: #1c2024 }}
img {{ width: 100% }}
article {{ border-left: 3px solid #0072b2; padding: .1rem 1rem; margin: 1rem 0 }}
mark {{ background: #d8ebf7; border-radius: 4px; padding: 0 .3em; white-space: nowrap }}
.right {{ font-weight: bold }}
.right::after {{ content: " \\2713" }}
small {{ color: #5a6068 }}
pre {{ overflow: auto; background: #f6f7f9; padding: 1rem; font-size: 12px }}
</style>
<h1>{title}</h1>
<p>{about}</p>
<table><thead><tr><th></th><th>SFT</th><th>RL</th></tr></thead><tbody>{rows}</tbody></table>
<div class="figures">{figures}</div>
<h2>As they are</h2>
{examples}
<details><summary>Manifest</summary><pre>{manifest}</pre></details>
</html>
"""
