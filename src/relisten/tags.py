"""The grammar of a response: <think>, <seg>start, end</seg>, <answer>. Everything here takes time linear in the text.

    <think>A dog barks <seg>3.2, 4.8</seg> twice.</think><answer>two</answer>

A segment's tag holds two decimal numbers (seconds) and a comma: `3, 4.25`. Signs, exponents, units and digits of other
scripts are refused, because a tag that is read generously teaches the policy to write carelessly.

Instead of <seg>, a model that knows operations may write <slow>, <low>, <high>, <loud> or <clean> with the same two
numbers, or <band>start, end, low, high</band> with two frequencies in Hz. The frequencies come last, inside the tag, so
that every tag begins with its times and ends with a fixed text at which generation can stop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from functools import lru_cache

from relisten.types import Response, Segment

# At most 9 digits before and after the point: thirty years and a nanosecond, and float() never sees a novel.
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_BLANKS = r"\s{0,8}"
_INSIDE = re.compile(rf"{_BLANKS}{_NUMBER}{_BLANKS},{_BLANKS}{_NUMBER}{_BLANKS}", re.ASCII)
_BAND = re.compile(",".join([rf"{_BLANKS}{_NUMBER}{_BLANKS}"] * 4), re.ASCII)
OPERATIONS = ("slow", "low", "high", "band", "loud", "clean")
"""The tags of ways to listen other than <seg>. `engine/operations.py` says what each does."""
EVERY = ("seg", *OPERATIONS)
"""The tags that may stand in a chain of thought that people or teachers wrote."""


def parse_segment(inside: str, name: str = "seg") -> Segment | None:
    """The segment inside a tag of this name, not clamped; None unless it is two numbers with start < end.

    A <band> needs two more numbers, the lowest and the highest frequency in Hz.
    """
    match = (_BAND if name == "band" else _INSIDE).fullmatch(inside)
    if match is None:
        return None
    start, end, *band = map(float, match.groups())
    if not start < end or (band and not band[0] < band[1]):
        return None
    return Segment(start, end, (band[0], band[1]) if band else None)


def write_segment(segment: Segment, name: str = "seg") -> str:
    """<seg>3.2, 4.8</seg>: both ends to the nearest tenth of a second, and never empty. Frequencies are whole Hz.

    Halves go up, so a segment of a whole number of tenths keeps its length; one that would vanish gets a tenth.
    """
    if not (math.isfinite(segment.start) and 0 <= segment.start < segment.end < math.inf):
        raise ValueError(f"a segment must have 0 <= start < end, not {segment.start}, {segment.end}; correct its times")
    start, end = (math.floor(seconds * 10 + 0.5) for seconds in (segment.start, segment.end))
    end = max(end, start + 1)
    band = "" if segment.band is None else f", {segment.band[0]:.0f}, {segment.band[1]:.0f}"
    return f"<{name}>{start // 10}.{start % 10}, {end // 10}.{end % 10}{band}</{name}>"


def split(text: str, names: Collection[str] = ("seg",)) -> list[str]:
    """The text in pieces, each of which except the last ends with a closing tag of one of these names."""
    pieces, start = [], 0
    for mark in marks(tuple(names)).finditer(text):
        if mark[1] and mark[2] in names:
            pieces.append(text[start : mark.end()])
            start = mark.end()
    return [*pieces, text[start:]]


def write(cot: str, answer: str) -> str:
    """The whole response. A `cot` that itself holds <think> or <answer> gives one that `parse` calls ill-formed."""
    return f"<think>{cot}</think><answer>{answer}</answer>"


def parse(text: str, names: Collection[str] = ("seg",)) -> Response:
    """What a model wrote, whatever it wrote: never raises. names: the tags that it could use (`Trace.operations`).

    A tag opened again before it closes starts anew: in `<seg>1, <seg>2, 3</seg>` the segment is 2 to 3.
    """
    found = list(marks(tuple(names)).finditer(text))
    opened: dict[str, int] = {}
    segments: list[Segment] = []
    think = answer = None
    for mark in found:
        closing, name = mark[1], mark[2]
        if not closing:
            opened[name] = mark.end()
        elif (start := opened.pop(name, None)) is None:
            continue
        elif name == "think":
            think = text[start : mark.start()] if think is None else think
        elif name == "answer":
            answer = text[start : mark.start()].strip()
        elif (segment := parse_segment(text[start : mark.start()], name)) is not None:
            segments.append(segment)
    return Response(text, think, answer, tuple(segments), _well_formed(text, found, len(segments)))


def _well_formed(text: str, found: list[re.Match[str]], num_segments: int) -> bool:
    """<think>, pairs of segment tags, </think>, <answer>, </answer>; blanks alone outside; every pair readable."""
    tags = [mark[0] for mark in found]
    if tags[:1] != ["<think>"] or tags[-3:] != ["</think>", "<answer>", "</answer>"]:
        return False
    inner = found[1:-3]
    pairs = list(zip(inner[::2], inner[1::2], strict=False))
    return (
        len(inner) == 2 * num_segments
        and all(a[2] == b[2] and b[1] and not a[1] for a, b in pairs)
        and all(mark[2] not in ("think", "answer") for mark in inner)
        and not (text[: found[0].start()] + text[found[-3].end() : found[-2].start()] + text[found[-1].end() :]).strip()
    )


@lru_cache(maxsize=16)
def marks(names: tuple[str, ...]) -> re.Pattern[str]:
    """Finds every opening and closing tag: group 1 is "/" for a closing tag, group 2 is the tag's name."""
    return re.compile("<(/?)(" + "|".join(map(re.escape, ("think", "answer", *names))) + ")>")
