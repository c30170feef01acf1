"""How a finished run listened, and what its accuracy depends on. No model is needed, only the run's records.

Where the paper (Echo, section 5) gives a figure of the same name, `ECHO` has it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relisten import records, tags
from relisten.evals.figures import GROUPS, Record, Tally, gold_overlaps, mean, tally
from relisten.evals.runs import Run, is_number, listens
from relisten.segments import best_iou
from relisten.types import Segment

ECHO = {"references": 1.9, "with_one": 0.994, "with_two": 0.780, "seconds": 3.0, "overlap": 0.1, "words": 107.4}
"""Echo after reinforcement learning, on MMAR: references per response, shares of responses with at least one and two,
mean duration (seconds), overlap between a response's references (their formula is not published), words."""
NUM_PARTS = 10
"""Equal parts of a recording in which segments are counted."""
HIT = 0.5
"""Overlap (IoU) from which a segment counts as having found an event."""
IOU_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
SECONDS_EDGES = (0.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, float("inf"))
"""Edges of the groups by length of the recording (seconds); the paper trains on 10 s."""
IOU_NAMES = ("none named", "0", *(f"{a:g} to {b:g}" for a, b in pairwise(IOU_EDGES)))
SECONDS_NAMES = (
    *(f"{a:g} to {b:g} s" for a, b in pairwise(SECONDS_EDGES[:-1])),
    f"over {SECONDS_EDGES[-2]:g} s",
)
DIMENSIONS = ("kind", *GROUPS)
"""Fields of a record by which questions are grouped, where it has them."""
PARTS = ("recording", "heard again", "prompt", "written")
"""What attention falls on: audio of the first hearing, audio inserted later, other tokens of the prompt (those that
begin and end the audio among them), other tokens after it."""


@dataclass(frozen=True)
class Spread:
    """The distribution of a quantity over answers."""

    mean: float
    low: float
    """5th percentile."""
    median: float
    high: float
    """95th percentile."""


@dataclass(frozen=True)
class Use:
    """How often one operation was used, and how right the answers were that used it."""

    num: int
    """Segments that were heard with it."""
    seconds: float
    """Mean duration of these segments in the recording, before the operation."""
    used: Tally | None
    """The answers that used it at least once; None if their accuracy is not known."""
    others: Tally | None
    """The answers that did not; None if all did, or if their accuracy is not known."""


@dataclass(frozen=True)
class Analysis:
    """How one run listened. Shares are 0 to 1; None where no answer gives the figure."""

    name: str
    num: int
    """Answers that are analysed: those to questions that could be asked."""
    references: float
    """Segments per answer: heard ones in interleaved answers, named ones in others."""
    named: float
    """Segments named per answer, refused ones included."""
    with_one: float
    """Share of answers with at least one segment."""
    with_two: float
    counts: dict[int, int]
    """Answers by their number of segments."""
    seconds: float | None
    """Mean duration of a segment."""
    overlap: float | None
    """1 - union / sum of an answer's segments, mean over answers with two or more."""
    place: Spread | None
    """Middle of a segment, in seconds from the recording's start."""
    timeline: list[float] | None
    """Share of the segments whose middle lies in each tenth of its recording."""
    timeline_gold: list[float] | None
    """The same for the labelled events that hold the answers, which is what a perfect listener would show."""
    iou: float | None
    """Best overlap of a labelled event with a segment, mean over events."""
    hit_rate: float | None
    """Share of labelled events that a segment meets at IoU 0.5 or better."""
    precision: float | None
    """Share of segments that meet a labelled event at IoU 0.5 or better."""
    by_iou: dict[str, Tally]
    by_seconds: dict[str, Tally]
    """By the recording's length."""
    uses: dict[str, Use]
    """By operation, plain crops (`seg`) first; {} where no answer used another operation than that."""
    words: Spread | None
    latency: Spread | None
    """Seconds for an answer, where the run has them."""
    refusals: dict[str, int]
    finishes: dict[str, int]
    errors: int


@dataclass(frozen=True)
class AttentionCurve:
    """Shares of attention by decoding step: at each step the mean over the answers that are long enough."""

    name: str
    shares: NDArray[np.float64]
    """[steps, 4] over `PARTS`; each row adds up to 1."""
    num: NDArray[np.int64]
    """[steps] How many answers have that step."""
    differing: int = 0
    """Answers whose text differed from the run's when they were made again."""

    def audio(self, first: int, last: int | None = None) -> float | None:
        """Mean share on all audio from step `first` (counted from 0) to before `last`; every token counts equally."""
        weights = self.num[first:last]
        return float(np.average(self.shares[first:last, :2].sum(1), weights=weights)) if weights.sum() else None


def attention_curve(name: str, answers: Sequence[NDArray[np.float64]], differing: int = 0) -> AttentionCurve:
    """The mean of answers' shares [steps, 4], which differ in length."""
    longest = max((len(shares) for shares in answers), default=0)
    num = np.array([sum(len(shares) > step for shares in answers) for step in range(longest)], np.int64)
    total = np.zeros((longest, len(PARTS)))
    for shares in answers:
        total[: len(shares)] += shares
    return AttentionCurve(name, total / np.maximum(num, 1)[:, None], num, differing)


def write_attention(run: Run, curve: AttentionCurve, model: str) -> None:
    """Keep a curve in the run's folder (attention.json), where a report finds it."""
    shares = [[round(float(x), 6) for x in row] for row in curve.shares]
    kept = {"model": model, "differing": curve.differing, "num": curve.num.tolist(), "shares": shares}
    records.write_atomic(run.folder / "attention.json", json.dumps(kept) + "\n")


def read_attention(run: Run) -> AttentionCurve | None:
    """The curve that `relisten analyse --attention` left in the run's folder, or None. ValueError on a damaged one."""
    path = run.folder / "attention.json"
    kept = records.read_object(path) if path.is_file() else {}
    if not kept:
        return None
    shares, num, differing = kept.get("shares"), kept.get("num"), kept.get("differing", 0)
    if not isinstance(shares, list) or not isinstance(num, list) or not isinstance(differing, int):
        raise ValueError(f"{path}: holds no curve; remove it, and run `relisten analyse --attention` again")
    rows = [row if isinstance(row, list) and len(row) == len(PARTS) else [None] for row in shares]
    if len(rows) != len(num) or not all(is_number(x) and x >= 0 for x in (*num, *(x for row in rows for x in row))):
        raise ValueError(f"{path}: holds no curve; remove it, and run `relisten analyse --attention` again")
    curve = np.array(rows, float).reshape(-1, len(PARTS))
    return AttentionCurve(run.name, curve, np.array(num, np.int64), differing)


def num_words(record: Record) -> int:
    """Words of a whole response. Tags are not counted, the times inside them are."""
    return int(record["words"]) if "words" in record else len(re.sub(r"</?\w+>", " ", record["response"]).split())


def latency(record: Record) -> float | None:
    """Seconds that an answer took, where the run has them."""
    seconds = record.get("seconds")
    return None if seconds is None else float(seconds)


def references(record: Record, format: str) -> list[Segment]:
    """What an answer refers to, within the recording: what it heard if it is interleaved, else what it named."""
    last = float(record.get("duration") or float("inf"))
    found = (Segment(*pair) for pair in record["heard" if format == "interleaved" else "named"])
    return [Segment(s.start, min(s.end, last)) for s in found if s.start < min(s.end, last)]


def named(record: Record) -> list[Segment]:
    """What an answer names, heard or not: how well it knows where to listen."""
    return [Segment(*pair) for pair in record["named"]]


def overlap_rate(segments: Sequence[Segment]) -> float:
    """How much of the time that segments take together is heard more than once: 1 - union / sum."""
    total = sum(s.duration for s in segments)
    union, reached = 0.0, float("-inf")
    for segment in sorted(segments, key=lambda s: s.start):
        union += max(0.0, segment.end - max(segment.start, reached))
        reached = max(reached, segment.end)
    return 1 - union / total if total > 0 else 0.0


def analyse(run: Run) -> Analysis:
    """The whole analysis. ValueError where no question could be asked, or the records do not say what was heard."""
    answers = run.answered
    if not run.traced:
        raise ValueError(f"{run.folder}: predictions do not say what was heard; name a folder of `relisten eval`")
    if not answers:
        raise ValueError(f"{run.folder}: no question of this run could be asked; its records say why")
    found = [references(r, run.format) for r in answers]
    flat = [s for segments in found for s in segments]
    several = [overlap_rate(segments) for segments in found if len(segments) > 1]
    golds = [[Segment(*pair) for pair in r.get("gold") or []] for r in answers]
    pairs = list(zip(golds, map(named, answers), strict=True))
    # A conditioned answer is not asked for segments: only those that have some say how well they are placed.
    asked = [pair for pair in pairs if pair[0] and (pair[1] or run.format != "conditioned")]
    met = gold_overlaps(answers, run.format)
    precise = [best_iou(segment, gold) >= HIT for gold, segments in asked for segment in segments]
    return Analysis(
        name=run.name,
        num=len(answers),
        references=len(flat) / len(answers),
        named=float(np.mean([len(r["named"]) for r in answers])),
        with_one=float(np.mean([len(segments) >= 1 for segments in found])),
        with_two=float(np.mean([len(segments) >= 2 for segments in found])),
        counts=dict(sorted(Counter(map(len, found)).items())),
        seconds=mean([s.duration for s in flat]),
        overlap=mean(several),
        place=_spread([(s.start + s.end) / 2 for s in flat]),
        timeline=_timeline(zip(answers, found, strict=True)),
        timeline_gold=_timeline(zip(answers, golds, strict=True)),
        iou=mean(met),
        hit_rate=mean([overlap >= HIT for overlap in met]),
        precision=mean(precise),
        by_iou=by_iou(run),
        by_seconds=by_seconds(run),
        uses=uses(answers),
        words=_spread([float(num_words(r)) for r in answers]),
        latency=_spread([seconds for r in answers if (seconds := latency(r)) is not None]),
        refusals=dict(Counter(reason for r in answers for _, reason in r["refusals"]).most_common()),
        finishes=dict(Counter(r["finish"] for r in answers).most_common()),
        errors=len(run.records) - len(answers),
    )


def by_iou(run: Run) -> dict[str, Tally]:
    """Accuracy by how well an answer's segments meet the labelled events (mean over events of the best overlap)."""

    def name(record: Record) -> str | None:
        gold, segments = [Segment(*pair) for pair in record.get("gold") or []], named(record)
        if not gold:
            return None
        if not segments:
            return IOU_NAMES[0]
        overlap = np.mean([best_iou(event, segments) for event in gold])
        return IOU_NAMES[1 + int(np.searchsorted(IOU_EDGES, overlap - 1e-9))]

    return tallies(run.answered, name, IOU_NAMES)


def by_seconds(run: Run) -> dict[str, Tally]:
    """Accuracy by the length of the recording, where the records have it."""

    def name(record: Record) -> str | None:
        duration = record.get("duration")
        return None if not duration else SECONDS_NAMES[int(np.searchsorted(SECONDS_EDGES, duration)) - 1]

    return tallies(run.answered, name, SECONDS_NAMES)


def uses(answers: Sequence[Record]) -> dict[str, Use]:
    """How each operation was used, `seg` first; {} where no segment was heard otherwise than as it is."""
    heard = [listens(record) for record in answers]
    seconds: dict[str, list[float]] = {}
    for listen in (listen for found in heard for listen in found):
        seconds.setdefault(listen.operation, []).append(listen.segment.duration)
    if seconds.keys() <= {"seg"}:
        return {}
    known = [name for name in ("seg", *tags.OPERATIONS) if name in seconds]
    using = [{listen.operation for listen in found} for found in heard]
    found = {}
    for name in [*known, *sorted(seconds.keys() - set(known))]:
        used, others = (
            _known_tally([r for r, names in zip(answers, using, strict=True) if (name in names) == whether])
            for whether in (True, False)
        )
        found[name] = Use(len(seconds[name]), float(np.mean(seconds[name])), used, others)
    return found


def by(answers: Sequence[Record], dimension: str) -> dict[str, Tally]:
    """Accuracy by a field of the records (one of `DIMENSIONS`), sorted by name; {} where no record has the field."""
    return tallies(
        answers, lambda r: str(r.get(dimension) or "") or None, sorted({str(r.get(dimension)) for r in answers})
    )


def tallies(answers: Iterable[Record], name: Callable[[Record], str | None], order: Sequence[str]) -> dict[str, Tally]:
    """Answers counted by what `name` calls them, in `order`; those that it calls None are left out.

    So are groups whose accuracy is not known, because the right answers are withheld or a model judges the answers.
    """
    groups: dict[str, list[Record]] = {}
    for record in answers:
        if (key := name(record)) is not None:
            groups.setdefault(key, []).append(record)
    counted = {key: _known_tally(groups.get(key, ())) for key in order}
    return {key: counts for key, counts in counted.items() if counts is not None}


def _known_tally(answers: Sequence[Record]) -> Tally | None:
    counts = tally(answers)
    return counts if counts.known else None


def to_json(analysis: Analysis) -> dict[str, Any]:
    """For a file: groups with their accuracies and intervals."""
    listed = {
        which: [{"name": name} | _counted(counts) for name, counts in getattr(analysis, which).items()]
        for which in ("by_iou", "by_seconds")
    }
    operations = [
        {
            "name": name,
            "segments": use.num,
            "seconds": round(use.seconds, 4),
            "used": use.used and _counted(use.used),
            "others": use.others and _counted(use.others),
        }
        for name, use in analysis.uses.items()
    ]
    return {**asdict(analysis), **listed, "uses": operations}


def _counted(counts: Tally) -> dict[str, Any]:
    ends = [round(x, 4) for x in counts.interval]
    return {"n": counts.num, "accuracy": round(counts.accuracy, 4), "interval": ends}


def _timeline(pairs: Iterable[tuple[Record, Sequence[Segment]]]) -> list[float] | None:
    middles = [
        min((s.start + s.end) / 2 / float(record["duration"]), 1.0)
        for record, segments in pairs
        if record.get("duration")
        for s in segments
    ]
    if not middles:
        return None
    counts, _ = np.histogram(middles, NUM_PARTS, (0.0, 1.0))
    return [float(c) for c in counts / len(middles)]


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    low, median, high = np.percentile(values, (5, 50, 95))
    return Spread(float(np.mean(values)), float(low), float(median), float(high))
