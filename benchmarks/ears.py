"""How well `ears` hears: its events against the exact ones of the project's held-out scenes.

    relisten scenes heldout --num 60 --questions 0 --seed 500000 --split heldout
    python benchmarks/ears.py heldout

An event is found where one of ears' overlaps it with an intersection over union of at least 0.3. Its kind (speech, or
not) and its name are then compared; the bank's names are narrower than AudioSet's, so ACCEPTED says which names count.
Parametric sounds (chirp, tone, buzz ...) have no name in AudioSet and count for finding alone.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from time import process_time

from relisten.audio import load
from relisten.data.kinds import spoken
from relisten.data.offline import ears
from relisten.data.offline.timeline import is_word
from relisten.data.sources import LeftOut, scenes
from relisten.types import Event

ACCEPTED = {
    "cow": ("Cattle", "Moo", "Livestock"), "crow": ("Crow", "Caw", "Bird"), "horse": ("Horse", "Neigh"),
    "sheep": ("Sheep", "Bleat", "Goat", "Livestock"), "bell": ("bell", "Bell", "Ding", "Chime"), "camera": ("Camera",),
    "siren": ("siren", "Siren", "Alarm", "Emergency"), "burp": ("Burp",), "slurp": ("Slurp", "Chewing", "Biting"),
    "clap": ("Clapping", "Hands", "Slap"), "till": ("Cash register", "Coin"), "steam": ("Steam", "Hiss"),
    "scratch": ("Scratch", "Music"), "swoosh": ("Whoosh",), "bubble": ("Bubble", "Gurgling", "Plop", "Water", "Drip"),
    "beatbox": ("Beatboxing",),
}  # fmt: skip
MUSIC = (
    "Music", "instrument", "Violin", "Guitar", "Piano", "Organ", "Flute", "Harp", "Accordion", "Trumpet", "Saxophone",
    "Clarinet", "Synthesizer", "Chant", "Choir", "Drum", "Percussion", "Marimba", "Keyboard", "Tambourine",
)  # fmt: skip


def overlap(a: Event, b: Event) -> float:
    """Intersection over union."""
    shared = max(0.0, min(a.end, b.end) - max(a.start, b.start))
    return shared / (a.end - a.start + b.end - b.start - shared)


def named(true: Event, heard: Event) -> bool | None:
    """Whether the name fits; None where AudioSet has none for it."""
    group = true.labels["group"]
    if group == "word":
        return spoken(heard)
    if group == "parametric":
        return None
    names = MUSIC if group == "instrument" else (*ACCEPTED.get(true.label, ()), true.label.capitalize())
    return any(name in heard.label for name in names)


def main(root: Path) -> None:
    """Print the counts."""
    counts: Counter[str] = Counter()
    errors: list[float] = []
    seconds, began = 0.0, process_time()
    for clip in scenes.clips(root, LeftOut()):
        audio = load(clip.audio)  # type: ignore[arg-type]
        heard = ears.hear(audio)
        seconds += clip.duration
        counts["heard"] += len(heard)
        counts["words heard"] += sum(map(is_word, heard))
        counts["heard, nothing there"] += sum(all(overlap(h, t) < 0.1 for t in clip.events) for h in heard)
        for true in clip.events:
            group = true.labels["group"]
            counts[group] += 1
            if group == "word":
                counts["words written rightly, start within 0.2 s"] += any(
                    one.label == true.label and is_word(one) and abs(one.start - true.start) <= 0.2 for one in heard
                )
            best = max(heard, key=lambda h: overlap(h, true), default=None)
            if best is None or overlap(best, true) < 0.3:
                continue
            counts[f"{group} found"] += 1
            counts[f"{group} named"] += named(true, best) is True
            counts["speech where there is none"] += group != "word" and spoken(best)
            errors += [abs(best.start - true.start), abs(best.end - true.end)]
    for name, count in sorted(counts.items()):
        print(f"{name:32} {count}")
    errors.sort()
    print(f"ends, seconds off: median {errors[len(errors) // 2]:.2f}, 90 % {errors[len(errors) * 9 // 10]:.2f}")
    print(f"{seconds / (process_time() - began):.1f} times real time")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
