"""MusicBench: music of 10 s with chords and beats found by programs, and captions.

The chords become events; tempo, key and downbeats become the description of the music. Clips from AudioSet's evaluation
set are left out, and so are clips of whose key the program was unsure, since their chords are mostly wrong as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from relisten import records
from relisten.data.sources import About, LeftOut, Recordings, events_of, required
from relisten.data.tables import Row
from relisten.types import Clip

ABOUT = About(
    "MusicBench: 52,768 music clips of 10 s, chords with times, beats, tempo, key, captions",
    "https://huggingface.co/datasets/amaai-lab/MusicBench (MusicBench_train.json and, unpacked, .tar.gz)",
    "CC BY-SA 3.0",
    ("**/MusicBench_train.json",),
)
MIN_KEYPROB = 0.5
"""The program's own confidence in the key, 0 .. 1."""
QUALITIES = {
    "": "major", "maj": "major", "m": "minor", "min": "minor", "7": "seventh", "maj7": "major seventh",
    "m7": "minor seventh", "m6": "minor sixth", "6": "sixth", "dim": "diminished", "dim7": "diminished seventh",
    "m7b5": "half-diminished", "aug": "augmented", "sus2": "suspended second", "sus4": "suspended fourth",
}  # fmt: skip


def clips(root: Path, leave: LeftOut) -> Iterator[Clip]:
    """Clips with chords as events; `location` is relative to the list's folder or, as in the archive, to datashare/."""
    path = required(root, "MusicBench_train.json", "**/MusicBench_train.json")
    recordings = Recordings(root, leave, depth=0)
    for row in records.read(path):
        location = str(row.get("location") or "")
        id = Path(location).stem
        if reason := refused(row):
            leave(id, reason)
            continue
        places = [folder / location for folder in (path.parent / "datashare", path.parent, root / "MusicBench")]
        found = recordings.opened(id, next((place for place in places if place.is_file()), places[0]))
        if found is not None:
            captions = {"sound": str(row.get("main_caption") or ""), "music": music(row)}
            events = events_of(chords(row, found[1]), found[1], partial(leave.note, id))
            yield Clip(f"musicbench-{id}", *found, events, {key: text for key, text in captions.items() if text})


def refused(row: Mapping[str, Any]) -> str | None:
    """Why a row is not used, or None."""
    if not row.get("location"):
        return "row has no location"
    if row.get("is_audioset_eval_mcaps"):
        return "comes from AudioSet's evaluation set"
    confidence = _numbers(row.get("keyprob"))
    if not confidence or confidence[0] < MIN_KEYPROB:
        return f"keyprob below {MIN_KEYPROB:g}"
    return None


def chords(row: Mapping[str, Any], duration: float) -> Iterator[Row]:
    """The chords as events; each lasts until the next one. N means that there is no chord."""
    found, times = row.get("chords") or [], _numbers(row.get("chords_time"))
    if not isinstance(found, list) or len(found) != len(times):
        return
    for chord, start, end in zip(found, times, [*times[1:], duration], strict=True):
        if isinstance(chord, str) and chord not in ("", "N"):
            yield f"{spelled(chord)} chord", start, end, {"group": "chord"}


def spelled(chord: str) -> str:
    """`F#m7` as `F sharp minor seventh`, without a bass note; a name that is not known stays as it is."""
    root, quality = chord[:1], chord[1:].split("/")[0]
    for sign, word in (("#", " sharp"), ("b", " flat")):
        if quality.startswith(sign):
            root, quality = root + word, quality[1:]
            break
    return f"{root} {QUALITIES[quality]}" if quality in QUALITIES else chord


def music(row: Mapping[str, Any]) -> str:
    """Tempo, key and downbeats as sentences."""
    said = []
    if tempo := _numbers([row.get("bpm")]):
        said.append(f"The tempo is {tempo[0]:.0f} beats a minute.")
    key = row.get("key") or []
    if isinstance(key, list) and len(key) == 2 and all(isinstance(part, str) and part for part in key):
        said.append(f"The key is {key[0]} {key[1]}.")
    beats = row.get("beats") or []
    if isinstance(beats, list) and len(beats) == 2:
        times, places = _numbers(beats[0]), _numbers(beats[1])
        bars = [f"{time:.1f}" for time, place in zip(times, places, strict=False) if place == 1]
        if bars:
            said.append(f"Bars begin at {', '.join(bars)} s.")
    return " ".join(said)


def _numbers(values: Any) -> Sequence[float]:
    if not isinstance(values, list):
        return []
    return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
