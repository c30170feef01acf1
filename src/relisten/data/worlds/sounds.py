"""Reads a bank of short labelled sounds: the shipped one (NOTICE.md names authors and licences) or a user's folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from relisten.audio import load
from relisten.data.tables import table

SHIPPED = Path(__file__).parents[2] / "assets" / "sounds"
COLUMNS = ("file", "label", "kind", "split", "voice", "pitch", "source", "author", "licence", "synthetic")
"""The columns of sounds.csv. A user's own file needs only the first two."""
SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".mp3", ".m4a", ".aif", ".aiff", ".opus"}
MAX_SECONDS = 30.0
"""Longer files are refused: they are recordings, not single sounds."""

PITCHES = ("low", "middle", "high")

SoundSplit = Literal["train", "heldout", "both"]


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """One waveform of a label."""

    label: str
    """What a person would call it: cow, snare, seven."""
    kind: str
    """word, animal, object, drum, instrument or music; "sound" if a user's bank does not say."""
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
    sounds = [_read(folder, row) for row in rows]
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
    return rows


def _rows_of_names(folder: Path) -> list[dict[str, str]]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return [{"file": str(path.relative_to(folder)), "label": _label(path, folder)} for path in files]


def _label(path: Path, folder: Path) -> str:
    name = path.parent.name if path.parent != folder else path.stem.rstrip("0123456789")
    return name.strip(" -_").replace("_", " ").lower() or path.stem


def _read(folder: Path, row: dict[str, str]) -> Sound:
    samples = load(folder / row["file"], max_seconds=MAX_SECONDS).samples
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
    )


def _divided(sounds: list[Sound], rows: list[dict[str, str]]) -> list[Sound]:
    """Splits sounds that have no split: of a label, every fourth is held out; of two or three, the last one is."""
    num_of: dict[str, int] = defaultdict(int)
    for sound in sounds:
        num_of[sound.label] += 1
    seen: dict[str, int] = defaultdict(int)
    divided = []
    for sound, row in zip(sounds, rows, strict=True):
        seen[sound.label] += 1
        if not row.get("split") and num_of[sound.label] > 1:
            last_of_few = num_of[sound.label] < 4 and seen[sound.label] == num_of[sound.label]
            sound = replace(sound, split="heldout" if last_of_few or seen[sound.label] % 4 == 0 else "train")
        divided.append(sound)
    return divided
