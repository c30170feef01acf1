"""The world at the microphone: its bank, scenes, wordings, and questions that cannot be answered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from relisten.audio import save
from relisten.data.offline.timeline import is_word
from relisten.data.worlds import curriculum, microphone
from relisten.data.worlds.channel import Channel, draw_channel
from relisten.data.worlds.microphone import CANNOT_TELL, JUDGED, TRAINED, microphone_questions, microphone_scene
from relisten.data.worlds.scene_files import write_scenes
from relisten.data.worlds.scenes import Bank, SceneConfig, bank, make_scene
from relisten.data.worlds.sounds import Sound
from relisten.data.worlds.synth import make
from relisten.data.worlds.wordings import HELDOUT, WORDINGS
from relisten.types import Audio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bank: six words by five voices, two sounds with six recordings each, one with two, a background."""
    root = tmp_path_factory.mktemp("bank")
    rng = np.random.default_rng(0)
    rows = ["file,label,kind,split,voice,synthetic"]
    words = ("one", "two", "blue", "red", "stop", "bark")
    kinds = [("word", word, 5) for word in words] + [
        ("animal", "bark", 6),
        ("object", "door", 6),
        ("object", "rare", 2),
    ]
    for kind, label, num in [*kinds, ("bed", "room", 1)]:
        for split in ("train", "heldout"):
            for index in range(num):
                name = f"{kind}-{label}-{split}-{index}.wav"
                seconds = 4.0 if kind == "bed" else 0.4
                samples = 0.3 * rng.standard_normal(round(16_000 * seconds))
                save(root / name, Audio(samples.astype(np.float32), 16_000))
                voice = f"{split}{index}" if kind == "word" else ""
                rows.append(f"{name},{label},{kind},{split},{voice},{'no' if index else 'yes'}")
    (root / "sounds.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def sounds(folder: Path) -> Bank:
    return microphone.microphone_bank("heldout", folder)


def test_half_of_the_takes_are_by_other_voices_than_espeaks() -> None:
    # twenty of 27 voices were espeak's, and an ear that had learnt them told a word by no other voice
    takes = tuple(
        Sound("one", "word", np.zeros(1, np.float32), voice) for voice in (*["espeak-a"] * 20, "flite", "joe")
    )
    voices = [take.voice for take in microphone.varied(takes)]
    assert voices.count("espeak-a") == 20 and voices.count("flite") == voices.count("joe") == 10
    assert microphone.varied(takes[20:]) == takes[20:]
    assert microphone.varied(takes[:2]) == takes[:2]


def test_a_label_is_one_thing_and_has_enough_recordings(sounds: Bank) -> None:
    # "bark" was a word and a sound under one label, so a question about it had two answers.
    assert "bark" not in sounds.words
    assert {sound.kind for sound in sounds.sounds["bark"]} == {"animal"}
    assert "rare" not in sounds.sounds
    assert "room" not in sounds.sounds and len(sounds.beds) == 1
    assert {"clap", "whistle", "tone"} <= {label for group in sounds.groups for label in group}


def test_scenes_have_the_length_that_is_asked_for_and_repeat(sounds: Bank) -> None:
    for seconds in ((3.0, 8.0), (30.0, 60.0)):
        for seed in range(12):
            clip, again = (microphone_scene(seed, sounds, seconds) for _ in range(2))
            assert seconds[0] <= clip.duration <= seconds[1]
            assert clip.events and all(0 <= e.start < e.end <= clip.duration for e in clip.events)
            assert isinstance(clip.audio, Audio) and isinstance(again.audio, Audio)
            assert np.array_equal(clip.audio.samples, again.audio.samples)
            assert np.abs(clip.audio.samples).max() <= 1.0


def test_questions_about_absent_sounds_are_right_to_say_so(sounds: Bank) -> None:
    num = 0
    for seed in range(80):
        clip = microphone_scene(seed, sounds, (4.0, 16.0))
        present = {event.label for event in clip.events}
        for example in microphone_questions(seed, clip, sounds, 3, absent=0.5, open=0.0, offered=1.0):
            assert example.choices[-1] == CANNOT_TELL
            assert example.cot is not None and example.cot.count("<seg>") == example.cot.count("</seg>")
            if example.answer != CANNOT_TELL:
                assert example.answer in example.choices and example.labels["events"]
                continue
            num += 1
            assert example.labels["segments"] == []
            if example.labels["kind"] != "no word":
                missing = example.cot.partition("There is no ")[2].partition(".")[0]
                assert missing in example.question and missing not in present
    assert num > 40


def test_what_follows_a_word_is_found_by_listening_to_the_words(sounds: Bank) -> None:
    found = [
        (clip, example)
        for seed in range(150)
        for clip in [microphone_scene(seed, sounds, (6.0, 16.0))]
        for example in microphone_questions(seed, clip, sounds, 4, absent=0.0)
        if example.labels["kind"] == "after word"
    ]
    assert len(found) > 10
    for clip, example in found:
        (at,) = [n for n, e in enumerate(clip.events) if is_word(e) and e.label in example.question.split("word ")[-1]][
            :1
        ]
        assert example.answer == clip.events[at + 1].label
        heard = [name for name, _, _ in example.labels["events"]]
        assert heard[-1] == example.answer and heard[:-1] == [e.label for e in clip.events[: at + 1] if is_word(e)]


def test_a_series_is_not_counted_in_two_ways(sounds: Bank) -> None:
    # "How many times is the clap heard?" has two answers if two people clap three times each.
    for seed in range(150):
        clip = microphone_scene(seed, sounds, (6.0, 16.0))
        for example in microphone_questions(seed, clip, sounds, 4, absent=0.0):
            if example.labels["kind"] == "count":
                assert not {"clap", "knock", "beep", "snap"} & {name for name, _, _ in example.labels["events"]}


def test_held_out_wordings_are_not_among_the_trained_ones() -> None:
    trained = {text for texts in WORDINGS.values() for text in texts}
    assert not trained & {text for texts in HELDOUT.values() for text in texts}
    assert set(microphone.SHARES) - {"detail"} <= set(HELDOUT) and set(HELDOUT) <= set(WORDINGS)
    assert TRAINED.questions is WORDINGS and JUDGED.questions is HELDOUT


def test_a_channel_keeps_the_peak_and_what_it_does_not_do(sounds: Bank) -> None:
    samples = make("tone", np.random.default_rng(1), "low")[0]
    assert Channel(None, None)(samples) is samples
    for seed in range(20):
        heard = draw_channel(np.random.default_rng(seed), 1.0, 1.0)(samples)
        assert np.abs(heard).max() == pytest.approx(np.abs(samples).max(), rel=1e-3) and len(heard) > len(samples)
    narrow = Channel(None, (300.0, 3400.0))(np.random.default_rng(2).standard_normal(16_000).astype(np.float32))
    power = np.abs(np.fft.rfft(narrow)) ** 2
    assert power[5000:].mean() < 0.05 * power[1000:3000].mean()


def test_quick_mixing_makes_scenes_of_the_same_world() -> None:
    for seed in range(10):
        clip = make_scene(seed, bank("train"), SceneConfig(stock=True, reverb=1.0))
        assert 5.0 <= clip.duration <= 8.0 and 1 <= len(clip.events) <= 5


def test_training_rows_are_of_both_worlds_and_long_ones_of_the_second(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curriculum, "microphone_bank", lambda split: microphone.microphone_bank(split, folder))
    for index, seconds in ((0, (3.0, 8.0)), (1, (3.0, 8.0)), (2, (16.0, 30.0))):
        rows = curriculum.wide_rows(index, ("interleaved", "grounded"), 1, 1, seconds)
        assert [format for _, format in rows][:2] == ["interleaved", "grounded"] and len(rows) >= 4
        audio = rows[0][0].audio
        assert isinstance(audio, Audio) and seconds[0] <= audio.duration <= seconds[1]
    (asked,) = curriculum.wide_rl_rows(1)
    assert asked.cot is None and asked.choices


def test_the_command_writes_scenes_words_and_absent_sounds(folder: Path, tmp_path: Path) -> None:
    def asked(name: str, **options: object) -> list[dict[str, object]]:
        path = write_scenes(tmp_path / name, num=4, split="heldout", sounds=folder, **options)  # type: ignore[arg-type]
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    scenes = asked("desk", world="microphone", min_seconds=4, max_seconds=9)
    assert scenes and all(len(row["choices"]) in (2, 3, 4) and row["answer"] in row["choices"] for row in scenes)  # type: ignore[arg-type, operator]
    words = asked("words", world="words", questions=1)
    assert len(words) == 4 and all(
        row["choices"] == [] and row["answer"] in ("one", "two", "blue", "red", "stop") for row in words
    )
    told = asked("absent", world="microphone", min_seconds=4, max_seconds=9, absent=1.0, wordings="heldout")
    assert told and {row["answer"] for row in told} == {CANNOT_TELL}
    with pytest.raises(ValueError, match="absent is 2"):
        asked("wrong", world="microphone", absent=2.0)
    with pytest.raises(ValueError, match="make_bank"):
        write_scenes(tmp_path / "none", world="microphone", sounds=tmp_path / "nowhere")


def test_each_scene_is_taught_twice_with_other_questions(sounds: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "microphone_bank", lambda split: sounds)
    curriculum.spoken_words.cache_clear()
    first, again, other = (curriculum.wide_base_rows(index) for index in (1, 1 + curriculum.AGAIN_AFTER, 3))
    recordings = [row[0][0].audio for row in (first, again, other)]
    assert all(isinstance(audio, Audio) for audio in recordings)
    assert np.array_equal(recordings[0].samples, recordings[1].samples)  # type: ignore[union-attr]
    assert not np.array_equal(recordings[0].samples, recordings[2].samples)  # type: ignore[union-attr]
    assert [e.question for e, _ in first[:2]] != [e.question for e, _ in again[:2]]
    assert [str(e.answer) for e, _ in first] == [str(e.answer) for e, _ in curriculum.wide_base_rows(1)]
    words = [example for example, _ in curriculum.wide_base_rows(1)[-4:]]
    assert all(str(example.answer).startswith("a voice saying ") for example in words)
    assert len({str(example.answer) for example in words}) > 1
    curriculum.spoken_words.cache_clear()
