"""The world at the microphone: its bank, scenes, wordings, and questions that cannot be answered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relisten.audio import save
from relisten.data.offline.timeline import is_word
from relisten.data.worlds import curriculum, microphone
from relisten.data.worlds.channel import Channel, altered, draw_channel
from relisten.data.worlds.microphone import CANNOT_TELL, JUDGED, TRAINED, microphone_questions, microphone_scene
from relisten.data.worlds.scene_files import write_scenes
from relisten.data.worlds.scenes import Bank, SceneConfig, bank, make_scene
from relisten.data.worlds.sounds import Sound
from relisten.data.worlds.synth import make
from relisten.data.worlds.wordings import HELDOUT, WORDINGS
from relisten.types import Audio, Example
from studies.echo import microphone as study_world


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


def test_the_right_answer_is_among_the_choices(sounds: Bank) -> None:
    # "cannot tell" was right although it was not offered: a nano then said so to a quarter of all other questions
    told = 0
    for seed in range(60):
        clip = microphone_scene(seed, sounds, (4.0, 16.0))
        for example in microphone_questions(seed, clip, sounds, 3, absent=0.5, open=0.2, offered=0.1):
            assert not example.choices or example.answer in example.choices
            told += bool(example.choices) and example.answer == CANNOT_TELL
    assert told > 20


def test_an_altered_sound_is_another_but_what_is_asked_about_stays() -> None:
    samples = make("beep", np.random.default_rng(0))[0]
    plain: dict[str, object] = {"group": "recording"}
    asked: dict[str, object] = {"group": "parametric", "attribute": "rate", "value": "fast"}
    made = [altered(np.random.default_rng(seed), samples, plain) for seed in range(30)]
    again = [altered(np.random.default_rng(seed), samples, plain) for seed in range(30)]
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(made, again, strict=True))
    assert 0 < sum(one[0] is samples for one in made) < 20 and all(one[1] == plain for one in made)
    assert len({len(one[0]) for one in made}) > 10
    assert all(0.79 < len(samples) / len(one[0]) < 1.26 for one in made)
    assert all(np.abs(one[0]).max() == pytest.approx(np.abs(samples).max(), rel=1e-3) for one in made)
    kept = [altered(np.random.default_rng(seed), samples, asked) for seed in range(30)]
    assert {len(one[0]) for one in kept} == {len(samples)} and all(one[1] == asked for one in kept)


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
    assert set(HELDOUT) == set(WORDINGS) >= set(microphone.SHARES) - {"detail"}
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
    lengths = []
    for index in range(24):
        rows = curriculum.wide_rows(index, ("interleaved", "grounded"), 1, 1)
        audio = rows[0][0].audio
        assert isinstance(audio, Audio)
        lengths.append(audio.duration)
        if index < 2:
            assert [format for _, format in rows][:2] == ["interleaved", "grounded"] and len(rows) >= 4
    assert 3.0 <= min(lengths) < 8.0 and 16.0 < max(lengths) <= 60.0
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
    with pytest.raises(ValueError, match="only the world microphone"):
        asked("wrong", world="mixed", absent=0.5)
    with pytest.raises(ValueError, match="one wording each"):
        asked("wrong", world="mixed", wordings="heldout")
    with pytest.raises(ValueError, match="absent is 2"):
        asked("wrong", world="microphone", absent=2.0)
    with pytest.raises(ValueError, match="make_bank"):
        write_scenes(tmp_path / "none", world="microphone", sounds=tmp_path / "nowhere")


def test_a_stage_teaches_the_same_at_every_run_and_other_scenes_than_the_next(
    sounds: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curriculum, "microphone_bank", lambda split: sounds)
    curriculum.spoken_words.cache_clear()
    stages = (curriculum.wide_base_rows, curriculum.wide_sft_rows, curriculum.wide_varied_rows)
    first, again = ([stage(1) for stage in stages] for _ in range(2))
    recordings = [rows[0][0].audio for rows in (*first, *again)]
    samples = [audio.samples for audio in recordings if isinstance(audio, Audio)]
    assert all(np.array_equal(one, other) for one, other in zip(samples[:3], samples[3:], strict=True))
    assert len({float(one.sum()) for one in samples}) == 3
    assert [str(e.answer) for e, _ in first[0]] == [str(e.answer) for e, _ in again[0]]
    words = [example for example, _ in first[2][-4:]]
    assert all(str(example.answer).startswith("a voice saying ") for example in words)
    assert len({str(example.answer) for example in words}) > 1
    curriculum.spoken_words.cache_clear()


def test_the_study_at_the_microphone_trains_and_asks_about_different_voices(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_world, "microphone_bank", lambda split: microphone.microphone_bank(split, folder))
    for index in range(6):
        paper, mixed = study_world.mid_paper_rows(index), study_world.mixed_rows(index)
        assert [example.question for example, _ in paper] == [example.question for example, _ in mixed]
        assert paper[-1][0].question == "Listen again." and paper[-1][0].cot == mixed[-1][0].cot
        assert paper[-1][1] == mixed[-1][1] == "interleaved"
        assert {format for _, format in paper[:-1]} == {"grounded", "conditioned"}
        assert "interleaved" in {format for _, format in mixed[:-1]}
        (asked,) = study_world.rl_rows(index)
        assert asked.choices and asked.cot is None and asked.id.rpartition("-")[0] != paper[0][0].id.rpartition("-")[0]
    questions = study_world.heldout(5)
    assert len({question.id for question in questions}) == len(questions) > 5
    assert [(q.id, q.question) for q in questions] == [(q.id, q.question) for q in study_world.heldout(5)]
    assert all(question.answer in question.choices and CANNOT_TELL not in question.choices for question in questions)


def test_a_slip_names_another_sound_that_is_no_choice_and_nothing_else(
    sounds: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curriculum, "microphone_bank", lambda split: sounds)
    rng = np.random.default_rng(0)
    example = Example(
        "a", Path("a.wav"), "Which word?", ("red", "two", "door"), "red",
        "0.3 word: here it is <seg>0.3, 0.8</seg>, and it is a voice saying red.",
    )  # fmt: skip
    slips = [curriculum.slipped(rng, example) for _ in range(20)]
    said = [str(slip.cot).removeprefix(str(example.cot)[: -len("red.")]) for slip in slips]
    assert {word.rstrip(".") for word in said} <= set(sounds.words) - {"red", "two"} and len(set(said)) > 1
    assert {(slip.answer, slip.choices, slip.question) for slip in slips} == {("red", example.choices, "Which word?")}
    for cot, answer, choices in (
        ("0.3 word <seg>0.3, 0.8</seg>, a low bark. The one before is longer.", "the one before", ("the one before",)),
        ("0.3 word, 0.9 bark. There is no door. So cannot tell.", CANNOT_TELL, ("red", CANNOT_TELL)),
        (example.cot, "red", ()),
        (None, "red", ("red", "two")),
    ):
        other = replace(example, cot=cot, answer=answer, choices=choices)
        assert curriculum.slipped(rng, other) is other
