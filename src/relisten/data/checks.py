"""Checks of one question by code: its form, its choices, its segments. Each check gives what is wrong, or "".

`question_fault` finds what makes a question worthless. `cot_fault` finds what is wrong with the chain of thought alone;
such a question can still be used for RL.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from relisten import tags
from relisten.data.compose import Draft
from relisten.types import Clip, Event, Segment

MIN_SECONDS = 0.2
"""The shortest segment that the engine listens to."""
MAX_SEGMENTS = 8
SLACK = 0.15
"""Seconds by which a segment may miss its sound or pass the recording's end, because times are rounded."""
MAX_CHARACTERS = 4000
"""Most characters of a question, a choice or a chain of thought. Nothing longer is searched."""
MAX_LABEL = 1000
"""Characters of a label that are read."""
IDENTIFIER = re.compile(r"(?<![\w/])/[mgt]/\w+")
LETTERED = re.compile(
    r"\b(?:choice|option)s?\s+\(?(?:[A-H]|[1-8])\)?(?!\w)|\banswer\s+\(?[A-H]\)?(?!\w)|(?<!\w)\([A-H]\)(?!\w)"
)
_NAMES = "|".join(tags.EVERY)
_TAGGED = re.compile(rf"<({_NAMES})>([^<]*)</\1>([^<]*)")
_BRACKETS = re.compile(r"\s*\(.*?\)")


def question_fault(draft: Draft) -> str:
    """Why the question is unusable with any chain of thought, or ""."""
    if not 2 <= len(draft.choices) <= 8:
        return f"has {len(draft.choices)} choices; 2 to 8 are possible"
    if max(map(len, (draft.question, *draft.choices))) > MAX_CHARACTERS:
        return "the question or a choice is too long"
    shown = [_plain(choice) for choice in draft.choices]
    if "" in shown or not draft.question.strip():
        return "the question or a choice is empty"
    if len(set(shown)) < len(shown):
        return "two choices are the same"
    if draft.answer not in draft.choices:
        return "the answer is not among the choices"
    if any(IDENTIFIER.search(text) for text in (draft.question, *draft.choices)):
        return "a label's identifier stands in the question or a choice"
    if any(f"<{name}>" in draft.question for name in tags.EVERY) or any("<" in c and ">" in c for c in draft.choices):
        return "tags stand in the question or a choice"
    return _leak(draft)


def _leak(draft: Draft) -> str:
    """A fault if the question contains the answer and no other choice, else ""."""
    asked = _plain(draft.question)
    inside = [choice for choice in draft.choices if re.search(rf"(?<!\w){re.escape(_plain(choice))}(?!\w)", asked)]
    return "the question tells the answer" if inside == [draft.answer] else ""


def cot_fault(draft: Draft, clip: Clip, operations: Collection[str] = ()) -> str:
    """Why the chain of thought is unusable, or "". The question is not checked.

    operations: the ways to listen that it may use beside <seg>.
    """
    cot = draft.cot
    if not cot or len(cot) > MAX_CHARACTERS:
        return "the chain of thought is empty" if not cot else "the chain of thought is too long"
    if IDENTIFIER.search(cot):
        return "a label's identifier stands in the chain of thought"
    if LETTERED.search(cot):
        return "the chain of thought speaks of choices by letter or number, which change their places"
    written = tags.parse(tags.write(cot, draft.answer), ("seg", *operations))
    if refused := [name for name in tags.OPERATIONS if name not in operations and f"</{name}>" in cot]:
        return f"uses <{refused[0]}>, which was not offered"
    if not written.well_formed:
        return "a segment's tag cannot be read, or other tags stand in the chain of thought"
    if not 1 <= len(written.segments) <= MAX_SEGMENTS:
        return f"names {len(written.segments)} segments; 1 to {MAX_SEGMENTS} are possible"
    for segment in written.segments:
        if segment.end > clip.duration + SLACK:
            return f"a segment ends at {segment.end:g} s, after the recording"
        if segment.duration < MIN_SECONDS - 1e-6:
            return f"a segment is shorter than {MIN_SECONDS:g} s"
    return _ungrounded(cot, written.segments, clip.events)


def _ungrounded(cot: str, segments: Sequence[Segment], events: Sequence[Event]) -> str:
    """A fault if a segment meets no event, or if the text after it names only events that are elsewhere, else ""."""
    if not events:
        return ""
    labels = {event.label for event in events}
    for segment in segments:
        here = {event.label for event in events if overlaps(segment, event)}
        if not here:
            return f"nothing is known to be heard at {segment.start:g} to {segment.end:g} s"
        named = spoken_of(cot, segment, labels)
        if named and not named & here:
            return f"speaks of {', '.join(sorted(named))} at {segment.start:g} to {segment.end:g} s, where it is not"
    return ""


def overlaps(segment: Segment, event: Event) -> bool:
    """Whether an event is heard in a segment; both may be off by `SLACK`."""
    return segment.start < event.end + SLACK and segment.end > event.start - SLACK


def covered(segment: Segment, event: Event) -> float:
    """The share of a segment that an event fills, 0 to 1."""
    return max(0.0, min(segment.end, event.end) - max(segment.start, event.start)) / segment.duration


def spoken_of(cot: str, segment: Segment, labels: Collection[str]) -> set[str]:
    """The labels that the text names between a segment's tag and the end of its sentence, or the next tag."""
    found: set[str] = set()
    for match in _TAGGED.finditer(cot):
        if tags.parse_segment(match[2], match[1]) == segment:
            # In "</seg>. This is a dog." the clause begins after the full stop.
            clause = re.split(r"(?<=\w)[.!?;](?:\s|$)", match[3].strip(" .:,"), maxsplit=1)[0]
            found |= {label for label in labels if _mention(label).search(clause)}
    return found


@lru_cache(maxsize=4096)
def _mention(label: str) -> re.Pattern[str]:
    """Finds a label, or one of the names it lists ("Male speech, man speaking"), in the singular or plural."""
    label = label[:MAX_LABEL]
    names = {_BRACKETS.sub("", part).strip() for part in [label, *label.split(",")]}
    return re.compile("|".join(rf"\b{re.escape(name)}(?:e?s)?\b" for name in sorted(names) if name), re.IGNORECASE)


def said(label: str) -> str:
    """A label as a listener says it: "Male speech, man speaking" gives "male speech", and "TV" stays "TV"."""
    name = _BRACKETS.sub("", label[:MAX_LABEL]).split(",")[0].strip().replace("_", " ")
    return " ".join(word if len(word) > 1 and word.isupper() else word.lower() for word in name.split()) or label


def sentences_end(text: str) -> int:
    """The index at which the last sentence begins."""
    ends = [match.end() for match in re.finditer(rf"[.!?](?:\s+)(?=\S)|</(?:{_NAMES})>", text)]
    return ends[-1] if ends else 0


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().strip(" .")


def words(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without segments' tags."""
    return re.findall(r"\d+\.\d+|\w+", re.sub(rf"<({_NAMES})>[^<]*</\1>", " ", text).casefold())


def alike(first: Iterable[str], second: Iterable[str]) -> float:
    """Jaccard similarity of two sets of words, 0 to 1."""
    one, other = set(first), set(second)
    return len(one & other) / max(len(one | other), 1)
