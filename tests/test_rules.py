"""The rules teacher meets whatever sources and describers give, and replies with a question or a reason, never raises.

A recording of 0.1 s, or a sound that goes on from before the first of two between which was asked, once ended a build.
"""

from __future__ import annotations

import asyncio
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relisten import tags
from relisten.data import checks, compose, judge
from relisten.data.offline.drawing import MAKERS, NANO, PLAIN, SENTENCES, Manner, draw
from relisten.data.offline.rules import Rules, read_events
from relisten.data.offline.timeline import Timeline, right
from relisten.types import Clip, Event

LABELS = ("dog", "bell", "rain", "seven", "", "(x)", " ", "{0}", "a%s", "Male speech, man speaking", "word", "é" * 300)
TIMES = (0.0, 0.01, 0.5, 2.2, 5.0, -1.0, float("nan"), float("inf"), 1e9)
ODD: dict[str, tuple[Any, ...]] = {
    "level": (-8.0, 0.0, float("nan"), "loud", True),
    "group": ("word", "parametric", 3, ""),
    "attribute": ("pitch", "count", "rate", "after", 5),
    "value": ("low", "one", "", 3, "fast"),
    "kind_of": ("animal; dog", "", ";", 5),
    "heard": ("a cow", "", 5),
}


def odd_clip(rng: random.Random) -> Clip:
    events = []
    for _ in range(rng.randint(0, 7)):
        start = rng.choice(TIMES) if rng.random() < 0.2 else rng.uniform(0, 6)
        end = rng.choice(TIMES) if rng.random() < 0.2 else start + rng.uniform(0, 2)
        known = {key: rng.choice(values) for key, values in ODD.items() if rng.random() < 0.3}
        events.append(Event(rng.choice(LABELS), start, end, known))
    duration = rng.choice((8.0, 8.0, 8.0, 6.0, 0.2, 0.1, 0.0, -1.0, float("nan"), float("inf")))
    return Clip("odd", Path("odd.wav"), duration, tuple(events))


def test_odd_events_give_a_question_or_a_reason() -> None:
    rng, prompts, num_asked = random.Random(5), compose.read_prompts(), 0
    for number in range(600):
        clip, drawn = odd_clip(rng), np.random.default_rng(number)
        labels = compose.survey([clip]) | {"": dict.fromkeys(("owl", "saw", "crow", "jay"), 1)}
        _, asked = compose.ask(clip, prompts, labels, drawn, compose.find_manner("short" if number % 2 else ""))
        call = asyncio.run(Rules().complete(asked))
        if call.error:
            assert call.failure == "lasting"
            continue
        num_asked += 1
        draft = compose.read_draft(call.text)
        assert checks.question_fault(draft) or draft.answer in draft.choices
        judged = judge.ask_judge(clip, draft, prompts, drawn)
        assert judge.read_verdict(asyncio.run(Rules().complete(judged)).text).reason is not None
    assert num_asked > 100


def test_events_that_no_segment_can_name_are_left_out() -> None:
    known = [("dog", 0.0, 1.0), ("", 1.0, 2.0), ("cat", 2.0, 2.0), ("cow", 7.0, 9.0), ("owl", 5.0, 9.0)]
    block = [dict(zip(("label", "start", "end"), one, strict=True)) for one in known]
    read = read_events({"A4_events": block, "A5_duration": 6.0})
    assert [(e.label, e.start, e.end) for e in read] == [("dog", 0.0, 1.0), ("owl", 5.0, 6.0)]
    assert read_events({"A4_events": block, "A5_duration": 0.1}) == ()


def test_what_goes_on_from_before_is_not_asked_for_between() -> None:
    events = (Event("rain", 0.0, 5.0), Event("dog", 1.0, 1.5), Event("cat", 3.0, 4.0))
    timeline = Timeline(events, 6.0, (("owl", "saw", "jay"),))
    assert right("between", ("dog", "cat"), timeline) == {"rain"}
    assert draw("between", np.random.default_rng(0), timeline) is None


@pytest.mark.parametrize("manner", [SENTENCES, PLAIN, NANO])
@pytest.mark.parametrize("kind", MAKERS)
def test_every_manner_asks_with_different_choices_and_the_answer_among_them(kind: str, manner: Manner) -> None:
    """One generator serves the sentences of teachers and the wording of nano."""
    num_asked = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        labels = [str(label) for label in rng.permutation(["dog", "bell", "horn", "saw", "flute"])]
        starts = np.cumsum(rng.uniform(0.7, 1.4, 7))
        labels = [*labels, labels[0], "seven"]
        levels = rng.choice([0.0, -9.0], 7)
        events = [
            Event(label, float(s), float(s + w), {"level": float(v), "group": "word" if label == "seven" else ""})
            for label, s, w, v in zip(labels, starts, rng.uniform(0.3, 1.6, 7), levels, strict=True)
        ]
        events = [Event(e.label, e.start, e.end, e.labels | {"attribute": "pitch", "value": "low"}) for e in events]
        timeline = Timeline(tuple(events), 12.0, (("owl", "jay"), ("crow", "goat")), ("one", "two", "six"))
        asked = draw(kind, rng, timeline, manner)
        if asked is not None:
            num_asked += 1
            assert asked.answer in asked.choices and len(set(asked.choices)) == len(asked.choices) > 1
            assert all(label in asked.question for label in asked.about) or kind == "order"
            assert {step.event.label for step in asked.steps} <= set(labels)
    assert num_asked > 5


def test_plain_speech_is_asked_about() -> None:
    """A recording of a speaker alone once gave no question: only sounds could be named in one."""
    said = ["please", "turn", "left", "at", "the", "second", "door", "on", "the", "right"]
    events = tuple(Event(word, 0.5 + n, 0.9 + n, {"group": "word"}) for n, word in enumerate(said))
    timeline = Timeline(events, 11.0)
    asked = [draw(kind, np.random.default_rng(seed), timeline) for kind in ("word", "when") for seed in range(40)]
    found = [one for one in asked if one is not None]
    assert {one.about[0] for one in found} <= set(said) - {"the"}, "a word that is said twice names no place"
    following = {(one.about[0], one.answer) for one in found if one.choices[0] in said}
    assert following and following <= set(pairwise(said))
    assert {one.answer for one in found} & {"in the first third", "in the middle third", "in the last third"}
    assert all('"' in one.question or one.about[0] in one.question for one in found)


def test_a_sound_that_needs_an_operation_is_heard_with_it() -> None:
    """A word under a hum, a quick phrase, a quiet sound: only if operations are offered, and only the offered ones."""
    events = (
        Event("dog", 0.4, 1.0, {"group": "recording", "level": 0.0}),
        Event("seven", 1.5, 2.0, {"group": "word", "level": -1.0, "way": "band 500 7000"}),
        Event("bell", 2.6, 3.2, {"group": "recording", "level": -25.0}),
        Event("chirp", 3.8, 4.3, {"group": "recording", "level": -2.0, "way": "slow"}),
    )
    clip = Clip("c", Path("c.wav"), 6.0, events)
    labels = compose.survey([clip]) | {"word": dict.fromkeys(("one", "two", "four", "nine"), 1)}
    used: dict[tuple[str, ...], set[str]] = {}
    for number in range(60):
        for offered in ((), ("slow",), tags.OPERATIONS):
            manner = compose.find_manner("short" if number % 2 else "")
            drawn = np.random.default_rng(number)
            _, asked = compose.ask(clip, compose.read_prompts(), labels, drawn, manner, offered)
            call = asyncio.run(Rules().complete(asked))
            if call.error:
                continue
            draft = compose.read_draft(call.text)
            assert not checks.cot_fault(draft, clip, offered)
            judged = judge.ask_judge(clip, draft, compose.read_prompts(), drawn)
            assert judge.read_verdict(asyncio.run(Rules().complete(judged)).text).cot_ok, draft.cot
            names = set(re.findall(r"</(\w+)>", draft.cot))
            used.setdefault(offered, set()).update(names)
            if offered:
                assert names - {"seg"}, "a question that needs an operation is preferred"
                assert "not offered" in checks.cot_fault(draft, clip)
    assert used == {(): {"seg"}, ("slow",): {"seg", "slow"}, tags.OPERATIONS: {"seg", "slow", "loud", "band"}}
