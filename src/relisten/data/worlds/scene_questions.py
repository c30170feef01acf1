"""Questions about nano's scenes, with choices, the answer and a grounded chain of thought, all from exact events.

Right answers are spread evenly over the positions, and wrong choices are drawn as right ones are, so that the text
alone gives chance. The same seed gives the same questions: nano was trained and measured on them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from relisten.data.offline import short
from relisten.data.offline.drawing import NANO, draw, shuffled
from relisten.data.offline.timeline import Asked, Timeline
from relisten.data.worlds.scenes import Bank
from relisten.types import Clip, Example

SHARES = {"after": 0.2, "before": 0.14, "word": 0.22, "detail": 0.2, "count": 0.1, "longer": 0.08, "louder": 0.06}
"""The kinds of questions, and how often each is asked."""


def timeline(clip: Clip, bank: Bank) -> Timeline:
    """A scene's events, with the labels of its world for wrong choices."""
    return Timeline(clip.events, clip.duration, bank.groups, bank.words)


def make_question(rng: np.random.Generator, clip: Clip, bank: Bank, kind: str | None = None) -> Example | None:
    """One question of a kind (None: a kind is drawn), or None if the scene does not allow it."""
    shares = np.array([*SHARES.values()])
    drawn = kind or str(rng.choice([*SHARES], p=shares / shares.sum()))
    asked = draw(drawn, rng, timeline(clip, bank), NANO)
    return None if asked is None else as_example(rng, clip, drawn, asked, short.leads(rng, asked))


def as_example(
    rng: np.random.Generator,
    clip: Clip,
    kind: str,
    asked: Asked,
    reasons: Sequence[str],
    operations: Collection[str] = (),
) -> Example:
    """A question with its choices in a drawn order, its chain with a reason for each listen, and the gold segments.

    operations: the ways to listen that the chain may use beside <seg>.
    """
    choices = tuple(shuffled(rng, asked.choices))
    events = [step.event for step in asked.steps]
    gold = [short.segment(event, clip.duration) for event in events]
    labels = {
        "kind": kind,
        "segments": [[s.start, s.end] for s in gold],
        "events": [[e.label, round(e.start, 3), round(e.end, 3)] for e in events],
    }
    cot = short.chain(rng, kind, asked, clip, reasons, operations)
    return Example(clip.id, clip.audio, asked.question, choices, asked.answer, cot, labels)


def make_questions(seed: int, clip: Clip, bank: Bank, num: int) -> list[Example]:
    """Up to `num` different questions about a scene, the same for the same seed."""
    rng = np.random.default_rng([seed, 29])
    made: dict[str, Example] = {}
    for _ in range(num * 12):
        example = make_question(rng, clip, bank)
        if example is not None and example.question not in made:
            made[example.question] = replace(example, id=f"{clip.id}-{len(made)}")
        if len(made) == num:
            break
    return list(made.values())
