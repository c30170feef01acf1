"""Describers: ears on sounds made here, a local model, a server, and what labels have to say about it."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from relisten import cli
from relisten.audio import load
from relisten.data import describers as describe
from relisten.data.checks import cot_fault
from relisten.data.compose import Draft
from relisten.data.offline import ears, speech
from relisten.models.base import AudioLM
from relisten.types import Audio, Clip, Event, Segment

EXAMPLES = Path(__file__).parent.parent / "examples"
DOG = Clip("audioset-x", Audio(np.zeros(16_000, np.float32)), 1.0, (Event("Dog", 0.2, 0.6),))


# Labels win.


@pytest.mark.parametrize(
    ("sentence", "contradicted"),
    [
        ("There is no dog.", True),
        ("A dog barks twice.", False),
        ("The label /m/0bt9lr is heard.", True),
        ("A man speaks in the distance.", True),  # no label is speech
        ("Nobody is speaking.", False),
    ],
)
def test_a_sentence_beside_strong_labels(sentence: str, contradicted: bool) -> None:
    assert describe.contradicted(sentence, DOG) == contradicted


def test_texts_are_reconciled_with_labels() -> None:
    texts = {
        "sound": "A dog barks near by. No dog is heard. Music plays. It ends in silence.",
        "speech": "A woman says hello to the dog.",
        "music": "NONE",
    }
    assert describe.reconcile(texts, DOG) == {"sound": "A dog barks near by. It ends in silence."}


def test_partial_labels_rule_nothing_out() -> None:
    """Castella marks moments, not everything: speech may be described where no caption names it."""
    clip = Clip("castella-x", DOG.audio, 1.0, DOG.events)
    texts = {"sound": "A dog barks and a man speaks.", "speech": "A man says come here."}
    assert describe.reconcile(texts, clip) == texts


def test_garbage_is_dropped() -> None:
    assert describe.reconcile({"sound": "the sound of the " * 5, "speech": "ok", "music": ""}, DOG) == {}


def test_what_the_source_says_stays() -> None:
    clip = Clip("c", DOG.audio, 1.0, DOG.events, {"sound": "The published caption."})
    found = Clip("c", DOG.audio, 1.0, (Event("Cat", 0.0, 1.0),), {"sound": "Ears' own words.", "music": "A slow song."})
    settled = describe.settled(clip, found)
    assert settled.events == clip.events
    assert settled.descriptions == {"sound": "The published caption.", "music": "A slow song."}


def test_the_prompt_names_what_is_known() -> None:
    assert "It is certain that this is heard: Dog from 0.2 to 0.6 s." in describe.prompt("sound", DOG)
    for key in describe.KEYS:
        assert "$" not in describe.prompt(key, Clip("c", DOG.audio, 1.0))


def test_ones_own_describer() -> None:
    assert describe.find(f"{__name__}:says")(DOG).descriptions == {"sound": "A dog barks here."}


def says(clip: Clip) -> dict[str, str]:
    return {"sound": f"A {clip.events[0].label.lower()} barks here."}


# Models.


def test_a_model_of_ours_describes(build_model: Callable[..., AudioLM]) -> None:
    model = build_model()
    said = describe.local(model, max_new_tokens=8)("What is heard?", DOG.audio)  # type: ignore[arg-type]
    assert isinstance(said, str)
    assert "<answer>" not in said
    prompt, _ = model.prompt("What is heard?", (), "conditioned", 16_000)
    assert "Think step" not in model.decode(prompt)


class Server(BaseHTTPRequestHandler):
    """Replies to chat completions with what it was given."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012
    status = 200

    def do_GET(self) -> None:
        self._reply({"object": "list", "data": [{"id": "tiny", "object": "model", "created": 0, "owned_by": "me"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        message = {"role": "assistant", "content": "<think>hm</think> A dog barks in a yard."}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self._reply({"id": "1", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [choice],
                     "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320}})  # fmt: skip

    def _reply(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def serving(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    handler = type("Handler", (Server,), {"asked": [], "status": status})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", handler.asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_is_sent_the_recording() -> None:
    tone = Audio(np.sin(np.arange(16_000) / 9).astype(np.float32) * 0.5)
    clip = Clip("c", tone, 1.0, (Event("Dog", 0.2, 0.6),), {"music": "A published text."})
    with serving() as (url, asked):
        described = describe.find(url)(clip)
    assert described.descriptions["sound"] == "A dog barks in a yard."
    assert described.descriptions["music"] == "A published text."
    assert len(asked) == 2  # what is there already is not asked for
    [sent, prompt] = asked[0]["messages"][0]["content"]
    assert asked[0]["model"] == "tiny"
    assert "Dog from 0.2 to 0.6 s" in prompt["text"]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sent["input_audio"]["data"])), dtype="float32")
    assert rate == 16_000
    assert np.abs(samples - tone.samples).max() < 1e-4


def test_a_server_that_refuses_gives_one_line() -> None:
    with serving(status=401) as (url, _), pytest.raises(ValueError, match="check that it takes audio") as caught:
        describe.find(f"{url}#tiny")(DOG)
    assert "\n" not in str(caught.value)


# Ears.


def test_what_is_missing_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ears.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ears needs onnxruntime, .*; pip install .*\[ears\]'") as caught:
        describe.find("ears")
    assert "\n" not in str(caught.value)


def bursts(*spans: tuple[float, float], seconds: float = 4.0) -> Audio:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=round(seconds * 16_000)) * 0.001
    for start, end in spans:
        first, last = round(start * 16_000), round(end * 16_000)
        samples[first:last] += rng.normal(size=last - first) * 0.2
    return Audio(samples.astype(np.float32))


def test_regions_begin_and_end_where_the_sound_does() -> None:
    found = ears.regions(bursts((0.5, 1.0), (2.0, 2.2), (2.25, 2.6)))
    assert len(found) == 2
    for region, (start, end) in zip(found, [(0.5, 1.0), (2.0, 2.6)], strict=True):
        assert abs(region.start - start) <= 0.03
        assert abs(region.end - end) <= 0.03


def test_silence_has_no_regions_and_an_even_sound_is_one() -> None:
    assert ears.regions(Audio(np.zeros(16_000, np.float32))) == []
    assert [(r.start, r.end) for r in ears.regions(bursts((0.0, 4.0)))] == [(0.0, 4.0)]
    assert ears.regions(Audio(np.zeros(0, np.float32))) == []


needs_ears = pytest.mark.skipif(
    bool(ears.missing()), reason=f"not installed: {', '.join(ears.missing())}; {ears.install()}"
)


@needs_ears
def test_ears_hears_speech_in_an_example() -> None:
    events = ears.hear(load(EXAMPLES / "scene-1.flac"))
    speech = [event for event in events if event.label == "Speech" or event.labels.get("group") == "word"]
    assert any(event.start < 2.6 and event.end > 2.4 for event in speech)
    for event in events:
        assert 0 <= event.start < event.end <= 6.5
        assert event.labels["by"] == "ears"


@needs_ears
def test_ears_keeps_strong_labels() -> None:
    event = Event("six", 2.32, 2.78, {"group": "word", "heard": "a voice saying six"})
    clip = describe.find("ears")(Clip("scene-1", EXAMPLES / "scene-1.flac", 6.5, (event,)))
    assert clip.events == (event,)
    assert "six from 2.3 to 2.8 s" in clip.descriptions["sound"]
    assert "There is speech from 2.3 to 2.8 s" in clip.descriptions["speech"]
    assert "music" not in clip.descriptions


class Whisper:
    """A recogniser that hears two words, and is unsure of the second."""

    model = SimpleNamespace(is_multilingual=False)
    hf_tokenizer = SimpleNamespace(
        get_vocab=lambda: {"one": 0, " 6": 1, "Ġ12": 2, "<|0.00|>": 9}, token_to_id=lambda text: 5
    )

    def transcribe(self, samples: Any, **asked: Any) -> Any:
        self.asked = asked
        word = SimpleNamespace
        heard = [word(word=" Turn", start=0.3, end=1.0, probability=0.9),
                 word(word=" left.", start=1.0, end=9.0, probability=0.4)]  # fmt: skip
        return [SimpleNamespace(words=heard)], None


def test_words_lie_within_the_speech_and_are_written_without_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    whisper = Whisper()
    speech._digits.cache_clear()
    monkeypatch.setattr(speech, "recogniser", lambda name: whisper)
    audio = Audio(np.zeros(16_000 * 6, np.float32))
    found = speech.words(audio, Segment(2.0, 3.0))
    # What Whisper is given begins 0.65 s before the speech: half a second of silence, 0.15 s of the recording.
    assert [(w.label, w.start, w.end) for w in found] == [("turn", 2.0, 2.35), ("left", 2.35, 3.0)]
    assert all(word.labels["group"] == "word" for word in found)
    assert whisper.asked["suppress_tokens"] == [-1, 1, 2], "numbers are written as words"


def test_speech_without_a_sure_word_stays_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "recogniser", lambda name: Whisper())
    audio = Audio(np.zeros(16_000 * 6, np.float32))
    found = ears._spoken(audio, [Segment(2.0, 3.0)], "")
    assert [(event.label, event.labels["by"]) for event in found] == [("turn", "ears")]
    monkeypatch.setattr(speech, "SURE", 0.95)
    assert [event.label for event in ears._spoken(audio, [Segment(2.0, 3.0)], "")] == ["Speech"]


def test_whisper_that_cannot_be_had_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ears, "missing", lambda: [])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"needs Whisper's weights, but .* cannot be loaded .*ears#NAME") as caught:
        describe.find(f"ears#{tmp_path / 'nothing'}")
    assert "\n" not in str(caught.value)


# Files.


def test_show_draws_labels_and_chain(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(["data", "show", str(EXAMPLES / "questions.jsonl"), "scene-1"]) == 0
    shown = capsys.readouterr().out
    for expected in ("guitar 1.1–1.9 s", "● seven", "└──2───┘", "<seg>2.2, 2.8</seg>"):
        assert expected in shown
    page = tmp_path / "page.html"
    assert cli.run(["data", "show", str(EXAMPLES / "events.jsonl"), "2", "--html", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert "saxophone" in html
    assert 'data-start="1.8' in html  # a label that can be played


def test_segments_of_a_training_example_are_named_and_not_heard(tmp_path: Path) -> None:
    """The page said "2 segments heard again" of a chain that no model had written."""
    page = tmp_path / "page.html"
    assert cli.run(["data", "show", str(EXAMPLES / "questions.jsonl"), "scene-1", "--html", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert re.search(r"\d segments? named", html) and not re.search(r"heard again", html, re.IGNORECASE)
    assert html.count('class="seg ') > 1  # and each can be played


def test_show_of_an_unknown_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", "show", str(EXAMPLES / "questions.jsonl"), "nothing"]) == 2
    assert "has no example 'nothing'" in capsys.readouterr().err


def test_validate_names_every_bad_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000), 16_000)
    good = {"id": "1", "audio_path": "a.wav", "question": "What is heard?", "choices": ["a dog", "a cat"]}
    good |= {"answer": "a dog", "cot": "First <seg>0.5, 1.0</seg>, a dog."}
    rows: list[Any] = [
        good, good | {"id": "2", "answer": "a cow"}, good, good | {"id": "4", "choices": ["a dog", "A dog "]},
        good | {"id": "5", "cot": "At <seg>1.0, 9.0</seg>."}, good | {"id": "6", "audio_path": "gone.wav"},
        good | {"id": "7", "cot": "At <seg>1.0</seg>."}, good | {"id": "8", "question": "Is it /m/0bt9lr?"}, [],
        good | {"id": "10", "events": [["dog", 1.5, 1.0]]}, good | {"id": "11", "cot": "<think>x</think>"},
        good | {"id": "12", "cot": "At <seg>1.0, 1.1</seg>."},
    ]  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{half", encoding="utf-8")
    assert cli.run(["data", "validate", str(path)]) == 1
    shown = capsys.readouterr().out.splitlines()
    expected = {
        2: "is not among the choices", 3: "is used in line 1 too", 4: "two choices are the same", 5: "ends at 9 s",
        6: "no such file", 7: "cannot be read", 8: "identifier /m/0bt9lr", 9: "not an object", 10: "has no length",
        11: "holds <think>", 12: "is shorter than 0.2 s", 13: "is not JSON",
    }  # fmt: skip
    for number, reason in expected.items():
        assert any(line.startswith(f"line {number}: ") and reason in line for line in shown), reason
    assert not any(line.startswith("line 1: ") for line in shown)
    assert shown[-1] == "1 good, 12 bad"
    path.write_text(json.dumps(good) + "\n", encoding="utf-8")
    assert cli.run(["data", "validate", str(path)]) == 0


def test_validate_says_that_a_folder_is_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It said "no such file" of a folder that is there."""
    assert cli.run(["data", "validate", str(tmp_path)]) == 2
    assert f"{tmp_path}: is a folder; name a JSONL of examples in it" in capsys.readouterr().err


@pytest.mark.parametrize(("end", "fits"), [(2.1, True), (2.2, False)])
def test_validate_takes_what_a_build_lets_pass_at_the_end(tmp_path: Path, end: float, fits: bool) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000), 16_000)
    cot = f"A dog <seg>1.0, {end}</seg> barks."
    draft = Draft("What is heard?", ("a dog", "a cat"), "a dog", cot)
    assert (not cot_fault(draft, Clip("1", tmp_path / "a.wav", 2.0))) == fits
    row = {"id": "1", "audio_path": "a.wav", "question": "What is heard?", "choices": ["a dog", "a cat"]}
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row | {"answer": "a dog", "cot": cot}) + "\n", encoding="utf-8")
    assert (cli.run(["data", "validate", str(path)]) == 0) == fits
