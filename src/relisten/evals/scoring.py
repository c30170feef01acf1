"""Rules that say whether an answer is right, how sure an accuracy is, and how well segments meet."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from relisten.types import Segment

_WORD = re.compile(r"\w+")


def words(text: str) -> frozenset[str]:
    """The different words of a text in lower case: runs of letters, digits and underscores of any script."""
    return frozenset(_WORD.findall(text.lower()))


def word_match(prediction: str | None, answer: str | None, choices: tuple[str, ...] | list[str]) -> bool:
    """The rule of MMAR and MMAU: the answer's words are all said, and no word that only wrong choices have.

    Words of no choice do not count, nor do order and repetition: "3:1" and "1:3" are the same answer here.
    """
    if prediction is None or answer is None:
        return False
    said, gold = words(prediction), words(answer)
    offered = frozenset[str]().union(*map(words, choices))
    return bool(said) and gold <= said and not (said & offered) - gold


def is_right(prediction: str | None, answer: str | None) -> bool:
    """Whether an answer is the right one as a text; case and blanks at the ends do not count."""
    if prediction is None or answer is None:
        return False
    return prediction.strip().casefold() == answer.strip().casefold()


def wilson(right: float, num: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a proportion (95 % for z = 1.96); (0, 1) when nothing was counted."""
    if num == 0:
        return 0.0, 1.0
    share, scale = right / num, 1 + z * z / num
    centre = (share + z * z / (2 * num)) / scale
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def iou(a: Segment, b: Segment) -> float:
    """Intersection over union of two segments, 0 to 1."""
    shared = min(a.end, b.end) - max(a.start, b.start)
    union = max(a.end, b.end) - min(a.start, b.start)
    return max(0.0, shared) / union if union > 0 else 0.0


def best_iou(event: Segment, segments: Iterable[Segment]) -> float:
    """Overlap (IoU) of an event with the segment that meets it best; 0 where there is none."""
    return max((iou(event, segment) for segment in segments), default=0.0)
