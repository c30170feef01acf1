"""Whether an event is speech or music. Both get a description of their own."""

from __future__ import annotations

import re

from relisten.types import Event

SPEECH = re.compile(
    r"\b(speech|speak(s|ing|er)?|talk(s|ing)?|conversation|narration|monologue|whisper(s|ing)?|shout(s|ing)?|voices?"
    r"|says|saying|words?)\b",
    re.IGNORECASE,
)
MUSIC = re.compile(
    r"\b(music(al)?|sing(s|ing|er)?|songs?|chords?|guitars?|pianos?|drums?|violins?|fiddle|orchestra|choir|chant|melody"
    r"|keyboard \(musical\)|organ|flute|harp|accordion|trumpet|saxophone|clarinet|cello|synthesi[sz]er|xylophone)\b",
    re.IGNORECASE,
)


def spoken(event: Event) -> bool:
    """Whether an event is speech, by its group (in scenes) or its label."""
    return event.labels.get("group") == "word" or bool(SPEECH.search(event.label))


def musical(event: Event) -> bool:
    """Whether an event is music or an instrument, by its group or its label."""
    return event.labels.get("group") in ("instrument", "chord") or bool(MUSIC.search(event.label))
