"""Operations do to sound what they say."""

from __future__ import annotations

import numpy as np
import pytest

from relisten import audio
from relisten.engine.operations import Operation, band, crop, slow
from relisten.types import Audio, Segment

RATE = 16_000
T = np.arange(4 * RATE) / RATE
TWO_TONES = Audio((0.3 * np.sin(2 * np.pi * 500 * T) + 0.3 * np.sin(2 * np.pi * 3000 * T)).astype(np.float32), RATE)


def peaks(heard: Audio) -> list[int]:
    """Frequencies (Hz) with at least half the strength of the strongest."""
    spectrum = np.abs(np.fft.rfft(heard.samples * np.hanning(len(heard.samples))))
    frequencies = np.fft.rfftfreq(len(heard.samples), 1 / heard.rate)
    found = (spectrum[1:-1] > spectrum[:-2]) & (spectrum[1:-1] > spectrum[2:]) & (spectrum[1:-1] > spectrum.max() / 2)
    return [round(f) for f in frequencies[1:-1][found]]


def test_crop_is_the_one_of_audio() -> None:
    assert crop is audio.crop


def test_slow_takes_twice_as_long_and_is_an_octave_lower() -> None:
    heard = slow(TWO_TONES, Segment(1, 2))
    assert (len(heard.samples), heard.rate) == (2 * RATE, RATE)
    assert peaks(heard) == [250, 1500]


def test_band_keeps_its_frequencies() -> None:
    segment = Segment(1, 2)
    assert peaks(crop(TWO_TONES, segment)) == [500, 3000]
    assert peaks(band(0, 1000)(TWO_TONES, segment)) == [500]
    assert peaks(band(1000, 8000)(TWO_TONES, segment)) == [3000]
    everything = band(0, 8000)(TWO_TONES, segment)
    assert np.allclose(everything.samples, crop(TWO_TONES, segment).samples, atol=1e-6)
    with pytest.raises(ValueError, match="0 <= low < high"):
        band(1000, 500)


@pytest.mark.parametrize("operation", [crop, slow, band(100, 1000)])
@pytest.mark.parametrize("segment", [Segment(0, 4), Segment(3.9, 9), Segment(8, 9), Segment(1, 1.0001)])
def test_any_segment_gives_sound_of_the_right_kind(operation: Operation, segment: Segment) -> None:
    heard = operation(TWO_TONES, segment)
    assert heard.samples.dtype == np.float32
    assert heard.rate == RATE
    assert np.isfinite(heard.samples).all()
    assert bool(len(heard.samples)) == (segment.start < 4)
