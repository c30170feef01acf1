"""nano says so where a question lies outside of what it was trained on, and hardly ever where it lies within."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import relisten
from relisten import records
from relisten.data.worlds.scene_questions import make_questions
from relisten.data.worlds.scenes import SceneConfig, bank, make_scene
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.engine.question import audible
from relisten.models import find, weight_files
from relisten.models.base import AudioLM
from relisten.models.scope import fit, notice, notice_of, pooled, read_scope, save_scope
from relisten.reports.answer_page import page
from relisten.types import Audio, Example

EXAMPLES = Path(__file__).parent.parent / "examples"
QUESTION, CHOICES = "Which sound is heard just before the kick?", ["choir", "seven", "tabla", "guitar"]


@pytest.fixture(scope="module")
def nano() -> AudioLM:
    return relisten.load("nano")


@pytest.fixture(scope="module")
def scene() -> Audio:
    return relisten.load_audio(EXAMPLES / "scene-3.flac", 16_000)


def elsewhere() -> Iterator[tuple[str, Audio]]:
    """Recordings that no scene resembles: bare sounds without a bed, music of pure tones."""
    seconds = np.arange(6 * 16_000) / 16_000
    chords = sum(np.sin(2 * np.pi * f * seconds) for f in (220, 277, 330)) * 0.1 * (seconds % 1 < 0.8)
    yield "chords", Audio(np.asarray(chords, np.float32))
    for label, sounds in list(bank("heldout").sounds.items())[::4]:
        yield f"a bare {label}", Audio(sounds[0].samples)


def test_the_examples_lie_within(nano: AudioLM) -> None:
    for example in records.read_examples(EXAMPLES / "questions.jsonl"):
        assert isinstance(example.audio, Path)
        audio = relisten.load_audio(example.audio, nano.rate)
        assert notice(nano, audio, example.question, example.choices) is None


def test_fewer_than_one_held_out_question_in_fifty_is_warned_of(nano: AudioLM) -> None:
    sounds, told = bank("heldout"), list[str | None]()
    for index in range(120):
        longer = SceneConfig(8.0 + index % 9, 8.0 + index % 9, max_events=5, max_gap=2.5)
        clip = make_scene(900_000 + index, sounds, longer if index % 2 else SceneConfig())
        for example in make_questions(index, clip, sounds, 1):
            assert isinstance(example.audio, Audio)
            told.append(notice(nano, example.audio, example.question, example.choices))
    assert len(told) > 100
    assert sum(map(bool, told)) <= len(told) / 50, [text for text in told if text]


@pytest.mark.parametrize(("name", "audio"), list(elsewhere()), ids=lambda x: x if isinstance(x, str) else "")
def test_recordings_from_elsewhere_are_warned_of(nano: AudioLM, name: str, audio: Audio) -> None:
    assert notice(nano, audible(nano, audio), QUESTION, CHOICES) is not None


@pytest.mark.parametrize(
    ("question", "choices", "reason"),
    [
        (QUESTION, [], "this question offers no choices"),
        (QUESTION, ["choir", "didgeridoo"], "it has no words for 'didgeridoo'"),
        (QUESTION, ["choir", "!?"], "it has no words for '!?'"),
        ("?", CHOICES, "this question is worded unlike"),
        ("Why do children laugh about their grandmother's story?", CHOICES, "this question is worded unlike"),
    ],
)
def test_the_reason_is_said(nano: AudioLM, scene: Audio, question: str, choices: list[str], reason: str) -> None:
    said = notice(nano, scene, question, choices)
    assert said is not None and reason in said and "--model" in said and said.count(".") <= 2


def test_a_recording_longer_than_those_of_training_is_warned_of(nano: AudioLM, scene: Audio) -> None:
    long = replace(scene, samples=np.tile(scene.samples, 10))
    said = notice(nano, long, QUESTION, CHOICES)
    assert said is not None and f"lasts {long.duration:.0f} s" in said


def test_the_answer_and_its_page_carry_the_notice(nano: AudioLM, scene: Audio) -> None:
    answer = relisten.ask(nano, scene, "What happens at the end?")
    assert answer.notice is not None and answer.notice.startswith("nano knows only")
    told = page(answer, scene, "What happens at the end?", (), "x.flac", "nano", "")
    assert told.index("nano knows only") < told.index('aria-label="Recording"')
    assert relisten.ask(nano, scene, QUESTION, CHOICES).notice is None


def test_a_notice_after_the_answer_needs_no_second_encoding(nano: AudioLM, scene: Audio) -> None:
    """The notice encoded each recording again, which took a seventh of the speed of `relisten serve`."""
    [chords] = (audio for name, audio in elsewhere() if name == "chords")
    given = [(scene, QUESTION), (chords, QUESTION), (scene, "What came right after the kick?"), (scene, "?")]
    asked = [Example(f"q{n}", audio, question, tuple(CHOICES)) for n, (audio, question) in enumerate(given)]
    encoded: list[int] = []
    tower = getattr(nano.module, "audio_tower", None) or nano.module.model.audio_tower
    handle = tower.register_forward_hook(lambda *found: encoded.extend([len(found[-1].last_hidden_state)]))
    config = GenerationConfig(format="conditioned", max_new_tokens=1)
    traces = [trace for [trace] in Engine(nano).generate(asked, config)]
    found = [notice_of(nano, t, e.question, e.choices) for t, e in zip(traces, asked, strict=True)]
    handle.remove()
    assert sum(encoded) == sum(nano.num_audio_tokens(len(audio.samples)) for audio in (scene, chords))
    for trace, example in zip(traces, asked, strict=True):
        assert isinstance(example.audio, Audio) and trace.sound is not None
        assert np.allclose(trace.sound, pooled(nano, example.audio).numpy(), atol=1e-4)
    expected = [notice(nano, audio, question, CHOICES) for audio, question in given]
    assert found == expected and [bool(said) for said in found] == [False, True, False, True]


def test_what_notices_are_judged_by_is_no_weight() -> None:
    """An evaluation whose folder named it could not go on once the scope was fitted again."""
    assert [file.name for file in weight_files("nano")] == ["model.safetensors"]


def test_a_folder_with_a_scope_alone_has_no_weights(tmp_path: Path) -> None:
    shutil.copytree(find("nano"), tmp_path / "nano")
    (tmp_path / "nano" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="weights"):
        relisten.load(tmp_path / "nano")


def test_shipping_other_weights_leaves_no_scope_of_the_old_ones(tmp_path: Path) -> None:
    shutil.copytree(find("nano"), tmp_path / "nano")
    script = str(Path(__file__).parent.parent / "runs" / "ship_nano.py")
    subprocess.run([sys.executable, script, "nano", str(tmp_path / "nano")], check=True, capture_output=True)
    assert {path.name for path in (tmp_path / "nano").iterdir()} & {"scope.json", "scope.safetensors"} == set()
    usage = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert usage.returncode and "usage:" in usage.stderr and "Traceback" not in usage.stderr


def test_a_model_without_a_scope_says_nothing(nano: AudioLM, tmp_path: Path) -> None:
    folder = shutil.copytree(find("nano"), tmp_path / "own", ignore=shutil.ignore_patterns("scope.*"))
    model = relisten.load(folder)
    assert model.scope is None and notice(model, Audio(np.zeros(16_000, np.float32)), "?", ()) is None


def test_training_does_not_pass_the_scope_on(nano: AudioLM, tmp_path: Path) -> None:
    nano.save(tmp_path)
    assert read_scope(tmp_path, 256) is None


def drawn(num: int, size: int) -> list[tuple[float, torch.Tensor]]:
    """Recordings of 3 to 12 s."""
    return [(3.0 + 3 * (index % 4), torch.randn(size)) for index in range(num)]


def test_a_scope_is_read_as_it_was_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scope = fit("a world", (2.0, 5.0), ["A flute?", "two claps"], drawn(50, 4), drawn(50, 4), 0.1)
    save_scope(scope, tmp_path)
    again = read_scope(tmp_path, 4)
    assert (
        again is not None and again.words == {"a", "flute", "two", "claps"} and torch.equal(again.centre, scope.centre)
    )
    assert again.distance(torch.zeros(4), 3.0) == pytest.approx(scope.distance(torch.zeros(4), 3.0))


@pytest.mark.parametrize(
    "text", ["{}", "[]", "not json", json.dumps({"about": 1, "max_seconds": "x", "words": 3}), "[" * 100_000]
)
def test_a_broken_scope_is_one_line_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "scope.json").write_text(text)
    with pytest.raises(ValueError, match=r"scope\.json: not a scope"):
        read_scope(tmp_path, 4)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"about": None}, "about is no text"), ({"words": "abc"}, "words is no list"),
        ({"centre": torch.full((3,), float("nan"))}, "no numbers"), ({"centre": torch.zeros(4)}, "the shapes"),
        ({"whitening": torch.eye(4)}, "the shapes"),
    ],
)  # fmt: skip
def test_a_scope_that_fits_no_model_is_refused(tmp_path: Path, value: dict[str, Any], words: str) -> None:
    """Another width was a traceback at the first answer; NaN never warned of a sound."""
    scope = fit("scenes", (3.0, 16.0), ["bell"], drawn(20, 3), drawn(20, 3), 0.05)
    tensors = {"centre": scope.centre, "whitening": scope.whitening}
    save_scope(replace(scope, **{name: given for name, given in value.items() if name in tensors}), tmp_path)
    told = json.loads((tmp_path / "scope.json").read_text())
    text = json.dumps(told | {name: given for name, given in value.items() if name not in tensors})
    (tmp_path / "scope.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_scope(tmp_path, 3)


@pytest.mark.parametrize(
    "value", [{"seconds": (3.0, float("nan"))}, {"seconds": (0.0, 3.0)}, {"threshold": float("nan")}]
)
def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, value: dict[str, Any]) -> None:
    """With NaN no recording was ever too long, or too unlike."""
    scope = fit("scenes", (3.0, 16.0), ["bell"], drawn(20, 3), drawn(20, 3), 0.05)
    save_scope(replace(scope, **value), tmp_path)
    with pytest.raises(ValueError, match="must be positive numbers"):
        read_scope(tmp_path, 3)
