"""Make the bank of sounds that relisten ships, from Debian packages: src/relisten/assets/sounds/.

    python runs/make_sounds.py --work /tmp/relisten-sounds

Fetches the packages below with `apt-get download` and unpacks them with `dpkg-deb -x` (no root). Three programs must be
installed: apt-get install --no-install-recommends fluidsynth espeak-ng flite. sounds.txt says what is taken from where.
Made on Debian 12; the same package versions give the same files. Only CC0, CC-BY, CC-BY-SA and MIT material
is taken; each file's author and licence are read from its package.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from bank.packages import Origin, opensfx, opensfx_origin, rendered
from bank.pieces import RATE, Wave, at_16k, trim

PACKAGES = (
    "asterisk-core-sounds-en-wav",
    "openttd-opensfx",
    "sonic-pi-samples",
    "sound-theme-freedesktop",
    "fluid-soundfont-gm",
)
OUT = Path(__file__).resolve().parent.parent / "src" / "relisten" / "assets" / "sounds"
COLUMNS = ("file", "label", "kind", "split", "voice", "pitch", "source", "author", "licence", "synthetic")

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = ("alpha", "bravo", "delta", "echo", "foxtrot", "hotel", "india", "kilo", "oscar", "romeo", "tango", "victor")

# Voice id -> (split, program and arguments). Held-out voices share no variant, accent or speaker with the others.
VOICES: dict[str, tuple[str, list[str]]] = {
    "usman": ("train", ["espeak-ng", "-v", "en-us+m3", "-p", "40", "-s", "150"]),
    "gbwoman": ("train", ["espeak-ng", "-v", "en-gb+f2", "-p", "60", "-s", "145"]),
    "scotman": ("train", ["espeak-ng", "-v", "en-gb-scotland+m7", "-p", "25", "-s", "135"]),
    "uswoman": ("train", ["espeak-ng", "-v", "en-us+f4", "-p", "65", "-s", "150"]),
    "klatt": ("train", ["espeak-ng", "-v", "en-us+klatt2", "-p", "45", "-s", "140"]),
    "rpwoman": ("train", ["espeak-ng", "-v", "en-gb-x-rp+f5", "-p", "50", "-s", "130"]),
    "slt": ("train", ["flite", "-voice", "slt"]),
    "kal": ("train", ["flite", "-voice", "kal16"]),
    "awb": ("train", ["flite", "-voice", "awb"]),
    "clanman": ("heldout", ["espeak-ng", "-v", "en-gb-x-gbclan+m1", "-p", "35", "-s", "155"]),
    "nycwoman": ("heldout", ["espeak-ng", "-v", "en-us-nyc+f3", "-p", "65", "-s", "140"]),
    "islandman": ("heldout", ["espeak-ng", "-v", "en-029+m5", "-p", "50", "-s", "150"]),
    "rms": ("heldout", ["flite", "-voice", "rms"]),
}

REAL_TAKES = {
    "zero": ("vm-reachoper", 0.50, 0.84),
    "one": ("screen-callee-options", 2.39, 2.82),
    "two": ("screen-callee-options", 6.48, 6.92),
    "three": ("screen-callee-options", 10.15, 10.66),
    "four": ("vm-prev", 0.63, 1.03),
    "five": ("vm-repeat", 0.44, 0.85),
    "six": ("vm-next", 0.58, 1.02),
    "seven": ("vm-delete", 0.38, 0.75),
    "eight": ("vm-toforward", 0.48, 0.76),
    "nine": ("vm-savemessage", 0.37, 0.90),
}
"""The real voice's digits a second time, inside sentences ("press seven to ..."): prompt, start, end in seconds."""

INSTRUMENTS = {
    "piano": 0, "xylophone": 13, "organ": 19, "accordion": 21, "guitar": 24, "violin": 40,
    "harp": 46, "choir": 52, "trumpet": 56, "saxophone": 65, "clarinet": 71, "flute": 73,
}  # fmt: skip
"""Label -> General MIDI programme, counted from 0."""
PITCHES = {"low": (48, 52, 50), "middle": (62, 66, 64), "high": (77, 81, 79)}
"""MIDI notes: two to train on, the last one held out. An octave lies between the classes, for each instrument alike."""
JUDGES = (0, 13, 40, 56)
"""Programmes that keep_out.txt names: none of their notes is trained on."""


@dataclass(frozen=True)
class Piece:
    """One file of the bank, before it is cut: where the sound lies and what it is."""

    label: str
    kind: str
    split: str
    place: str
    """asterisk:NAME, opensfx:INDEX, sonic:NAME, freedesktop:NAME, gm:PROGRAMME:NOTE, kit:NOTE."""
    start: float = 0.0
    """Seconds, counted before the silence is trimmed."""
    duration: float = 1.3
    """Seconds at most."""
    voice: str = ""
    pitch: str = ""


def one_shots() -> Iterator[Piece]:
    """Animals, objects and drums. Rows: label, kind, then split=place[@start[+duration]] ..."""
    table = (Path(__file__).parent / "sounds.txt").read_text().splitlines()
    for line in table:
        if not line.strip() or line.startswith("#"):
            continue
        label, kind, *places = line.split()
        for text in places:
            split, place, start, duration = re.fullmatch(r"(\w+)=([^@+]+)(?:@([\d.]+))?(?:\+([\d.]+))?", text).groups()
            yield Piece(label, kind, split, place, float(start or 0), float(duration or 1.3))


def real_words() -> Iterator[Piece]:
    for number, word in enumerate(DIGITS):
        yield Piece(word, "word", "heldout", f"asterisk:digits/{number}", voice="allison")
    for word, (name, start, end) in REAL_TAKES.items():
        yield Piece(word, "word", "heldout", f"asterisk:{name}", start, end - start, voice="allison")
    for word in WORDS:
        yield Piece(word, "word", "heldout", f"asterisk:phonetic/{word[0]}_p", voice="allison")


def notes() -> Iterator[Piece]:
    for label, programme in INSTRUMENTS.items():
        for pitch, midi in PITCHES.items():
            splits = ("heldout",) * 3 if programme in JUDGES else ("train", "train", "heldout")
            for note, split in zip(midi, splits, strict=True):
                yield Piece(label, "instrument", split, f"gm:{programme}:{note}", duration=0.8, pitch=pitch)


def note_of(place: str) -> tuple[int | None, int]:
    """General MIDI programme (None for the drum kit) and MIDI note."""
    kind, *numbers = place.split(":")
    return (None, int(numbers[0])) if kind == "kit" else (int(numbers[0]), int(numbers[1]))


def fetch(work: Path) -> None:
    """Downloads and unpacks what is not there yet."""
    for name in PACKAGES:
        if (work / name).exists():
            continue
        subprocess.run(["apt-get", "download", name], cwd=work, check=True)
        (package,) = work.glob(f"{name}_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, work / name], check=True)


def sonic_credit(work: Path, name: str) -> Origin:
    """The clip's own paragraph; a clip without one (it would fall under the package's MIT) is not taken."""
    text = next((work / "sonic-pi-samples").rglob("copyright")).read_text()
    for paragraph in text.split("\n\n"):
        if f"/{name}.flac" in paragraph:
            fields = dict(re.findall(r"^(Copyright|Source|License): +(.*)$", paragraph, re.M))
            if fields["License"] != "CC0":
                break
            author = re.sub(r"^\d+ | <.*", "", fields["Copyright"])
            return Origin(f"Sonic Pi samples, {name}, {fields['Source'].strip()}", author, "CC0-1.0")
    raise SystemExit(f"{name}: the package does not state CC0 for this clip, so it may not be taken")


def freedesktop_credit(work: Path, name: str) -> Origin:
    text = next((work / "sound-theme-freedesktop").rglob("copyright")).read_text()
    for paragraph in text.split("\n\n"):
        if f"stereo/{name}.oga" in paragraph:
            fields = dict(re.findall(r"^(Copyright|License): +(.*)$", paragraph, re.M))
            if fields["License"] in ("CC-BY-3.0", "CC-BY-SA-3.0"):
                return Origin(f"sound-theme-freedesktop 0.8, {name}", fields["Copyright"], fields["License"])
    raise SystemExit(f"{name}: the package does not state CC-BY or CC-BY-SA for this clip, so it may not be taken")


def speak(work: Path, voice: str, word: str) -> Wave:
    program, *arguments = VOICES[voice][1]
    path = work / "spoken.wav"
    if program == "espeak-ng":
        subprocess.run([program, *arguments, "-w", path, word], check=True)
    else:
        subprocess.run([program, *arguments, "-t", word, "-o", path], check=True)
    return at_16k(*sf.read(path, dtype="float32"))


def read_piece(work: Path, piece: Piece, clips: dict[int, tuple[str, bytes]]) -> tuple[Wave, Origin]:
    package, name = piece.place.split(":", 1)
    if package == "opensfx":
        description, data = clips[int(name)]
        path, credit = work / "clip.wav", opensfx_origin(int(name), description)
        path.write_bytes(data)
    elif package == "sonic":
        path = next((work / "sonic-pi-samples").rglob(f"{name}.flac"))
        credit = sonic_credit(work, name)
    elif package == "freedesktop":
        path = next((work / "sound-theme-freedesktop").rglob(f"{name}.oga"))
        credit = freedesktop_credit(work, name)
    else:
        path = next((work / "asterisk-core-sounds-en-wav").rglob("en_US_f_Allison")) / f"{name}.wav"
        credit = Origin(f"Asterisk core sounds (en) 1.6.1, {name}", "Allison Smith, Digium Inc.", "CC-BY-SA-3.0")
    samples, rate = sf.read(path, dtype="float32")
    begin, end = round(piece.start * rate), round((piece.start + piece.duration) * rate)
    return at_16k(samples[begin:end], rate), credit


def make(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    fetch(work)
    pieces = [*real_words(), *one_shots(), *notes()]
    sampled = [piece.place for piece in pieces if piece.place.startswith(("gm:", "kit:"))]
    notes_played = dict(zip(sampled, rendered(work, "gm", [note_of(place) for place in sampled]), strict=True))
    clips = opensfx(work / "openttd-opensfx")
    out = work / "sounds"
    shutil.rmtree(out, ignore_errors=True)
    rows: list[dict[str, str]] = []
    for piece in pieces:
        if piece.place in notes_played:
            samples = notes_played[piece.place]
            source = f"FluidR3_GM {piece.place}, rendered with fluidsynth (a sampled instrument)"
            credit = Origin(source, "Frank Wen and contributors", "MIT")
        else:
            samples, credit = read_piece(work, piece, clips)
        write(out, rows, trim(samples, piece.duration), piece, credit, synthetic=False)
    for voice, (split, command) in VOICES.items():
        credit = Origin(f"{' '.join(command)} (synthetic voice)", "relisten", "CC0-1.0")
        for word in (*DIGITS, *WORDS):
            piece = Piece(word, "word", split, "", voice=voice)
            write(out, rows, trim(speak(work, voice, word), 1.2), piece, credit, synthetic=True)
    with (out / "sounds.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (out / "NOTICE.md").write_text(notice(rows), encoding="utf-8")
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(out, OUT)


def notice(rows: list[dict[str, str]]) -> str:
    """The attribution each licence asks for: title, author, licence and what was changed."""
    labels: dict[tuple[str, str, str], set[str]] = {}
    for row in rows:
        labels.setdefault((row["source"], row["author"], row["licence"]), set()).add(row["label"])
    lines = [f"| {' | '.join(credit)} | {', '.join(sorted(names))} |" for credit, names in labels.items()]
    return (Path(__file__).parent / "sounds_notice.md").read_text(encoding="utf-8") + "\n".join(lines) + "\n"


def write(
    out: Path, rows: list[dict[str, str]], samples: Wave, piece: Piece, credit: Origin, *, synthetic: bool
) -> None:
    number = sum(row["label"] == piece.label for row in rows) + 1
    take = "2" if piece.voice == "allison" and piece.start else ""
    name = f"{piece.kind}/{piece.label}-{piece.voice or number}{take}.flac"
    (out / piece.kind).mkdir(parents=True, exist_ok=True)
    # Twelve significant bits: noise at -74 dBFS is not heard, and FLAC drops the zero bits (a third of the size).
    sf.write(out / name, np.round(samples * 2048) / 2048, RATE, subtype="PCM_16", compression_level=1.0)
    known = (name, piece.label, piece.kind, piece.split, piece.voice, piece.pitch)
    origin = (credit.name, credit.author, credit.licence, "yes" if synthetic else "no")
    rows.append(dict(zip(COLUMNS, known + origin, strict=True)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/relisten-sounds"), help="for packages and renderings")
    make(parser.parse_args().work)
