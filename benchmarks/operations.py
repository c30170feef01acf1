"""What each operation does to a sound: a page with sounds and spectrograms before and after, and figures.

    python -m benchmarks.operations --out out/operations-page.html

A word or a tone of the shipped bank (held out) is made hard to hear, and heard as a plain crop and after the operation.
Cover, in dB: how much stronger the sound is than what covers it. For filters the sound and its cover go through the
operation one by one. For `clean` it is the ratio of the sound alone to the rest, after the best gain.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from relisten.audio import encoded
from relisten.data.worlds import hard, synth
from relisten.data.worlds.scenes import RATE, bank
from relisten.engine.operations import WAYS, Operation, crop, phrase
from relisten.reports.page import Page, Section, write
from relisten.reports.table import Table
from relisten.reports.text import safe
from relisten.types import Audio, Segment

Samples = NDArray[np.float32]
PAD = 0.5
"""Seconds of the recording before and after the sound."""
REPEATS = 5
TOLD = {
    "slow": "A word that is said at twice its speed.",
    "low": "An organ under a hiss, 15 dB stronger than it, above 1.4 kHz.",
    "high": "A word under a hum, 15 dB stronger than it, below 700 Hz.",
    "band": "A word between a hum and a hiss, 10 dB stronger than it together.",
    "loud": "A word at 30 dB below its level.",
    "clean": "A word in steady noise of the same level.",
}


@dataclass(frozen=True)
class Case:
    """A sound that is hard to hear, and the operation that makes it plain."""

    name: str
    recording: Audio
    segment: Segment
    own: Samples | None
    """The sound alone at its place in the recording, where something covers it."""


def cases() -> list[Case]:
    """One for each operation."""
    rng, sounds = np.random.default_rng(0), bank("heldout").sounds
    word = sounds["seven"][0].samples[: round(0.9 * RATE)] * np.float32(0.4)
    tone = next(sounds[label] for label in ("organ", "piano", "guitar") if label in sounds)[0].samples
    tone = (tone[: round(1.2 * RATE)] * 0.4).astype(np.float32)
    return [
        _case("slow", hard.harden(rng, word, "slow")),
        _case("low", hard.harden(rng, tone, "low"), tone),
        _case("high", hard.harden(rng, word, "high"), word),
        _case("band", _between(rng, word), word),
        _case("loud", hard.harden(rng, word, "loud")),
        _noisy(rng, word),
    ]


def _case(name: str, samples: Samples, own: Samples | None = None) -> Case:
    pad = round(PAD * RATE)
    segment = Segment(PAD, PAD + len(samples) / RATE, (500.0, 3400.0) if name == "band" else None)
    return Case(name, Audio(np.pad(samples, pad)), segment, None if own is None else np.pad(own, pad))


def _between(rng: np.random.Generator, word: Samples) -> Samples:
    """A word with a hum below 500 Hz and a hiss above 3.4 kHz."""
    spectrum = np.fft.rfft(rng.standard_normal(len(word)))
    frequencies = np.fft.rfftfreq(len(word), 1 / RATE)
    spectrum[(frequencies > 400) & (frequencies < 4200)] = 0
    cover = np.fft.irfft(spectrum, len(word))
    level = 10 ** (10 / 20) * np.sqrt(np.mean(word**2)) / np.sqrt(np.mean(cover**2))
    return np.asarray(word + level * cover, np.float32)


def _noisy(rng: np.random.Generator, word: Samples) -> Case:
    own = np.pad(word, round(2 * RATE))
    noise = synth.noise_bed(rng, len(own), "white") * np.sqrt(np.mean(word**2))
    return Case("clean", Audio((own + noise).astype(np.float32)), Segment(2.0, 2.0 + len(word) / RATE), own)


def cover(case: Case, operation: Operation) -> float | None:
    """Decibels of the sound over what covers it, as heard through the operation."""
    if case.own is None:
        return None
    heard = operation(case.recording, case.segment).samples
    sound = crop(Audio(case.own), case.segment).samples
    if case.name != "clean":
        sound = operation(Audio(case.own), case.segment).samples
        return _decibels(sound) - _decibels(heard - sound)
    gain = float(sound @ heard / (heard @ heard + 1e-12))
    return _decibels(sound) - _decibels(sound - gain * heard)


def _decibels(samples: Samples) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))


def _milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS + 1):
        started = process_time()
        work()
        times.append(1000 * (process_time() - started))
    return median(times[1:])  # the first imports packages


def line(case: Case) -> list[str]:
    """The row of the table."""
    operation = WAYS[case.name].operation
    before, after = crop(case.recording, case.segment).samples, operation(case.recording, case.segment).samples
    covers = [cover(case, each) for each in (crop, operation)]
    told = "-" if None in covers else f"{covers[0]:+.1f} to {covers[1]:+.1f}"
    length = f"{len(before) / RATE:.2f} to {len(after) / RATE:.2f}"
    level = f"{_decibels(before):.1f} to {_decibels(after):.1f}"
    ms = _milliseconds(lambda: operation(case.recording, case.segment))
    return [f"<{case.name}>", TOLD[case.name], length, level, told, f"{ms:.1f}"]


def _picture(samples: Samples) -> str:
    figure = Figure(figsize=(4.2, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.specgram(samples + 1e-7, NFFT=512, Fs=RATE, noverlap=384, cmap="magma", vmin=-120, vmax=-30)
    axes.set(ylim=(0, 8000), xlabel="seconds", ylabel="kHz", yticks=range(0, 8001, 2000))
    axes.set_yticklabels([str(k) for k in range(0, 9, 2)])
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _shown(title: str, samples: Samples) -> str:
    sound = base64.b64encode(encoded(np.clip(samples, -1, 1), RATE, "WAV")).decode()
    return (
        f"<figure><img src='{_picture(samples)}' alt='Spectrogram: {safe(title)}'>"
        f"<figcaption>{safe(title)}</figcaption>"
        f"<audio controls src='data:audio/wav;base64,{sound}'></audio></figure>"
    )


def example(case: Case) -> str:
    """A case as HTML: what it is, before and after."""
    before = crop(case.recording, case.segment).samples
    after = WAYS[case.name].operation(case.recording, case.segment).samples
    pair = _shown("as it is, <seg>", before) + _shown(phrase(case.name, case.segment) + f", <{case.name}>", after)
    return f"<section><h2>{case.name}</h2><p>{safe(TOLD[case.name])}</p><div class='pair'>{pair}</div></section>"


def main() -> None:
    """Write the page and its Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/operations-page.html"), help="the page to write")
    out = parser.parse_args().out
    made = cases()
    columns = ["operation", "sound", "length, s", "level, dB", "cover, dB", "ms"]
    note = f"Before to after. ms: processor time of a listen, median of {REPEATS}."
    section = Section("Figures", "", [Table(columns, [line(case) for case in made], note)])
    page = Page(
        "What operations do to a sound",
        "Each sound is heard as it is in the recording, and as the operation makes it.",
        [section],
        command="python -m benchmarks.operations",
        examples="".join(map(example, made)),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in write(page, out):
        print(path)


if __name__ == "__main__":
    main()
