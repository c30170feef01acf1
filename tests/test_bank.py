"""The wide bank, made from packages and not shipped: its tables, what is kept for judging, its files of many sounds."""

from __future__ import annotations

import csv
import fnmatch
import importlib
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from relisten.data.worlds import desk, synth
from relisten.data.worlds.sounds import load_bank

RUNS = Path(__file__).parents[1] / "runs"


@pytest.fixture
def make_bank(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RUNS))
    return importlib.import_module("make_bank")


def _lines(name: str) -> list[list[str]]:
    text = (RUNS / name).read_text(encoding="utf-8").splitlines()
    return [line.split() for line in text if line.strip() and not line.startswith("#")]


def _places(make_bank: ModuleType) -> list[tuple[str, str, str]]:
    """Label, split and place of all recordings in the tables, and of the notes of instruments."""
    rows = [
        (row[0], where.split, where.name)
        for row in _lines("bank/sounds.txt")
        for where in map(make_bank.place, row[2:])
    ]
    for label, programme, fonts, *judged in _lines("bank/instruments.txt"):
        rows += [(label, "train", f"{font}:{programme}:60") for font in fonts.split(",")]
        rows += [(label, "heldout", make_bank.place(text).name) for text in judged]
    for label, split, *places in _lines("bank/beds.txt"):
        rows += [(label, split, make_bank.place(text).name) for text in places]
    return rows


def _is_kept(place: str, kept: list[str]) -> bool:
    """Names in the tables may be the end of a path; of a sound font, all notes of a programme are kept."""
    package, name = place.split(":", 1)
    if package == "gm":
        return f"gm:{name.split(':')[0]}" in kept
    names = ["/" + line.split(":", 1)[1] for line in kept if line.startswith(f"{package}:")]
    return any(fnmatch.fnmatch(other, f"*/{name}") for other in names)


def test_words_are_single_and_each_stands_once(make_bank: ModuleType) -> None:
    words = make_bank.words()
    assert len(words) == len(set(words)) > 300
    assert all(re.fullmatch("[a-z]+", word) for word in words)
    sounds = {
        label for label, *_ in [*_lines("bank/sounds.txt"), *_lines("bank/instruments.txt"), *_lines("bank/beds.txt")]
    }
    assert not set(words) & (sounds | set(desk.KINDS) | set(synth.KINDS)), "a word is told from the sound of that name"


def test_what_is_kept_for_judging_trains_nothing(make_bank: ModuleType) -> None:
    kept = [line for (line,) in _lines("keep_out.txt")]
    assert _is_kept("tux:insects/mosquito", kept) and _is_kept("gc:animals/dog", kept) and _is_kept("gm:13:60", kept)
    assert not _is_kept("tux:dogs/dog", kept)
    found = {place: split for _, split, place in _places(make_bank) if _is_kept(place, kept)}
    assert len(found) > 30
    assert [place for place, split in found.items() if split == "train"] == []
    speakers = importlib.import_module("bank.speakers").SPEAKERS
    for split, package, names in speakers.values():
        if any(_is_kept(f"{package}:{name}", kept) for name in names.values()):
            assert split == "heldout"


def test_the_shipped_bank_trains_on_nothing_that_is_kept() -> None:
    kept = [line for (line,) in _lines("keep_out.txt")]
    patterns = {
        "ast": r"Asterisk core sounds \(en\) [\d.]+, (\S+)",
        "opensfx": r"OpenSFX [\d.]+, clip (\d+)",
        "sonic": r"Sonic Pi samples, (\w+)",
        "fdo": r"sound-theme-freedesktop [\d.]+, (\S+)",
        "gm": r"FluidR3_GM gm:(\d+):",
    }
    found = []
    for sound in load_bank():
        for package, pattern in patterns.items():
            match = re.match(pattern, sound.source)
            if match and f"{package}:{match[1]}" in kept:
                found.append((sound.split, sound.source))
    assert len(found) > 60
    assert [source for split, source in found if split != "heldout"] == []


def test_a_recording_is_in_one_split_only(make_bank: ModuleType) -> None:
    splits = defaultdict(set)
    rows = _places(make_bank)
    for _, split, place in rows:
        for _, other_split, other in rows:
            if place == other or ("*" in other and fnmatch.fnmatch(place, other)):
                splits[place] |= {split, other_split}
    assert [place for place, both in splits.items() if len(both) > 1] == []


def test_a_label_has_five_recordings_or_a_model(make_bank: ModuleType) -> None:
    recordings = defaultdict(set)
    beds = {label for label, *_ in _lines("bank/beds.txt")}
    for label, _, place in _places(make_bank):
        recordings[label] |= {place, f"{place}, another"} if "*" in place else {place}
    few = {label for label, places in recordings.items() if len(places) < 5} - beds
    instruments = {label for label, *_ in _lines("bank/instruments.txt")}  # twelve notes of a font, and a performance
    assert few - instruments <= set(desk.KINDS) | set(synth.KINDS)


def test_packed_sounds_come_back_where_they_lay(make_bank: ModuleType, tmp_path: Path) -> None:
    pieces = importlib.import_module("bank.pieces")
    rng = np.random.default_rng(0)
    waves = [pieces.trim(synth.make(label, rng)[0], 1.0) for label in ("tone", "knock", "chirp")]
    about = [pieces.Piece(name, "object", "train", "computed", "relisten", "CC0-1.0") for name in ("a", "b", "c")]
    pieces.pack(tmp_path, "sounds/some", zip(about, waves, strict=True), 32_000)
    make_bank.join(tmp_path)
    read = load_bank(tmp_path)
    assert [sound.label for sound in read] == ["a", "b", "c"]
    for sound, wave in zip(read, waves, strict=True):
        assert len(sound.samples) == pytest.approx(len(wave), abs=1)
        both = min(len(wave), len(sound.samples))
        assert np.corrcoef(sound.samples[:both], wave[:both])[0, 1] > 0.8  # Opus changes the samples, not their place


def test_the_licence_of_a_file_is_the_last_that_fits(make_bank: ModuleType, tmp_path: Path) -> None:
    credit = importlib.import_module("bank.credits").credit
    text = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2004-2018 Ada <ada@example.org>
License: GPL-2+

Files: sounds/*
Copyright: 2001 Somebody
License: MIT

Files: mods/doors/sounds/*
 etc/one.ogg
Copyright: 2015 Bob,
 2016 Carol
License: CC0
"""
    (tmp_path / "copyright").write_text(text)
    assert credit(tmp_path, "usr/share/game/sounds/step.ogg") == ("Ada", "GPL-2.0-or-later")
    assert credit(tmp_path, "usr/share/game/mods/doors/sounds/a.ogg") == ("Bob, Carol", "CC0-1.0")
    assert credit(tmp_path, "usr/share/one.ogg") == ("Bob, Carol", "CC0-1.0")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "copyright").write_text("Everything here is under the GPL.")
    assert credit(tmp_path / "old", "usr/share/one.ogg") is None


def test_the_examples_at_a_desk_hold_what_their_table_says() -> None:
    folder = RUNS.parent / "examples" / "desk"
    with (folder / "desk.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {path.name for path in folder.glob("*.flac")}
    assert len({row["file"] for row in rows}) == 6
    for row in rows:
        samples, rate = soundfile.read(folder / row["file"])
        start, end = round(float(row["start"]) * rate), round(float(row["end"]) * rate)
        before = samples[max(0, start - rate // 4) : max(1, start - rate // 50)]
        inside, silence = np.abs(samples[start:end]).max(), np.sqrt(np.mean(before**2))
        assert inside > 6 * silence, row


def test_long_recordings_fall_into_their_sounds(make_bank: ModuleType) -> None:
    rng = np.random.default_rng(1)
    silence = np.zeros(4000, np.float32)
    knocks = [synth.knock(rng, "one") for _ in range(3)]
    recording = np.concatenate([part for knock in knocks for part in (silence, knock)])
    parts = importlib.import_module("bank.pieces").stretches(recording, 3, 1.0)
    assert len(parts) == 3
    assert all(np.abs(part[:600]).max() > 0.3 for part in parts)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.opus,0.1,,kettle", "only one of start and end"),
        ("a.opus,0.5,0.2,kettle", "no part from '0.5' to '0.2'"),
        ("a.opus,one,2,kettle", "no part from 'one'"),
        ("a.opus,nan,2,kettle", "no part from 'nan'"),
        ("a.opus,7,8,kettle", "lasts 1.0 s"),
        ("b.opus,0,1,kettle", "there is no such file"),
        ("text.opus,0,1,kettle", "cannot be read"),
        ("a.wav,0,1,kettle", "one channel at 16000 Hz"),
    ],
)
def test_a_wrong_part_gives_one_line(tmp_path: Path, rows: str, words: str) -> None:
    soundfile.write(tmp_path / "a.opus", np.full(16_000, 0.1), 16_000, format="OGG", subtype="OPUS")
    soundfile.write(tmp_path / "a.wav", np.full(8_000, 0.1), 8_000)
    (tmp_path / "text.opus").write_text("no sound")
    (tmp_path / "sounds.csv").write_text(f"file,start,end,label\n{rows}\n")
    with pytest.raises(ValueError, match=words) as caught:
        load_bank(tmp_path)
    assert "\n" not in str(caught.value)


def test_parts_of_a_take_that_names_no_split_stay_together(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16_000 * 9) / 9) * 0.5, 16_000)
    parts = "\n".join(f"a.wav,{part},{part + 0.5},kettle,take {part // 2}" for part in range(8))
    (tmp_path / "sounds.csv").write_text(f"file,start,end,label,take\n{parts}\n")
    assert [sound.split for sound in load_bank(tmp_path)] == ["train"] * 6 + ["heldout"] * 2
    labels = "\n".join(f"a.wav,{part},{part + 0.5},{'dog' if part < 4 else 'cat'},t{part % 5}" for part in range(8))
    (tmp_path / "sounds.csv").write_text(f"file,start,end,label,take\n{labels}\n")
    splits = {sound.take: {other.split for other in load_bank(tmp_path) if other.take == sound.take}
              for sound in load_bank(tmp_path)}  # fmt: skip
    assert all(len(found) == 1 for found in splits.values()) and {"train", "heldout"} == set().union(*splits.values())


MODELS = [(label, value) for label, (_, values) in desk.KINDS.items() for value in values]


@pytest.mark.parametrize(("label", "value"), MODELS)
def test_a_model_keeps_to_its_seed(label: str, value: str) -> None:
    for split in ("train", "heldout"):
        first, got = desk.make(label, np.random.default_rng(3), value, split)
        again, _ = desk.make(label, np.random.default_rng(3), value, split)
        other, _ = desk.make(label, np.random.default_rng(4), value, split)
        assert got == value
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other[: len(first)])
        assert first.dtype == np.float32
        assert 0.08 <= len(first) / synth.RATE <= 1.7
        assert np.abs(first).max() == pytest.approx(synth.PEAK, rel=1e-4)


@pytest.mark.parametrize("label", ["whistle", "hum"])
def test_a_glide_goes_where_its_name_says(label: str) -> None:
    """The pitch of the last third against that of the first, by zero crossings of the low-passed sound."""
    rng = np.random.default_rng(0)

    def height(samples: np.ndarray) -> float:
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 15))
        peaks = np.flatnonzero(spectrum > 0.3 * spectrum.max())  # the fundamental, not a stronger partial
        return float(peaks[0] * synth.RATE / (1 << 15))

    for split in ("train", "heldout"):
        for value, rises in (("rising", True), ("falling", False)):
            ratios = []
            for _ in range(10):
                samples = desk.make(label, rng, value, split)[0]
                third = len(samples) // 3
                ratios.append(height(samples[-third:]) / height(samples[:third]))
            assert (np.median(ratios) > 1.1) if rises else (np.median(ratios) < 0.9)


def test_unknown_models_and_values_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="there is no model of 'moo'"):
        desk.make("moo", rng)
    with pytest.raises(ValueError, match="no direction 'sideways'"):
        desk.make("hum", rng, "sideways")
