"""What holds of sounds beside their names: how long, where, how loud, what else sounds; and why choices fall away.

Everything is reckoned from events and their times; where a margin is too small to be heard, nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relisten.data.offline.asking import LONGER, LOUDER, THIRDS, Asked, Heard, is_word
from relisten.data.offline.phrases import ORDERED, REMARKS, RULED_OUT, THIRD
from relisten.types import Event

APART = 0.15
"""Seconds that somebody can tell."""
OTHERS = ("over", "behind", "ahead", "gap", "meets", "longer", "shorter", "louder", "softer")
"""Remarks that name another sound."""
Facts = dict[str, tuple[str, ...]]
"""Keys of phrases.REMARKS that hold, and what stands in their places."""
ROUND = ((0.25, "a quarter of a second"), (0.5, "half a second"), (1.0, "a second"), (1.5, "a second and a half"),
         (2.0, "two seconds"), (3.0, "three seconds"), (4.0, "four seconds"))  # fmt: skip


def pick(rng: np.random.Generator, texts: Sequence[str]) -> str:
    """One of several texts."""
    return texts[int(rng.integers(len(texts)))]


def name(event: Event) -> str:
    """How an event is called that was not listened to again: a spoken word is not understood yet."""
    return "a spoken word" if is_word(event) else f"the {event.label}"


def known(event: Event) -> str:
    """How an event is called that was."""
    return f'the word "{event.label}"' if is_word(event) else f"the {event.label}"


def seconds(length: float) -> str:
    """A length as it is said, to follow "about"."""
    near = next((said for value, said in ROUND if abs(length - value) <= 0.06 * max(value, 0.8)), "")
    return near or f"{length:.1f} seconds"


def sentence(text: str) -> str:
    """With a capital letter in front."""
    return text[:1].upper() + text[1:]


def facts(event: Event, last: Event | None, heard: Heard) -> Facts:
    """What holds of an event, alone, among the others, and beside the one that was listened to last."""
    length, third = event.end - event.start, heard.duration / 3
    levels = [e.labels["level"] for e in heard.events if isinstance(e.labels.get("level"), int | float)]
    level = event.labels.get("level", 0.0)
    once = len(heard.named(event.label)) == 1
    others = [e for e in heard.events if e is not event]
    beside = [e for e in others if min(e.end, event.end) - max(e.start, event.start) > APART]
    touching = [e for e in others if e.start < event.end + APART and e.end > event.start - APART]
    words = sum(map(is_word, heard.events))
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
        "late": () if event.start > heard.duration * 0.7 else None,
        # Beside the loudest: what a level is measured from differs from source to source.
        "quiet": () if levels and isinstance(level, int | float) and level < max(levels) - LOUDER else None,
        "alone": () if not touching and len(others) > 0 else None,
        "over": (name(beside[0]),) if beside and beside[0].label != event.label else None,
        "behind": _neighbour(event, earlier, last),
        "ahead": _neighbour(event, later, last),
    }
    holds |= _compared(event, last) if last is not None and last is not event else {}
    return {key: given for key, given in holds.items() if given is not None}


def _neighbour(event: Event, other: Event | None, last: Event | None) -> tuple[str, ...] | None:
    """The name of the next sound on one side, where it is clear which that is and nothing was said of it just now."""
    if other is None or other.label == event.label or other is last or abs(other.start - event.start) < APART:
        return None
    return (name(other),)


def _compared(event: Event, last: Event) -> dict[str, tuple[str, ...] | None]:
    """Beside the event that was listened to before this one."""
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
    rng: np.random.Generator, num: int, event: Event, last: Event | None, heard: Heard, used: set[str]
) -> list[str]:
    """Up to so many sentences about an event, of kinds that were not used yet in this chain."""
    holds = {key: given for key, given in facts(event, last, heard).items() if key not in used}
    drawn = [str(key) for key in rng.permutation(sorted(holds))]
    others = [key for key in drawn if key in OTHERS]
    # One that names another sound at most, and at the end: after it "it" would be that sound.
    told = [key for key in drawn if key not in OTHERS or key == others[0]][:num]
    told.sort(key=lambda key: key in OTHERS)
    used.update(told)
    return [sentence(pick(rng, REMARKS[key]).format(*holds[key])) for key in told]


def ruled_out(
    rng: np.random.Generator, num: int, kind: str, asked: Asked, heard: Heard, choices: Sequence[str]
) -> list[str]:
    """Why up to so many of the wrong choices fall away, and what else settles the question."""
    if kind == "when":
        return _third(rng, asked, heard)
    if kind == "order":
        found = sorted((heard.named(label)[0] for label in asked.about), key=lambda e: e.start)
        listed = [f"the {e.label} at {e.start:.1f}" for e in found]
        return [sentence(pick(rng, ORDERED).format(", ".join(listed[:-1]) + f" and {listed[-1]}"))]
    if kind in ("count", "longer", "louder"):
        return []
    wrong = [str(choice) for choice in rng.permutation([c for c in choices if c != asked.answer])][:num]
    if kind == "detail":
        return [sentence(pick(rng, RULED_OUT["values"]).format(" or ".join(wrong)))] if wrong else []
    target = next(step.event for step in asked.steps if step.event.label == asked.answer)
    told, absent = [], []
    for choice in wrong:
        there = heard.named(choice)
        key, given = _why(kind, target, there, asked, heard) if there else ("", ())
        if not there:
            absent.append(f'"{choice}"')
        elif key:
            told.append(sentence(pick(rng, RULED_OUT[key]).format(known(there[0]), *given)))
    if absent:
        key = "unsaid" if kind == "word" else "absent"
        told.append(sentence(pick(rng, RULED_OUT[key]).format(" or ".join(absent))))
    return told


def _why(kind: str, target: Event, there: Sequence[Event], asked: Asked, heard: Heard) -> tuple[str, tuple[str, ...]]:
    """A key of phrases.RULED_OUT that holds of a sound that is in the recording, yet not the answer."""
    if kind == "word":
        return "", ()
    if kind == "longest":
        return "over", (seconds(max(e.end - e.start for e in there)),)
    if kind == "together":
        anchor = heard.named(asked.about[0])[0]
        clear = all(e.end < anchor.start - APART or e.start > anchor.end + APART for e in there)
        return ("elsewhere", ()) if clear else ("", ())
    if all(e.start < target.start - APART for e in there):
        return "earlier", ()
    return ("later", ()) if all(e.start > target.start + APART for e in there) else ("", ())


def _third(rng: np.random.Generator, asked: Asked, heard: Heard) -> list[str]:
    """Where the thirds of a recording end, and where the sound lies beside that."""
    event, third = heard.named(asked.about[0])[0], heard.duration / 3
    which = THIRDS.index(asked.answer)
    inside = which * third <= event.start and event.end <= (which + 1) * third
    bounds = f"{third:.1f}", f"{2 * third:.1f}", f"{event.start:.1f}", f"{event.end:.1f}", f"{heard.duration:.1f}"
    return [sentence(pick(rng, THIRD[which]).format(*bounds))] if inside else []
