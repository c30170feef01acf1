"""Draws questions of each kind from events with times, with wrong choices and the steps that lead to the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from relisten.data.offline.asking import APART, SIDES, THIRDS, Asked, Heard, Step, akin, is_word, neighbours, right
from relisten.data.worlds import synth
from relisten.data.worlds.sounds import PITCHES
from relisten.types import Event

Maker = Callable[[np.random.Generator, Heard], Asked | None]


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
    target = heard.named(answer)
    inside = [e.label for e in heard.events if e.label not in taken and not any(akin(e, t) for t in target)]
    inside = list(dict.fromkeys(inside))
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
    if len(found) == 2 and rng.random() < 0.5:  # else "2" would be right in most
        return None
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
        before, after = neighbours(heard, anchor) or (anchor, anchor)
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
    thirds = [min(right("when", (event.label,), heard)) for event in known]
    # The third is drawn first: sounds begin early, and "in the first third" would be right too often.
    answer = str(rng.choice(sorted(set(thirds))))
    target = _pick(rng, [event for event, third in zip(known, thirds, strict=True) if third == answer])
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
