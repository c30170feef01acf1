"""Ours are the scores of each published script, on 10,000 random cases each (published_scores.py says how)."""

from __future__ import annotations

import json
from collections import Counter

import published_scores as published
import pytest

from relisten.evals import instructions, judges


@pytest.mark.parametrize("num", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_ours_are_the_published_scores(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    monkeypatch.setattr(instructions, "_COUNTED", dict(instructions._COUNTED))
    published.count_sentences_alike()
    theirs, mine = json.loads(published.FIXTURE.read_text()), published.ours(num)
    assert len(mine) == (len(theirs) if num == published.NUM else 5)
    for name, result in mine.items():
        first = theirs[name][: num // 100] if isinstance(result, list) else theirs[name]
        assert published.differing(first, result) == [], name


def test_the_cases_have_every_outcome() -> None:
    """Cases that are all wrong, or that no rule reads, would prove nothing."""
    read = Counter(
        published.or_none(judges.read_rubric, reply, {"rubric": rubric}) is None
        for rubric, reply in published.replies(1_000)
    )
    assert min(read[True], read[False]) > 200
    rates: dict[str, Counter[bool]] = {}
    for text, name, arguments, prompt in published.followed(2_000):
        if "Sentences" not in name:
            right = instructions.followed(text, name, arguments, prompt)
            rates.setdefault(name, Counter())[right] += 1
    assert len(rates) == len(published.NAMES) - 3
    assert [name for name, seen in rates.items() if len(seen) < 2] == ["Sing"], "no rule of that name"
    assert len({judges.read_open(text, {}) for text in published.graded(1_000)}) > 15
