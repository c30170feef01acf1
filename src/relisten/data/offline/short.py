"""The fewest words: the language of models that are too small for sentences, nano among them.

"0.6 knock, 1.2 bell: here it is <seg>1.2, 1.6</seg>, a bell. 2.3 word: the next word <seg>2.3, 2.7</seg>, a voice ..."
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np

from relisten.data.checks import sentences_end
from relisten.data.offline import ways
from relisten.data.offline.drawing import pick
from relisten.data.offline.phrases import SHORT_HEARD, SHORT_LEADS
from relisten.data.offline.timeline import Asked, Timeline, is_word
from relisten.types import Clip, Event, Segment


def name(event: Event) -> str:
    """The name of an event in a caption: its label, or "word" for any spoken word."""
    return "word" if is_word(event) else event.label


def heard(event: Event) -> str:
    """An event in words after a close listen: "a voice saying seven", "a rising chirp", "three knocks", "a cow"."""
    if is_word(event):
        return f"a voice saying {event.label}"
    value = event.labels.get("value")
    if event.labels.get("attribute") == "count":
        return f"{value} {event.label}{'' if value == 'one' or event.label.endswith('s') else 's'}"
    told = event.label if value is None else f"{value} {event.label}"
    return f"{'an' if told[0] in 'aeiou' else 'a'} {told}"


def segment(event: Event, duration: float) -> Segment:
    """An event's times as a chain writes them: in tenths of a second, inside the recording, at least 0.2 s long."""
    last = round(duration, 1)
    start = max(0.0, min(round(event.start, 1), round(last - 0.2, 1)))
    return Segment(start, round(min(max(round(event.end, 1), start + 0.2), last), 1))


def caption(clip: Clip | Timeline, first: int = 0, last: int | None = None) -> str:
    """The events in order, each with its start in seconds before it: "0.6 knock, 1.2 word"."""
    return ", ".join(f"{segment(e, clip.duration).start} {name(e)}" for e in clip.events[first:last])


def leads(rng: np.random.Generator, asked: Asked) -> list[str]:
    """A reason for each listen; the first looks for what the question is about."""
    keys = ["find", *(step.lead for step in asked.steps[1:])]
    return [pick(rng, SHORT_LEADS.get(key, SHORT_LEADS["find"])) for key in keys]


def chain(
    rng: np.random.Generator,
    kind: str,
    asked: Asked,
    clip: Clip | Timeline,
    reasons: Sequence[str],
    operations: Collection[str] = (),
) -> str:
    """A grounded chain of thought: what a first hearing gives, sound by sound, and on the way the listens.

    The first hearing is rough, so the segments give what it leaves out. The chain stops when nothing more is needed.
    operations: the ways to listen that it may use.
    """
    parts: list[str] = []
    told = 0
    for lead, step in zip(reasons, asked.steps, strict=True):
        upto = clip.events.index(step.event) + 1
        if upto > told:  # else the step goes back to what was told before
            lead = f"{caption(clip, told, upto)}: {lead}"
        told = max(told, upto)
        parts.append(listen(rng, lead, step.event, clip.duration, clip.events, operations))
    written = " ".join(parts)
    if kind == "count":  # to the end, because one more may come
        rest = caption(clip, clip.events.index(asked.steps[-1].event) + 1)
        return f"{written}{rest and f' {rest}.'} That is {asked.answer}."
    if kind in ("longer", "louder"):
        return f"{written} The one {asked.answer.removeprefix('the one ')} is {kind}."
    last = written[sentences_end(written) :]
    return written if re.search(rf"(?<!\w){re.escape(asked.answer)}s?(?!\w)", last) else f"{written} So {asked.answer}."


def listen(
    rng: np.random.Generator,
    lead: str,
    event: Event,
    duration: float,
    events: Sequence[Event] = (),
    operations: Collection[str] = (),
) -> str:
    """A reason, the event's segment in a recording of so many seconds, and what a close listen tells of it."""
    written = ways.write(segment(event, duration), event, events, operations)
    return f"{lead} {written}{pick(rng, SHORT_HEARD).format(heard(event))}"
