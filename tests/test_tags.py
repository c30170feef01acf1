"""The grammar: exact in what it writes, indestructible in what it reads."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relisten import tags
from relisten.types import Segment

GOOD = "<think>A dog <seg>3.2, 4.8</seg> barks.</think><answer>two</answer>"
MARKS = ["<think>", "</think>", "<answer>", "</answer>"]
PIECES = [*MARKS, "<seg>", "</seg>", "1.0, 2.5", "<seg>3, 4</seg>", " ", "a", "\n"]


def test_a_response_is_read() -> None:
    response = tags.parse(GOOD)
    assert response.think == "A dog <seg>3.2, 4.8</seg> barks."
    assert response.answer == "two"
    assert response.segments == (Segment(3.2, 4.8),)
    assert response.well_formed
    assert response.text == GOOD


@pytest.mark.parametrize(
    ("inside", "segment"),
    [
        ("3.2, 4.8", Segment(3.2, 4.8)),
        ("3,4", Segment(3, 4)),
        (" 3.25 ,\n4 ", Segment(3.25, 4)),
        ("0, 0.1", Segment(0, 0.1)),
        ("007.50, 9.", None),
        ("5, 99999", Segment(5, 99999)),  # beyond the end: whoever knows the recording decides
        ("4.8, 3.2", None),
        ("3, 3", None),
        ("-1, 2", None),
        ("+1, 2", None),
        ("nan, 2", None),
        ("0, inf", None),
        ("0, 1e3", None),
        ("0, 1e999", None),
        ("0, " + "9" * 400, None),
        ("1.2.3, 4", None),
        ("1, 2, 3", None),
        ("1", None),
        ("", None),
        ("1; 2", None),
        ("1s, 2s", None),
        (".5, 1", None),
        ("1_0, 2_0", None),
        ("٣, ٤", None),  # digits to float(), not to us
        ("１, ２", None),
        ("0:01, 0:02", None),
        ("1,\u00a02", None),
        ("</think>1, 2", None),
    ],
)
def test_what_a_segment_is(inside: str, segment: Segment | None) -> None:
    assert tags.parse_segment(inside) == segment
    response = tags.parse(f"<think><seg>{inside}</seg></think><answer>a</answer>")
    assert response.segments == (() if segment is None else (segment,))
    assert response.well_formed == (segment is not None)


@pytest.mark.parametrize(
    ("text", "think", "answer", "num_segments"),
    [
        ("", None, None, 0),
        ("two", None, None, 0),
        ("<answer>two</answer>", None, "two", 0),
        ("<think>a</think>", "a", None, 0),
        ("<think>a</think><answer>two", "a", None, 0),
        ("<think>a<answer>two</answer>", None, "two", 0),
        ("<answer>two</answer><think>a</think>", "a", "two", 0),
        ("<think>a</think><answer>one</answer><answer> two </answer>", "a", "two", 0),
        ("<think>a</think><think>b</think><answer>two</answer>", "a", "two", 0),
        ("<think>a</think> so <answer>two</answer>", "a", "two", 0),
        ("<think>a</think><answer>two</answer> Human: next", "a", "two", 0),
        ("Well: <think>a</think><answer>two</answer>", "a", "two", 0),
        ("<think>a<answer>b</answer></think><answer>two</answer>", "a<answer>b</answer>", "two", 0),
        ("<THINK>a</THINK><answer>two</answer>", None, "two", 0),
        ("<think>a</think ><answer>two</answer>", None, "two", 0),
        ("<think><seg>1, 2</think><answer>two</answer>", "<seg>1, 2", "two", 0),
        ("<think>1, 2</seg></think><answer>two</answer>", "1, 2</seg>", "two", 0),
        ("<think><seg>1, <seg>2, 3</seg></seg></think><answer>two</answer>", "<seg>1, <seg>2, 3</seg></seg>", "two", 1),
        ("<think><seg>1, 2</seg><seg>x</seg></think><answer>two</answer>", "<seg>1, 2</seg><seg>x</seg>", "two", 1),
        ("<think>a</think><answer><seg>1, 2</seg></answer>", "a", "<seg>1, 2</seg>", 1),
        ("<seg>1, 2</seg><think>a</think><answer>two</answer>", "a", "two", 1),
        ("<think>a</think><seg>1, 2</seg><answer>two</answer>", "a", "two", 1),
    ],
)
def test_ill_formed_text_still_says_what_it_says(
    text: str, think: str | None, answer: str | None, num_segments: int
) -> None:
    response = tags.parse(text)
    assert (response.think, response.answer, len(response.segments)) == (think, answer, num_segments)
    assert not response.well_formed


@pytest.mark.parametrize(
    "text",
    [
        "\n<think>a</think>\n\n<answer>two</answer>\n",
        "<think></think><answer></answer>",
        "<think><seg>1, 2</seg><seg>0, 1</seg></think><answer>a</answer>",
        "<think>x < y, <b>bold</b>, </p></think><answer>1 < 2</answer>",
    ],
)
def test_well_formed(text: str) -> None:
    assert tags.parse(text).well_formed


def test_other_operations_have_their_own_tag() -> None:
    text = "<think><seg>1, 2</seg><slow>3, 4</slow></think><answer>a</answer>"
    assert tags.parse(text).segments == (Segment(1, 2),)
    both = tags.parse(text, names=("seg", "slow"))
    assert both.segments == (Segment(1, 2), Segment(3, 4))
    assert both.well_formed
    crossed = "<think><seg>1, 2</slow>3, 4</seg><slow></think><answer>a</answer>"
    assert not tags.parse(crossed, names=("seg", "slow")).well_formed
    assert tags.write_segment(Segment(1, 2), "slow") == "<slow>1.0, 2.0</slow>"


@given(st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join))
@example("<think></think></think><answer></answer>")
def test_parse_never_raises_and_keeps_its_word(text: str) -> None:
    response = tags.parse(text)
    assert all(0 <= segment.start < segment.end for segment in response.segments)
    assert len(response.segments) <= text.count("</seg>")
    if response.well_formed:
        assert response.think is not None
        assert response.answer is not None
        assert [text.count(mark) for mark in MARKS] == [1, 1, 1, 1]
        assert text.count("<seg>") == text.count("</seg>") == len(response.segments)


plain = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]))
times = st.tuples(st.integers(0, 36_000), st.integers(1, 6_000)).map(lambda t: Segment(t[0] / 10, (t[0] + t[1]) / 10))


@given(st.lists(st.tuples(plain, times)), plain)
def test_what_is_written_is_read_back(parts: list[tuple[str, Segment]], answer: str) -> None:
    cot = "".join(text + tags.write_segment(segment) for text, segment in parts)
    response = tags.parse(tags.write(cot, answer))
    assert response.well_formed
    assert response.think == cot
    assert response.answer == answer.strip()
    assert response.segments == tuple(segment for _, segment in parts)


@given(st.floats(0, 1e6), st.floats(1e-9, 1e3))
def test_rounding_keeps_a_segment_a_segment(start: float, length: float) -> None:
    segment = Segment(start, start + length)
    if not segment.duration:
        return
    inside = tags.write_segment(segment).removeprefix("<seg>").removesuffix("</seg>")
    written = tags.parse_segment(inside)
    assert written is not None
    assert abs(written.start - segment.start) < 0.0501
    assert abs(written.end - segment.end) < 0.1501
    assert set(inside) <= set(string.digits + "., ")


def test_written_segments() -> None:
    assert tags.write_segment(Segment(3.2, 4.8)) == "<seg>3.2, 4.8</seg>"
    assert tags.write_segment(Segment(0, 12)) == "<seg>0.0, 12.0</seg>"
    assert tags.write_segment(Segment(0.26, 0.34)) == "<seg>0.3, 0.4</seg>"  # would vanish
    assert tags.write_segment(Segment(1.25, 2.25)) == "<seg>1.3, 2.3</seg>"  # halves go up: the length is kept
    for bad in (Segment(2, 1), Segment(-1, 1), Segment(float("nan"), 1), Segment(0, float("inf")), Segment(1, 1)):
        with pytest.raises(ValueError, match="0 <= start < end"):
            tags.write_segment(bad)


class Counting(str):
    """Text that counts how many characters are cut out of it."""

    cut = 0

    def __getitem__(self, key: object) -> str:
        piece = super().__getitem__(key)  # type: ignore[index]
        Counting.cut += len(piece)
        return piece


@pytest.mark.parametrize(
    "text",
    [
        "<seg>" * 100_000,
        "</seg>" * 100_000,
        "<seg>1, 2</seg>" * 100_000,
        "<seg>" * 50_000 + "</seg>" * 50_000,
        "<think>" * 50_000 + "</think>" * 50_000,
        "<answer>" * 50_000 + "</answer>" * 50_000,
        "<answer>a</answer>" * 50_000,
        "<" * 500_000,
        "<seg>" + " " * 500_000 + "</seg>",
        "<seg>" + "1" * 500_000 + "</seg>",
        "<seg>" + "1,  " * 200_000 + "</seg>",
        "<think><seg>1, 2</seg>" * 30_000 + "</think><answer>a</answer>",
    ],
    ids=lambda text: f"{text[:20]}...",
)
def test_time_is_linear_in_the_text(text: str) -> None:
    """Pathological text: what is cut out of it stays below a few times its length, so no scan is repeated."""
    Counting.cut = 0
    response = tags.parse(Counting(text))
    assert Counting.cut <= 3 * len(text)
    assert len(response.segments) in (0, text.count("<seg>1, 2</seg>"))
