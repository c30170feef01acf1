"""Does a model know where things are? Captions of scenes against their events; a study's base is gated on it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from relisten import tags
from relisten.data.offline.short import name, segment
from relisten.data.worlds.curriculum import tell
from relisten.engine.engine import Engine, GenerationConfig
from relisten.models.base import AudioLM
from relisten.types import Clip, Event

NEAR = 0.2
"""Seconds that an onset may be off."""
_TOLD = re.compile(r"(\d+\.\d) ([^,]+)")


def located(model: AudioLM, clips: Sequence[Clip], max_rows: int = 32) -> float:
    """Share of the clips' events that the model's captions tell by name, with an onset at most 0.2 s off.

    The model must caption as `curriculum.tell` teaches it, "0.6 knock, 1.2 bell", or tell more in the words of a close
    listen: "0.6 two knocks, 1.2 a low bell".
    """
    config = GenerationConfig("conditioned", max_new_tokens=100)
    captions = Engine(model, max_rows=max_rows).generate([tell(clip) for clip in clips], config)
    found = []
    for clip, [trace] in zip(clips, captions, strict=True):
        told = [(said, float(onset)) for onset, said in _TOLD.findall(tags.parse(trace.text).answer or "")]
        for event in clip.events:
            start = segment(event, clip.duration).start
            found.append(any(_names(said, event) and abs(onset - start) < NEAR + 0.01 for said, onset in told))
    return sum(found) / len(found)


def _names(said: str, event: Event) -> bool:
    """Whether what a caption says at a time is said of such a sound; which word is spoken does not count."""
    if name(event) == "word":
        return said == "word" or said.startswith("a voice saying")
    return re.search(rf"\b{re.escape(event.label)}s?\b", said) is not None
