"""What can be asked about events with exact times, and what is right: `right` answers anew whatever was drawn.

Nothing is asked that could be taken in two ways: "after" is after a sound has begun and after it has ended; a sound
that pauses for a moment is no two sounds; of a dog and a bark neither is a wrong answer in place of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from relisten.types import Event

APART = 0.15
"""Seconds: of two sounds that start closer together nobody says which came first."""
LONGER, LOUDER = 1.25, 7.0
"""Times as long, and decibels more: from there on it can be told of two sounds."""
PAUSE = 0.3
"""Seconds: of one kind of sound with a shorter gap nobody says whether it was heard once or twice."""
SIDES = ("the one before", "the one after")
THIRDS = ("in the first third", "in the middle third", "in the last third")


@dataclass(frozen=True, slots=True)
class Step:
    """Why the recording is heard again, and which event then is."""

    lead: str
    """A key of phrases.LEADS."""
    event: Event


@dataclass(frozen=True, slots=True)
class Asked:
    """A question before it is put into words."""

    wording: str
    """A key of phrases.QUESTIONS."""
    about: tuple[str, ...]
    """Labels that it names."""
    answer: str
    wrong: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Heard:
    """What a maker draws from: the events of a recording in order of onset, and labels of others."""

    events: tuple[Event, ...]
    duration: float
    other_labels: tuple[str, ...] = ()
    other_words: tuple[str, ...] = ()
    num_choices: int = 4

    def labels(self) -> list[str]:
        """In order, each once."""
        return list(dict.fromkeys(event.label for event in self.events))

    def once(self) -> list[Event]:
        """Events whose label no other has, nor a more general or special one: a question can name them."""
        every = self.events
        return [e for e in every if not is_word(e) and not any(o is not e and akin(o, e) for o in every)]

    def named(self, label: str) -> list[Event]:
        """Events with this label."""
        return [event for event in self.events if event.label == label]


Solver = Callable[[Heard, list[Event], tuple[str, ...]], set[str]]


def is_word(event: Event) -> bool:
    """Whether it is a spoken word, whose label is what is said."""
    return event.labels.get("group") == "word"


def akin(one: Event, other: Event) -> bool:
    """Whether two events have one label, or one has a name that is more general than the other's (dog, bark)."""
    labels = one.label, other.label
    return labels[0] == labels[1] or labels[0] in _above(other) or labels[1] in _above(one)


def _above(event: Event) -> list[str]:
    """More general names, where the source tells them."""
    return str(event.labels.get("kind_of", "")).split("; ")


def right(kind: str, about: Sequence[str], heard: Heard) -> set[str]:
    """Every answer that the events make right, or that somebody could take to be; empty where it cannot be asked."""
    anchors = [heard.named(label) for label in about]
    if not heard.events or (kind not in ("count", "order") and any(len(found) != 1 for found in anchors)):
        return set()
    found = SOLVERS[kind](heard, [events[0] for events in anchors if events], tuple(about))
    answers = [event for event in heard.events if event.label in found]
    return found | {event.label for event in heard.events if any(akin(event, answer) for answer in answers)}


def _close(events: Sequence[Event], to: Event) -> set[str]:
    return {event.label for event in events if abs(event.start - to.start) < APART}


def _after(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    """The next to begin after it began, and after it ended."""
    anchor, found = anchors[0], set[str]()
    for moment in (anchor.start, anchor.end - APART):
        later = [event for event in heard.events if event.start > moment and event is not anchor]
        found |= _close(later, min(later, key=lambda e: e.start)) if later else set()
    return found | (_close(heard.events, anchor) - {anchor.label}) if found else set()


def _before(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    """The last to begin before it began, and of those that were over by then."""
    anchor = anchors[0]
    earlier = [event for event in heard.events if event.start < anchor.start]
    found = _close(earlier, max(earlier, key=lambda e: e.start)) if earlier else set()
    if over := [event for event in earlier if event.end < anchor.start + APART]:
        found |= {max(over, key=lambda e: e.end).label}
    return found | (_close(heard.events, anchor) - {anchor.label}) if found else set()


def _between(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    low, high = anchors[0].start - APART, anchors[1].start + APART
    begun = {event.label for event in heard.events if low < event.start < high}
    still = {e.label for e in heard.events if e.start < anchors[1].start and e.end > anchors[0].end + APART}
    return (begun | still) - set(about)


def _count(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    found = heard.named(about[0])
    runs_on = any(b.start - a.end < PAUSE for a, b in pairwise(found))
    others = any(akin(event, one) for one in found[:1] for event in heard.events if event not in found)
    return set() if runs_on or others else {str(len(found))}


def _first(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    return _close(heard.events, min(heard.events, key=lambda e: e.start))


def _last(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    return _close(heard.events, max(heard.events, key=lambda e: e.start))


def _longest(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    lasting = {label: _longest_run(heard.named(label)) for label in heard.labels()}
    longest = max(lasting.values())
    return {label for label, seconds in lasting.items() if seconds > longest / LONGER}


def _longest_run(events: list[Event]) -> float:
    """Seconds of one kind of sound without a pause."""
    longest, begun, ended = 0.0, events[0].start, events[0].end
    for event in events[1:]:
        if event.start - ended >= PAUSE:
            begun = event.start
        ended = max(ended, event.end)
        longest = max(longest, ended - begun)
    return max(longest, events[0].end - events[0].start)


def neighbours(heard: Heard, anchor: Event) -> tuple[Event, Event] | None:
    """What is heard right before and right after an event, where it is clear what is: one sound, over by then."""
    earlier = [event for event in heard.events if event.start < anchor.start + APART and event is not anchor]
    later = [event for event in heard.events if event.start > anchor.start - APART and event is not anchor]
    if not earlier or not later:
        return None
    before, after = max(earlier, key=lambda e: e.start), min(later, key=lambda e: e.start)
    alone = all(
        sum(abs(event.start - side.start) < APART for event in heard.events) == 1
        and not any(
            event is not side and event.label == side.label and _gap(event, side) < PAUSE for event in heard.events
        )
        for side in (before, after)
    )
    over = all(event.end < anchor.start + APART for event in earlier)
    return (before, after) if alone and over and after.start > anchor.end - APART else None


def _gap(one: Event, other: Event) -> float:
    """Seconds between two events; negative where they overlap."""
    return max(one.start, other.start) - min(one.end, other.end)


def _longer(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    found = neighbours(heard, anchors[0])
    before, after = [event.end - event.start for event in found or ()] or (0.0, 0.0)
    # Both may be right where the lengths are near each other: a third of a second apart can be told.
    sides = {SIDES[0]: before >= after / LONGER or after - before < 0.3}
    sides[SIDES[1]] = after >= before / LONGER or before - after < 0.3
    return {side for side, holds in sides.items() if holds} if found else set()


def _louder(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    found = neighbours(heard, anchors[0])
    before, after = [event.labels.get("level") for event in found or ()] or (None, None)
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return set()
    return {side for side, more in zip(SIDES, (before - after, after - before), strict=True) if more > -LOUDER}


def _together(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    return {e.label for e in heard.events if e.start < anchors[0].end and e.end > anchors[0].start} - set(about)


def _detail(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    value = anchors[0].labels.get("value")
    return {str(value)} if value is not None else set()


def _word(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    words = [event for event in heard.events if is_word(event)]
    if anchors:
        words = [event for event in words if event.start > anchors[0].start]
        return {min(words, key=lambda e: e.start).label} if words else set()
    return {event.label for event in words}


def _when(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    third = heard.duration / 3
    shared = [min(anchors[0].end, (n + 1) * third) - max(anchors[0].start, n * third) for n in range(3)]
    return {name for name, seconds in zip(THIRDS, shared, strict=True) if seconds > 0.1}


def _order(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    onsets = [event.start for event in anchors]
    apart = all(abs(a - b) >= APART for n, a in enumerate(onsets) for b in onsets[:n])
    alone = len(anchors) == len(about) > 1 and all(len(heard.named(label)) == 1 for label in about)
    return {", ".join(e.label for e in sorted(anchors, key=lambda e: e.start))} if apart and alone else set()


SOLVERS: dict[str, Solver] = {
    "after": _after, "before": _before, "between": _between, "count": _count, "first": _first, "last": _last,
    "longest": _longest, "longer": _longer, "louder": _louder, "together": _together, "detail": _detail, "word": _word,
    "when": _when, "order": _order,
}  # fmt: skip
