"""Tempo and pitch of a stretch of music, by autocorrelation. Each is None if it is not steady."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relisten.audio import RATE

Samples = NDArray[np.float32]
HOP = 160
"""Samples between the frames in which onsets are searched: 10 ms."""
SLOWEST, FASTEST = 40.0, 240.0
"""Beats a minute."""
USUAL = 120.0
"""Beats a minute. If several periods fit equally well, the one nearest to this is taken."""
STEADY = 0.3
"""The autocorrelation of the onsets from which they count as a beat. That of noise stays below 0.2."""
LOWEST, HIGHEST = 65.0, 2000.0
"""Hertz."""
FRAME = 2048
"""Samples of a frame in which a pitch is searched."""
VOICED = 0.2
"""A frame has a pitch if YIN's normalised difference falls below this."""
SEMITONES_APART = 2.0
"""A pitch is steady if the middle half of the frames lies within so many semitones."""
NOTES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")


def tempo(samples: Samples) -> float | None:
    """Beats a minute of 16 kHz audio, or None. At least three periods are needed."""
    onsets = _onsets(samples)
    longest = min(round(60 / SLOWEST * RATE / HOP), len(onsets) // 3)
    shortest = round(60 / FASTEST * RATE / HOP)
    if longest <= shortest or not onsets.any():
        return None
    onsets = onsets - onsets.mean()
    spectrum = np.fft.rfft(onsets, 2 * len(onsets))
    same = np.fft.irfft(np.abs(spectrum) ** 2)[: longest + 1]
    # Divided by the number of products at each lag, or long periods would look too weak.
    same = same / same[0] * len(onsets) / (len(onsets) - np.arange(longest + 1))
    lags = np.arange(shortest, longest + 1)
    octaves = np.log2(60 * RATE / HOP / lags / USUAL)
    best = int(lags[np.argmax(same[lags] * np.exp(-0.5 * octaves**2))])
    return 60 * RATE / HOP / best if same[best] >= STEADY else None


def _onsets(samples: Samples) -> NDArray[np.float64]:
    """[frames] How much louder the bands of the spectrum became, smoothed over 50 ms because no player is exact."""
    if len(samples) < 1024:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::HOP] * np.hanning(1024)
    power = np.abs(np.fft.rfft(frames, axis=1)[:, 1:513].reshape(len(frames), 32, 16)).sum(axis=2)
    rises = np.maximum(0, np.diff(np.log1p(power), axis=0)).sum(axis=1)
    return np.convolve(rises, np.hanning(7)[1:-1], mode="same")


def pitch(samples: Samples) -> float | None:
    """The median pitch in hertz of 16 kHz audio; None if most frames have no pitch, or if it changes."""
    if len(samples) < 2 * FRAME:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[:: FRAME // 4]
    loud = np.mean(np.square(frames, dtype=np.float64), axis=1)
    hertz = np.array([found for frame in frames[loud > 0.01 * loud.max()] if (found := _pitch(frame)) is not None])
    if len(hertz) < max(3, int(np.count_nonzero(loud > 0.01 * loud.max())) // 2):
        return None
    low, middle, high = np.percentile(hertz, [25, 50, 75])
    return float(middle) if 12 * np.log2(high / low) < SEMITONES_APART else None


def _pitch(frame: Samples) -> float | None:
    """The pitch of one frame in hertz by YIN (de Cheveigné and Kawahara, 2002): its first period."""
    longest, shortest = int(RATE / LOWEST), int(RATE / HIGHEST)
    window = frame[: FRAME - longest].astype(np.float64)
    size = 2 * FRAME
    product = np.fft.irfft(np.conj(np.fft.rfft(window, size)) * np.fft.rfft(frame, size))[: longest + 1]
    energy = np.cumsum(np.concatenate([[0.0], np.square(frame, dtype=np.float64)]))
    shifted = energy[len(window) : len(window) + longest + 1] - energy[: longest + 1]
    difference = np.maximum(energy[len(window)] + shifted - 2 * product, 0)
    normal = difference[1:] * np.arange(1, longest + 1) / np.maximum(np.cumsum(difference[1:]), 1e-12)
    below = np.flatnonzero(normal[shortest - 1 :] < VOICED)
    if not len(below):
        return None
    lag = shortest - 1 + int(below[0])
    while lag + 1 < longest and normal[lag + 1] < normal[lag]:
        lag += 1
    if not 0 < lag < longest - 1:
        return None
    left, here, right = normal[lag - 1 : lag + 2]
    bend = left - 2 * here + right
    return float(RATE / (lag + 1 + (0.5 * (left - right) / bend if bend > 0 else 0.0)))


def note(hertz: float) -> str:
    """The name of the nearest note; A4 is 440 Hz."""
    number = round(69 + 12 * np.log2(hertz / 440))
    return f"{NOTES[number % 12]}{number // 12 - 1}"
