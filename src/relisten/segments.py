"""How well two segments overlap."""

from __future__ import annotations

from collections.abc import Iterable

from relisten.types import Segment


def iou(a: Segment, b: Segment) -> float:
    """Intersection over union of two segments, 0 to 1."""
    shared = min(a.end, b.end) - max(a.start, b.start)
    union = max(a.end, b.end) - min(a.start, b.start)
    return max(0.0, shared) / union if union > 0 else 0.0


def best_iou(event: Segment, segments: Iterable[Segment]) -> float:
    """Overlap (IoU) of an event with the segment that meets it best; 0 where there is none."""
    return max((iou(event, segment) for segment in segments), default=0.0)
