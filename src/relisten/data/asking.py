"""What can be asked about events with exact times, and what is right: `right` answers anew whatever `draw` asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from relisten.data import synth
from relisten.data.sounds import PITCHES
from relisten.types import Event

APART = 0.15
"""Seconds: of two sounds that start closer together nobody says which came first."""
LONGER, LOUDER = 1.25, 7.0
"""Times as long, and decibels more: from there on it can be told of two sounds."""
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
        """Events whose label no other has: a question can name them."""
        every = [event.label for event in self.events]
        return [event for event in self.events if every.count(event.label) == 1 and not is_word(event)]

    def named(self, label: str) -> list[Event]:
        """Events with this label."""
        return [event for event in self.events if event.label == label]


Maker = Callable[[np.random.Generator, Heard], Asked | None]
Solver = Callable[[Heard, list[Event], tuple[str, ...]], set[str]]


def is_word(event: Event) -> bool:
    """Whether it is a spoken word, whose label is what is said."""
    return event.labels.get("group") == "word"


def right(kind: str, about: Sequence[str], heard: Heard) -> set[str]:
    """Every answer that the events make right, or that somebody could take to be; empty where it cannot be asked."""
    anchors = [heard.named(label) for label in about]
    if not heard.events or (kind not in ("count", "order") and any(len(found) != 1 for found in anchors)):
        return set()
    return SOLVERS[kind](heard, [found[0] for found in anchors if found], tuple(about))


def _close(events: Sequence[Event], to: Event) -> set[str]:
    return {event.label for event in events if abs(event.start - to.start) < APART}


def _after(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    later = [event for event in heard.events if event.start > anchors[0].start]
    near = _close(heard.events, anchors[0]) - {anchors[0].label}
    return _close(later, min(later, key=lambda e: e.start)) | near if later else set()


def _before(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    earlier = [event for event in heard.events if event.start < anchors[0].start]
    near = _close(heard.events, anchors[0]) - {anchors[0].label}
    return _close(earlier, max(earlier, key=lambda e: e.start)) | near if earlier else set()


def _between(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    low, high = anchors[0].start - APART, anchors[1].start + APART
    return {event.label for event in heard.events if low < event.start < high} - set(about)


def _count(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    return {str(len(heard.named(about[0])))}


def _first(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    return _close(heard.events, min(heard.events, key=lambda e: e.start))


def _last(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    return _close(heard.events, max(heard.events, key=lambda e: e.start))


def _longest(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    longest = max(event.end - event.start for event in heard.events)
    return {event.label for event in heard.events if event.end - event.start > longest / 1.25}


def _neighbours(heard: Heard, anchor: Event) -> tuple[Event, Event] | None:
    """What sets in right before and right after an event, where it is clear what does."""
    earlier = [event for event in heard.events if event.start < anchor.start]
    later = [event for event in heard.events if event.start > anchor.start]
    if not earlier or not later or any(len(side(heard, [anchor], ())) != 1 for side in (_before, _after)):
        return None
    return max(earlier, key=lambda e: e.start), min(later, key=lambda e: e.start)


def _longer(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    found = _neighbours(heard, anchors[0])
    before, after = [event.end - event.start for event in found or ()] or (0.0, 0.0)
    # Both may be right where the lengths are near each other: a third of a second apart can be told.
    sides = {SIDES[0]: before >= after / LONGER or after - before < 0.3}
    sides[SIDES[1]] = after >= before / LONGER or before - after < 0.3
    return {side for side, holds in sides.items() if holds} if found else set()


def _louder(heard: Heard, anchors: list[Event], about: tuple[str, ...]) -> set[str]:
    found = _neighbours(heard, anchors[0])
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


def draw(kind: str, rng: np.random.Generator, heard: Heard) -> Asked | None:
    """A question of a kind with one right answer, or None where the recording does not allow it."""
    asked = MAKERS[kind](rng, heard) if heard.events else None
    if asked is None:
        return None
    choices = [asked.answer, *asked.wrong]
    found = right(kind, asked.about, heard)
    return asked if found & set(choices) == {asked.answer} and len(set(choices)) == len(choices) > 1 else None


def _pick(rng: np.random.Generator, events: Sequence[Event]) -> Event:
    return events[int(rng.integers(len(events)))]


def _wrong(rng: np.random.Generator, heard: Heard, kind: str, about: tuple[str, ...], answer: str) -> tuple[str, ...]:
    """Wrong choices: up to two sounds of the recording itself, the rest from others."""
    taken = right(kind, about, heard) | set(about) | {answer}
    inside = [label for label in heard.labels() if label not in taken]
    inside = [str(label) for label in rng.permutation(inside)][: int(rng.integers(0, 3))]
    outside = [label for label in heard.other_labels if label not in taken and label not in inside]
    return tuple([*inside, *(str(label) for label in rng.permutation(outside))][: heard.num_choices - 1])


def _neighbour(kind: str, lead: str) -> Maker:
    def make(rng: np.random.Generator, heard: Heard) -> Asked | None:
        known = [event for event in heard.once() if len(right(kind, (event.label,), heard)) == 1]
        if not known:
            return None
        anchor = _pick(rng, known)
        about = (anchor.label,)
        (answer,) = right(kind, about, heard)
        side = [e for e in heard.named(answer) if (e.start > anchor.start) == (kind == "after")]
        target = min(side, key=lambda e: abs(e.start - anchor.start))
        steps = (Step("find", anchor), Step(lead, target))
        return Asked(kind, about, answer, _wrong(rng, heard, kind, about, answer), steps)

    return make


def _make_between(rng: np.random.Generator, heard: Heard) -> Asked | None:
    once = heard.once()
    pairs = [(a, b) for a in once for b in once if a.start < b.start]
    pairs = [(a, b) for a, b in pairs if len(right("between", (a.label, b.label), heard)) == 1]
    if not pairs:
        return None
    first, second = pairs[int(rng.integers(len(pairs)))]
    about = (first.label, second.label)
    (answer,) = right("between", about, heard)
    target = next(e for e in heard.named(answer) if first.start - APART < e.start < second.start + APART)
    steps = (Step("find", first), Step("next", target), Step("next", second))
    return Asked("between", about, answer, _wrong(rng, heard, "between", about, answer), steps)


def _make_count(rng: np.random.Generator, heard: Heard) -> Asked | None:
    labels = [label for label in heard.labels() if not is_word(heard.named(label)[0])]
    often = [label for label in labels if 1 < len(heard.named(label)) <= 6]
    once = [label for label in labels if len(heard.named(label)) == 1]
    # Most sounds are heard once: asked about as they come, "1" would be right nearly always.
    pool = often if rng.random() < 0.75 else once
    if not pool or not often:
        return None
    found = heard.named(str(rng.choice(pool)))
    least = 1 if len(found) <= 4 else len(found) - int(rng.integers(0, heard.num_choices))
    answer = str(len(found))
    choices = [str(n) for n in range(least, least + heard.num_choices)]
    steps = (Step("find", found[0]), *(Step("again", event) for event in found[1:]))
    return Asked("count", (found[0].label,), answer, tuple(c for c in choices if c != answer), steps)


def _edge(kind: str, lead: str) -> Maker:
    def make(rng: np.random.Generator, heard: Heard) -> Asked | None:
        found = right(kind, (), heard)
        if len(found) != 1 or len(heard.labels()) < 2:
            return None
        (answer,) = found
        near = sorted(heard.events, key=lambda e: e.start, reverse=kind == "last")[:2]
        steps = [Step(lead, near[0])]
        if rng.random() < 0.5:
            steps.append(Step("next" if kind == "first" else "previous", near[1]))
        return Asked(kind, (), answer, _wrong(rng, heard, kind, (), answer), tuple(steps))

    return make


def _make_longest(rng: np.random.Generator, heard: Heard) -> Asked | None:
    found = right("longest", (), heard)
    if len(found) != 1 or len(heard.labels()) < 4:
        return None
    (answer,) = found
    # Sounds of the recording alone: of others nobody can say how long they are, and who did not listen could guess.
    inside = [str(label) for label in rng.permutation([label for label in heard.labels() if label != answer])]
    by_length = sorted(heard.events, key=lambda e: e.start - e.end)
    second = next(event for event in by_length if event.label != answer)
    pair = sorted([by_length[0], second], key=lambda e: e.start)
    steps = tuple(Step("candidate", event) for event in pair)
    return Asked("longest", (), answer, tuple(inside[: heard.num_choices - 1]), steps)


def _compared(kind: str) -> Maker:
    """Of the sounds before and after one, which is more so? They are not named, or their kinds would tell."""

    def make(rng: np.random.Generator, heard: Heard) -> Asked | None:
        known = [event for event in heard.once() if len(right(kind, (event.label,), heard)) == 1]
        if not known:
            return None
        anchor = _pick(rng, known)
        (answer,) = right(kind, (anchor.label,), heard)
        before, after = _neighbours(heard, anchor) or (anchor, anchor)
        steps = (Step("find", anchor), Step("previous", before), Step("next", after))
        return Asked(kind, (anchor.label,), answer, tuple(side for side in SIDES if side != answer), steps)

    return make


def _make_together(rng: np.random.Generator, heard: Heard) -> Asked | None:
    known = [event for event in heard.once() if len(right("together", (event.label,), heard)) == 1]
    if not known:
        return None
    anchor = _pick(rng, known)
    about = (anchor.label,)
    (answer,) = right("together", about, heard)
    beside = max(heard.named(answer), key=lambda e: min(e.end, anchor.end) - max(e.start, anchor.start))
    if min(beside.end, anchor.end) - max(beside.start, anchor.start) < 0.1:
        return None
    steps = (Step("find", anchor), Step("beside", beside))
    return Asked("together", about, answer, _wrong(rng, heard, "together", about, answer), steps)


def _make_detail(rng: np.random.Generator, heard: Heard) -> Asked | None:
    known = [event for event in heard.once() if event.labels.get("attribute") and event.labels.get("value")]
    if not known:
        return None
    target = _pick(rng, known)
    attribute, value = str(target.labels["attribute"]), str(target.labels["value"])
    parametric = target.labels.get("group") == "parametric" and target.label in synth.KINDS
    values = [str(v) for v in (synth.KINDS[target.label][1] if parametric else PITCHES)]
    wording = "count of" if attribute == "count" else attribute
    if value not in values or wording not in ("pitch", "direction", "count of", "rate", "length"):
        return None
    wrong = tuple(v for v in values if v != value)
    return Asked(wording, (target.label,), value, wrong, (Step("find", target),))


def _make_word(rng: np.random.Generator, heard: Heard) -> Asked | None:
    words = [event for event in heard.events if is_word(event)]
    if not words or len(heard.other_words) < 3:
        return None
    target = _pick(rng, words)
    anchors = [e for e in heard.once() if e.start < target.start and right("word", (e.label,), heard) == {target.label}]
    taken = {event.label for event in words}
    wrong = [str(w) for w in rng.permutation([w for w in heard.other_words if w not in taken])]
    if len(taken) == 1 and (not anchors or rng.random() < 0.3):
        return Asked("word", (), target.label, tuple(wrong[: heard.num_choices - 1]), (Step("voice", target),))
    if not anchors:
        return None
    wrong = [*sorted(taken - {target.label})[: int(rng.integers(0, 2))], *wrong][: heard.num_choices - 1]
    steps = (Step("find", anchors[-1]), Step("voice", target))
    return Asked("word after", (anchors[-1].label,), target.label, tuple(wrong), steps)


def _make_when(rng: np.random.Generator, heard: Heard) -> Asked | None:
    known = [event for event in heard.once() if len(right("when", (event.label,), heard)) == 1]
    if not known:
        return None
    target = _pick(rng, known)
    (answer,) = right("when", (target.label,), heard)
    wrong = tuple(third for third in THIRDS if third != answer)
    return Asked("when", (target.label,), answer, wrong, (Step("find", target),))


def _make_order(rng: np.random.Generator, heard: Heard) -> Asked | None:
    once = heard.once()
    if len(once) < 3:
        return None
    chosen = sorted([once[int(n)] for n in rng.permutation(len(once))[:3]], key=lambda e: e.start)
    about = tuple(str(label) for label in rng.permutation([event.label for event in chosen]))
    found = right("order", about, heard)
    if len(found) != 1:
        return None
    (answer,) = found
    a, b, c = (event.label for event in chosen)
    orders = [", ".join(order) for order in ((a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a))]
    wrong = tuple(str(order) for order in rng.permutation(orders))[: heard.num_choices - 1]
    steps = (Step("start" if chosen[0] is heard.events[0] else "candidate", chosen[0]),)
    return Asked("order", about, answer, wrong, (*steps, *(Step("next", event) for event in chosen[1:])))


MAKERS: dict[str, Maker] = {
    "after": _neighbour("after", "next"),
    "before": _neighbour("before", "previous"),
    "between": _make_between,
    "count": _make_count,
    "first": _edge("first", "start"),
    "last": _edge("last", "end"),
    "longest": _make_longest,
    "longer": _compared("longer"),
    "louder": _compared("louder"),
    "together": _make_together,
    "detail": _make_detail,
    "word": _make_word,
    "when": _make_when,
    "order": _make_order,
}
