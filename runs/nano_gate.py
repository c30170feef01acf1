"""What a nano in training has learnt of the world at the microphone: three shares, teacher-forced, on held-out scenes.

usage: python runs/nano_gate.py BANK MODEL [MODEL ...]

THE RULE OF THE GATE, written before the first run. Two nanos are trained with the same data and the same number of
steps (300 steps of clips, then the first 350 steps of runs/wide_base.yaml): one with nano's own ear, which is trained
further, and one with the frozen encoder of Whisper tiny.en. Both start with the text model of the shipped nano. Then
each is judged on the same scenes of held-out voices and recordings by three shares: onsets in captions within 0.15 s,
right labels in captions, clips told without a fault. The one with the higher mean of the three is trained on. If the
means differ by less than 0.01, that is the own ear, because it is smaller. It decided for nano's own ear (LAB.md).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from relisten.data.worlds import curriculum
from relisten.data.worlds.microphone import microphone_bank, microphone_scene
from relisten.models import load
from relisten.models.base import AudioLM
from relisten.training.batch import encode, pack
from relisten.types import Clip, Example

JUDGING_SEED = 77_000_000
SCENES = (((3.0, 8.0), 128), ((8.0, 16.0), 64), ((16.0, 30.0), 32))
"""How long the scenes are, and how many there are."""
MEANT = ("onset", "label", "clip")
"""The three shares of the rule."""


def held_out_scenes(bank: Path) -> Iterator[Clip]:
    """The scenes of the gate."""
    sounds = microphone_bank("heldout", bank)
    for seconds, num in SCENES:
        yield from (microphone_scene(JUDGING_SEED + number, sounds, seconds) for number in range(num))


@torch.inference_mode()
def told(model: AudioLM, example: Example) -> tuple[list[str], list[str]]:
    """The tokens that are right, and those that the model would write after the right ones before them."""
    batch = pack([[encode(model, example, "conditioned")]])
    keep = batch.rows, batch.columns
    logits = model.forward(batch.input_ids, batch.position_ids, batch.features, batch.attention_mask, keep=keep)
    right, said = (
        [model.decode([token]).strip() for token in ids.tolist()] for ids in (batch.labels, logits.argmax(-1))
    )
    return right, said


def shares(model: AudioLM, scenes: list[Clip]) -> dict[str, float]:
    """The three shares and their mean; and of the clips, the share of words that are told without a fault."""
    found: dict[str, list[bool]] = {name: [] for name in MEANT}
    words: list[bool] = []
    rng = np.random.default_rng(3)
    for clip in scenes:
        for right, said in zip(*told(model, curriculum.tell(clip)), strict=True):
            if re.fullmatch(r"\d+\.\d", right):
                found["onset"].append(bool(re.fullmatch(r"\d+\.\d", said)) and abs(float(said) - float(right)) <= 0.151)
            elif re.search("[a-z]", right) and "answer" not in right:
                found["label"].append(right == said)
        for _ in range(3):
            right, said = told(model, curriculum.close_listen(rng, clip))
            found["clip"].append(right == said)
            if "saying" in right:
                words.append(right == said)
    figures = {name: float(np.mean(values)) for name, values in found.items()}
    found["word"], figures["word"] = words, float(np.mean(words))
    return (
        figures
        | {"mean": float(np.mean([figures[name] for name in MEANT]))}
        | {f"n {k}": len(v) for k, v in found.items()}
    )


def main(bank: Path, folders: list[str]) -> None:
    """Print the figures of each model."""
    scenes = list(held_out_scenes(bank))
    for folder in folders:
        print(folder, json.dumps({name: round(value, 3) for name, value in shares(load(folder), scenes).items()}))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
