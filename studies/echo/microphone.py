"""The study's world at the microphone: recordings of 3 to 16 s with words and sounds of the wider bank.

Its rows continue a trained base (`given` in the settings), so there are none for clips and base. Training's sounds are
altered, so that none is known by heart. Questions of all kinds are asked, and some cannot be answered. All held-out
questions have choices and an answer; they are about voices and recordings that training never has.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from relisten.data.worlds import curriculum
from relisten.data.worlds.curriculum import ALTERED, TRAINING_SEED, chain_rows
from relisten.data.worlds.microphone import microphone_bank, microphone_questions, microphone_scene
from relisten.data.worlds.scenes import Bank
from relisten.types import Clip, Example, Format, SftExample
from studies.echo.world import APART, mid_text

SECONDS = (3.0, 16.0)
STUDY_SCENES = 20_000_000
"""The number of the first scene, counted from the first of training: no stage of nano has these."""
HELDOUT_SCENES = 12_000_000
"""The number of the first held-out scene. They are of another split, so the number is free."""


def scene(index: int) -> tuple[Clip, Bank, np.random.Generator]:
    """A scene from training's voices and recordings, altered."""
    sounds, seed = microphone_bank("train"), TRAINING_SEED + STUDY_SCENES + index
    return microphone_scene(seed, sounds, SECONDS, alter=ALTERED), sounds, np.random.default_rng([seed, 41])


def mid_paper_rows(index: int) -> list[SftExample]:
    """The paper's cold start: grounded chains alone. A caption, clips and sound in mid-text are kept alive."""
    return _rows(index, ("grounded",) * 3)


def mixed_rows(index: int) -> list[SftExample]:
    """Beyond the paper: two of three chains are truly interleaved; all else is as in `mid_paper_rows`."""
    return _rows(index, ("interleaved", "grounded", "interleaved"))


def _rows(index: int, formats: tuple[Format, ...]) -> list[SftExample]:
    made = scene(index)
    rows = chain_rows(index, lambda _: made, formats, num_asked=1, num_clips=2, ask=microphone_questions)
    return [*rows, mid_text(index, lambda _: made)]


def rl_rows(index: int) -> list[Example]:
    """For RL: one question with choices, about a scene that no other stage has, without its chain."""
    return curriculum.rl_rows(index, scene, ask=partial(microphone_questions, open=0.0))


def heldout(num: int, seed: int = 0) -> list[Example]:
    """Up to two questions with choices about each of `num` scenes, from held-out voices and recordings."""
    sounds = microphone_bank("heldout")
    ask = partial(microphone_questions, absent=0.0, open=0.0, offered=0.0)
    first = HELDOUT_SCENES + seed * APART
    numbers = range(first, first + num)
    return [asked for n in numbers for asked in ask(n, microphone_scene(n, sounds, SECONDS), sounds, 2)]
