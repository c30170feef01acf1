"""Containers x codecs x late starts x gaps x joins x pipes at random: the length and the place of tones are right."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from recordings import clicks, found, mux

from relisten import audio

SEED = 18
CODECS = {
    ".mp3": ["libmp3lame"],
    ".mp2": ["mp2"],
    ".aac": ["aac"],
    ".ac3": ["ac3"],
    ".flac": ["flac"],
    ".ogg": ["libopus", "flac"],
    ".mp4": ["aac", "alac", "libmp3lame", "ac3"],
    ".mov": ["aac", "alac", "pcm_s16le", "pcm_s24le"],
    ".mkv": ["aac", "libopus", "flac", "pcm_s16le", "libmp3lame", "ac3", "wavpack"],
    ".webm": ["libopus"],
    ".ts": ["aac", "mp2", "libmp3lame", "ac3", "libopus"],
    ".mpg": ["mp2", "ac3"],
    ".flv": ["aac", "libmp3lame"],
    ".nut": ["flac", "pcm_s16le", "aac", "libmp3lame"],
    ".asf": ["wmav2", "libmp3lame"],
    ".avi": ["pcm_s16le", "libmp3lame", "ac3"],
    ".wav": ["pcm_s16le", "pcm_f32le", "pcm_u8", "adpcm_ima_wav", "libmp3lame"],
    ".caf": ["pcm_s16be", "alac"],
    ".wv": ["wavpack"],
    ".tta": ["tta"],
}
NO_CLOCK = {".mp3", ".mp2", ".aac", ".ac3", ".ogg", ".avi", ".wav", ".caf", ".wv", ".tta"}
"""No time stamp tells where a piece is missing in these, or their muxer leaves it out."""
JOINABLE = set(CODECS) - {".wv"}
PICTURES = {".mp4", ".mov", ".mkv", ".ts", ".flv", ".nut", ".asf"}
PIPES = set(CODECS) - {".mp4", ".mov", ".caf", ".wv", ".tta", ".avi"}


def check(folder: Path, rng: np.random.Generator) -> None:
    """One file at random: two or three tones, and what happened to them."""
    suffix = str(rng.choice(list(CODECS)))
    codec = str(rng.choice(CODECS[suffix]))
    rates = [48_000] if codec == "libopus" else [44_100] if suffix == ".flv" else [32_000, 44_100, 48_000]
    rate, num_channels = int(rng.choice(rates)), int(rng.choice([1, 2]))
    seconds = float(rng.uniform(3, 6))
    at = [0.3, float(rng.uniform(1, seconds - 1.5)), seconds - 0.5]
    samples = np.stack([clicks(at, seconds, rate)] * num_channels)
    start, picture, gaps = 0.0, False, ()
    if suffix in PICTURES and rng.random() < 0.5:
        picture, start = bool(rng.random() < 0.7), float(rng.uniform(0, 3))
    if suffix not in NO_CLOCK and codec != "wavpack" and rng.random() < 0.4 and at[2] - at[1] > 0.9:
        gaps = ((at[1] + 0.3, at[2] - 0.3),)
    piped = bool(suffix in PIPES and rng.random() < 0.4)
    told = (
        f"{suffix} {codec} {rate} Hz x {num_channels}, {seconds:.2f} s, {at}, {start=}, {picture=}, {gaps=}, {piped=}"
    )
    options = {"start": start, "picture": picture, "gaps": gaps, "piped": piped, "bit_rate": 96_000 * num_channels}
    path = mux(folder / f"a{suffix}", [samples], codec, rate, **options)
    late = start if picture else 0.0
    truth, length, near = [time + late for time in at], seconds + late, 0.1
    if suffix in JOINABLE and not picture and rng.random() < 0.4:
        path.write_bytes(path.read_bytes() * 2)
        truth, length, told = truth + [time + length for time in truth], 2 * length, f"{told}, twice"
        near = 0.15  # the second copy is late by what an mp3 encoder added at both ends of the first
    heard = audio.load(path)
    places = found(heard.samples)
    assert len(places) == len(truth) and places == pytest.approx(truth, abs=near), told
    assert heard.duration == pytest.approx(length, abs=0.2), told
    assert audio.duration(path) == pytest.approx(heard.duration, abs=0.001), told


@pytest.mark.parametrize("part", range(4))
def test_containers_at_random(tmp_path: Path, part: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng([SEED, part])
    with caplog.at_level(logging.ERROR):
        for _ in range(15):
            check(tmp_path, rng)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4, 104))
def test_many_containers_at_random(tmp_path: Path, part: int, caplog: pytest.LogCaptureFixture) -> None:
    """`pytest -m slow tests/test_audio_fuzz.py`."""
    test_containers_at_random(tmp_path, part, caplog)
