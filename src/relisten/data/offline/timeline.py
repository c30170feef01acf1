"""Events with exact times, and which answers to a question about them are right.

`right` answers a question anew, whoever wrote it. It is strict: a question that could be understood in two ways has two
right answers, and is not asked. "After" may mean after a sound has begun or after it has ended. A sound that pauses for
a moment is still one sound. If a recording has a bark, neither "dog" nor "bark" is a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from relisten.types import Event

APART = 0.15
"""Seconds. If two sounds start closer together than this, nobody can say which came first."""
LONGER, LOUDER = 1.25, 7.0
"""The ratio of lengths and the difference in decibels from which two sounds can be told apart."""
PAUSE = 0.3
"""Seconds. A sound with a shorter gap in it may be heard as one or as two."""
SIDES = ("the one before", "the one after")
THIRDS = ("in the first third", "in the middle third", "in the last third")


@dataclass(frozen=True, slots=True)
class Step:
    """One listen of a chain of thought."""

    lead: str
    """Why the model listens: a key of phrases.LEADS."""
    event: Event
    """The sound that it then hears."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer, and the listens that lead there."""

    question: str
    about: tuple[str, ...]
    """The labels that the question names."""
    answer: str
    choices: tuple[str, ...]
    """The answer and the wrong choices, not shuffled yet."""
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Timeline:
    """The sounds of a recording, and those of other recordings; wrong choices come from both."""

    events: tuple[Event, ...]
    """In order of onset."""
    duration: float
    """Seconds."""
    others: tuple[tuple[str, ...], ...] = ()
    """Labels of other recordings in groups. Each group is drawn equally often, however many labels it has."""
    other_words: tuple[str, ...] = ()
    """Words that are spoken in other recordings."""
    num_choices: int = 4

    def labels(self) -> list[str]:
        """The different labels, in order."""
        return list(dict.fromkeys(event.label for event in self.events))

    def once(self) -> list[Event]:
        """The events that a question can name: no words, and no other event has the label, or one akin to it."""
        every = self.events
        return [e for e in every if not is_word(e) and not any(o is not e and akin(o, e) for o in every)]

    def named(self, label: str) -> list[Event]:
        """The events with this label."""
        return [event for event in self.events if event.label == label]


Solver = Callable[[Timeline, list[Event], tuple[str, ...]], set[str]]


def is_word(event: Event) -> bool:
    """Whether an event is a spoken word. Its label is then the word."""
    return event.labels.get("group") == "word"


def level(event: Event) -> float:
    """The event's loudness in decibels, on the scale of whoever measured it; 0 if nobody has."""
    known = event.labels.get("level")
    return float(known) if isinstance(known, int | float) and known == known else 0.0


def akin(one: Event, other: Event) -> bool:
    """Whether two events have the same label, or the label of one is wider (dog) than that of the other (bark)."""
    labels = one.label, other.label
    return labels[0] == labels[1] or labels[0] in _above(other) or labels[1] in _above(one)


def _above(event: Event) -> list[str]:
    """The wider labels of an event, if its source gives any."""
    return str(event.labels.get("kind_of", "")).split("; ")


def right(kind: str, about: Sequence[str], timeline: Timeline) -> set[str]:
    """Every answer that is right, or that somebody could take for right; none if the question cannot be asked."""
    anchors = [timeline.named(label) for label in about]
    if not timeline.events or (kind not in ("count", "order") and any(len(found) != 1 for found in anchors)):
        return set()
    found = SOLVERS[kind](timeline, [events[0] for events in anchors if events], tuple(about))
    answers = [event for event in timeline.events if event.label in found]
    return found | {event.label for event in timeline.events if any(akin(event, answer) for answer in answers)}


def _close(events: Sequence[Event], to: Event) -> set[str]:
    return {event.label for event in events if abs(event.start - to.start) < APART}


def _after(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    """The next sound to begin after the anchor began, and the next after it ended."""
    anchor, found = anchors[0], set[str]()
    for moment in (anchor.start, anchor.end - APART):
        later = [event for event in timeline.events if event.start > moment and event is not anchor]
        found |= _close(later, min(later, key=lambda e: e.start)) if later else set()
    return found | (_close(timeline.events, anchor) - {anchor.label}) if found else set()


def _before(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    """The last sound to begin before the anchor began, and the last to end before it."""
    anchor = anchors[0]
    earlier = [event for event in timeline.events if event.start < anchor.start]
    found = _close(earlier, max(earlier, key=lambda e: e.start)) if earlier else set()
    if over := [event for event in earlier if event.end < anchor.start + APART]:
        found |= {max(over, key=lambda e: e.end).label}
    return found | (_close(timeline.events, anchor) - {anchor.label}) if found else set()


def _between(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    low, high = anchors[0].start - APART, anchors[1].start + APART
    begun = {event.label for event in timeline.events if low < event.start < high}
    still = {e.label for e in timeline.events if e.start < anchors[1].start and e.end > anchors[0].end + APART}
    return (begun | still) - set(about)


def _count(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    found = timeline.named(about[0])
    runs_on = any(b.start - a.end < PAUSE for a, b in pairwise(found))
    others = any(akin(event, one) for one in found[:1] for event in timeline.events if event not in found)
    return set() if runs_on or others else {str(len(found))}


def _first(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    return _close(timeline.events, min(timeline.events, key=lambda e: e.start))


def _last(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    return _close(timeline.events, max(timeline.events, key=lambda e: e.start))


def _longest(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    lasting = {label: _longest_run(timeline.named(label)) for label in timeline.labels()}
    longest = max(lasting.values())
    return {label for label, seconds in lasting.items() if seconds > longest / LONGER}


def _longest_run(events: list[Event]) -> float:
    """The longest time, in seconds, for which one kind of sound goes on without a pause."""
    longest, begun, ended = 0.0, events[0].start, events[0].end
    for event in events[1:]:
        if event.start - ended >= PAUSE:
            begun = event.start
        ended = max(ended, event.end)
        longest = max(longest, ended - begun)
    return max(longest, events[0].end - events[0].start)


def neighbours(timeline: Timeline, anchor: Event) -> tuple[Event, Event] | None:
    """The sounds right before and after an event; None unless each is clearly one sound, and the first is over."""
    earlier = [event for event in timeline.events if event.start < anchor.start + APART and event is not anchor]
    later = [event for event in timeline.events if event.start > anchor.start - APART and event is not anchor]
    if not earlier or not later:
        return None
    before, after = max(earlier, key=lambda e: e.start), min(later, key=lambda e: e.start)
    alone = all(
        sum(abs(event.start - side.start) < APART for event in timeline.events) == 1
        and not any(
            event is not side and event.label == side.label and _gap(event, side) < PAUSE for event in timeline.events
        )
        for side in (before, after)
    )
    over = all(event.end < anchor.start + APART for event in earlier)
    return (before, after) if alone and over and after.start > anchor.end - APART else None


def _gap(one: Event, other: Event) -> float:
    """Seconds between two events; negative if they overlap."""
    return max(one.start, other.start) - min(one.end, other.end)


def _longer(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    found = neighbours(timeline, anchors[0])
    before, after = [event.end - event.start for event in found or ()] or (0.0, 0.0)
    # If the lengths are close, both answers could be right. A difference of 0.3 s can be heard.
    sides = {SIDES[0]: before >= after / LONGER or after - before < 0.3}
    sides[SIDES[1]] = after >= before / LONGER or before - after < 0.3
    return {side for side, holds in sides.items() if holds} if found else set()


def _louder(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    found = neighbours(timeline, anchors[0])
    before, after = [event.labels.get("level") for event in found or ()] or (None, None)
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return set()
    return {side for side, more in zip(SIDES, (before - after, after - before), strict=True) if more > -LOUDER}


def _together(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    return {e.label for e in timeline.events if e.start < anchors[0].end and e.end > anchors[0].start} - set(about)


def _detail(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    value = anchors[0].labels.get("value")
    return {str(value)} if value is not None else set()


def _word(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    words = [event for event in timeline.events if is_word(event)]
    if anchors:
        words = [event for event in words if event.start > anchors[0].start]
        return {min(words, key=lambda e: e.start).label} if words else set()
    return {event.label for event in words}


def _when(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    third = timeline.duration / 3
    shared = [min(anchors[0].end, (n + 1) * third) - max(anchors[0].start, n * third) for n in range(3)]
    return {name for name, seconds in zip(THIRDS, shared, strict=True) if seconds > 0.1}


def _order(timeline: Timeline, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    onsets = [event.start for event in anchors]
    apart = all(abs(a - b) >= APART for n, a in enumerate(onsets) for b in onsets[:n])
    alone = len(anchors) == len(about) > 1 and all(len(timeline.named(label)) == 1 for label in about)
    return {", ".join(e.label for e in sorted(anchors, key=lambda e: e.start))} if apart and alone else set()


SOLVERS: dict[str, Solver] = {
    "after": _after, "before": _before, "between": _between, "count": _count, "first": _first, "last": _last,
    "longest": _longest, "longer": _longer, "louder": _louder, "together": _together, "detail": _detail, "word": _word,
    "when": _when, "order": _order,
}  # fmt: skip
