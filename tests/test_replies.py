"""Replies of teachers may be anything: long, deep, of the wrong types. Each is a draft, a verdict or a ValueError.

A reply of 800 line breaks once took 21 s to judge, by the cube of its length. The replies here are so long that a
reader of quadratic time would not come to an end, so that no clock is needed.
"""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relisten.data import checks, compose, judge
from relisten.types import Clip, Event

LONG = 400_000
FIELDS = {"question": "Which?", "choices": ["a dog", "a cat"], "answer": "a cat", "think": "so <seg>1, 2</seg>"}


@pytest.mark.parametrize(
    "text",
    [
        "\n" * LONG, "[" * LONG, "[QA valid]" * (LONG // 10), "[QA valid]" + ":" * LONG,
        "\nqa" + " " * LONG, "reason" + "\n" * LONG, "\nreason " * (LONG // 8), "*\n" * (LONG // 2),
        "[QA valid]:" + "\n" * LONG + "no", " valid" * (LONG // 6),
    ],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_a_verdict_is_read_in_linear_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"there is no line \[QA valid\]"):
        judge.read_verdict(text)
    said = judge.read_verdict(f"{text}\n[QA valid]: Yes\n[CoT valid]: no\n[Reason]: none {'x' * LONG}")
    assert (said.question_ok, said.cot_ok, len(said.reason)) == (True, False, 300)


@pytest.mark.parametrize(
    "text",
    [
        "{" * LONG, '{"a":' * (LONG // 5), '{"a":[' * 100 + "1," * (LONG // 2), '{"' * (LONG // 2),
        "," + " " * LONG, ", " * (LONG // 2), "[" * LONG, '{"a":' * 300 + '"' + "x{" * (LONG // 2),
        '{"a":' + "9" * LONG, '{"a":{"b":1},' * 30_000,
    ],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_a_draft_is_read_in_linear_time(text: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        compose.read_draft(text)


def test_a_draft_is_found_behind_much_else() -> None:
    thought = r"\frac{a}{b} { {x} {'k': 1} " * 2000
    assert compose.read_draft(f"<think>{thought}</think>{json.dumps(FIELDS)}").answer == "a cat"


@pytest.mark.parametrize(
    "change",
    [
        {"choices": "a dog"}, {"choices": 3}, {"choices": [["a"], "b"]}, {"choices": {"A": {"x": 1}, "B": "b"}},
        {"choices": {"A": ["x"], "B": "b"}, "answer": "A"}, {"choices": [None, "a"]}, {"question": {"text": "Which?"}},
        {"think": ["so"]}, {"answer": ["a cat"]}, {"answer": {}}, {"question": [[[[]]]]},
    ],
)  # fmt: skip
def test_a_draft_of_the_wrong_types_is_refused_in_words(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"JSON|choices must be a list"):
        compose.read_draft(json.dumps(FIELDS | change))


def test_odd_but_readable_drafts_are_read() -> None:
    draft = compose.read_draft(json.dumps(FIELDS | {"choices": {"A": 2, "B": 3.5}, "answer": "(B)", "kind": [1]}))
    assert (draft.choices, draft.answer, draft.kind, draft.about) == (("2", "3.5"), "3.5", "", ())
    draft = compose.read_draft(json.dumps(FIELDS | {"about": ["x" * 500, 3, None, *"abcdefghijk"], "kind": "k" * 99}))
    assert (len(draft.about[0]), draft.about[1:], len(draft.kind)) == (200, tuple("abcde"), 40)
    half = compose.read_draft(json.dumps(FIELDS).replace("Which", "\\ud800"))  # half a character cannot be written
    assert half.question.encode("utf-8") == b"??"


def test_a_nested_reply_is_refused_at_any_depth() -> None:
    for depth, deep in ((10, False), (500, False), (10_000, True), (100_000, True)):
        text = json.dumps(FIELDS)[:-1] + ', "about": ' + "[" * depth + "]" * depth + "}"
        if deep:
            with pytest.raises(ValueError, match="nested too deeply"):
                compose.read_draft(text)
        else:
            assert compose.read_draft(text).about == ()


def test_long_texts_are_faults_before_they_are_searched() -> None:
    clip = Clip("c", Path("c.wav"), 9.0, (Event("dog", 0.0, 1.0), Event("(" * LONG, 1.0, 2.0)))
    long = "<seg>0.0, 1.0</seg> choice " * (LONG // 20)
    draft = compose.Draft("Which?", ("a dog", "a cat"), "a cat", long)
    assert checks.cot_fault(draft, clip) == "the chain of thought is too long"
    [message] = judge.ask_judge(clip, draft, compose.read_prompts(), np.random.default_rng(0))
    candidate = compose.unblock("candidate", message["content"])
    assert candidate is not None and len(candidate["chain_of_thought"]) == checks.MAX_CHARACTERS
    short = compose.Draft("Which?", ("a dog", "a cat"), "a cat", "Here <seg>0.0, 1.0</seg>: a dog.")
    assert checks.cot_fault(short, clip) == ""
    assert checks.said(" " * LONG + "(") and checks.said("(" * LONG)
    assert "too long" in checks.question_fault(compose.Draft("/m/ " * LONG, ("a", "b"), "a", ""))


def test_mutated_replies_never_raise_anything_else() -> None:
    rng = random.Random(11)
    verdict = "[QA valid]: Yes\n[CoT valid]: No\n[Reason]: made up"
    for text, read in ((json.dumps(FIELDS), compose.read_draft), (verdict, judge.read_verdict)):
        num_read = 0
        for _ in range(3000):
            letters = list(text)
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(len(letters))
                letters[at : at + rng.randint(0, 9)] = rng.choice(
                    ['"', "{", "}", "[", "]", ",", "\\", "\n", "null", ":"]
                )
            with contextlib.suppress(ValueError):
                read("".join(letters))
                num_read += 1
        assert 0 < num_read < 3000
