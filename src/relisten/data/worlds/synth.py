"""Sounds computed from formulas, each with an attribute and endless variants; also noise floors, rooms and speed.

Every number that makes a variant (pitch, timbre, decay, rhythm) is drawn from bands that lie side by side. Training
takes the even bands and evaluation the odd ones, so the two share no value while both cover the same range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Split = Literal["train", "heldout"]
Colour = Literal["white", "pink", "brown", "hum"]

RATE = 16_000
"""Sampling rate in Hz."""
PEAK = 10 ** (-3 / 20)
"""The peak of each sound: -3 dBFS, as in the shipped bank."""
COLOURS: tuple[Colour, ...] = ("white", "pink", "brown", "hum")

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tone": ("pitch", ("low", "middle", "high")),
    "chirp": ("direction", ("rising", "falling")),
    "pluck": ("pitch", ("low", "high")),
    "knock": ("count", ("one", "two", "three", "four")),
    "beep": ("count", ("one", "two", "three")),
    "siren": ("rate", ("slow", "fast")),
    "hiss": ("length", ("short", "long")),
    "buzz": ("pitch", ("low", "high")),
    "click": ("rate", ("slow", "fast")),
}
"""Label -> (attribute, its values)."""

_NUMBER = {"one": 1, "two": 2, "three": 3, "four": 4}
_NUM_BANDS = 8


def make(label: str, rng: np.random.Generator, value: str | None = None, split: Split = "train") -> tuple[Samples, str]:
    """A new variant ([T] at 16 kHz, 0.1 to 1.4 s) and the value of its attribute, which is drawn if none is given.

    Raises ValueError for an unknown label or value.
    """
    if label not in KINDS:
        raise ValueError(f"there is no computed sound {label!r}; use one of {', '.join(KINDS)}")
    attribute, values = KINDS[label]
    value = values[rng.integers(len(values))] if value is None else value
    if value not in values:
        raise ValueError(f"{label} has no {attribute} {value!r}; use one of {', '.join(values)}")
    return _MAKERS[label](rng, value, split), value


def tone(rng: np.random.Generator, pitch: str = "middle", split: Split = "train") -> Samples:
    """A steady note with harmonics; the classes lie an octave or more apart."""
    low, high = {"low": (140, 260), "middle": (460, 800), "high": (1400, 2400)}[pitch]
    seconds = between(rng, 0.35, 1.0, split)
    samples = _harmonics(between(rng, low, high, split), seconds, between(rng, 0.8, 3.0, split))
    return finished(samples, attack=between(rng, 0.01, 0.1, split), release=0.08)


def chirp(rng: np.random.Generator, direction: str = "rising", split: Split = "train") -> Samples:
    """A tone that glides over one to two octaves."""
    time = timeline(between(rng, 0.3, 0.9, split))
    low, octaves = between(rng, 300, 900, split), between(rng, 1.0, 2.0, split)
    along = time / time[-1]
    octave = octaves * (along if direction == "rising" else 1 - along)
    phase = 2 * np.pi * np.cumsum(low * 2**octave) / RATE
    overtone = between(rng, 0.05, 0.6, split)
    return finished(np.sin(phase) + overtone * np.sin(2 * phase), attack=0.02, release=0.05)


def pluck(rng: np.random.Generator, pitch: str = "low", split: Split = "train") -> Samples:
    """A plucked string (Karplus and Strong, 1983): a burst of noise, smoothed at each turn of a loop.

    Done in the frequency domain, where turn k multiplies the burst's spectrum by the k-th power of one filter: all
    turns at once instead of sample by sample.
    """
    low, high = {"low": (90, 190), "high": (420, 800)}[pitch]
    period = round(RATE / between(rng, low, high, split))
    turns = np.arange(int(between(rng, 0.5, 1.1, split) * RATE / period) + 1, dtype=np.float32)[:, None]
    angle = 2 * np.pi * np.arange(period // 2 + 1, dtype=np.float32) / period
    # A turn keeps cos(angle / 2) of each partial and delays it by half a sample (the exponent makes strings differ in
    # brightness); the last factor lets the lowest partials fade too, by 60 dB in 1.5 s.
    stretch = between(rng, 0.25, 0.9, split)
    kept = np.maximum(np.cos(angle / 2), 1e-4) ** stretch * 0.001 ** (period / RATE / 1.5)
    burst = np.fft.rfft(rng.standard_normal(period, dtype=np.float32))
    burst[0] = 0
    spectrum = burst * kept**turns * np.exp(-0.5j * angle * turns)
    return finished(np.fft.irfft(spectrum, n=period).ravel(), attack=0.001, release=0.1)


def knock(rng: np.random.Generator, count: str = "two", split: Split = "train") -> Samples:
    """Knuckles on wood: two damped modes and a click, one to four times."""
    spacing = between(rng, 0.18, 0.26, split)
    time = timeline(0.16)
    pitch, decay = between(rng, 180, 420, split), between(rng, 18, 40, split)
    second = between(rng, 1.6, 2.7, split)
    hit = np.exp(-decay * time) * (np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(2 * np.pi * second * pitch * time))
    hit[:80] += 0.4 * rng.standard_normal(80) * np.linspace(1, 0, 80)
    return finished(repeated(rng, hit, _NUMBER[count], spacing), attack=0.001, release=0.03)


def beep(rng: np.random.Generator, count: str = "one", split: Split = "train") -> Samples:
    """Electronic beeps of one height, one to three."""
    seconds = between(rng, 0.15, 0.2, split)
    hit = _harmonics(between(rng, 900, 1900, split), seconds, between(rng, 1.5, 4.0, split), num=4)
    hit *= _envelope(len(hit), 0.005, 0.01)
    return finished(repeated(rng, hit, _NUMBER[count], seconds + between(rng, 0.1, 0.16, split)), 0.005, 0.01)


def siren(rng: np.random.Generator, rate: str = "slow", split: Split = "train") -> Samples:
    """A tone that goes up and down, once or twice (slow) or six times and more (fast) a second."""
    turns = between(rng, *{"slow": (1.2, 2.0), "fast": (6.0, 10.0)}[rate], split)
    time = timeline(between(rng, 1.0, 1.4, split))
    swing = np.sin(2 * np.pi * (turns * time + rng.random()))
    middle, depth = between(rng, 600, 1000, split), between(rng, 0.3, 0.5, split)
    phase = 2 * np.pi * np.cumsum(middle * 2 ** (depth * swing)) / RATE
    return finished(np.sin(phase) + 0.3 * np.sin(3 * phase), attack=0.03, release=0.08)


def hiss(rng: np.random.Generator, length: str = "short", split: Split = "train") -> Samples:
    """Escaping air: noise through a high-pass whose corner varies."""
    seconds = between(rng, *{"short": (0.18, 0.35), "long": (0.9, 1.3)}[length], split)
    num = round(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(1 << (num - 1).bit_length(), dtype=np.float32))
    frequency = np.linspace(0, RATE / 2, len(spectrum), dtype=np.float32)
    spectrum *= 1 / (1 + (between(rng, 1500, 5000, split) / np.maximum(frequency, 1)) ** 4)
    return finished(np.fft.irfft(spectrum)[:num], attack=between(rng, 0.01, 0.05, split), release=0.06)


def buzz(rng: np.random.Generator, pitch: str = "low", split: Split = "train") -> Samples:
    """A rough sawtooth with slow beats: a fly (high) or a transformer (low)."""
    low, high = {"low": (60, 110), "high": (230, 420)}[pitch]
    seconds, base = between(rng, 0.5, 1.2, split), between(rng, low, high, split)
    beat = 1 + between(rng, 0.005, 0.02, split)
    time = timeline(seconds)
    samples = (base * time) % 1 + (base * beat * time) % 1 - 1
    return finished(samples, attack=0.03, release=0.08)


def click(rng: np.random.Generator, rate: str = "slow", split: Split = "train") -> Samples:
    """A series of clicks, five to seven (slow) or sixteen and more (fast) a second."""
    every = 1 / between(rng, *{"slow": (5.0, 7.0), "fast": (16.0, 24.0)}[rate], split)
    time = timeline(0.02)
    hit = np.exp(-between(rng, 250, 700, split) * time) * np.sin(2 * np.pi * between(rng, 1500, 4500, split) * time)
    num = int(between(rng, 0.6, 1.2, split) / every)
    return finished(repeated(rng, hit, num, every, jitter=0.02), attack=0.0005, release=0.005)


def noise_bed(rng: np.random.Generator, num_samples: int, colour: Colour = "pink") -> Samples:
    """[num_samples] of background noise with an RMS of 1."""
    if colour == "white":
        bed = rng.standard_normal(num_samples, dtype=np.float32)
    elif colour == "pink":
        bed = _pink(rng, num_samples)
    elif colour == "brown":
        bed = np.cumsum(rng.standard_normal(num_samples, dtype=np.float32), dtype=np.float32)
        bed -= _drift(bed, RATE // 20)  # else it wanders off below 20 Hz
    elif colour == "hum":
        mains = (50, 60)[rng.integers(2)]  # a tenth of a second holds whole turns of both
        cycle = _harmonics(mains, 0.1, slope=rng.uniform(0.8, 2.0), num=8, phases=rng.random(8))
        bed = np.resize(cycle.astype(np.float32), num_samples)
    else:
        raise ValueError(f"there is no noise {colour!r}; use one of {', '.join(COLOURS)}")
    return np.asarray(bed / np.sqrt(np.mean(bed**2) + 1e-12), dtype=np.float32)


def room(samples: Samples, rng: np.random.Generator, seconds: float | None = None) -> Samples:
    """[T + tail] in a room: six early reflections, and noise that falls by 60 dB in `seconds` (0.15 to 0.5)."""
    seconds = float(rng.uniform(0.15, 0.5)) if seconds is None else seconds
    num = round(seconds * RATE)
    fall = 10 ** (-3 * np.arange(num, dtype=np.float32) / num)
    answer = 0.04 * fall * rng.standard_normal(num, dtype=np.float32)
    early = rng.integers(60, min(800, num), size=6)
    answer[early] += rng.uniform(-0.5, 0.5, size=6).astype(np.float32) * fall[early]
    answer[:40] = 0
    answer[0] = 1
    total = len(samples) + num - 1
    size = 1 << (total - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(answer, size), size)[:total]
    return np.asarray(wet * (np.abs(samples).max() / (np.abs(wet).max() + 1e-9)), dtype=np.float32)


def speed(samples: Samples, factor: float) -> Samples:
    """[T / factor] faster and higher (factor above 1) or slower and lower, by linear interpolation: for 0.7 to 1.4."""
    if not factor > 0:
        raise ValueError(f"speed is {factor}; use a factor above 0, such as 1.1")
    num = max(1, round(len(samples) / factor))
    moved = np.interp(np.arange(num) * factor, np.arange(len(samples)), samples)
    return np.asarray(moved, dtype=np.float32)


def between(rng: np.random.Generator, low: float, high: float, split: Split) -> float:
    """A number from low to high in the bands of a split; the bands are equally wide on a logarithmic scale."""
    band = 2 * rng.integers(_NUM_BANDS // 2) + (split == "heldout")
    return float(low * (high / low) ** ((band + rng.random()) / _NUM_BANDS))


def timeline(seconds: float) -> NDArray[np.float64]:
    return np.arange(round(seconds * RATE)) / RATE


def _harmonics(
    pitch: float, seconds: float, slope: float, num: int = 6, phases: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """A sum of the partials 1 to num below 7.5 kHz, the n-th with amplitude n ** -slope; phases are in turns."""
    partial = np.arange(1, num + 1)
    strength = partial**-slope * (partial * pitch < 7500)
    turns = np.zeros(num) if phases is None else phases
    angle = 2 * np.pi * (pitch * partial[:, None] * timeline(seconds)[None] + turns[:, None])
    return np.asarray(strength @ np.sin(angle))


def repeated(
    rng: np.random.Generator, hit: NDArray[np.float64], num: int, every: float, jitter: float = 0.03
) -> NDArray[np.float64]:
    """`num` hits about `every` seconds apart (`jitter` is a fraction of that), each a little louder or softer."""
    starts = (np.arange(num) * every * RATE * (1 + jitter * rng.uniform(-1, 1, num))).astype(int)
    samples = np.zeros(starts.max() + len(hit))
    for start, level in zip(starts, rng.uniform(0.7, 1.0, num), strict=True):
        samples[start : start + len(hit)] += level * hit
    return samples


def _envelope(num_samples: int, attack: float, release: float) -> NDArray[np.float64]:
    """[num_samples] of ones with linear ramps at both ends; their lengths are in seconds."""
    index = np.arange(num_samples)
    return np.minimum(1, np.minimum((index + 1) / (attack * RATE), (num_samples - index) / (release * RATE)))


def finished(samples: NDArray[np.floating], attack: float, release: float) -> Samples:
    shaped = samples * _envelope(len(samples), attack, release)
    return np.asarray(shaped * (PEAK / (np.abs(shaped).max() + 1e-9)), dtype=np.float32)


def _pink(rng: np.random.Generator, num_samples: int) -> Samples:
    """By Voss and McCartney: the sum of noises held for 1, 2, 4 ... samples falls by 3 dB an octave."""
    bed = rng.standard_normal(num_samples, dtype=np.float32)
    for octave in range(1, 12):
        held = rng.standard_normal(-(-num_samples // 2**octave) + 1, dtype=np.float32)
        start = int(rng.integers(2**octave))
        bed += np.repeat(held, 2**octave)[start : start + num_samples]
    return bed


def _drift(samples: Samples, width: int) -> Samples:
    """The means of stretches of `width` samples, joined by straight lines."""
    if len(samples) < width:
        return np.full_like(samples, samples.mean())
    means = samples[: len(samples) // width * width].reshape(-1, width).mean(axis=1)
    centres = (np.arange(len(means)) + 0.5) * width
    return np.asarray(np.interp(np.arange(len(samples)), centres, means), dtype=np.float32)


_MAKERS: dict[str, Callable[[np.random.Generator, str, Split], Samples]] = {
    "tone": tone,
    "chirp": chirp,
    "pluck": pluck,
    "knock": knock,
    "beep": beep,
    "siren": siren,
    "hiss": hiss,
    "buzz": buzz,
    "click": click,
}
