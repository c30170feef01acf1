"""Synthetic scenes with exact times: the world that nano learns in.

A scene is a few sounds, recorded or computed, each at its own time, level and speed, over a noise floor. Its events are
known exactly; captions, questions and chains of thought are made from them (scene_questions.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relisten.data.worlds import desk, synth
from relisten.data.worlds.channel import Channel, cut, draw_channel, stock_noise
from relisten.data.worlds.sounds import Sound, for_split, load_bank
from relisten.types import Audio, Clip, Event

RATE = 16_000
"""Samples a second (Hz)."""
Samples = NDArray[np.float32]
MIN_WAVEFORMS = 3
"""The fewest recordings of a shipped label in training; with fewer, and others held out, the label is not used."""
LATEST_ONSET = 0.7
"""Seconds. The first sound of a scene begins no later."""
MIN_GAP = 0.15
"""Seconds. The shortest silence between two sounds that do not overlap."""
MARGIN = 0.05
"""Seconds. The shortest silence at the end of a scene."""
ATTRIBUTES = desk.KINDS | synth.KINDS
"""Of each computed sound, its attribute and the values."""


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are drawn."""

    min_seconds: float = 5.0
    max_seconds: float = 8.0
    min_events: int = 3
    """The fewest sounds that are drawn. If they do not all fit, the scene has fewer."""
    max_events: int = 5
    max_gap: float = 0.9
    """Seconds. The longest silence between two sounds."""
    overlap: float = 0.1
    """Probability that a sound begins before the one in front of it has ended."""
    repeat: float = 0.3
    """Probability that one label of the scene is heard two or three times."""
    quiet: float = 0.25
    """Probability that a sound is 8 to 16 dB below the others."""
    reverb: float = 0.3
    """Probability of a room."""
    speed: float = 0.08
    """The largest change of speed, and with it of pitch, as a fraction."""
    min_snr: float = 18.0
    """Decibels from an RMS of 0.25 down to the noise floor; up to 24 dB more are drawn. A sound at level 0 has an RMS
    of 0.12, so it is 6 dB nearer to the noise."""
    beds: float = 0.0
    """Probability that the noise is a recorded background (kind `bed` in the bank) instead of a computed one."""
    telephone: float = 0.0
    """Probability that the sounds are cut to the band of a telephone or of a cheap microphone."""
    stock: bool = False
    """Mix as training needs it, several times faster: the room is put on each sound and noise comes from a stock. With
    this, `room` and `telephone` belong to the sounds and not to the noise."""


Alter = Callable[[np.random.Generator, Samples, dict[str, object]], tuple[Samples, dict[str, object]]]
Model = Callable[..., tuple[Samples, str]]
"""Computes a sound of a label and gives the value of its attribute, as `synth.make` does."""


@dataclass(frozen=True)
class Bank:
    """The sounds of one split, in the groups from which a scene draws."""

    sounds: dict[str, tuple[Sound, ...]]
    """Recorded, sampled or rendered sounds by label."""
    groups: tuple[tuple[str, ...], ...]
    """The labels of spoken words, of other recordings, of instruments and of computed sounds. No group is empty."""
    split: synth.Split
    beds: tuple[Sound, ...] = ()
    """Recorded backgrounds. They are no events."""
    models: Mapping[str, Model] = field(default_factory=dict)
    """Sounds that are computed, also if there are recordings of them; half of them are then computed."""

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The labels that are spoken words."""
        return tuple(label for label, sounds in self.sounds.items() if sounds[0].kind == "word")


@cache
def bank(split: synth.Split, folder: Path | None = None) -> Bank:
    """The bank of a split. A folder of the user's own sounds replaces the shipped recordings."""
    return bank_of(load_bank(folder), split, folder)


def bank_of(everything: Sequence[Sound], split: synth.Split, folder: Path | None = None) -> Bank:
    """The bank of a split of these sounds. folder: where they come from, if they are not the shipped ones.

    Raises ValueError if it would be empty.
    """
    beds = tuple(sound for sound in for_split(everything, split) if sound.kind == "bed")
    # A label is one thing: if there is a sound called "dog", the spoken word "dog" stays out.
    names = {sound.label for sound in everything if sound.kind != "word"}
    everything = [s for s in everything if s.kind != "bed" and (s.kind != "word" or s.label not in names)]
    taught = Counter(sound.label for sound in everything if sound.split == "train")
    heldout = {sound.label for sound in everything if sound.split == "heldout"}
    by_label: dict[str, list[Sound]] = {}
    for sound in for_split(everything, split):
        # One or two recordings do not teach a kind of sound, so a label with so few is left out if others are held out.
        # A label of the user's own stays: whoever gives two files of it wants to hear it.
        if folder is not None or sound.label not in heldout or taught[sound.label] >= MIN_WAVEFORMS:
            by_label.setdefault(sound.label, []).append(sound)
    if not by_label:
        raise ValueError(
            f"{folder}: has no sounds for the split {split!r}; in sounds.csv, give some of them this split or none"
        )
    sounds = {label: tuple(group) for label, group in sorted(by_label.items())}
    kinds: dict[str, list[str]] = {"word": [], "instrument": [], "other": []}
    for label, group in sounds.items():
        kinds.get(group[0].kind, kinds["other"]).append(label)
    groups = (kinds["word"], kinds["other"], kinds["instrument"], sorted(synth.KINDS))
    return Bank(sounds, tuple(tuple(group) for group in groups if group), split, beds)


def fitted(config: SceneConfig, bank: Bank) -> SceneConfig:
    """The config with `min_seconds` raised so that every sound of the bank fits into every scene.

    Raises ValueError with the labels of sounds that are too long even for `max_seconds`.
    """

    def needed(sound: Sound) -> float:  # in tenths, as scenes are; 10 ms more for rounding
        return math.ceil(10 * (LATEST_ONSET + len(sound.samples) / RATE / (1 - config.speed) + MARGIN + 0.01)) / 10

    sounds = sorted((sound for group in bank.sounds.values() for sound in group), key=needed, reverse=True)
    too_long = [f"{s.label} ({len(s.samples) / RATE:.1f} s)" for s in sounds if needed(s) > config.max_seconds]
    if too_long:
        named = ", ".join(too_long[:3]) + (f" and {len(too_long) - 3} more" if len(too_long) > 3 else "")
        raise ValueError(
            f"sounds too long for scenes of at most {config.max_seconds:g} s: {named}; "
            f"cut them, or set max_seconds to {needed(sounds[0]):g} or more"
        )
    return replace(config, min_seconds=max([config.min_seconds, *map(needed, sounds[:1])]))


def make_scene(
    seed: int, bank: Bank, config: SceneConfig = SceneConfig(), id: str | None = None, alter: Alter | None = None
) -> Clip:
    """One scene, the same for the same seed: its audio in memory and its events in order of onset.

    alter: changes a sound before it is mixed, and what is known of it.
    """
    rng = np.random.default_rng([seed, 17])
    seconds = round(float(rng.uniform(config.min_seconds, config.max_seconds)), 1)
    mix = np.zeros(round(seconds * RATE), np.float32)
    events: list[Event] = []
    onset = float(rng.uniform(0.1, LATEST_ONSET))
    channel = draw_channel(rng, config.reverb, config.telephone) if config.stock else None
    for label in _labels(rng, bank, config):
        samples, event = _sound(rng, bank, label, config)
        if alter is not None:
            samples, event = alter(rng, samples, event)
        start = round(onset * RATE)
        if start + len(samples) > len(mix) - round(MARGIN * RATE):
            break
        _add(mix, start, samples, channel)
        events.append(Event(label, start / RATE, (start + len(samples)) / RATE, event))
        over, most = rng.random() < config.overlap, config.max_gap
        step = -rng.uniform(0.1, 0.4) * len(samples) / RATE if over else rng.uniform(MIN_GAP, most)
        onset = max(onset + 0.25, events[-1].end + float(step))
    if channel is None and rng.random() < config.reverb:
        mix = synth.room(mix, rng)[: len(mix)]
    mix += _background(rng, bank, config, len(mix)) * _gain(-config.min_snr - float(rng.uniform(0, 24)) - 12)
    mix *= 0.9 / max(0.9, float(np.abs(mix).max())) * _gain(float(rng.uniform(-9, 0)))
    return Clip(id or f"scene-{seed}", Audio(mix.astype(np.float32), RATE), seconds, tuple(events))


def _add(mix: Samples, start: int, samples: Samples, channel: Channel | None) -> None:
    """Add a sound to the mix, through the room and the microphone if there are any."""
    heard = samples if channel is None else channel(samples)
    end = min(len(mix), start + len(heard))
    mix[start:end] += heard[: end - start]


def _background(rng: np.random.Generator, bank: Bank, config: SceneConfig, num: int) -> Samples:
    """[num] of background with an RMS of 1."""
    if config.beds and bank.beds and rng.random() < config.beds:
        bed = bank.beds[int(rng.integers(len(bank.beds)))].samples
        piece = cut(rng, bed, num)
        return np.asarray(piece / (np.sqrt(np.mean(piece**2)) + 1e-6), np.float32)
    colour = synth.COLOURS[int(rng.integers(len(synth.COLOURS)))]
    return stock_noise(rng, num, colour) if config.stock else synth.noise_bed(rng, num, colour)


def _labels(rng: np.random.Generator, bank: Bank, config: SceneConfig) -> list[str]:
    """Labels from groups that are drawn equally often; sometimes one label stands there two or three times."""
    num = int(rng.integers(config.min_events, config.max_events + 1))
    labels: list[str] = []
    for _ in range(num):
        group = bank.groups[int(rng.integers(len(bank.groups)))]
        left = [label for label in group if label not in labels]
        labels.append(str(rng.choice(left)) if left else str(rng.choice(group)))
    if rng.random() < config.repeat:
        repeated = labels[0]
        num_repeats = int(rng.integers(2, 4))
        labels = [*labels[1 : max(2, num - num_repeats + 1)], *[repeated] * num_repeats]
        rng.shuffle(labels)
    return labels


def _sound(rng: np.random.Generator, bank: Bank, label: str, config: SceneConfig) -> tuple[Samples, dict[str, object]]:
    """One sound at a random level and speed, and what is known of it besides its label.

    If the peak limits the gain, the RMS is lower than `level` says.
    """
    known: dict[str, object] = {"group": "parametric"}
    if label in bank.models and (label not in bank.sounds or rng.random() < 0.5):
        samples, value = bank.models[label](label, rng, split=bank.split)
        known |= {"attribute": ATTRIBUTES[label][0], "value": value}
    elif label in bank.sounds:
        group = bank.sounds[label]
        sound = group[int(rng.integers(len(group)))]
        samples = synth.speed(sound.samples, float(rng.uniform(1 - config.speed, 1 + config.speed)))
        known = {"group": sound.kind if sound.kind in ("word", "instrument") else "recording"}
        if sound.pitch:
            known |= {"attribute": "pitch", "value": sound.pitch}
        if sound.voice:
            known |= {"voice": sound.voice}
    else:
        samples, value = synth.make(label, rng, split=bank.split)
        known |= {"attribute": synth.KINDS[label][0], "value": value}
    level = float(rng.uniform(-16, -8) if rng.random() < config.quiet else rng.uniform(-3, 0))
    rms = float(np.sqrt(np.mean(samples**2))) + 1e-9
    gain = _gain(level) * min(0.12 / rms, 0.9 / (float(np.abs(samples).max()) + 1e-9))
    return (samples * gain).astype(np.float32), known | {"level": round(level, 1)}


def _gain(decibels: float) -> float:
    return float(10 ** (decibels / 20))
