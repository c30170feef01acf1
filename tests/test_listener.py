"""The listener: every limit on listening, on text that arrives in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relisten import tags
from relisten.engine.listener import MAX_INSIDE, Action, Force, Hear, Listener, Refuse, Stop
from relisten.types import Segment


def heard(actions: list[Action]) -> list[tuple[float, float]]:
    return [(a.segment.start, a.segment.end) for a in actions if isinstance(a, Hear)]


def reasons(actions: list[Action]) -> list[str]:
    return [a.refusal.reason for a in actions if isinstance(a, Refuse)]


def feed(listener: Listener, text: str) -> list[Action]:
    return list(listener.feed(text))


def test_a_tag_is_heard_at_its_end_and_speech_needs_nothing() -> None:
    listener = Listener(10.0)
    assert feed(listener, "<think>A dog at <seg>3.2, 4.8") == []
    assert feed(listener, "</seg>") == [Hear(Segment(3.2, 4.8), "seg", "<seg>3.2, 4.8</seg>")]
    assert feed(listener, ", twice.</think><answer>two") == []
    assert feed(listener, "</answer>") == [Stop()]
    assert feed(listener, "<seg>1, 2</seg>") == []


def test_the_last_character_of_a_closing_tag_is_forced() -> None:
    listener = Listener(10.0)
    assert feed(listener, "<seg>1, 2</") == []
    assert feed(listener, "seg") == [Force(">")]
    assert heard(feed(listener, ">")) == [(1, 2)]


def test_nothing_is_forced_outside_a_tag_or_in_text_that_only_looks_like_one() -> None:
    for text in ("see </seg", "<seg>1, 2</seq", "<seg>1, 2</segm", "<slow>1, 2</slow", "<seg> /seg"):
        assert feed(Listener(10.0), text) == [], text


def test_text_after_the_tag_in_the_same_piece_is_kept() -> None:
    listener = Listener(10.0)
    actions = feed(listener, "<seg>1, 2</seg>,<seg>3, 4</seg></answer>")
    assert heard(actions) == [(1, 2), (3, 4)]
    assert actions[-1] == Stop()


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("", "unreadable"),
        ("3.2", "unreadable"),
        ("4, 3", "unreadable"),
        ("3, 3", "unreadable"),
        ("-1, 2", "unreadable"),
        ("nan, inf", "unreadable"),
        ("1.2.3, 4", "unreadable"),
        ("1e3, 2e3", "unreadable"),
        ("1, 2" + " " * MAX_INSIDE, "unreadable"),
        ("<think>1, 2", "unreadable"),
        ("3.0, 3.1", "too short"),
        ("9.9, 12", "too short"),
        ("10, 11", "outside"),
        ("999999999, 999999999.5", "outside"),
    ],
)
def test_a_tag_that_is_not_heard_is_recorded(inside: str, reason: str) -> None:
    actions = feed(Listener(10.0), f"<seg>{inside}</seg>")
    assert reasons(actions) == [reason]
    assert heard(actions) == []
    [refuse] = actions
    assert isinstance(refuse, Refuse)
    assert refuse.refusal.text == f"<seg>{inside}</seg>"[:80]


def test_limits_are_inclusive() -> None:
    assert heard(feed(Listener(10.0), "<seg>3.2, 3.4</seg>")) == [(3.2, 3.4)]  # 3.4 - 3.2 < 0.2 in floating point
    assert heard(feed(Listener(10.0), "<seg>9, 99</seg>")) == [(9, 10.0)]
    assert heard(feed(Listener(10.0, min_segment=0.0), "<seg>1, 1.01</seg>")) == [(1, 1.01)]


def test_what_is_beyond_the_number_of_listens_is_refused() -> None:
    listener = Listener(10.0, max_listens=2)
    actions = feed(listener, "<seg>1, 2</seg><seg>bad</seg>" + "<seg>3, 4</seg>" * 50)
    assert heard(actions) == [(1, 2), (3, 4)]
    assert reasons(actions) == ["unreadable"] + ["too many"] * 49


def test_formats_differ_in_what_is_done_about_a_good_tag() -> None:
    text = "<think><seg>1, 2</seg> <seg>8, 2</seg></think><answer>a</answer>"
    assert [type(a) for a in feed(Listener(10.0, "interleaved"), text)] == [Hear, Refuse, Stop]
    assert [type(a) for a in feed(Listener(10.0, "grounded"), text)] == [Refuse, Stop]
    assert [type(a) for a in feed(Listener(10.0, "conditioned"), text)] == [Stop]
    assert feed(Listener(10.0, "grounded"), "<seg>1, 2</seg") == [Force(">")]
    assert feed(Listener(10.0, "conditioned"), "<seg>1, 2</seg") == []


def test_names_are_the_operations() -> None:
    listener = Listener(10.0, names=("seg", "slow"))
    actions = feed(listener, "<slow>1, 2</slow><seg>3, 4</seg><band>5, 6</band><slow>1, 2</seg>")
    assert [(a.operation, a.segment.start) for a in actions if isinstance(a, Hear)] == [("slow", 1), ("seg", 3)]


def test_an_answer_ends_whatever_is_open() -> None:
    actions = feed(Listener(10.0), "<think><seg>1, 2<answer>a</answer>")
    assert reasons(actions) == ["unreadable"]
    assert actions[-1] == Stop()


@pytest.mark.parametrize(
    ("written", "lead"),
    [
        ("", "<answer>"),
        ("<think>so", "</think><answer>"),
        ("<think>so</thi", "nk><answer>"),
        ("<think>so <", "/think><answer>"),
        ("<think>so <seg>1, 2", "</seg></think><answer>"),
        ("<think>so <seg>1, 2</s", "eg></think><answer>"),
        ("<think>so</think>", "<answer>"),
        ("<think>so</think><ans", "wer>"),
        ("<think>so</think><answer>a", ""),
    ],
)
def test_closing_leads_to_the_answer_from_anywhere(written: str, lead: str) -> None:
    listener = Listener(10.0)
    assert heard(feed(listener, written)) == []
    assert listener.close() == lead
    assert heard(feed(listener, lead)) == []
    assert feed(listener, "x") == []
    assert listener.finish() == "</answer>"
    assert feed(listener, "</answer>") == [Stop()]
    assert tags.parse(written + lead + "x</answer>").answer == ("ax" if written.endswith("a") else "x")


def test_after_closing_nothing_is_heard() -> None:
    listener = Listener(10.0)
    listener.close()
    assert reasons(feed(listener, "<seg>1, 2</seg>")) == ["context"]


PIECES = st.lists(
    st.sampled_from(
        ["<seg>", "</seg>", "</seg", ">", "<", "1, 2", "3.5, 4", "9, 1", "<think>", "</think>", "<answer>", "é", " so "]
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(PIECES, st.randoms(use_true_random=False))
def test_what_is_heard_is_what_the_grammar_reads_however_the_text_is_cut(pieces: list[str], random: object) -> None:
    """The listener and `tags.parse` are one policy, and cutting the text elsewhere changes nothing."""
    text = "".join(pieces)
    whole = [a for a in feed(Listener(100.0, max_listens=99), text) if not isinstance(a, Force)]
    listener, cut = Listener(100.0, max_listens=99), []
    at = 0
    while at < len(text):
        size = random.randint(1, 9)  # type: ignore[attr-defined]
        cut += [a for a in feed(listener, text[at : at + size]) if not isinstance(a, Force)]
        at += size
    assert cut == whole
    assert [Segment(*pair) for pair in heard(whole)] == list(tags.parse(text).segments)


def test_work_is_linear_in_the_text() -> None:
    """A tag that is never closed is not copied or searched again with each token."""
    listener = Listener(10.0)
    feed(listener, "<seg>")
    for _ in range(20_000):
        feed(listener, "7 ")
    assert sum(map(len, listener._open.values())) <= MAX_INSIDE + 1
    assert len(listener._pending) < 10
