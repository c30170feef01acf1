"""Models of what a person makes at a desk with hands, mouth and things: claps, whistles, keys, a ringing phone.

They are rough physics (bursts of noise, damped modes, a voice's pulses through resonances) with everything varied: each
call is another hand, table, bell or mouth. As in synth.py, training and evaluation share no drawn number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from relisten.data.worlds.synth import RATE, Samples, Split, between, finished, repeated, timeline

Wave = NDArray[np.float64]

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "clap": ("count", ("one", "two", "three", "four")),
    "snap": ("count", ("one", "two", "three")),
    "tap": ("count", ("one", "two", "three", "four")),
    "glass": ("count", ("one", "two", "three")),
    "dog": ("count", ("one", "two", "three")),
    "cough": ("count", ("one", "two")),
    "whistle": ("direction", ("rising", "falling", "steady")),
    "hum": ("direction", ("rising", "falling", "steady")),
    "bell": ("pitch", ("low", "high")),
    "keys": ("length", ("short", "long")),
    "phone": ("rate", ("slow", "fast")),
    "keyboard": ("rate", ("slow", "fast")),
    "steps": ("rate", ("slow", "fast")),
}
"""Label -> (attribute, its values)."""

_NUMBER = {"one": 1, "two": 2, "three": 3, "four": 4}


def make(label: str, rng: np.random.Generator, value: str | None = None, split: Split = "train") -> tuple[Samples, str]:
    """A new variant ([T] at 16 kHz, 0.1 to 1.6 s) and the value of its attribute, which is drawn if none is given.

    Raises ValueError for an unknown label or value.
    """
    if label not in KINDS:
        raise ValueError(f"there is no model of {label!r}; use one of {', '.join(KINDS)}")
    attribute, values = KINDS[label]
    value = values[rng.integers(len(values))] if value is None else value
    if value not in values:
        raise ValueError(f"{label} has no {attribute} {value!r}; use one of {', '.join(values)}")
    return _MAKERS[label](rng, value, split), value


def clap(rng: np.random.Generator, count: str = "one", split: Split = "train") -> Samples:
    """Hands: noise through the hollow of the palms, in two bursts some milliseconds apart, and a short tail."""
    hollow, width = between(rng, 600, 2200, split), between(rng, 0.25, 0.9, split)
    decay, late = between(rng, 60, 220, split), between(rng, 0.003, 0.012, split)
    air = between(rng, 0.1, 0.6, split)
    time = timeline(0.15)
    hits = []
    for _ in range(_NUMBER[count]):
        noise = _noise(rng, len(time), [(hollow * rng.uniform(0.93, 1.07), width, 1.0), (4000, 1.0, air)])
        fall = np.exp(-decay * time) + 0.4 * np.exp(-decay * np.maximum(time - late, 0)) * (time > late)
        hits.append(noise * (fall + 0.05 * np.exp(-25 * time)))
    return finished(_series(rng, hits, between(rng, 0.2, 0.42, split), 0.06), attack=0.001, release=0.02)


def snap(rng: np.random.Generator, count: str = "one", split: Split = "train") -> Samples:
    """Fingers: a soft rub, then a sharp click that rings for an instant in the hollow of the hand."""
    ring, decay = between(rng, 1300, 3800, split), between(rng, 90, 300, split)
    rub, rub_seconds = between(rng, 0.02, 0.15, split), between(rng, 0.01, 0.05, split)
    time = timeline(0.09)
    hits = []
    for _ in range(_NUMBER[count]):
        start = round(rub_seconds * RATE)
        hit = np.zeros(start + len(time))
        hit[:start] = rub * _noise(rng, start, [(3500, 1.0, 1.0)]) * np.linspace(0, 1, start)
        hit[start:] += np.exp(-decay * time) * _noise(rng, len(time), [(ring, 0.3, 1.0), (2 * ring, 0.5, 0.3)])
        hits.append(hit)
    return finished(_series(rng, hits, between(rng, 0.25, 0.45, split), 0.08), attack=0.002, release=0.02)


def tap(rng: np.random.Generator, count: str = "two", split: Split = "train") -> Samples:
    """A pen or a nail on a table top: a click of three damped modes, higher and shorter than a knock."""
    lowest, decay = between(rng, 500, 1900, split), between(rng, 70, 240, split)
    ratios, body = (1, between(rng, 1.4, 2.0, split), between(rng, 2.3, 3.4, split)), between(rng, 0.05, 0.4, split)
    time = timeline(0.1)
    hits = []
    for _ in range(_NUMBER[count]):
        hit = _modes(rng, time, [lowest * ratio for ratio in ratios], [decay * ratio**0.5 for ratio in ratios])
        hit += body * np.exp(-45 * time) * np.sin(2 * np.pi * rng.uniform(110, 220) * time)
        hit[:48] += 0.3 * rng.standard_normal(48)
        hits.append(hit)
    return finished(_series(rng, hits, between(rng, 0.14, 0.32, split), 0.06), attack=0.0005, release=0.02)


def glass(rng: np.random.Generator, count: str = "one", split: Split = "train") -> Samples:
    """A glass that is struck: high modes that do not fit together, each with its own decay."""
    lowest, decay = between(rng, 1500, 3400, split), between(rng, 6, 25, split)
    ratios = (1, between(rng, 1.5, 1.9, split), between(rng, 2.2, 2.8, split), between(rng, 3.0, 3.8, split))
    time = timeline(0.55)
    hits = []
    for _ in range(_NUMBER[count]):
        hit = _modes(rng, time, [lowest * ratio for ratio in ratios], [decay * ratio for ratio in ratios])
        hit[:32] += 0.5 * rng.standard_normal(32)
        hits.append(hit)
    return finished(_series(rng, hits, between(rng, 0.25, 0.45, split), 0.06), attack=0.0005, release=0.1)


def dog(rng: np.random.Generator, count: str = "one", split: Split = "train") -> Samples:
    """Barks: a voice that jumps up and falls, rough, through the resonances of a throat."""
    pitch, seconds = between(rng, 220, 750, split), between(rng, 0.12, 0.26, split)
    size, rough = between(rng, 0.75, 1.5, split), between(rng, 0.1, 0.6, split)
    hits = []
    for _ in range(_NUMBER[count]):
        along = np.linspace(0, 1, round(seconds * rng.uniform(0.85, 1.15) * RATE))
        height = pitch * rng.uniform(0.92, 1.08) * (0.75 + 0.6 * np.sin(np.pi * along**0.6))
        voice = _voice(rng, height, [(650 * size, 0.35, 1.0), (1500 * size, 0.3, 0.7), (2900 * size, 0.3, 0.25)])
        voice *= 1 + rough * rng.standard_normal(len(along) // 40 + 2).repeat(40)[: len(along)]
        breath = _noise(rng, len(along), [(1200 * size, 0.7, 1.0)])
        hits.append((voice + rough * 0.4 * breath) * np.sin(np.pi * along**0.45) ** 1.5)
    return finished(_series(rng, hits, seconds + between(rng, 0.1, 0.28, split), 0.08), attack=0.005, release=0.03)


def cough(rng: np.random.Generator, count: str = "one", split: Split = "train") -> Samples:
    """A burst of air, then a short rough voice: twice for most people."""
    size, pitch = between(rng, 0.8, 1.35, split), between(rng, 110, 300, split)
    burst, tail = between(rng, 0.05, 0.12, split), between(rng, 0.1, 0.25, split)
    voiced = between(rng, 0.1, 0.7, split)
    hits = []
    for _ in range(_NUMBER[count]):
        time = timeline(burst + tail)
        throat = [(700 * size, 0.4, 1.0), (1500 * size, 0.35, 0.8), (3200 * size, 0.5, 0.5)]
        noise = _noise(rng, len(time), throat) * (np.exp(-time / burst * 2) + 0.25 * np.exp(-time / tail * 3))
        voice = _voice(rng, pitch * np.linspace(1.15, 0.8, len(time)), throat) * np.clip(
            (time - burst / 2) / 0.02, 0, 1
        )
        hits.append(noise + voiced * 0.5 * voice * np.exp(-np.maximum(time - burst, 0) / tail * 3))
    return finished(_series(rng, hits, burst + tail + between(rng, 0.05, 0.2, split), 0.1), attack=0.003, release=0.04)


def whistle(rng: np.random.Generator, direction: str = "rising", split: Split = "train") -> Samples:
    """Lips: nearly a pure tone with some breath around it, that glides or stays."""
    seconds, pitch = between(rng, 0.35, 1.2, split), between(rng, 750, 2100, split)
    height = _glide(rng, seconds, pitch, direction, between(rng, 0.35, 1.0, split), split)
    phase = 2 * np.pi * np.cumsum(height) / RATE
    tone = np.sin(phase) + between(rng, 0.01, 0.12, split) * np.sin(2 * phase)
    breath = _noise(rng, len(tone), [(float(height.mean()), 0.5, 1.0), (5000, 0.8, 0.4)])
    samples = tone * _swell(rng, len(tone)) + between(rng, 0.01, 0.15, split) * breath
    return finished(samples, attack=between(rng, 0.02, 0.09, split), release=between(rng, 0.03, 0.12, split))


def hum(rng: np.random.Generator, direction: str = "rising", split: Split = "train") -> Samples:
    """A closed mouth: a voice's harmonics, the low ones strongest, that glide or stay."""
    seconds, pitch = between(rng, 0.4, 1.3, split), between(rng, 95, 330, split)
    height = _glide(rng, seconds, pitch, direction, between(rng, 0.35, 0.9, split), split)
    nose = between(rng, 220, 380, split)
    open_by = between(rng, 0.02, 0.35, split)
    voice = _voice(rng, height, [(nose, 0.7, 1.0), (1000, 0.4, open_by), (2300, 0.3, open_by / 2)])
    return finished(voice * _swell(rng, len(voice)), attack=between(rng, 0.03, 0.12, split), release=0.08)


def bell(rng: np.random.Generator, pitch: str = "low", split: Split = "train") -> Samples:
    """A struck bell: the partials of a church bell, bent a little, each beating with a neighbour."""
    lowest = between(rng, *{"low": (180, 420), "high": (800, 1900)}[pitch], split)
    ratios = np.array([0.5, 1, 1.2, 1.5, 2, 2.7, 3.0, 4.1]) * rng.uniform(0.97, 1.03, 8)
    decay, bright = between(rng, 1.2, 5, split), between(rng, 0.3, 1.0, split)
    time = timeline(between(rng, 0.9, 1.5, split))
    twins = [(ratio * lowest, decay * (0.5 + bright * ratio)) for ratio in ratios if ratio * lowest < 7500]
    samples = _modes(rng, time, [f for f, _ in twins], [d for _, d in twins])
    samples += 0.5 * _modes(rng, time, [f * rng.uniform(1.001, 1.004) for f, _ in twins], [d for _, d in twins])
    samples[:32] += 0.2 * rng.standard_normal(32)
    return finished(samples, attack=0.001, release=0.15)


def keys(rng: np.random.Generator, length: str = "short", split: Split = "train") -> Samples:
    """A bunch of keys: many tiny high pings at odd times."""
    seconds = between(rng, *{"short": (0.25, 0.45), "long": (0.9, 1.4)}[length], split)
    lowest, decay = between(rng, 2200, 4200, split), between(rng, 25, 90, split)
    samples, time = np.zeros(round(seconds * RATE) + 3200), timeline(0.2)
    metal = lowest * rng.uniform(1.0, 1.8, size=(5, 3))
    for start in np.sort(rng.uniform(0, seconds, int(seconds * between(rng, 14, 34, split)) + 2)):
        ping = _modes(rng, time, list(metal[rng.integers(5)]), [decay * rng.uniform(0.7, 1.5)] * 3)
        at = round(start * RATE)
        samples[at : at + len(ping)] += ping * rng.uniform(0.15, 1.0) ** 2
    return finished(samples, attack=0.001, release=0.05)


def phone(rng: np.random.Generator, rate: str = "slow", split: Split = "train") -> Samples:
    """A ring: two tones by turns, or together with a flutter, or a clapper between two bells."""
    seconds, turns = between(rng, 0.8, 1.4, split), between(rng, *{"slow": (5, 9), "fast": (14, 26)}[rate], split)
    time = timeline(seconds)
    low, ratio = between(rng, 420, 1500, split), between(rng, 1.12, 1.45, split)
    model, first = rng.integers(3), (time * turns) % 1 < 0.5
    if model == 0:
        phase = 2 * np.pi * np.cumsum(np.where(first, low, low * ratio)) / RATE
        samples = np.sin(phase) + between(rng, 0.05, 0.5, split) * np.sign(np.sin(phase))
    elif model == 1:
        both = np.sin(2 * np.pi * low * time) + np.sin(2 * np.pi * low * ratio * time)
        samples = both * (0.3 + first)
    else:
        hit = _modes(rng, timeline(0.3), [low * k for k in (1, ratio, 2.1, 2.9, 4.2)], [12, 14, 20, 28, 40])
        samples = repeated(rng, hit, int(seconds * turns), 1 / turns, 0.02)[: len(time)]
    return finished(samples, attack=0.005, release=0.05)


def keyboard(rng: np.random.Generator, rate: str = "slow", split: Split = "train") -> Samples:
    """Typing: each key a click down and a softer one up, at uneven times."""
    every = 1 / between(rng, *{"slow": (3, 5), "fast": (8, 13)}[rate], split)
    case, decay = between(rng, 900, 3200, split), between(rng, 120, 400, split)
    time, hits = timeline(0.04), []
    for _ in range(max(2, int(between(rng, 0.7, 1.2, split) / every))):
        click = np.exp(-decay * time) * _noise(
            rng, len(time), [(case * rng.uniform(0.8, 1.25), 0.5, 1.0), (5500, 0.5, 0.4)]
        )
        thud = 0.4 * np.exp(-90 * time) * np.sin(2 * np.pi * rng.uniform(150, 350) * time)
        down_to_up = round(rng.uniform(0.03, 0.07) * RATE)
        hit = np.zeros(down_to_up + len(time))
        hit[: len(time)] += click + thud
        hit[down_to_up:] += rng.uniform(0.2, 0.6) * click[::1]
        hits.append(hit * rng.uniform(0.5, 1.0))
    return finished(_series(rng, hits, every, 0.25), attack=0.0005, release=0.02)


def steps(rng: np.random.Generator, rate: str = "slow", split: Split = "train") -> Samples:
    """Walking: heel and sole, a thud and a rub, each step a little different."""
    every = between(rng, *{"slow": (0.5, 0.65), "fast": (0.26, 0.36)}[rate], split)
    floor, hard = between(rng, 90, 320, split), between(rng, 0.05, 0.9, split)
    time, hits = timeline(0.16), []
    for _ in range(3 if rate == "slow" else 4):
        thud = np.exp(-40 * time) * np.sin(2 * np.pi * floor * rng.uniform(0.9, 1.1) * time)
        heel = hard * np.exp(-150 * time) * _noise(rng, len(time), [(1800, 0.8, 1.0)])
        sole = 0.25 * np.exp(-(((time - 0.07) / 0.03) ** 2)) * _noise(rng, len(time), [(2500, 1.0, 1.0)])
        hits.append((thud + heel + sole) * rng.uniform(0.6, 1.0))
    return finished(_series(rng, hits, every, 0.05), attack=0.001, release=0.03)


def _noise(rng: np.random.Generator, num: int, peaks: Sequence[tuple[float, float, float]]) -> Wave:
    """[num] of noise, RMS 1, whose spectrum has peaks: centre (Hz), width (octaves) and strength."""
    size = 1 << max(num - 1, 1).bit_length()
    octave = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20))
    shape = sum(gain * np.exp(-0.5 * ((octave - np.log2(centre)) / width) ** 2) for centre, width, gain in peaks)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * shape)[:num]
    return np.asarray(noise / (np.sqrt(np.mean(noise**2)) + 1e-9))


def _modes(rng: np.random.Generator, time: Wave, pitches: Sequence[float], decays: Sequence[float]) -> Wave:
    """A struck thing: sines that die away at their own rates, with random strengths and phases."""
    total = np.zeros(len(time))
    for pitch, decay in zip(pitches, decays, strict=True):
        if pitch < 7800:
            turn = rng.uniform(0, 2 * np.pi)
            total += rng.uniform(0.3, 1.0) * np.exp(-decay * time) * np.sin(2 * np.pi * pitch * time + turn)
    return total


def _voice(rng: np.random.Generator, height: Wave, throat: Sequence[tuple[float, float, float]]) -> Wave:
    """Harmonics of a pitch that changes ([T] in Hz), each as strong as the throat's resonances let it be; RMS 1."""
    wobble = 1 + 0.006 * np.interp(
        np.arange(len(height)), np.arange(0, len(height) + 800, 800), rng.standard_normal(-(-len(height) // 800) + 1)
    )
    phase = 2 * np.pi * np.cumsum(height * wobble) / RATE
    voice = np.zeros(len(height))
    for partial in range(1, int(min(40, 7000 / height.mean())) + 1):
        octave = np.log2(partial * height.mean())
        strength = sum(
            gain * np.exp(-0.5 * ((octave - np.log2(centre)) / width) ** 2) for centre, width, gain in throat
        )
        voice += (strength + 0.003) / partial * np.sin(partial * phase)
    return np.asarray(voice / (np.sqrt(np.mean(voice**2)) + 1e-9))


def _glide(
    rng: np.random.Generator, seconds: float, pitch: float, direction: str, octaves: float, split: Split
) -> Wave:
    """[T] of pitch in Hz: up or down by so many octaves, or steady; with a little vibrato and a bent path."""
    time = timeline(seconds)
    along = (time / seconds) ** between(rng, 0.6, 1.7, split)
    course = {"rising": along - 0.5, "falling": 0.5 - along, "steady": 0 * along}[direction]
    vibrato = rng.uniform(0, 0.02) * np.sin(2 * np.pi * rng.uniform(4, 7) * time)
    return np.asarray(pitch * 2 ** (octaves * course + vibrato))


def _swell(rng: np.random.Generator, num: int) -> Wave:
    """[num] of a slowly changing loudness."""
    knots = rng.uniform(0.55, 1.0, 5)
    return np.asarray(np.interp(np.linspace(0, 4, num), np.arange(5), knots))


def _series(rng: np.random.Generator, hits: Sequence[Wave], every: float, jitter: float) -> Wave:
    """Different hits, one after the other, about `every` seconds apart, each a little louder or softer."""
    starts = [round(index * every * RATE * (1 + jitter * rng.uniform(-1, 1))) for index in range(len(hits))]
    samples = np.zeros(max(start + len(hit) for start, hit in zip(starts, hits, strict=True)))
    for start, hit in zip(starts, hits, strict=True):
        samples[start : start + len(hit)] += hit * rng.uniform(0.65, 1.0)
    return samples


_MAKERS: dict[str, Callable[[np.random.Generator, str, Split], Samples]] = {
    "clap": clap,
    "snap": snap,
    "tap": tap,
    "glass": glass,
    "dog": dog,
    "cough": cough,
    "whistle": whistle,
    "hum": hum,
    "bell": bell,
    "keys": keys,
    "phone": phone,
    "keyboard": keyboard,
    "steps": steps,
}
