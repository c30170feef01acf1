"""Makes examples/: six scenes of real recordings (no synthetic voice, no computed sound), a question about each.

usage: python runs/make_examples.py
The seeds are the first that allow a question of the wanted kind; none was chosen by what a model answers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from relisten import records
from relisten.audio import save
from relisten.data.worlds.scene_questions import make_question
from relisten.data.worlds.scenes import Bank, SceneConfig, bank, make_scene

OUT = Path(__file__).parent.parent / "examples"
KINDS = ("word", "after", "before", "count", "detail", "word")
CONFIG = SceneConfig(min_seconds=6.0, min_events=4, overlap=0.0, repeat=0.5)


def real_bank() -> Bank:
    """The held-out bank without synthetic voices and without parametric sounds."""
    whole = bank("heldout")
    real = {label: tuple(s for s in sounds if not s.synthetic) for label, sounds in whole.sounds.items()}
    real = {label: sounds for label, sounds in real.items() if sounds}
    groups = (tuple(label for label in group if label in real) for group in whole.groups)
    return Bank(real, tuple(group for group in groups if group), whole.split)


def main() -> None:
    sounds = real_bank()
    questions, events, seed = [], [], 0
    for number, kind in enumerate(KINDS, start=1):
        example = None
        while example is None:
            seed += 1
            clip = make_scene(seed, sounds, CONFIG, f"scene-{number}")
            example = make_question(np.random.default_rng([seed, 7]), clip, sounds, kind)
        path = OUT / f"{clip.id}.flac"
        save(path, clip.audio)  # type: ignore[arg-type]
        questions.append(records.record_from_example(replace(example, audio=path), OUT))
        told = [{"label": e.label, "start": round(e.start, 3), "end": round(e.end, 3)} for e in clip.events]
        events.append({"audio_path": path.name, "duration": clip.duration, "events": told})
        print(clip.id, [(e.label, round(e.start, 1)) for e in clip.events], example.question, example.answer)
    for name, rows in (("questions", questions), ("events", events)):
        records.write_atomic(OUT / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
