"""What a built folder holds, in figures and in pictures: one self-contained page."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relisten import plotting, records, tags
from relisten.data import export
from relisten.data.checks import words
from relisten.engine.operations import phrase
from relisten.evals.runs import is_number
from relisten.reports.page import Chart, Page, Section, chart, html_page
from relisten.reports.table import Table
from relisten.reports.text import number, percent, safe
from relisten.types import Example

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER_WORDS = 87.5
"""Words of a chain of thought in the paper's SFT set, on average."""
MOST = 100_000
"""Questions of each set that are looked at."""
COLOURS = {"sft": plotting.COLOURS[0], "rl": plotting.COLOURS[1], "rest": "#8a8f98"}
BINS = 20
FUNNEL = ("asked", "composed", "checked", "judged", "sft", "rl")
FUNNEL_NAMES = {"sft": "to SFT", "rl": "to RL"}


@dataclass
class SetStats:
    """Figures of one set."""

    num: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    words: list[int] = field(default_factory=list)
    """In each chain of thought."""
    segments: list[int] = field(default_factory=list)
    """In each chain of thought."""
    seconds: list[float] = field(default_factory=list)
    """Duration of each segment."""
    middles: list[float] = field(default_factory=list)
    """Middle of each segment, as a share of the recording."""
    durations: list[float] = field(default_factory=list)
    """Seconds of the recording of each question."""
    positions: Counter[int] = field(default_factory=Counter)
    """Places of the right answers, from 1, where there are four choices."""
    questions: Counter[str] = field(default_factory=Counter)
    """How often each question was asked, word for word."""
    grams: dict[int, tuple[int, int]] = field(default_factory=dict)
    """(different, all) n-grams of the chains, n = 1 to 3; for sets without chains, of the questions."""
    openings: Counter[str] = field(default_factory=Counter)
    """First four words of the chains."""

    def distinct(self, n: int) -> float:
        """Distinct-n: different n-grams among all."""
        different, every = self.grams.get(n, (0, 0))
        return different / every if every else 0.0


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


def _examples(path: Path) -> Iterator[Example]:
    """The questions of a set. ValueError names the line that is none."""
    for place, record in records.entries(path):
        try:
            yield records.example_from_record(record, path.parent)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def read(folder: Path) -> Stats:
    """The figures of what `build` wrote. ValueError where it wrote nothing, or where a file of it is damaged."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{folder}: holds no manifest.json; name a folder that `relisten data build` wrote")
    manifest = records.read_object(path)
    if fault := _fault(manifest):
        raise ValueError(f"{path}: is no manifest of a build ({fault}); run `relisten data build` again")
    rejected = Counter(str(line.get("stage")) for line in records.read(folder / "rejected.jsonl"))
    return Stats(folder, {name: _measure(folder / f"{name}.jsonl") for name in export.SETS}, rejected, manifest)


def _fault(manifest: dict[str, Any]) -> str | None:
    """What a manifest lacks of that which is shown; None where it has all."""
    for name in ("config", "counts", "calls", "blind"):
        if not isinstance(manifest.get(name), dict):
            return f"{name} is no object"
    calls, blind = manifest["calls"], manifest["blind"]
    if "all" not in calls or not all(isinstance(stage, dict) for stage in calls.values()):
        return "calls has no object for all"
    for stage in calls.values():
        if not all(is_number(stage.get(name)) for name in ("calls", "cost", "prompt_tokens", "completion_tokens")):
            return "calls lacks a number"
    if not all(is_number(manifest["counts"].get(name)) for name in FUNNEL):
        return "counts lacks a number"
    if blind.get("accuracy") is not None:
        ends = blind.get("interval")
        numbers = [blind.get(name) for name in ("accuracy", "chance", "num")]
        if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, [*numbers, *ends])):
            return "blind lacks a number"
    return None


def _measure(path: Path) -> SetStats:
    found = SetStats()
    grams: dict[int, set[tuple[str, ...]]] = {1: set(), 2: set(), 3: set()}
    totals: Counter[int] = Counter()
    for example in _examples(path):
        found.num += 1
        if found.num > MOST:
            continue
        found.kinds[str(example.labels.get("kind", "")) or "other"] += 1
        if len(example.choices) == 4 and example.answer in example.choices:
            found.positions[example.choices.index(example.answer) + 1] += 1
        found.questions[example.question] += 1
        given = example.labels.get("duration")
        duration = float(given) if is_number(given) else 0.0
        found.durations.append(duration)
        said = words(example.cot if example.cot is not None else example.question)
        for n in grams:
            every = list(zip(*(said[start:] for start in range(n)), strict=False))
            grams[n].update(every)
            totals[n] += len(every)
        if example.cot is not None:
            found.words.append(len(said))
            found.openings[" ".join(said[:4])] += 1
            segments = tags.parse(example.cot, tags.EVERY).segments
            found.segments.append(len(segments))
            found.seconds += [s.duration for s in segments]
            found.middles += [(s.start + s.end) / 2 / duration for s in segments if duration > 0]
    found.grams = {n: (len(different), totals[n]) for n, different in grams.items()}
    return found


def table(stats: Stats) -> Table:
    """The figures, a column for each set."""

    def row(name: str, figure: Callable[[SetStats], str]) -> list[str]:
        return [name, *(figure(stats.sets[s]) if stats.sets[s].num else "-" for s in export.SETS)]

    def mean(values: Sequence[float]) -> str:
        return number(float(np.mean(values)) if values else None, 1)

    rows = [
        row("questions", lambda s: f"{s.num:,}"),
        row("kinds of questions", lambda s: str(len(s.kinds))),
        row("words of a chain (paper 87.5)", lambda s: mean(s.words)),
        row("segments of a chain", lambda s: mean(s.segments)),
        row("seconds of a segment", lambda s: mean(s.seconds)),
        row("seconds of a recording", lambda s: mean(s.durations)),
        row("different questions", lambda s: percent(len(s.questions) / min(s.num, MOST))),
        row("distinct-1 / -2 / -3", lambda s: " / ".join(f"{s.distinct(n):.3f}" for n in (1, 2, 3))),
        row("most frequent opening", lambda s: percent(_most_frequent(s.openings))),
        row("right answers at 1, 2, 3, 4", lambda s: ", ".join(f"{s.positions[n]:,}" for n in range(1, 5))),
    ]
    note = "distinct-n: different n-grams of words among all. Places of right answers: of questions with four choices."
    return Table(["", "SFT", "RL"], rows, note)


def _most_frequent(counts: Counter[str]) -> float | None:
    return counts.most_common(1)[0][1] / counts.total() if counts else None


def write_page(path: Path, stats: Stats, follow: bool = False) -> None:
    """The page; it appears whole or not at all."""
    records.write_atomic(path, html_page(page(stats)), follow)


def page(stats: Stats) -> Page:
    """Figures, pictures, the first questions of each set, and the manifest."""
    pictures = [picture(stats) for picture in PICTURES if picture is not _cost or _paid(stats)]
    sections = [Section("Figures", "", [table(stats)]), Section("Pictures", "", pictures)]
    shown = "".join(_shown(stats.folder, name) for name in export.SETS)
    examples = f"<section><h2>The first questions, as they are</h2>{shown}</section>" if shown else ""
    made = {"Manifest": {key: json.dumps(value, ensure_ascii=False) for key, value in stats.manifest.items()}}
    return Page(f"{stats.folder.name}: {stats.num:,} questions", _about(stats), sections, made, examples=examples)


def _about(stats: Stats) -> str:
    config, blind = stats.manifest["config"], stats.manifest["blind"]
    guessed = (
        f"a guesser that reads the text alone gets {percent(blind['accuracy'])} (95 %: {percent(blind['interval'][0])}"
        f" to {percent(blind['interval'][1])}), chance is {percent(blind['chance'])} (n = {blind['num']:,})"
        if blind.get("accuracy") is not None
        else "too few questions to measure what the text gives away"
    )
    judge = f", judged by {config['judge']}" if config.get("judge") else ""
    return f"Source {config.get('source')}, teacher {config.get('teacher')}{judge}; {guessed}."


_TAG = re.compile(rf"&lt;({'|'.join(tags.EVERY)})&gt;([^&<>]{{1,80}})&lt;/\1&gt;")
"""A segment in a text that is HTML already."""


def _marked(tag: re.Match[str]) -> str:
    segment = tags.parse_segment(tag[2], tag[1])
    if segment is None:
        return tag[0]
    way = phrase(tag[1], segment)
    return f"<mark>{segment.start:g}–{segment.end:g} s{', ' + way if way else ''}</mark>"


def _shown(folder: Path, name: str) -> str:
    """The first three questions of a set, as they are."""
    parts = []
    for _, example in zip(range(3), _examples(folder / f"{name}.jsonl"), strict=False):
        choices = "".join(
            f'<li class="gold">{safe(choice)} ✓</li>' if choice == example.answer else f"<li>{safe(choice)}</li>"
            for choice in example.choices
        )
        cot = _TAG.sub(_marked, safe(example.cot or ""))
        parts.append(
            f'<article class="example right"><p class="tag">{safe(name)}</p><h4>{safe(example.question)}</h4>'
            f'<ul class="choices2">{choices}</ul><p class="reasoning">{cot}</p>'
            f'<p class="caption">{safe(example.id)}</p></article>'
        )
    return "".join(parts)


# --- pictures ---------------------------------------------------------------------------------------------------------


def _half(name: str, caption: str, draw: Callable[[Any], None]) -> Chart:
    """A chart of one panel that `draw` fills, one of two that stand beside each other."""

    def figure(width: float) -> Figure:
        drawn, [axis] = plotting.axes(2.9, width=width)
        draw(axis)
        return drawn

    return chart(name, caption, figure, half=True)


def _funnel(stats: Stats) -> Chart:
    values = [stats.manifest["counts"][name] for name in FUNNEL]

    def draw(axis: Any) -> None:
        names = [FUNNEL_NAMES.get(name, name) for name in FUNNEL]
        bars = axis.barh(names, values, color=[COLOURS.get(name, COLOURS["rest"]) for name in FUNNEL])
        axis.bar_label(bars, [f"{value:,} ({value / max(values[0], 1):.0%})" for value in values], padding=3)
        axis.set_xlim(0, 1.5 * max(*values, 1))
        axis.invert_yaxis()
        axis.set_xlabel("questions")

    return _half("funnel", "How many questions passed each stage.", draw)


def _kinds(stats: Stats) -> Chart:
    names = [name for name, _ in (stats.sets["sft"].kinds + stats.sets["rl"].kinds).most_common(16)]

    def draw(axis: Any) -> None:
        left, places = np.zeros(len(names)), np.arange(len(names))
        for one, found in stats.sets.items():
            values = np.array([found.kinds[name] for name in names])
            axis.barh(places, values, left=left, color=COLOURS[one], label=one.upper())
            left += values
        axis.set_yticks(places, [name if len(name) <= 24 else f"{name[:21]}..." for name in names])
        axis.invert_yaxis()
        axis.set_xlabel("questions")
        plotting.legend(axis, 2)

    return _half("kinds", "The most frequent kinds of questions.", draw)


def _lengths(stats: Stats) -> Chart:
    found = stats.sets["sft"].words

    def draw(axis: Any) -> None:
        axis.hist(found, BINS, color=COLOURS["sft"])
        axis.axvline(PAPER_WORDS, color=COLOURS["rl"], linestyle="--", label=f"paper's mean, {PAPER_WORDS:g}")
        if found:
            axis.axvline(float(np.mean(found)), color="black", label=f"mean here, {np.mean(found):.1f}")
        axis.set_xlabel("words of a chain of thought")
        axis.set_ylabel("chains")
        plotting.legend(axis, 2)

    return _half("lengths", "Length of the chains of thought.", draw)


def _segments(stats: Stats) -> Chart:
    counts = Counter(stats.sets["sft"].segments)

    def draw(axis: Any) -> None:
        bars = axis.bar([str(n) for n in sorted(counts)], [counts[n] for n in sorted(counts)], color=COLOURS["sft"])
        axis.bar_label(bars, padding=2)
        axis.set_xlabel("segments in a chain of thought")
        axis.set_ylabel("chains")

    return _half("segments", "How many segments a chain names.", draw)


def _timeline(stats: Stats) -> Chart:
    found = stats.sets["sft"].middles

    def draw(axis: Any) -> None:
        axis.hist(found, BINS, range=(0, 1), color=COLOURS["sft"])
        axis.axhline(len(found) / BINS, color="black", linewidth=1, label="evenly spread")
        axis.set_xlabel("middle of a segment, as a share of the recording")
        axis.set_ylabel("segments")
        plotting.legend(axis, 1)

    return _half("timeline", "Where in the recording the segments lie.", draw)


def _durations(stats: Stats) -> Chart:
    found = stats.sets["sft"]
    # Times are written in tenths of a second; a segment longer than 10 s is counted in the last bar.
    edges = [float(e) for e in np.arange(0.05, min(max(found.seconds, default=1.0), 10.0) + 0.15, 0.1)]

    def draw(axis: Any) -> None:
        axis.hist(np.minimum(found.seconds, 10.0), edges, color=COLOURS["sft"])
        axis.set_xlabel("seconds of a segment")
        axis.set_ylabel("segments")

    mean = float(np.mean(found.durations or [0.0]))
    return _half("durations", f"How long the segments are; recordings last {mean:.1f} s on average.", draw)


def _diversity(stats: Stats) -> Chart:
    def draw(axis: Any) -> None:
        for offset, (one, found) in zip((-0.2, 0.2), stats.sets.items(), strict=True):
            name = "chains of SFT" if one == "sft" else "questions of RL"
            values = [found.distinct(n) for n in (1, 2, 3)]
            bars = axis.bar(np.arange(3) + offset, values, 0.4, color=COLOURS[one], label=name)
            axis.bar_label(bars, [number(value) for value in values], padding=2)
        axis.set_xticks(range(3), ["distinct-1", "distinct-2", "distinct-3"])
        axis.set_ylim(0, 1.1 * max([0.1, *(found.distinct(3) for found in stats.sets.values())]))
        plotting.legend(axis, 2)

    return _half("diversity", "Different n-grams among all; smaller sets have more.", draw)


def _positions(stats: Stats) -> Chart:
    places = range(1, 5)

    def draw(axis: Any) -> None:
        for offset, (one, found) in zip((-0.2, 0.2), stats.sets.items(), strict=True):
            shares = [found.positions[n] / max(found.positions.total(), 1) for n in places]
            axis.bar(np.array(places) + offset, shares, 0.4, color=COLOURS[one], label=one.upper())
        axis.set_xlabel("place of the right answer, of four choices")
        axis.set_xticks(list(places))
        axis.set_ylabel("share of questions")
        plotting.legend(axis, 2)

    return _half("positions", "Places of the right answers.", draw)


def _paid(stats: Stats) -> bool:
    return bool(stats.manifest["calls"]["all"]["prompt_tokens"])


def _cost(stats: Stats) -> Chart:
    calls = {stage: figures for stage, figures in stats.manifest["calls"].items() if stage != "all"}

    def draw(axis: Any) -> None:
        names = [f"{stage}\n{one['calls']:,} calls\ncost {one['cost']:.2f}" for stage, one in calls.items()]
        into, out = ([one[name] for one in calls.values()] for name in ("prompt_tokens", "completion_tokens"))
        axis.bar(names, into, color=COLOURS["rest"], label="prompt")
        axis.bar(names, out, bottom=into, color=COLOURS["sft"], label="reply")
        axis.set_ylabel("tokens")
        plotting.legend(axis, 2)

    return _half("cost", "Tokens of each stage, with its calls and cost.", draw)


PICTURES: tuple[Callable[[Stats], Chart], ...] = (
    _funnel, _kinds, _lengths, _segments, _timeline, _durations, _diversity, _positions, _cost,
)  # fmt: skip
