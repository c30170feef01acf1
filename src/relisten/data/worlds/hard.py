"""Sounds that are hard to make out in a recording unless an operation is used, for questions that need one.

A sound goes by at more than twice its speed ("slow"), is 30 dB too quiet ("loud"), lies under a hum that covers all
below 700 Hz ("high"), or under a hiss that covers all above 1.4 kHz ("low"). The event's label `way` names the
operation that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from relisten.data.worlds.scenes import RATE, Alter, Bank, Samples, SceneConfig, make_scene
from relisten.engine.operations import SPLIT
from relisten.types import Clip

WAYS = ("slow", "loud", "high", "low")
"""The operations that hard sounds need; each is drawn equally often."""
QUICK = 2.0
"""How many times as fast a quick sound is."""
FAINT = 10 ** (-30 / 20)
"""The gain of a quiet sound."""
COVER = 10 ** (15 / 20)
"""How much louder than the sound is what covers it (RMS)."""
HUM, HISS = 700.0, 1400.0
"""Hz. A hum lies below the first, a hiss above the second."""
LEFT = 0.05
"""The least share of a sound's power that its filter must leave."""
FADE = 0.05
"""Seconds in which what covers a sound fades in and out."""
QUIET_FLOOR = 48.0
"""Decibels down to the noise floor of a scene with hard sounds, so that quiet ones are not lost in it."""


def alter(share: float, ways: Sequence[str] = WAYS) -> Alter:
    """Makes this share of all sounds hard, each in one of these ways."""

    def make(rng: np.random.Generator, samples: Samples, known: dict[str, object]) -> tuple[Samples, dict[str, object]]:
        if rng.random() >= share:
            return samples, known
        way = _fitting(samples, ways[int(rng.integers(len(ways)))])
        return harden(rng, samples, way), known | {"way": way} | ({"level": -30.0} if way == "loud" else {})

    return make


def harden(rng: np.random.Generator, samples: Samples, way: str) -> Samples:
    """A sound [T] that needs an operation: [T], or [T / 2] for "slow"."""
    if way == "loud":
        return samples * np.float32(FAINT)
    if way == "slow":
        from python_stretch.Signalsmith import Stretch

        stretcher: Any = Stretch()
        stretcher.preset(1, RATE)
        stretcher.setTimeFactor(QUICK)
        made: Samples = np.asarray(stretcher.process(np.array(samples[None], np.float32))[0])
        return made
    cover = _hum(rng, len(samples)) if way == "high" else _hiss(rng, len(samples))
    level = COVER * np.sqrt(np.mean(samples**2)) / (np.sqrt(np.mean(cover**2)) + 1e-9)
    edge = np.minimum(1, np.minimum(np.arange(len(samples)), np.arange(len(samples))[::-1]) / (FADE * RATE))
    return np.asarray(samples + cover * level * edge, np.float32)


def _hum(rng: np.random.Generator, num: int) -> Samples:
    """Partials of the mains and of a motor below 700 Hz, each at a level of its own."""
    time = np.arange(num) / RATE
    pitches = [*np.arange(50, HUM, 50), float(rng.uniform(80, 130))]
    strengths = rng.uniform(0.3, 1.0, len(pitches))
    turns = rng.random(len(pitches))
    parts = zip(pitches, strengths, turns, strict=True)
    return np.asarray(sum(s * np.sin(2 * np.pi * (p * time + t)) for p, s, t in parts), np.float32)


def _hiss(rng: np.random.Generator, num: int) -> Samples:
    """Noise above 1.4 kHz."""
    spectrum = np.fft.rfft(rng.standard_normal(num))
    spectrum[np.fft.rfftfreq(num, 1 / RATE) < HISS] = 0
    return np.asarray(np.fft.irfft(spectrum, num), np.float32)


def _fitting(samples: Samples, way: str) -> str:
    """The way, or the other filter if this one would leave next to nothing of the sound."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    below = float(power[np.fft.rfftfreq(len(samples), 1 / RATE) < SPLIT].sum() / (power.sum() + 1e-12))
    if way == "low" and below < LEFT:
        return "high"
    return "low" if way == "high" and 1 - below < LEFT else way


def hard_scene(seed: int, bank: Bank, config: SceneConfig, share: float, id: str | None = None) -> Clip:
    """A scene in which this share of all sounds needs an operation, the same for the same seed."""
    quiet = replace(config, min_snr=QUIET_FLOOR, quiet=0.0, overlap=0.0, reverb=0.0)
    return make_scene(seed, bank, quiet, id, alter(share))
