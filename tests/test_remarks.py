"""What chains of the rules teacher add: only what the events bear out."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from relisten.data.checks import words
from relisten.data.offline import phrases
from relisten.data.offline.drawing import draw
from relisten.data.offline.remarks import OTHERS, facts, remarks, ruled_out, seconds
from relisten.data.offline.rules import STYLES, chain
from relisten.data.offline.timeline import SOLVERS, Asked, Step, Timeline
from relisten.types import Event

DOG = Event("dog", 1.0, 1.4, {"level": -1.0})
BELL = Event("bell", 2.4, 4.6, {"level": -12.0})
HORN = Event("horn", 4.2, 5.0, {"level": -2.0})
WORD = Event("seven", 7.5, 8.0, {"group": "word"})
HEARD = Timeline((DOG, BELL, HORN, WORD), 9.0, (("owl", "saw"),))


def test_facts_are_those_that_hold() -> None:
    assert facts(DOG, None, HEARD).keys() == {"plain", "lasts", "starts", "unlike", "short", "early", "alone", "ahead"}
    bell = facts(BELL, DOG, HEARD)
    assert bell.keys() >= {"long", "quiet", "over", "longer", "softer", "gap", "ahead"}
    assert not bell.keys() & {"alone", "short", "early", "late", "shorter", "louder", "behind"}
    assert (bell["gap"], bell["over"], bell["lasts"]) == (("a second", "the dog"), ("the horn",), ("2.2 seconds",))
    assert facts(HORN, BELL, HEARD)["meets"] == ("the bell",)
    assert facts(HORN, WORD, HEARD)["gap"] == ("2.5 seconds", 'the word "seven"')
    twice = replace(HEARD, events=(DOG, BELL, replace(DOG, start=6.0, end=6.5)))
    assert "unlike" not in facts(DOG, None, twice)
    assert facts(twice.events[2], DOG, twice)["gap"][1] == "the one before"
    close = replace(HEARD, events=(DOG, replace(BELL, start=1.1, end=3.0)))
    assert not facts(DOG, None, close).keys() & {"ahead", "alone"}  # nobody could tell which came first


@pytest.mark.parametrize(
    ("length", "said"), [(0.5, "half a second"), (0.56, "0.6 seconds"), (1.03, "a second"), (2.0, "two seconds")]
)
def test_lengths_are_said_as_people_do(length: float, said: str) -> None:
    assert seconds(length) == said


def test_what_is_not_the_answer_falls_away_for_a_true_reason() -> None:
    choices = ("horn", "dog", "seven", "owl")
    asked = Asked("What follows?", ("bell",), "horn", choices, (Step("find", BELL), Step("next", HORN)))
    every = set()
    for seed in range(80):
        every |= set(ruled_out(np.random.default_rng(seed), 8, "after", asked, HEARD, choices))
    earlier, later, absent = (phrases.RULED_OUT[key] for key in ("earlier", "later", "absent"))
    said = {text[:1].upper() + text[1:] for text in (
        *(text.format("the dog") for text in earlier), *(text.format('the word "seven"') for text in later),
        *(text.format('"owl"') for text in absent),
    )}  # fmt: skip
    assert every == said


def test_one_other_sound_is_named_at_most_and_last() -> None:
    for seed in range(50):
        told = remarks(np.random.default_rng(seed), 3, BELL, DOG, HEARD, set())
        naming = [n for n, text in enumerate(told) if any(name in text for name in ("dog", "horn", "spoken word"))]
        assert naming in ([], [len(told) - 1])
    assert set(OTHERS) <= set(phrases.REMARKS)


@pytest.mark.parametrize("kind", list(SOLVERS))
def test_chains_are_whole_and_about_as_long_as_the_papers(kind: str) -> None:
    lengths = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = [str(label) for label in rng.permutation(["dog", "bell", "horn", "saw", "drill"])]
        starts = np.cumsum(rng.uniform(0.7, 1.5, 5))
        lengths_of = (0.5, 0.6, 0.7, 0.8, 1.6)
        ends = starts + lengths_of
        events = [Event(x, float(s), float(e)) for x, s, e in zip(labels, starts, ends, strict=True)]
        if kind == "together":
            events.insert(1, Event("rain", events[0].start + 0.1, events[0].end + 0.05))
        if kind == "count":
            events[-1] = replace(events[0], start=events[-1].start, end=events[-1].end)
        if kind == "word":
            events[2] = replace(events[2], label="seven", labels={"group": "word"})
        if kind == "louder":
            events = [replace(e, labels={"level": -8.0 * (n % 3)}) for n, e in enumerate(events)]
        if kind == "detail":
            events[0] = replace(events[0], label="flute", labels={"attribute": "pitch", "value": "low"})
        timeline = Timeline(tuple(events), 9.0, (("owl", "crow", "goat"),), ("one", "two", "six"))
        asked = draw(kind, rng, timeline)
        for manner in STYLES if asked else ():
            text = chain(rng, kind, asked, timeline, manner, asked.choices)  # type: ignore[arg-type, union-attr]
            assert not re.search(r"[{}]|  | \.|\.\.", text), text
            assert asked is not None and asked.answer in re.split(r"(?<=[.!?])\s", text)[-1]
            lengths.append(len(words(text)))
    assert 35 < np.mean(lengths) < 130
