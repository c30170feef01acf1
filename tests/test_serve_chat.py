"""Requests in OpenAI's chat form: what is honoured, what is refused and by which name, and how a stream is split."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relisten import tags
from relisten.engine.answer import answered
from relisten.engine.generation import GenerationConfig
from relisten.serving import chat, replies
from relisten.serving.chat import Bounds, RequestError
from relisten.serving.fetch import fetch, is_public
from relisten.serving.replies import Splitter
from relisten.types import Listen, Segment, Trace
from tests.serving import body

BOUNDS = Bounds("fake", GenerationConfig(seed=7), max_answers=4, max_bytes=1_000_000)


def refused(**changes: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        chat.read(chat.parse(json.dumps(body() | changes).encode()), BOUNDS)
    return caught.value


def test_everything_that_a_request_may_say() -> None:
    own = {"choices": ["a dog", "a bell"], "format": "grounded", "max_listens": 3, "min_segment": 0.5}
    own |= {"name": "door.wav", "stretch": [1, 2.5], "trace": True, "only_choices": True}
    asked = chat.read(
        body(n=2, stream=True, stream_options={"include_usage": True}, temperature=0.5, top_p=0.9, top_k=5, seed=1,
             max_tokens=9, user="somebody", stop=None, logprobs=False, response_format={"type": "text"}, relisten=own),
        BOUNDS,
    )  # fmt: skip
    assert asked.config == GenerationConfig(
        format="grounded", temperature=0.5, max_new_tokens=9, max_listens=3, min_segment=0.5, top_p=0.9, top_k=5,
        seed=1, only_choices=True,
    )  # fmt: skip
    assert (asked.question, asked.choices, asked.num_answers) == ("How many bells?", ("a dog", "a bell"), 2)
    assert (asked.name, asked.stretch, asked.trace) == ("door.wav", Segment(1.0, 2.5), True)
    assert asked.stream and asked.include_usage and asked.sent.base64


def test_what_is_left_out_comes_from_the_server() -> None:
    asked = chat.read(body(), BOUNDS)
    assert asked.config == BOUNDS.defaults and asked.num_answers == 1 and not asked.stream and asked.choices == ()


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("stop", ["\n"]), ("logprobs", True), ("tools", [{"type": "function"}]), ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}), ("frequency_penalty", 0.5), ("presence_penalty", 1),
        ("logit_bias", {"1": 5}), ("audio", {"voice": "alloy"}), ("modalities", ["text", "audio"]),
        ("reasoning_effort", "high"), ("choices", ["a"]), ("flavour", "sweet"), ("n", 5), ("n", 0), ("n", 1.5),
        ("n", True), ("temperature", -1), ("temperature", "hot"), ("temperature", 1e-9), ("top_p", 0), ("top_p", 2),
        ("top_k", -1), ("seed", -1), ("seed", 0.5), ("max_tokens", 0), ("max_tokens", 5000),
        ("max_completion_tokens", 5000), ("stream", "yes"), ("stream_options", {"speed": 1}), ("relisten", []),
        ("relisten", {"colour": 1}), ("relisten", {"choices": "ab"}), ("relisten", {"choices": [1]}),
        ("relisten", {"choices": ["a"] * 101}), ("relisten", {"choices": [" "]}), ("relisten", {"format": "sung"}),
        ("relisten", {"format": ["grounded"]}), ("relisten", {"max_listens": 9}), ("relisten", {"min_segment": -1}),
        ("relisten", {"name": 3}), ("relisten", {"stretch": [2, 1]}), ("relisten", {"stretch": "all"}),
        ("relisten", {"stretch": [True, 2]}), ("relisten", {"trace": 1}), ("model", "gpt-5"), ("model", None),
        ("messages", None), ("messages", []), ("messages", "hello"), ("messages", [1]),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(param: str, value: Any) -> None:
    error = refused(**{param: value})
    assert error.status == (404 if param == "model" else 400)
    assert error.param is not None and error.param.partition(".")[0] == param
    if param == "relisten" and isinstance(value, dict):
        assert error.param == f"relisten.{next(iter(value))}"
    assert param in error.message or param in ("messages", "model")


AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
TEXT = {"type": "text", "text": "What?"}


@pytest.mark.parametrize(
    "content",
    [
        "What?", [], [TEXT], [AUDIO], [TEXT, AUDIO, AUDIO], [TEXT, {"type": "image_url", "image_url": {"url": "x"}}],
        [{"type": "text", "text": " "}, AUDIO], [{"type": "text", "text": "x" * 20_001}, AUDIO],
        [{"type": "text", "text": "half \ud800"}, AUDIO], [TEXT, {"type": "input_audio"}], [TEXT, 3],
        [TEXT, {"type": "input_audio", "input_audio": {"data": 5}}], [TEXT, {"type": "audio_url", "audio_url": None}],
        [TEXT, {"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}}],
        [TEXT, {"type": "audio_url", "audio_url": {"url": "/etc/passwd"}}],
        [TEXT, {"type": "audio_url", "audio_url": {"url": "data:audio/wav,plain"}}],
    ],
)  # fmt: skip
def test_contents_that_are_no_question_about_one_recording(content: Any) -> None:
    assert refused(messages=[{"role": "user", "content": content}]).param == "messages"


def test_other_turns_are_refused() -> None:
    user = {"role": "user", "content": [TEXT, AUDIO]}
    assert "system" in refused(messages=[{"role": "system", "content": "Sing."}, user]).message
    assert refused(messages=[user, {"role": "assistant", "content": "Two."}, user]).status == 400


def test_a_recording_that_is_too_large_has_its_own_status() -> None:
    assert refused(messages=body(audio=bytes(1_000_100))["messages"]).status == 413


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff", b'{"n": NaN}', b"[" * 100_000, b'{"a":' * 100_000, b"7" * 9_999]
)
def test_bodies_that_are_no_object(text: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        chat.parse(text)
    assert caught.value.status == 400 and len(caught.value.message) < 300


@pytest.mark.parametrize("encoded", ["AAA", "Ä", "AA=A", "A A"])
def test_base64_that_is_none(encoded: str) -> None:
    with pytest.raises(RequestError, match="not base64"):
        chat.file(encoded)


def test_base64_may_be_broken_into_lines() -> None:
    assert chat.file("AAEC\r\nAwQF\n") == bytes(range(6))


# splitting a stream


def split(text: str, cuts: list[int]) -> tuple[str, str]:
    splitter, thinking, answer, last = Splitter(), "", "", 0
    for cut in [*sorted(min(cut, len(text)) for cut in cuts), len(text)]:
        more_thinking, more_answer = splitter.feed(text[last:cut])
        thinking, answer, last = thinking + more_thinking, answer + more_answer, cut
    return thinking, answer


PLAIN = st.text(st.sampled_from("ab <>/\n"), max_size=12).filter(lambda t: not tags.marks(("seg",)).search(f"<{t}>"))
CUTS = st.lists(st.integers(0, 80), max_size=8)


@given(PLAIN, PLAIN, CUTS)
def test_a_stream_adds_up_to_the_whole_answer(think: str, answer: str, cuts: list[int]) -> None:
    text = f"<think>{think}<seg>1.0, 2.0</seg></think><answer>{answer}</answer>"
    response = tags.parse(text)
    assert split(text, cuts) == (response.think, response.answer)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " ", "<"]), max_size=12), CUTS)
def test_it_does_not_matter_where_a_stream_is_cut(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    assert split(text, cuts) == split(text, list(range(80)))


def test_what_an_engine_cannot_say_is_null() -> None:
    """vLLM's log-probabilities may be NaN, which is no JSON; a chat API counts no tokens."""
    whole = Listen(1, 5, Segment(0.0, 2.0))
    unknown = answered(Trace([1, 2], [False, True], [0.0, float("nan")], [whole], 1, text="<answer>a</answer>"), (), {})
    told = json.loads(json.dumps(replies.whole(unknown, (), trace=True), allow_nan=False))
    assert told["trace"]["logprobs"] == [0.0, None] and replies.usage([unknown.trace]) is not None
    alone = answered(Trace([], [], [], [Listen(0, 0, Segment(0.0, 2.0))], 0, text="<answer>a</answer>"), (), {})
    assert replies.whole(alone, (), trace=True)["tokens"] is None and replies.usage([alone.trace]) is None


# addresses


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1",
     "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:db8::1", "::127.0.0.1"],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


def test_public_addresses() -> None:
    assert is_public("1.1.1.1") and is_public("2606:4700::1111") and is_public("64:ff9b::101:101")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/a.wav", "http://localhost/a.wav", "http://[::1]/a.wav", "http://2130706433/", "http://0x7f.1/",
     "http://user:pass@example.org/", "ftp://example.org/", "http:///a", "http://[", "http://example.org:99999/",
     "http://169.254.169.254/latest/meta-data/"],
)  # fmt: skip
def test_what_is_never_fetched(url: str) -> None:
    with pytest.raises(RequestError, match="cannot be fetched"):
        asyncio.run(fetch(url, 1000, 5.0))


@pytest.mark.parametrize("default", [True, False])
def test_what_a_request_leaves_out_or_null_is_the_server_s_default(default: bool) -> None:
    bounds = replace(BOUNDS, defaults=replace(BOUNDS.defaults, only_choices=default))
    for own in ({}, {"only_choices": None}):
        assert chat.read(body(relisten=own), bounds).config.only_choices is default
    assert chat.read(body(relisten={"only_choices": not default}), bounds).config.only_choices is not default


def test_an_answer_may_quote_the_tags_of_a_thought() -> None:
    text = "<think>a</think><answer>the tag </think> and <think></answer>"
    assert split(text, [30, 40]) == ("a", tags.parse(text).answer) == ("a", "the tag </think> and <think>")
