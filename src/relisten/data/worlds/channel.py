"""What lies between a sound and a recording, made fast for training: a room, the band of a microphone, stock noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy import fft
from numpy.typing import NDArray

from relisten.data.worlds import synth

Samples = NDArray[np.float32]
STOCK_SECONDS = 90
"""Length of the noise of each colour that is kept to cut pieces from."""

BANDS = (100.0, 300.0, 900.0, 2200.0, 4500.0, 8000.0)
"""Frequencies in Hz at which `altered` draws a gain; between them it is interpolated over the logarithm."""


@dataclass(frozen=True, eq=False)
class Channel:
    """Takes a sound [T] through a room and a band, [T + tail]. One scene has one channel for all its sounds."""

    answer: Samples | None
    """[N], the room's impulse response; its first sample is the direct sound."""
    band: tuple[float, float] | None
    """The lowest and the highest frequency in Hz that pass."""

    def __call__(self, samples: Samples) -> Samples:
        """The sound as the microphone gets it. Its peak stays the same."""
        if self.answer is None and self.band is None:
            return samples
        total = len(samples) + (0 if self.answer is None else len(self.answer) - 1)
        size = _fast_length(total)
        spectrum = fft.rfft(samples, size)
        if self.answer is not None:
            spectrum *= fft.rfft(self.answer, size)
        if self.band is not None:
            frequency = np.linspace(0, synth.RATE / 2, len(spectrum), dtype=np.float32)
            low, high = self.band
            spectrum *= 1 / np.sqrt((1 + (low / np.maximum(frequency, 1)) ** 8) * (1 + (frequency / high) ** 12))
        wet = fft.irfft(spectrum, size)[:total]
        return np.asarray(wet * (np.abs(samples).max() / (np.abs(wet).max() + 1e-9)), dtype=np.float32)


def draw_channel(rng: np.random.Generator, reverb: float, telephone: float) -> Channel:
    """A channel with a room and a band, each with this probability."""
    answer = room_answer(rng) if rng.random() < reverb else None
    band = (float(rng.uniform(60, 320)), float(rng.uniform(3300, 7000))) if rng.random() < telephone else None
    return Channel(answer, band)


def room_answer(rng: np.random.Generator) -> Samples:
    """A room of 0.15 to 0.6 s: early reflections, and noise that falls by 60 dB; a far sound has more of both."""
    num = round(float(rng.uniform(0.15, 0.6)) * synth.RATE)
    far = float(rng.uniform(0.5, 2.0))
    fall = 10 ** (-3 * np.arange(num, dtype=np.float32) / num)
    answer = 0.04 * far * fall * rng.standard_normal(num, dtype=np.float32)
    early = rng.integers(60, min(800, num), size=6)
    answer[early] += far * rng.uniform(-0.5, 0.5, size=6).astype(np.float32) * fall[early]
    answer[:40] = 0
    answer[0] = 1
    return np.asarray(answer, dtype=np.float32)


def stock_noise(rng: np.random.Generator, num: int, colour: synth.Colour) -> Samples:
    """[num] of noise with an RMS near 1, cut from the stock at a random place."""
    return cut(rng, _stock(colour), num)


def cut(rng: np.random.Generator, samples: Samples, num: int) -> Samples:
    """[num] from a random place on; a shorter recording is repeated."""
    at = int(rng.integers(len(samples)))
    if len(samples) - at >= num:
        return samples[at : at + num]
    return np.resize(np.concatenate([samples[at:], samples]), num)


def _fast_length(num: int) -> int:
    """The next power of two, or three quarters of it."""
    size = 1 << (num - 1).bit_length()
    return 3 * size // 4 if 3 * size // 4 >= num else size


@cache
def _stock(colour: synth.Colour) -> Samples:
    noise = synth.noise_bed(np.random.default_rng([7, synth.COLOURS.index(colour)]), STOCK_SECONDS * synth.RATE, colour)
    noise.setflags(write=False)
    return noise


def altered(
    rng: np.random.Generator, samples: Samples, event: dict[str, object], strength: float = 1.0
) -> tuple[Samples, dict[str, object]]:
    """A sound [T] as another voice, thing or microphone might make it, for training, [T / factor] with the same peak.

    It is coloured by up to 10 dB and, unless an attribute of it may be asked about, up to a quarter faster and higher
    or slower and lower. strength: multiplies both, in decibels and octaves; of strength 1, three of ten sounds stay as
    they are.
    """
    if rng.random() < 0.3 / strength**2:
        return samples, event
    peak = float(np.abs(samples).max())
    if "attribute" not in event:
        samples = synth.speed(samples, float(np.exp(strength * rng.uniform(np.log(0.8), np.log(1.25)))))
    size = _fast_length(len(samples))
    frequency = np.linspace(1, synth.RATE / 2, size // 2 + 1)
    gains = np.interp(np.log(frequency), np.log(BANDS), strength * rng.uniform(-10, 10, len(BANDS)))
    made = fft.irfft(fft.rfft(samples, size) * 10 ** (gains / 20).astype(np.float32), size)[: len(samples)]
    return np.asarray(made * (peak / (np.abs(made).max() + 1e-9)), dtype=np.float32), event
