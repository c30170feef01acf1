"""Scores: how sure an accuracy is, how well segments meet events."""

from __future__ import annotations

import math

from relisten.types import Segment


def is_right(prediction: str | None, answer: str | None) -> bool:
    """Whether an answer is the right one; case and blanks at the ends do not count, as they do not in `chosen`."""
    if prediction is None or answer is None:
        return False
    return prediction.strip().casefold() == answer.strip().casefold()


def wilson(right: int, num: int, z: float = 1.96) -> tuple[float, float]:
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
