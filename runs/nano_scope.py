"""Fits what nano knows (scope.json, scope.safetensors), and measures how often its notice is right.

usage: python runs/nano_scope.py fit [FOLDER]           writes the two files (default: into the package's own nano)
       python runs/nano_scope.py measure [RECORDINGS]   on nano's held-out questions, and on a folder of recordings
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from relisten.audio import load as load_audio
from relisten.data.worlds.curriculum import nano_scene
from relisten.data.worlds.scene_questions import make_questions
from relisten.data.worlds.scenes import SceneConfig, bank, make_scene
from relisten.engine.row import audible
from relisten.evals.scoring import wilson
from relisten.models import find, load
from relisten.models.scope import fit, notice, pooled, save_scope
from relisten.types import Audio, Clip, Example

ABOUT = "scenes of 5 to 16 s that relisten mixes from 76 sounds of its own"
FIRST = 3_000_000
"""Scenes of this number and after are in no stage of training."""


def questions(num: int, split: str) -> Iterator[Example]:
    """One question about each of `num` scenes, short and long by turns."""
    sounds = bank(split)  # type: ignore[arg-type]
    for index in range(num):
        seconds = 8.0 + index % 9
        longer = SceneConfig(seconds, seconds, max_events=round(seconds / 2), max_gap=2.5)
        clip: Clip = make_scene(600_000 + index, sounds, longer if index % 2 else SceneConfig())
        yield from make_questions(index, clip, sounds, 1)


def texts() -> Iterator[str]:
    """Questions and choices of both splits."""
    for split in ("train", "heldout"):
        for example in tqdm(questions(4_000, split), desc=f"words, {split}", total=4_000):
            yield from (example.question, *example.choices)


def embeddings(first: int, num: int) -> torch.Tensor:
    """[num, D]: training's own kind of scenes, seen through the audio tower."""
    model = load("nano")
    scenes = (nano_scene(first + index)[0].audio for index in tqdm(range(num), desc="scenes"))
    return torch.stack([pooled(model, audio) for audio in scenes if isinstance(audio, Audio)])


def measure(recordings: Path | None) -> None:
    """Print the share of warnings on held-out questions and, asked the same questions, on other recordings."""
    model = load("nano")
    own = list(questions(1_200, "heldout"))
    told = [notice(model, e.audio, e.question, e.choices) for e in tqdm(own) if isinstance(e.audio, Audio)]
    show("nano's own held-out questions", sum(map(bool, told)), len(told))
    if recordings is None:
        return
    warned = num = 0
    for path in tqdm(sorted(path for path in recordings.rglob("*") if path.is_file())):
        try:
            audio = audible(model, load_audio(path, model.rate, max_seconds=16.0))
        except ValueError:  # no recording, or a longer one, which is warned of anyway
            continue
        example = own[num % len(own)]
        warned += notice(model, audio, example.question, example.choices) is not None
        num += 1
    show(f"recordings in {recordings}", warned, num)


def show(what: str, warned: int, num: int) -> None:
    """One line of the result."""
    low, high = wilson(warned, num)
    print(f"{what}: {warned} of {num} warned of ({warned / max(1, num):.3f}, 95 % {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["fit"]:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else find("nano")
        scope = fit(ABOUT, 16.0, texts(), embeddings(FIRST, 2_000), embeddings(FIRST + 2_000, 1_000), 0.005)
        save_scope(scope, folder)
        print(f"{folder}: {len(scope.words)} words, threshold {scope.threshold:.2f}")
    elif sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    else:
        sys.exit(__doc__)
