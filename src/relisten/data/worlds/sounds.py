"""Reads a bank of short labelled sounds: the shipped one (NOTICE.md names authors and licences) or a user's folder.

A file may hold many sounds; the columns start and end of sounds.csv then give the times of each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from relisten.audio import RATE, load, sample_at
from relisten.data.tables import table

SHIPPED = Path(__file__).parents[2] / "assets" / "sounds"
COLUMNS = ("file", "label", "kind", "split", "voice", "pitch", "source", "author", "licence", "synthetic")
"""The columns of the shipped sounds.csv. A user's own file needs only the first two; it may also have start and end
(seconds in the file) and take (the recording of which the sound is a part)."""
SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".mp3", ".m4a", ".aif", ".aiff", ".opus"}
MAX_SECONDS = 30.0
"""Longer sounds are refused: they are recordings, not single sounds."""

PITCHES = ("low", "middle", "high")

SoundSplit = Literal["train", "heldout", "both"]


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """One waveform of a label."""

    label: str
    """The name that a person would give it: cow, snare, seven."""
    kind: str
    """word, animal, person, object, drum, instrument, music or bed (background that no question is about); "sound" if a
    user's bank does not say."""
    samples: NDArray[np.float32]
    """[T] mono at 16 kHz, read-only."""
    voice: str = ""
    """Who speaks a word."""
    pitch: str = ""
    """low, middle or high, for the note of an instrument."""
    split: SoundSplit = "both"
    """The only waveform of a label is in both splits."""
    source: str = ""
    licence: str = ""
    synthetic: bool = False
    """Made by a program (a speech synthesiser), not recorded."""
    take: str = ""
    """The recording of which this is a part, if the bank says so. All its parts are in one split."""


def load_bank(folder: Path | str | None = None) -> list[Sound]:
    """The sounds of a folder, read from its sounds.csv or from files LABEL/anything.wav or LABEL12.wav.

    None gives the shipped bank. Raises ValueError if the folder holds no usable sounds.
    """
    return list(_load(SHIPPED if folder is None else Path(folder).expanduser().resolve()))


def for_split(sounds: Iterable[Sound], split: Literal["train", "heldout"]) -> list[Sound]:
    """The sounds for training, or those for evaluation."""
    return [sound for sound in sounds if sound.split in (split, "both")]


@cache
def _load(folder: Path) -> tuple[Sound, ...]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; give a folder of short sounds (LABEL/anything.wav)")
    rows = _rows_of_csv(folder) if (folder / "sounds.csv").exists() else _rows_of_names(folder)
    if not rows:
        raise ValueError(f"{folder}: there are no sounds in it; put files there as LABEL/anything.wav or LABEL1.wav")
    packed: dict[str, NDArray[np.float32]] = {}
    sounds = [_read(folder, row, packed) for row in rows]
    return tuple(sounds) if all(row.get("split") for row in rows) else tuple(_divided(sounds, rows))


def _rows_of_csv(folder: Path) -> list[dict[str, str]]:
    path = folder / "sounds.csv"
    rows = list(table(path, ("file", "label")))
    for number, row in enumerate(rows, start=2):
        if not row.get("file") or not row.get("label"):
            raise ValueError(f"{path}, line {number}: needs a file and a label (columns: file,label,...)")
        if row.get("split", "") not in ("", "train", "heldout", "both"):
            raise ValueError(f"{path}, line {number}: split is {row['split']!r}; use train, heldout or both")
        if row.get("pitch", "") not in ("", *PITCHES):
            raise ValueError(f"{path}, line {number}: pitch is {row['pitch']!r}; use low, middle, high or nothing")
        if bool(row.get("start")) != bool(row.get("end")):
            raise ValueError(f"{path}, line {number}: has only one of start and end; give both or neither")
    return rows


def _rows_of_names(folder: Path) -> list[dict[str, str]]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return [{"file": str(path.relative_to(folder)), "label": _label(path, folder)} for path in files]


def _label(path: Path, folder: Path) -> str:
    name = path.parent.name if path.parent != folder else path.stem.rstrip("0123456789")
    return name.strip(" -_").replace("_", " ").lower() or path.stem


def _samples(folder: Path, row: dict[str, str], packed: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """[T] of a file of its own, or of its part of a file of many sounds, which is read once and kept in `packed`."""
    path = folder / row["file"]
    if not row.get("start"):
        return load(path, max_seconds=MAX_SECONDS).samples
    try:
        start, end = float(row["start"]), float(row["end"])
    except ValueError:
        start, end = math.nan, math.nan
    if not 0 <= start < end <= start + MAX_SECONDS:
        raise ValueError(
            f"{folder / 'sounds.csv'}: {row['file']} has no part from {row['start']!r} to {row['end']!r}; "
            f"give seconds, at most {MAX_SECONDS:g} from start to end"
        )
    if row["file"] not in packed:
        packed[row["file"]] = _whole(path)
    whole = packed[row["file"]]
    first, last = sample_at(start, RATE, len(whole)), sample_at(end, RATE, len(whole))
    if last <= first:
        raise ValueError(f"{path}: lasts {len(whole) / RATE:.1f} s, so nothing is in it from {start} to {end} s")
    return whole[first:last]


def _whole(path: Path) -> NDArray[np.float32]:
    """[T] of a file of many sounds. libsndfile reads what it wrote to the sample; other decoders move Opus a little."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; make the bank again, or take its rows out of sounds.csv")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: cannot be read ({error.error_string}); make the bank again") from None
    if (rate, samples.shape[1]) != (RATE, 1):
        raise ValueError(f"{path}: a file of many sounds must have one channel at {RATE} Hz")
    return np.ascontiguousarray(samples[:, 0])


def _read(folder: Path, row: dict[str, str], packed: dict[str, NDArray[np.float32]]) -> Sound:
    samples = _samples(folder, row, packed)
    if not np.any(samples):
        raise ValueError(f"{folder / row['file']}: is silent; take it out of the bank")
    samples.setflags(write=False)  # the cache hands the same arrays to everyone
    return Sound(
        label=row["label"],
        kind=row.get("kind") or "sound",
        samples=samples,
        voice=row.get("voice", ""),
        pitch=row.get("pitch", ""),
        split=row.get("split") or "both",  # type: ignore[arg-type]
        source=row.get("source", ""),
        licence=row.get("licence", ""),
        synthetic=row.get("synthetic") == "yes",
        take=row.get("take", ""),
    )


def _divided(sounds: list[Sound], rows: list[dict[str, str]]) -> list[Sound]:
    """Splits takes that have no split: of a label, every fourth is held out; of two or three, the last one is.

    All parts of a take are in one split, whatever their labels; a part that names no take is a take of its own. A label
    with one take alone keeps it for both splits.
    """
    whose = [sound.take or f"row {number}" for number, sound in enumerate(sounds)]
    numbers: dict[str, dict[str, int]] = defaultdict(dict)
    for sound, take in zip(sounds, whose, strict=True):
        numbers[sound.label].setdefault(take, len(numbers[sound.label]) + 1)
    chosen = {take: sound.split for sound, take, row in zip(sounds, whose, rows, strict=True) if row.get("split")}
    for sound, take in zip(sounds, whose, strict=True):
        num, number = len(numbers[sound.label]), numbers[sound.label][take]
        if num > 1:
            held_out = number == num if num < 4 else number % 4 == 0
            chosen.setdefault(take, "heldout" if held_out else "train")
    return [replace(sound, split=chosen.get(take, sound.split)) for sound, take in zip(sounds, whose, strict=True)]
