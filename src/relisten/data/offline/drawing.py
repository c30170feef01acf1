"""Draws questions about events with times: what is asked, the choices, and the listens that lead to the answer.

This is the only generator. It serves the rules teacher (rules.py) and nano's scenes (worlds/scene_questions.py); a
`Manner` says how the questions are worded and how strictly answers are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from relisten.data.offline.phrases import QUESTIONS
from relisten.data.offline.timeline import (
    APART,
    LOUDER,
    SIDES,
    THIRDS,
    Asked,
    Step,
    Timeline,
    akin,
    is_word,
    level,
    neighbours,
    right,
)
from relisten.data.worlds import desk, synth
from relisten.data.worlds.sounds import PITCHES
from relisten.types import Event

T = TypeVar("T")
_COMPUTED = desk.KINDS | synth.KINDS
ATTRIBUTES = ("pitch", "direction", "count of", "rate", "length")
"""The attributes of a sound that can be asked about; they are keys of phrases.QUESTIONS."""
MAX_TRIES = 200
"""Labels of other recordings that are drawn before a question does with fewer wrong choices."""


@dataclass(frozen=True)
class Manner:
    """How questions are asked."""

    questions: Mapping[str, Sequence[str]]
    """The wordings of each kind of question; one of them is drawn."""
    sides: tuple[str, str] = SIDES
    """The names of the sounds before and after another one in choices."""
    checked: bool = True
    """Whether a question is asked only if `right` finds one right answer.

    nano's world does not check: its sounds hardly overlap, and its questions must stay as they were when nano was
    trained and measured on them.
    """
    max_count: int = 6
    """How often a sound may be heard for its number to be asked."""


SENTENCES = Manner(QUESTIONS)
PLAIN = Manner({key: texts[:2] for key, texts in QUESTIONS.items()})
"""The two plainest wordings of each, for models that are too small for more."""
_ONE_WORDING = ("word", "word after", "count", "longer", "louder")
NANO = Manner(
    {key: texts[: 1 if key in _ONE_WORDING else 2] for key, texts in QUESTIONS.items()},
    sides=("before", "after"),
    checked=False,
    max_count=3,
)
"""The language that nano was trained on."""
Maker = Callable[[np.random.Generator, Timeline, Manner], Asked | None]


def draw(kind: str, rng: np.random.Generator, timeline: Timeline, manner: Manner = SENTENCES) -> Asked | None:
    """A question of a kind (a key of MAKERS), or None if the recording does not allow it."""
    asked = MAKERS[kind](rng, timeline, manner)
    if asked is None or not len(set(asked.choices)) == len(asked.choices) > 1:
        return None
    if manner.checked and right(kind, asked.about, timeline) & set(asked.choices) != {asked.answer}:
        return None
    return asked


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of several options."""
    return options[int(rng.integers(len(options)))]


def shuffled(rng: np.random.Generator, texts: Sequence[str]) -> list[str]:
    """Texts in a drawn order."""
    return [str(text) for text in rng.permutation(list(texts))]


def _ask(rng: np.random.Generator, manner: Manner, key: str, *about: str) -> str:
    return pick(rng, manner.questions[key]).format(*about)


def _wrong(
    rng: np.random.Generator, timeline: Timeline, manner: Manner, kind: str, about: tuple[str, ...], answer: str
) -> tuple[str, ...]:
    """Wrong choices: up to two sounds of the recording itself, the rest from others."""
    taken = {answer, *about} | (right(kind, about, timeline) if manner.checked else set())
    target = timeline.named(answer)
    inside = [e.label for e in timeline.events if e.label not in taken and not any(akin(e, t) for t in target)]
    wrong = list(dict.fromkeys(shuffled(rng, inside)))[: int(rng.integers(0, 3))]
    for _ in range(MAX_TRIES if timeline.others else 0):
        if len(wrong) >= timeline.num_choices - 1:
            break
        label = pick(rng, pick(rng, timeline.others))
        if label not in wrong and label not in taken:
            wrong.append(label)
    return tuple(wrong[: timeline.num_choices - 1])


def _neighbour(kind: str, step: int, lead: str) -> Maker:
    """Makes questions about the sound right after (or before) another one."""

    def make(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
        events, once = timeline.events, timeline.once()
        found = [n for n, e in enumerate(events) if e in once and 0 <= n + step < len(events)]
        if manner.checked:
            found = [n for n in found if right(kind, (events[n].label,), timeline) == {events[n + step].label}]
        if not found:
            return None
        at = pick(rng, found)
        anchor, target = events[at], events[at + step]
        about = (anchor.label,)
        question = _ask(rng, manner, kind, *about)
        choices = (target.label, *_wrong(rng, timeline, manner, kind, about, target.label))
        return Asked(question, about, target.label, choices, (Step("find", anchor), Step(lead, target)))

    return make


def _between(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
    once = timeline.once()
    pairs = [(a, b) for a in once for b in once if a.start < b.start]
    pairs = [(a, b) for a, b in pairs if len(right("between", (a.label, b.label), timeline)) == 1]
    if not pairs:
        return None
    first, second = pick(rng, pairs)
    about = (first.label, second.label)
    (answer,) = right("between", about, timeline)
    begun = [e for e in timeline.named(answer) if first.start - APART < e.start < second.start + APART]
    if not begun:  # it goes on from before the first
        return None
    target = begun[0]
    steps = (Step("find", first), Step("next", target), Step("next", second))
    question = _ask(rng, manner, "between", *about)
    return Asked(question, about, answer, (answer, *_wrong(rng, timeline, manner, "between", about, answer)), steps)


def _count(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
    labels = [event.label for event in timeline.events if not is_word(event)]
    often = [label for label in sorted(set(labels)) if labels.count(label) > 1]
    once = [label for label in sorted(set(labels)) if labels.count(label) == 1]
    if not often or not once:
        return None
    # Ones, twos and threes are to be asked for equally often, or the text would give the answer away. Most sounds are
    # heard once, and threes do not always fit into a recording.
    found = timeline.named(pick(rng, once if rng.random() < 0.22 else often))
    if len(found) > manner.max_count or (len(found) == 2 and rng.random() < 0.4):
        return None
    num = min(manner.max_count, timeline.num_choices)
    least = 1 if len(found) <= num else len(found) - int(rng.integers(0, num))
    choices = tuple(str(n) for n in range(least, least + num))
    steps = (Step("find", found[0]), *(Step("again", event) for event in found[1:]))
    label = found[0].label
    return Asked(_ask(rng, manner, "count", label), (label,), str(len(found)), choices, steps)


def _edge(kind: str, lead: str) -> Maker:
    """Makes questions about the sound that starts first, or last."""

    def make(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
        found = right(kind, (), timeline)
        if len(found) != 1 or len(timeline.labels()) < 2:
            return None
        (answer,) = found
        near = sorted(timeline.events, key=lambda e: e.start, reverse=kind == "last")[:2]
        steps = [Step(lead, near[0])]
        if rng.random() < 0.5:
            steps.append(Step("next" if kind == "first" else "previous", near[1]))
        choices = (answer, *_wrong(rng, timeline, manner, kind, (), answer))
        return Asked(_ask(rng, manner, kind), (), answer, choices, tuple(steps))

    return make


def _longest(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
    found = right("longest", (), timeline)
    if len(found) != 1 or len(timeline.labels()) < 4:
        return None
    (answer,) = found
    # All choices are in the recording: how long others last is not known, so their names alone would rule them out.
    inside = shuffled(rng, [label for label in timeline.labels() if label != answer])[: timeline.num_choices - 1]
    by_length = sorted(timeline.events, key=lambda e: e.start - e.end)
    if all(map(is_word, timeline.events)):  # where a word ends in a sentence depends on who cuts it
        return None
    second = next(event for event in by_length if event.label != answer)
    pair = sorted([by_length[0], second], key=lambda e: e.start)
    steps = tuple(Step("candidate", event) for event in pair)
    return Asked(_ask(rng, manner, "longest"), (), answer, (answer, *inside), steps)


def _compare(kind: str, size: Callable[[Event], float], margin: float) -> Maker:
    """Makes questions which of the sounds before and after another one is longer, or louder.

    The two are not named, because one knows without listening which kinds of sounds are long or loud.
    """

    def make(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
        events, once = timeline.events, timeline.once()
        found = [n for n in range(1, len(events) - 1) if events[n] in once]
        if manner.checked:
            found = [n for n in found if neighbours(timeline, events[n]) == (events[n - 1], events[n + 1])]
            found = [n for n in found if len(right(kind, (events[n].label,), timeline)) == 1]
        found = [n for n in found if abs(size(events[n - 1]) - size(events[n + 1])) >= margin]
        if not found:
            return None
        at = pick(rng, found)
        before, anchor, after = events[at - 1 : at + 2]
        answer = manner.sides[0 if size(before) > size(after) else 1]
        steps = (Step("find", anchor), Step("previous", before), Step("next", after))
        return Asked(_ask(rng, manner, kind, anchor.label), (anchor.label,), answer, manner.sides, steps)

    return make


def _together(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
    found = [event for event in timeline.once() if len(right("together", (event.label,), timeline)) == 1]
    if not found:
        return None
    anchor = pick(rng, found)
    about = (anchor.label,)
    (answer,) = right("together", about, timeline)
    beside = max(timeline.named(answer), key=lambda e: min(e.end, anchor.end) - max(e.start, anchor.start))
    if min(beside.end, anchor.end) - max(beside.start, anchor.start) < 0.1:
        return None
    steps = (Step("find", anchor), Step("beside", beside))
    question = _ask(rng, manner, "together", *about)
    return Asked(question, about, answer, (answer, *_wrong(rng, timeline, manner, "together", about, answer)), steps)


def _detail(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
    found = [event for event in timeline.once() if event.labels.get("attribute") and event.labels.get("value")]
    if not found:
        return None
    target = pick(rng, found)
    attribute, value = str(target.labels["attribute"]), str(target.labels["value"])
    # By group as well as by label, because a user may have recorded a "tone", too.
    parametric = target.labels.get("group") == "parametric" and target.label in _COMPUTED
    values = tuple(_COMPUTED[target.label][1] if parametric else PITCHES)
    key = "count of" if attribute == "count" else attribute
    if value not in values or key not in ATTRIBUTES:
        return None
    return Asked(_ask(rng, manner, key, target.label), (target.label,), value, values, (Step("find", target),))


def _word(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
    words = [event for event in timeline.events if is_word(event)]
    pool = list(dict.fromkeys([*timeline.other_words, *(event.label for event in words)]))
    if not words or len(pool) < 4:
        return None
    target = pick(rng, words)
    earlier = [e for e in timeline.once() if e.start < target.start]
    earlier = [e for e in earlier if next(w for w in words if w.start > e.start) is target]
    wrong = shuffled(rng, [word for word in pool if word != target.label])[: timeline.num_choices - 1]
    choices = (target.label, *wrong)
    if len(words) == 1 and (not earlier or rng.random() < 0.3):
        return Asked(_ask(rng, manner, "word"), (), target.label, choices, (Step("voice", target),))
    if not earlier:
        return _next_word(rng, timeline, manner, target, choices) if manner.checked else None
    anchor = pick(rng, earlier)
    question = _ask(rng, manner, "word after", anchor.label)
    return Asked(question, (anchor.label,), target.label, choices, (Step("find", anchor), Step("voice", target)))


def _next_word(
    rng: np.random.Generator, timeline: Timeline, manner: Manner, target: Event, choices: tuple[str, ...]
) -> Asked | None:
    """The word that follows another word, for recordings in which people mostly speak."""
    words = [event for event in timeline.events if is_word(event)]
    before = [word for word in _said_once(timeline) if word.start < target.start]
    anchor = max(before, key=lambda word: word.start, default=None)
    if anchor is None or words[words.index(anchor) + 1] is not target or anchor.label in choices:
        return None
    question = _ask(rng, manner, "next word", anchor.label)
    return Asked(question, (anchor.label,), target.label, choices, (Step("voice", anchor), Step("voice", target)))


def _said_once(timeline: Timeline) -> list[Event]:
    """The words that a question can name: no other event has the label."""
    return [event for event in timeline.events if is_word(event) and len(timeline.named(event.label)) == 1]


def _when(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
    known = timeline.once() or _said_once(timeline)
    found = [event for event in known if len(right("when", (event.label,), timeline)) == 1]
    if not found:
        return None
    thirds = [min(right("when", (event.label,), timeline)) for event in found]
    # The third is drawn first: most sounds begin early, and "in the first third" would be right too often.
    answer = pick(rng, sorted(set(thirds)))
    target = pick(rng, [event for event, third in zip(found, thirds, strict=True) if third == answer])
    key, lead = ("when word", "voice") if is_word(target) else ("when", "find")
    question = _ask(rng, manner, key, target.label)
    return Asked(question, (target.label,), answer, THIRDS, (Step(lead, target),))


def _order(rng: np.random.Generator, timeline: Timeline, manner: Manner) -> Asked | None:
    once = timeline.once()
    if len(once) < 3:
        return None
    chosen = sorted([once[int(n)] for n in rng.permutation(len(once))[:3]], key=lambda e: e.start)
    a, b, c = (event.label for event in chosen)
    about, answer = tuple(shuffled(rng, (a, b, c))), ", ".join((a, b, c))
    orders = [", ".join(order) for order in ((a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a))]
    choices = (answer, *shuffled(rng, orders)[: timeline.num_choices - 1])
    first = Step("start" if chosen[0] is timeline.events[0] else "candidate", chosen[0])
    steps = (first, *(Step("next", event) for event in chosen[1:]))
    return Asked(_ask(rng, manner, "order"), about, answer, choices, steps)


def _length(event: Event) -> float:
    return event.end - event.start


MAKERS: dict[str, Maker] = {
    "after": _neighbour("after", 1, "next"),
    "before": _neighbour("before", -1, "previous"),
    "between": _between,
    "count": _count,
    "first": _edge("first", "start"),
    "last": _edge("last", "end"),
    "longest": _longest,
    "longer": _compare("longer", _length, 0.3),
    "louder": _compare("louder", level, LOUDER),
    "together": _together,
    "detail": _detail,
    "word": _word,
    "when": _when,
    "order": _order,
}
