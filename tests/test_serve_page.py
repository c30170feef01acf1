"""The page of `relisten serve` in a real Chromium.

It needs `pip install -e '.[browser]'` and a Chromium (Debian: apt install chromium; the environment variable CHROMIUM
names another one). Then: pytest -m slow tests/test_serve_page.py
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relisten.commands.options import ModelOptions
from relisten.commands.serve import served
from relisten.records import read_examples
from relisten.serving.limits import Limits
from tests.serving import EXAMPLES, FakeBatch, running

pytestmark = pytest.mark.slow
QUESTIONS = read_examples(EXAMPLES / "questions.jsonl")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-fake-device-for-media-stream",
         "--use-fake-ui-for-media-stream"]  # fmt: skip
PIECES = ["<think>", "first ", "<seg>0.5, 1.0</seg>", " then", " <seg>2.0, 3.0</seg>", " and on", " and on", "</think>",
          "<answer>", "two", "</answer>"]  # fmt: skip
MINUTE = 60_000.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "install chromium, or name a Chromium in the environment variable CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page at an address. At the end nothing may have gone wrong, and no other host may have been asked."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    context.set_default_timeout(MINUTE)

    def open_page(address: str, **options: Any) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" and "status of" not in m.text else None)
        page.on("request", lambda r: None if r.url.startswith((address, "blob:", "data:")) else wrong.append(r.url))
        page.goto(address + "/", **options)
        return page

    yield open_page
    context.close()
    assert not wrong


@pytest.fixture(scope="module")
def nano() -> Iterator[str]:
    with running(served(ModelOptions(), max_rows=4), examples=QUESTIONS) as (address, _):
        yield address


def upload(page: Any, path: Path = EXAMPLES / "scene-2.flac") -> None:
    page.set_input_files("#file", path)
    page.locator("#form").wait_for()


def ask(page: Any, question: str = "How many bells?", choices: str = "") -> None:
    page.fill("#question", question)
    page.fill("#choices", choices)
    page.click("#ask")


def test_a_file_is_asked_about_and_its_answer_is_that_of_ask(visit: Callable[..., Any], nano: str) -> None:
    example = QUESTIONS[2]
    page = visit(nano)
    page.locator("#about", has_text="It knows only").wait_for()
    upload(page, EXAMPLES / "scene-3.flac")
    assert page.locator("#length").inner_text() == "7.3"
    ask(page, example.question, "\n".join(example.choices))
    page.locator(".counts").wait_for()
    import relisten

    answer = relisten.ask(relisten.load("nano"), example.audio, example.question, example.choices)
    assert page.locator(".verdict .text").inner_text() == answer.choice
    assert page.locator(".choices .chosen").inner_text() == answer.choice
    shown = page.locator(".reasoning").inner_text()
    for number, segment in enumerate(answer.segments, start=1):
        assert re.search(rf"{number}\s*{segment.start:.1f}–{segment.end:.1f}", shown)
    assert page.locator(".tab").count() == len(answer.segments)


def test_each_segment_lights_up_when_it_is_heard(visit: Callable[..., Any]) -> None:
    with running(FakeBatch(pieces=PIECES, seconds=0.4)) as (address, _):
        page = visit(address)
        upload(page)
        ask(page)
        page.locator(".tab").nth(0).wait_for()
        assert page.locator(".tab").count() == 1 and page.locator(".counts").count() == 0
        assert page.locator(".reasoning").inner_text().split()[:2] == ["first", "1"]
        page.locator(".tab").nth(1).wait_for()
        assert page.locator(".verdict .text").count() == 0  # the answer is not written yet
        page.locator(".counts").wait_for()
        assert page.locator(".verdict .text").inner_text() == "two"


def test_segments_are_played_by_click_and_by_number(visit: Callable[..., Any]) -> None:
    with running(FakeBatch(pieces=PIECES)) as (address, _):
        page = visit(address)
        upload(page)
        ask(page)
        page.locator(".counts").wait_for()

        def plays(start: float, end: float) -> None:
            page.locator("#play.on").wait_for()
            assert start - 0.3 <= float(page.locator("#now").inner_text()) <= end + 0.3
            page.locator("#play:not(.on)").wait_for()  # it stops at the end of the segment
            assert abs(float(page.locator("#now").inner_text()) - end) < 0.4

        page.locator(".reasoning .seg").nth(0).click()
        plays(0.5, 1.0)
        page.locator(".tab").nth(1).click()
        plays(2.0, 3.0)
        page.locator("#player").focus()
        page.keyboard.press("1")
        plays(0.5, 1.0)
        page.keyboard.press("Space")
        page.locator("#play.on").wait_for()
        page.keyboard.press("Escape")
        page.locator("#play:not(.on)").wait_for()


def test_a_segment_plays_as_the_operation_made_it(visit: Callable[..., Any]) -> None:
    """The server renders it once; the second time it comes from the page's own memory."""
    pieces = [
        "<think>",
        "fast ",
        "<slow>0.5, 1.0</slow>",
        " and <band>1, 2, 300, 3400</band>",
        "</think><answer>two</answer>",
    ]
    with running(FakeBatch(pieces=pieces)) as (address, _):
        page = visit(address)
        upload(page)
        ask(page)
        page.locator(".counts").wait_for()
        assert page.locator(".reasoning .seg").nth(0).inner_text().split("\n")[-1].endswith("slow")
        assert "300–3400" in page.locator(".reasoning .seg").nth(1).inner_text()
        with page.expect_response("**/v1/relisten/clip") as told:
            page.locator(".reasoning .seg").nth(0).click()
        assert int(told.value.headers["content-length"]) == 44 + 2 * 16_000  # half a second at half speed, in 16 bits
        page.locator(".tab.active").wait_for()
        page.locator(".tab:not(.active)").nth(1).wait_for()  # it ends, and no tab is lit
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.locator(".tab").nth(0).click()
        page.locator(".tab.active").wait_for()
        assert not [url for url in asked if url.endswith("/clip")]


def test_all_of_it_works_by_keyboard(visit: Callable[..., Any]) -> None:
    example = QUESTIONS[0]
    with running(FakeBatch(), examples=[example]) as (address, _):
        page = visit(address)
        page.locator("#examples option").nth(1).wait_for(state="attached")
        page.locator("#examples").focus()
        page.keyboard.press("ArrowDown")
        page.locator("#form").wait_for()
        page.locator("#question").focus()
        page.keyboard.press("Enter")
        page.locator(".counts").wait_for()
        reached = set()
        page.locator("#examples").focus()
        for _ in range(30):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        wanted = {"player", "play", "spectrogram", "question", "choices", "format", "from", "to", "ask", "link", "open"}
        assert wanted <= reached and any(name.startswith("seg ") for name in reached)


def test_a_stretch_is_chosen_with_the_mouse_or_typed(visit: Callable[..., Any]) -> None:
    batch = FakeBatch(pieces=PIECES)
    with running(batch) as (address, _):
        page = visit(address)
        upload(page)
        box = page.locator("#wave").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=8)
        page.mouse.up()
        start, end = (float(page.locator(name).input_value()) for name in ("#from", "#to"))
        assert abs(start - 0.25 * 6.6) < 0.2 and abs(end - 0.6 * 6.6) < 0.2
        page.fill("#from", "1.0")
        page.fill("#to", "5.0")
        page.locator("#to").blur()
        ask(page)
        page.locator(".counts").wait_for()
        assert abs(batch.latest.audio.duration - 4.0) < 0.01  # type: ignore[union-attr]
        assert "1.5–2.0" in page.locator(".reasoning").inner_text()  # 0.5 to 1.0 s of what was heard
        page.click("#whole")
        assert page.locator("#from").input_value() == ""


def test_the_answer_is_one_of_the_choices_if_it_must_be(visit: Callable[..., Any], nano: str) -> None:
    page = visit(nano)
    upload(page)
    page.check("#only")
    ask(page, QUESTIONS[1].question, "moon\nsun")
    page.locator(".counts").wait_for()
    assert page.locator(".choices .chosen").inner_text() in ("moon", "sun")


def test_formats_stand_beside_each_other(visit: Callable[..., Any], nano: str) -> None:
    page = visit(nano)
    upload(page)
    page.select_option("#format", "compare")
    ask(page, QUESTIONS[1].question, "\n".join(QUESTIONS[1].choices))
    page.locator(".counts").nth(2).wait_for()
    assert [name.split("\n")[0].lower() for name in page.locator(".take h3").all_inner_texts()] == [
        "interleaved", "grounded", "conditioned",
    ]  # fmt: skip
    tops = [box["y"] for box in (take.bounding_box() for take in page.locator(".take").all())]
    assert max(tops) - min(tops) < 2
    page.locator(".take").nth(1).locator(".link").click()
    assert page.locator(".take.shown h3").inner_text().lower().startswith("grounded")


def test_the_history_stays_and_an_answer_becomes_a_page(visit: Callable[..., Any], nano: str, tmp_path: Path) -> None:
    page = visit(nano)
    upload(page)
    ask(page, QUESTIONS[1].question, "\n".join(QUESTIONS[1].choices))
    page.locator(".counts").wait_for()
    page.locator("#history .open").wait_for()
    page.reload()
    page.locator("#history .open").click()
    page.locator(".counts").wait_for()
    assert page.locator("#name").inner_text() == "scene-2.flac" and page.locator(".tab").count() > 0
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as a page").click()
    assert download.value.suggested_filename == "scene-2.html"
    download.value.save_as(tmp_path / "saved.html")
    saved = (tmp_path / "saved.html").read_text(encoding="utf-8")
    assert QUESTIONS[1].question in saved and "data:audio/wav;base64," in saved
    page.get_by_role("button", name="Delete all of them").click()
    page.locator("#past").wait_for(state="hidden")


def test_what_goes_wrong_is_told(visit: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no sound at all")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "large.wav").write_bytes(bytes(200_000))
    batch = FakeBatch(max_rows=1, seconds=0.2, pieces=["<think>", *["x "] * 400])
    with running(batch, Limits(max_bytes=150_000, max_rows=1, max_waiting=0, num_decoders=1)) as (address, _):
        page = visit(address)
        files = {"notes.txt": "no recording", "empty.wav": "is empty", "large.wav": "larger than"}
        for name, told in files.items():
            page.set_input_files("#file", tmp_path / name)
            page.locator("#problem", has_text=told).wait_for()
            assert page.locator("#form").is_hidden()
        upload(page)
        assert page.locator("#problem").is_hidden()
        ask(page)
        page.locator(".reasoning", has_text="x x").wait_for()
        ask(page, "And now?")
        page.locator(".card .problem", has_text="ask again later").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.locator(".card .problem", has_text="Stopped.").wait_for()
        end = time.monotonic() + 20
        while batch.busy:
            assert time.monotonic() < end  # the row is free again
            time.sleep(0.05)


def test_what_a_browser_cannot_decode_is_decoded_by_the_server(visit: Callable[..., Any], tmp_path: Path) -> None:
    import soundfile

    samples, rate = soundfile.read(EXAMPLES / "scene-2.flac")
    soundfile.write(tmp_path / "scene.au", samples, rate)
    with running(FakeBatch()) as (address, _):
        page = visit(address)
        upload(page, tmp_path / "scene.au")
        assert page.locator("#length").inner_text() == "6.6"


def test_the_microphone(visit: Callable[..., Any]) -> None:
    batch = FakeBatch(pieces=PIECES)
    with running(batch) as (address, _):
        page = visit(address)
        page.click("#record")
        page.locator("#record", has_text="Stop (1 s)").wait_for()
        page.click("#record")
        page.locator("#form").wait_for()
        ask(page)
        page.locator(".counts").wait_for()
        assert 0.8 < batch.latest.audio.duration < 10  # type: ignore[union-attr]


def test_two_tabs_at_once(visit: Callable[..., Any]) -> None:
    with running(FakeBatch(pieces=PIECES, seconds=0.2)) as (address, _):
        tabs = [visit(address), visit(address)]
        for number, page in enumerate(tabs):
            upload(page, EXAMPLES / f"scene-{number + 1}.flac")
            ask(page, f"Question {number}?")
        for number, page in enumerate(tabs):
            page.locator(".counts").wait_for()
            assert page.locator(".card h2").inner_text() == f"Question {number}?"
        tabs[0].reload(wait_until="networkidle")  # nothing may be asked once the server is gone
        tabs[0].locator("#history .open").nth(1).wait_for()


def test_a_key_is_asked_for(visit: Callable[..., Any]) -> None:
    with running(FakeBatch(), api_key="a-key-of-at-least-16") as (address, _):
        page = visit(address)
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.locator("#keys[open]").wait_for()
        page.fill("#key", "a-key-of-at-least-16")
        page.keyboard.press("Enter")
        page.locator("#model", has_text="fake").wait_for()
        upload(page)
        ask(page)
        page.locator(".counts").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_and_can_be_read(visit: Callable[..., Any], width: int, scheme: str) -> None:
    """Nothing is wider than the page. SCREENSHOTS names a folder for pictures to look at."""
    hostile = "<script>alert(1)</script>\u202e" + "x" * 300
    with running(FakeBatch(pieces=[*PIECES[:5], hostile, *PIECES[7:]]), examples=QUESTIONS) as (address, _):
        page = visit(address)
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        upload(page)
        page.check("#spectrogram")
        page.select_option("#format", "compare")
        ask(page, "y" * 200, "z" * 200 + "\nb")
        page.locator(".counts").nth(2).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert "<script>alert(1)</script>\ufffdxxx" in page.locator(".reasoning").first.inner_text()
        if folder := os.environ.get("SCREENSHOTS"):
            page.wait_for_timeout(1500)
            page.screenshot(path=f"{folder}/page-{width}-{scheme}.png", full_page=True)
