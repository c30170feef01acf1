"""Remarks about sounds: how long or loud they are, when they are heard and beside what, and why a choice is wrong.

Everything is computed from events and their times. If a difference is too small to be heard, nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relisten.data.offline.drawing import pick, shuffled
from relisten.data.offline.phrases import ORDERED, REMARKS, RULED_OUT, THIRD
from relisten.data.offline.timeline import APART, LONGER, LOUDER, THIRDS, Asked, Timeline, is_word
from relisten.types import Event

OTHERS = ("over", "behind", "ahead", "gap", "meets", "longer", "shorter", "louder", "softer")
"""Remarks that name another sound."""
Facts = dict[str, tuple[str, ...]]
"""Keys of phrases.REMARKS that are true, each with the texts for its placeholders."""
ROUND = ((0.25, "a quarter of a second"), (0.5, "half a second"), (1.0, "a second"), (1.5, "a second and a half"),
         (2.0, "two seconds"), (3.0, "three seconds"), (4.0, "four seconds"))  # fmt: skip


def name(event: Event) -> str:
    """The name of an event before it is heard again. A spoken word is not understood yet."""
    return "a spoken word" if is_word(event) else f"the {event.label}"


def known(event: Event) -> str:
    """The name of an event after it was heard again."""
    return f'the word "{event.label}"' if is_word(event) else f"the {event.label}"


def seconds(length: float) -> str:
    """A length in words, to stand after "about"."""
    near = next((said for value, said in ROUND if abs(length - value) <= 0.06 * max(value, 0.8)), "")
    return near or f"{length:.1f} seconds"


def sentence(text: str) -> str:
    """The text with a capital letter in front."""
    return text[:1].upper() + text[1:]


def facts(event: Event, last: Event | None, timeline: Timeline) -> Facts:
    """The remarks that are true of an event: alone, among the others, and compared with the one that was heard last."""
    length, third = event.end - event.start, timeline.duration / 3
    levels = [e.labels["level"] for e in timeline.events if isinstance(e.labels.get("level"), int | float)]
    level = event.labels.get("level", 0.0)
    once = len(timeline.named(event.label)) == 1
    others = [e for e in timeline.events if e is not event]
    beside = [e for e in others if min(e.end, event.end) - max(e.start, event.start) > APART]
    touching = [e for e in others if e.start < event.end + APART and e.end > event.start - APART]
    words = sum(map(is_word, timeline.events))
    earlier = max((e for e in others if e.start <= event.start), key=lambda e: e.start, default=None)
    later = min((e for e in others if e.start >= event.start), key=lambda e: e.start, default=None)
    holds: dict[str, tuple[str, ...] | None] = {
        "plain": (),
        "lasts": (seconds(length),),
        "starts": (f"{event.start:.1f}",),
        "unlike": () if once and not (is_word(event) and words > 1) else None,
        "short": () if length < 0.5 else None,
        "long": () if length > 2.0 else None,
        "early": () if event.end < third else None,
        "middle": () if event.start > third and event.end < 2 * third else None,
        "late": () if event.start > timeline.duration * 0.7 else None,
        # Compared with the loudest, because sources measure levels from different references.
        "quiet": () if levels and isinstance(level, int | float) and level < max(levels) - LOUDER else None,
        "alone": () if not touching and len(others) > 0 else None,
        "over": (name(beside[0]),) if beside and beside[0].label != event.label else None,
        "behind": _neighbour(event, earlier, last),
        "ahead": _neighbour(event, later, last),
    }
    holds |= _compared(event, last) if last is not None and last is not event else {}
    return {key: given for key, given in holds.items() if given is not None}


def _neighbour(event: Event, other: Event | None, last: Event | None) -> tuple[str, ...] | None:
    """The name of the next sound on one side, if it is clear which that is and it was not just spoken of."""
    if other is None or other.label == event.label or other is last or abs(other.start - event.start) < APART:
        return None
    return (name(other),)


def _compared(event: Event, last: Event) -> dict[str, tuple[str, ...] | None]:
    """The remarks that are true of an event compared with the one that was heard before it."""
    named = "the one before" if last.label == event.label else known(last)
    first, second = sorted((event, last), key=lambda e: e.start)
    gap = second.start - first.end
    lengths = event.end - event.start, last.end - last.start
    levels = [e.labels.get("level") for e in (event, last)]
    louder = float(levels[0]) - float(levels[1]) if all(isinstance(v, int | float) for v in levels) else 0.0  # type: ignore[arg-type]
    return {
        "gap": (seconds(gap), named) if gap > APART else None,
        "meets": (named,) if gap < -APART else None,
        "longer": (named,) if lengths[0] > lengths[1] * LONGER and lengths[0] - lengths[1] > APART else None,
        "shorter": (named,) if lengths[1] > lengths[0] * LONGER and lengths[1] - lengths[0] > APART else None,
        "louder": (named,) if louder >= LOUDER else None,
        "softer": (named,) if louder <= -LOUDER else None,
    }


def remarks(
    rng: np.random.Generator, num: int, event: Event, last: Event | None, timeline: Timeline, used: set[str]
) -> list[str]:
    """Up to so many sentences about an event, of kinds that were not used yet in this chain."""
    holds = {key: given for key, given in facts(event, last, timeline).items() if key not in used}
    drawn = shuffled(rng, sorted(holds))
    others = [key for key in drawn if key in OTHERS]
    # At most one remark names another sound, and it comes last: after it, "it" would mean that sound.
    told = [key for key in drawn if key not in OTHERS or key == others[0]][:num]
    told.sort(key=lambda key: key in OTHERS)
    used.update(told)
    return [sentence(pick(rng, REMARKS[key]).format(*holds[key])) for key in told]


def ruled_out(
    rng: np.random.Generator, num: int, kind: str, asked: Asked, timeline: Timeline, choices: Sequence[str]
) -> list[str]:
    """Why up to `num` of the wrong choices are wrong, and what else settles the question."""
    if kind == "when":
        return _third(rng, asked, timeline)
    if kind == "order":
        found = sorted((timeline.named(label)[0] for label in asked.about), key=lambda e: e.start)
        listed = [f"the {e.label} at {e.start:.1f}" for e in found]
        return [sentence(pick(rng, ORDERED).format(", ".join(listed[:-1]) + f" and {listed[-1]}"))]
    if kind in ("count", "longer", "louder"):
        return []
    wrong = shuffled(rng, [choice for choice in choices if choice != asked.answer])[:num]
    if kind == "detail":
        return [sentence(pick(rng, RULED_OUT["values"]).format(" or ".join(wrong)))] if wrong else []
    target = next(step.event for step in asked.steps if step.event.label == asked.answer)
    told, absent = [], []
    for choice in wrong:
        there = timeline.named(choice)
        key, given = _why(kind, target, there, asked, timeline) if there else ("", ())
        if not there:
            absent.append(f'"{choice}"')
        elif key:
            told.append(sentence(pick(rng, RULED_OUT[key]).format(known(there[0]), *given)))
    if absent:
        key = "unsaid" if kind == "word" else "absent"
        told.append(sentence(pick(rng, RULED_OUT[key]).format(" or ".join(absent))))
    return told


def _why(
    kind: str, target: Event, there: Sequence[Event], asked: Asked, timeline: Timeline
) -> tuple[str, tuple[str, ...]]:
    """A key of phrases.RULED_OUT that holds of a sound in the recording that is not the answer; "" if none does."""
    if kind == "word":
        return "", ()
    if kind == "longest":
        return "over", (seconds(max(e.end - e.start for e in there)),)
    if kind == "together":
        anchor = timeline.named(asked.about[0])[0]
        clear = all(e.end < anchor.start - APART or e.start > anchor.end + APART for e in there)
        return ("elsewhere", ()) if clear else ("", ())
    if all(e.start < target.start - APART for e in there):
        return "earlier", ()
    return ("later", ()) if all(e.start > target.start + APART for e in there) else ("", ())


def _third(rng: np.random.Generator, asked: Asked, timeline: Timeline) -> list[str]:
    """Where the thirds of a recording end, and in which of them the sound lies."""
    event, third = timeline.named(asked.about[0])[0], timeline.duration / 3
    which = THIRDS.index(asked.answer)
    inside = which * third <= event.start and event.end <= (which + 1) * third
    bounds = f"{third:.1f}", f"{2 * third:.1f}", f"{event.start:.1f}", f"{event.end:.1f}", f"{timeline.duration:.1f}"
    return [sentence(pick(rng, THIRD[which]).format(*bounds))] if inside else []
