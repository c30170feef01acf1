"""Tempo and pitch, on beats and tones made here."""

from __future__ import annotations

import numpy as np
import pytest

from relisten.audio import RATE
from relisten.data.offline import music

NOISE = np.random.default_rng(0).normal(size=8 * RATE) * 0.003


@pytest.mark.parametrize("beats", [60, 92, 120, 140])
def test_a_beat_is_found(beats: int) -> None:
    samples = NOISE.copy()
    fall = np.exp(-np.arange(1600) / 300) * 0.3
    for at in np.arange(0.1, 7.8, 60 / beats):
        samples[int(at * RATE) :][:1600] += np.random.default_rng(1).normal(size=1600) * fall
    found = music.tempo(samples.astype(np.float32))
    assert found is not None and abs(found / beats - 1) < 0.02


@pytest.mark.parametrize("hertz", [82.4, 220.0, 440.0, 1500.0])
@pytest.mark.parametrize("partials", [1, 5])
def test_a_steady_pitch_is_found(hertz: float, partials: int) -> None:
    time = np.arange(RATE) / RATE
    tone = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, partials + 1)) * 0.3 + NOISE[:RATE]
    found = music.pitch(np.asarray(tone, np.float32))
    assert found is not None and abs(found / hertz - 1) < 0.01


def test_where_there_is_none_none_is_named() -> None:
    noise = (NOISE * 30).astype(np.float32)
    sweep = np.sin(2 * np.pi * np.cumsum(np.linspace(200, 800, RATE)) / RATE).astype(np.float32)
    assert music.tempo(noise) is None and music.pitch(noise) is None and music.pitch(sweep) is None
    for samples in (np.zeros(8 * RATE, np.float32), np.zeros(0, np.float32), noise[:3000]):
        assert music.tempo(samples) is None and music.pitch(samples) is None


def test_notes_have_names() -> None:
    assert [music.note(hertz) for hertz in (440.0, 261.6, 82.4, 1480.0)] == ["A4", "C4", "E2", "F♯6"]
