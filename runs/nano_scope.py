"""Fits what nano knows (scope.json, scope.safetensors), and measures how often its notice is right.

usage: python runs/nano_scope.py fit BANK [FOLDER]         writes the two files (default: into the package's own nano)
       python runs/nano_scope.py measure BANK [PACKAGES]   on held-out questions of both worlds, and on recordings of
                                                           other packages' sounds and languages

BANK and PACKAGES are the folders of runs/make_bank.py.
"""

import csv
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from bank.packages import PACKAGES, files
from tqdm import tqdm

from relisten.audio import load as load_audio
from relisten.data.worlds.curriculum import TRAINING_SEED, nano_scene
from relisten.data.worlds.microphone import microphone_bank, microphone_questions, microphone_scene
from relisten.data.worlds.scene_questions import make_questions
from relisten.data.worlds.scenes import SceneConfig, bank, make_scene
from relisten.data.worlds.synth import Split
from relisten.data.worlds.wordings import WORDINGS
from relisten.engine.question import audible
from relisten.evals.scoring import wilson
from relisten.models import find, load
from relisten.models.base import AudioLM
from relisten.models.scope import fit, notice, pooled, save_scope
from relisten.types import Audio, Clip, Example

ABOUT = "scenes of 3 to 60 s that relisten mixes from words and sounds of its own"
OTHERS = ("fdo", "ktub", "lmms", "mt", "sonic", "tux")
"""Packages whose other recordings are foreign to nano: games, music, words in many languages."""
FIRST = 3_000_000
"""Scenes of this number and after are in no stage of training."""


def questions(num: int, split: Split, folder: Path) -> Iterator[Example]:
    """One question about each of `num` scenes: of the first world, short and long by turns, and at the microphone."""
    sounds, wide = bank(split), microphone_bank(split, folder)
    for index in range(num // 2):
        clip = microphone_scene(600_000 + index, wide, (3.0, 16.0))
        yield from microphone_questions(index, clip, wide, 1, absent=0.0, open=0.0)
        seconds = 8.0 + index % 9
        longer = SceneConfig(seconds, seconds, max_events=round(seconds / 2), max_gap=2.5)
        clip = make_scene(600_000 + index, sounds, longer if index % 2 else SceneConfig())
        yield from make_questions(index, clip, sounds, 1)


def texts(folder: Path) -> Iterator[str]:
    """Questions and choices of both worlds, in training's wordings, and every label."""
    splits: tuple[Split, ...] = ("train", "heldout")
    for split in splits:
        for example in tqdm(questions(4_000, split, folder), desc=f"words, {split}", total=4_000):
            yield from (example.question, *example.choices)
    yield from (label for group in microphone_bank("train", folder).groups for label in group)
    yield from (text for texts in WORDINGS.values() for text in texts)


def recordings(model: AudioLM, first: int, num: int, folder: Path) -> list[tuple[float, torch.Tensor]]:
    """Seconds of training's own kind of scenes, and [D] what the audio tower makes of each."""
    wide = microphone_bank("train", folder)

    def scene(index: int) -> Clip:
        return nano_scene(index)[0] if index % 2 else microphone_scene(TRAINING_SEED + index, wide)

    scenes = (scene(first + index).audio for index in tqdm(range(num), desc="scenes"))
    return [(audio.duration, pooled(model, audio)) for audio in scenes if isinstance(audio, Audio)]


def foreign(packages: Path, folder: Path) -> list[Path]:
    """Up to 80 recordings of each of six packages, drawn at random, none of which the bank has."""
    with (folder / "sounds.csv").open(encoding="utf-8") as file:
        taken = {re.split("[@*]", row["take"])[0] for row in csv.DictReader(file)}
    drawn, rng = list[Path](), random.Random(0)
    for key in OTHERS:
        known = files(packages / PACKAGES[key].name)
        if not known:
            raise SystemExit(f"{packages}: has no recordings of {PACKAGES[key].name}; runs/make_bank.py fetches them")
        left = [file for file in known if f"{key}:{file.stem}" not in taken]
        drawn += rng.sample(left, min(80, len(left)))
    return drawn


def measure(folder: Path, packages: Path | None) -> None:
    """Print the share of warnings on held-out questions and, asked the same questions, on other recordings."""
    model = load("nano")
    own = list(questions(1_200, "heldout", folder))
    told = [notice(model, e.audio, e.question, e.choices) for e in tqdm(own) if isinstance(e.audio, Audio)]
    show("nano's own held-out questions", sum(map(bool, told)), len(told))
    if packages is None:
        return
    warned = num = 0
    for path in tqdm(foreign(packages, folder)):
        try:
            audio = audible(model, load_audio(path, model.rate, max_seconds=60.0))
        except ValueError:  # silence, or a longer one, which is warned of anyway
            continue
        example = own[num % len(own)]
        warned += notice(model, audio, example.question, example.choices) is not None
        num += 1
    show("other recordings", warned, num)


def show(what: str, warned: int, num: int) -> None:
    """One line of the result."""
    low, high = wilson(warned, num)
    print(f"{what}: {warned} of {num} warned of ({warned / max(1, num):.3f}, 95 % {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[2:4]]
    if sys.argv[1:2] == ["fit"] and given:
        to = given[1] if len(given) > 1 else find("nano")
        trained = load(str(to))
        seen = [recordings(trained, start, num, given[0]) for start, num in ((FIRST, 2_000), (FIRST + 2_000, 1_000))]
        scope = fit(ABOUT, (3.0, 60.0), texts(given[0]), seen[0], seen[1], 0.005)
        save_scope(scope, to)
        print(f"{to}: {len(scope.words)} words, threshold {scope.threshold:.2f}")
    elif sys.argv[1:2] == ["measure"] and given:
        measure(given[0], given[1] if len(given) > 1 else None)
    else:
        sys.exit(__doc__)
