"""Does a model know where things are? Captions of scenes against their events; a study's base is gated on it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from relisten import tags
from relisten.data.curriculum import tell
from relisten.data.questions import name, segment
from relisten.engine import Engine, GenerationConfig
from relisten.models.base import AudioLM
from relisten.types import Clip

NEAR = 0.2
"""Seconds that an onset may be off."""
_TOLD = re.compile(r"(\d+\.\d) (\w+)")


def located(model: AudioLM, clips: Sequence[Clip], max_rows: int = 32) -> float:
    """Share of the clips' events that the model's captions tell by name, with an onset at most 0.2 s off.

    The model must caption as `curriculum.tell` teaches it: "0.6 knock, 1.2 bell".
    """
    config = GenerationConfig("conditioned", max_new_tokens=100)
    captions = Engine(model, max_rows=max_rows).generate([tell(clip) for clip in clips], config)
    found = []
    for clip, [trace] in zip(clips, captions, strict=True):
        told = [(label, float(onset)) for onset, label in _TOLD.findall(tags.parse(trace.text).answer or "")]
        for event in clip.events:
            start = segment(event, clip.duration).start
            found.append(any(label == name(event) and abs(onset - start) < NEAR + 0.01 for label, onset in told))
    return sum(found) / len(found)
