"""The page of an answer: self-contained, escaped, and true to what was heard."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from relisten import tags
from relisten.engine.answer import Answer, answered
from relisten.reports import answer_page as pages
from relisten.types import Audio, Listen, Refusal, Segment, Trace

DURATION = 6.0
RECORDING = Audio((np.random.default_rng(0).normal(size=int(DURATION * 16_000)) * 0.1).astype(np.float32))
HEARD = (Segment(1.0, 2.0), Segment(5.5, 6.0))
TEXT = (
    "<think>First <seg>1.0, 2.0</seg> a bell, then <seg>3, 3.1</seg> and <seg>5.5, 9.0</seg>.</think>"
    "<answer>green</answer>"
)


def make_answer(
    text: str = TEXT,
    heard: tuple[Segment, ...] = HEARD,
    refusals: tuple[Refusal, ...] = (Refusal("<seg>3, 3.1</seg>", "too short"),),
    choices: tuple[str, ...] = ("red", "green"),
) -> Answer:
    listens = [Listen(5, 150, Segment(0.0, DURATION)), *(Listen(200 + 30 * i, 25, s) for i, s in enumerate(heard))]
    trace = Trace([0] * 300, [False] * 300, [0.0] * 300, listens, 180, list(refusals), "stop", text)
    return answered(trace, choices, {"prefill": 0.1, "listen": 0.2, "decode": 0.3})


def make_page(answer: Answer | None = None, **rest: str) -> str:
    given = {"question": "Which word?", "name": "clip.wav", "model": "nano", "command": "relisten ask", **rest}
    return pages.page(answer or make_answer(), RECORDING, choices=("red", "green"), **given)


class Parsed(HTMLParser):
    """Every element with its attributes, and the page's visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_each_heard_segment_can_be_played_where_it_is_named_and_on_the_waveform() -> None:
    parsed = Parsed(make_page())
    buttons = [b for b in parsed.all("button") if "data-start" in b]
    places = [(b["data-n"], b["data-start"], b["data-end"]) for b in buttons]
    once = [("0", "1.000", "2.000"), ("1", "5.500", "6.000")]
    assert places == once + once  # tabs over the waveform, then the reasoning
    assert all(b["aria-label"] for b in buttons)
    assert "First 11.0–2.0\u2009s a bell" in parsed.text
    assert "<seg>3, 3.1</seg> (not heard: too short)" in parsed.text
    assert next(b["style"] for b in parsed.all("span") if "data-n" in b) == "left: 16.667%; width: 16.667%"


def test_a_segment_of_an_operation_plays_as_it_was_heard() -> None:
    text = "<think>It is <slow>1.0, 2.0</slow> fast, <band>5.5, 6.0, 300, 3400</band> so.</think><answer>green</answer>"
    answer = make_answer(text)
    whole, *heard = answer.trace.listens
    heard[0] = replace(heard[0], operation="slow")
    heard[1] = replace(heard[1], operation="band", segment=replace(heard[1].segment, band=(300.0, 3400.0)))
    answer.trace.listens[:] = [whole, *heard]
    answer.trace.operations = ("seg", "slow", "band")
    parsed = Parsed(make_page(answer))
    assert "It is 11.0–2.0\u2009sat half speed fast, 25.5–6.0\u2009sfrom 300 to 3400 Hz so." in parsed.text
    clips = {b["data-clip"] for b in parsed.all("button") if "data-clip" in b}
    sounds = {a["id"]: str(a["src"]) for a in parsed.all("audio")}
    assert clips == {"clip-sound0", "clip-sound1"} <= sounds.keys()
    made = base64.b64decode(sounds["clip-sound0"].partition(",")[2])
    assert len(made) == 44 + 2 * 2 * RECORDING.rate, "one second at half speed, in 16 bits"


def test_choices_answer_and_facts_are_shown() -> None:
    parsed = Parsed(make_page())
    assert [("chosen" in (li.get("class") or "")) for li in parsed.all("li")] == [False, True]
    for fact in ("Which word?", "clip.wav", "nano", "180 in the prompt", "torch", "segments: 2; tags refused: 1"):
        assert fact in parsed.text


def test_the_recording_is_in_the_page() -> None:
    [audio] = Parsed(make_page()).all("audio")
    kind, _, data = (audio["src"] or "").partition(";base64,")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")
    assert (kind, rate) == ("data:audio/wav", 16_000)
    np.testing.assert_allclose(samples, RECORDING.samples, atol=1 / 32_000)


def test_a_long_recording_is_compressed() -> None:
    long = Audio(np.zeros(16_000 * 90, np.float32))
    html = pages.page(make_answer(), long, "q", (), "x", "nano", "")
    assert "data:audio/flac" in html
    assert len(html) < 200_000


def test_nothing_is_asked_of_the_network_and_only_our_script_may_run() -> None:
    html = make_page()
    [policy] = [m["content"] for m in Parsed(html).all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    [script] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    for outside in ("fetch(", "XMLHttpRequest", "WebSocket", "import(", "innerHTML", "http"):
        assert outside not in script
    rest = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html.replace(script, ""))
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", rest)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "<!--",
    "${x} $question $$",
    "\x00\x1b[2J\u202e\ud800",
    "<seg>1.0, 2.0</seg><svg/onload=alert(1)>",
)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_text(hostile: str) -> None:
    plain = [tag for tag, _ in Parsed(make_page(make_answer("x", (), ()))).elements if tag not in ("rect", "li")]
    answer = make_answer(hostile, (), (), choices=(hostile,))
    refused = make_answer(f"<seg>{hostile}</seg>", (), (Refusal(f"<seg>{hostile}</seg>"[:80], "unreadable"),))
    named = make_answer(f"<think>{hostile}</think><answer>{hostile}</answer>", (), (), choices=(hostile,))
    for given_answer in (answer, refused, named):
        html = pages.page(given_answer, RECORDING, hostile, (hostile, "b"), hostile, hostile, hostile)
        html.encode("utf-8")
        parsed = Parsed(html)
        added = {tag for tag, _ in parsed.elements} - set(plain)
        assert added <= {"li", "rect", "ul", "code", "clippath", "use", "span", "b", "s", "button", "kbd"}
        assert len(parsed.all("script")) == 1
        assert not parsed.all("img")
        assert not [a for _, a in parsed.elements for name in a if name.startswith("on") or name == "autofocus"]
        assert "\x00" not in html
        assert "\u202e" not in html


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["<seg>", "</seg>", "1.0, 2.0", "5.5, 6", "0, 0", "a", "<think>", "</think>", "<"])))
def test_any_text_can_be_annotated_and_no_listen_is_lost(pieces: list[str]) -> None:
    text = "".join(pieces)
    listens = [Listen(0, 25, s) for s in HEARD]
    marks = [m for m in pages.annotate(text, listens, (), DURATION) if isinstance(m, pages.Mark)]
    assert [m.segment for m in marks if m.heard] == list(HEARD)


def test_a_refusal_belongs_to_its_own_tag() -> None:
    """Named tags before it, and tags that never closed, have none or another."""
    text = "first <seg>1.0, 2.0</seg>, <seg>x <seg>3.0, 3.5</seg> then <seg>4.0, 4.1</seg> last"
    refusals = (Refusal("<seg>x <seg>", "unreadable"), Refusal("<seg>4.0, 4.1</seg>", "too short"))
    marks = [m for m in pages.annotate(text, (), refusals, 6.0) if isinstance(m, pages.Mark)]
    assert [(m.segment, m.refusal) for m in marks] == [
        (Segment(1.0, 2.0), None), (Segment(3.0, 3.5), None), (None, refusals[1]),
    ]  # fmt: skip


def test_thousands_of_unclosed_tags_take_no_time() -> None:
    assert "".join(map(str, pages.annotate("<seg>" * 20_000, (), (), DURATION))) == "<seg>" * 20_000


def test_a_grounded_answer_names_segments_that_can_be_played() -> None:
    html = make_page(make_answer(heard=(), refusals=()))
    parsed = Parsed(html)
    assert [b["class"] for b in parsed.all("button") if "seg" in (b.get("class") or "")] == [
        "seg s0 named", "seg s1 named", "seg s2 named",
    ]  # fmt: skip
    assert "3 segments named" in parsed.text


def test_no_answer_and_a_forced_answer_are_said() -> None:
    assert "The model wrote none" in Parsed(make_page(make_answer("hm", (), ()))).text
    answer = make_answer()
    answer.trace.finish = "length"
    assert "limit on new tokens" in Parsed(make_page(answer)).text


def test_overlapping_segments_get_tabs_in_different_rows() -> None:
    heard = (Segment(1.0, 3.0), Segment(2.0, 4.0), Segment(3.5, 5.0))
    text = "".join(map(tags.write_segment, heard))
    tops = re.findall(r'class="tab .*?top: (\d+)px', make_page(make_answer(text, heard, ())))
    assert tops == ["0", "26", "0"]


def test_the_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "ü b.html"
    pages.write_page(path, make_answer(), RECORDING, "q", ("red", "green"), name="ü.wav", model="nano", command="c")
    assert [p.name for p in tmp_path.iterdir()] == ["ü b.html"]
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_page_shows_the_reasoning_alone_in_one_pass() -> None:
    """The pattern that cut the reasoning out went back and forth: n turns and n endings took n * n steps."""
    alone = pages._reasoning_alone
    assert alone(" <think>a <seg>1, 2</seg></think>\n<answer>b</answer>\n") == "a <seg>1, 2</seg>"
    for odd in (
        "", "<think>a</think>", "x<think>a</think><answer>b</answer>", "<think>a</think>x<answer>b</answer>",
        "<think>a</think><answer>b</answer>x", "<think>a</think><think>b</think><answer>c</answer>",
    ):  # fmt: skip
        assert alone(odd) == odd
    turns = "<think>" + "</think> <answer>" * 100_000 + "</answer>x" * 100_000
    assert alone(turns) == turns
