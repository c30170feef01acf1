"""The study's world: a quarter of nano's labels and shorter scenes, so that a model goes from nothing to RL in an hour.

The rows of its stages. Unlike nano's, the base sees no chain of thought: what the cold start and RL add to it is what
the study measures.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from functools import cache, partial

import numpy as np

from relisten.data.offline.drawing import NANO, draw, pick, shuffled
from relisten.data.offline.phrases import SHORT_LEADS
from relisten.data.offline.short import heard, leads, listen, name, segment
from relisten.data.offline.timeline import Asked, Step, Timeline, is_word
from relisten.data.worlds import curriculum, synth
from relisten.data.worlds.curriculum import RL_SCENES, TRAINING_SEED, chain_rows, tell
from relisten.data.worlds.scene_questions import as_example, timeline
from relisten.data.worlds.scenes import Bank, SceneConfig, bank, make_scene
from relisten.models import nano
from relisten.models.base import AudioLM
from relisten.types import Clip, Example, Format, SftExample

LABELS = frozenset({
    "zero", "one", "two", "three", "four", "five", "six", "seven", "bell", "clap", "bubble", "scratch", "steam",
    "flute", "organ", "harp", "beep", "chirp", "knock", "siren", "tone",
})  # fmt: skip
SCENES = SceneConfig(min_seconds=4.0, max_seconds=6.0, min_events=3, max_events=4, repeat=0.2)
FULLER = replace(SCENES, min_seconds=6.0, max_seconds=8.0, min_events=4, max_events=5)
SIZE = nano.NanoConfig(
    hidden_size=192, intermediate_size=512, audio_width=128, audio_layers=2, audio_heads=2, audio_intermediate_size=384
)


APART = 1_000_000
"""How far the held-out scenes of one seed are from those of the next, so that no scene has two seeds."""


@cache
def small_bank(split: synth.Split) -> Bank:
    """The labels of this world in a split of the shipped bank."""
    whole = bank(split)
    sounds = {label: group for label, group in whole.sounds.items() if label in LABELS}
    groups = tuple(tuple(label for label in group if label in LABELS) for group in whole.groups)
    if missing := LABELS.difference(*groups):
        raise ValueError(f"the bank has no sound of {', '.join(sorted(missing))}; the study asks about it")
    return Bank(sounds, groups, split)


def scene(index: int, config: SceneConfig = SCENES) -> tuple[Clip, Bank, np.random.Generator]:
    """A scene from training's waveforms."""
    seed = TRAINING_SEED + index
    return make_scene(seed, small_bank("train"), config), small_bank("train"), np.random.default_rng([seed, 41])


def clip_rows(index: int) -> list[SftExample]:
    """Close listens."""
    return curriculum.clip_rows(index, scene)


def base_rows(index: int) -> list[SftExample]:
    """A caption, a time, two clips, two questions answered at once; no chain."""
    return chain_rows(index, scene, (), num_asked=2, num_clips=2, ask=one_hop)


def paper_rows(index: int) -> list[SftExample]:
    """The paper's cold start: grounded chains alone; the base's rows are kept alive."""
    return chain_rows(index, scene, ("grounded",) * 3, num_asked=1, num_clips=2, ask=one_hop)


def mixed_rows(index: int) -> list[SftExample]:
    """Beyond the paper: two of three chains are truly interleaved."""
    formats: tuple[Format, ...] = ("interleaved", "grounded", "interleaved")
    return chain_rows(index, scene, formats, num_asked=1, num_clips=2, ask=one_hop)


def fine_base_rows(index: int) -> list[SftExample]:
    """The base's rows where a scene's captions tell all that clips tell: words, pitches, counts, directions."""
    return _fine(index, base_rows(index))


def fine_mixed_rows(index: int) -> list[SftExample]:
    """`mixed_rows`, with such captions."""
    return _fine(index, mixed_rows(index))


def _fine(index: int, rows: list[SftExample]) -> list[SftExample]:
    """What "Tell what is heard" and "What is heard at" are answered with is made as exact as a close listen."""
    clip, _, _ = scene(index)
    told = {tell(clip).question: ", ".join(f"{segment(e, clip.duration).start} {heard(e)}" for e in clip.events)}
    for example, _ in rows:
        if found := re.fullmatch(r"What is heard at ([\d.]+)\?", example.question):
            time = float(found[1])
            [event, *_] = [e for e in clip.events if name(e) == example.answer and e.start <= time <= e.end]
            told[example.question] = heard(event)
    return [(replace(e, answer=told.get(e.question, e.answer)), format) for e, format in rows]


def mid_base_rows(index: int) -> list[SftExample]:
    """`base_rows`, one clip of which is heard in mid-text, as a chat with several recordings has it; `base_rows`, in
    which every sound comes before all text, leave a base that an insertion puts out."""
    return [*chain_rows(index, scene, (), num_asked=2, num_clips=1, ask=one_hop), mid_text(index)]


def mid_paper_rows(index: int) -> list[SftExample]:
    """`paper_rows` on such a base: every chain that answers is grounded; the base's rows, sound in mid-text among them,
    are kept alive."""
    return [*chain_rows(index, scene, ("grounded",) * 3, num_asked=1, num_clips=1, ask=one_hop), mid_text(index)]


def mid_text(index: int, scene: curriculum.Scene = scene) -> SftExample:
    """Two or three events in any order, each heard after its tag and then told, in the words of chains. No question is
    asked, none answered: what a sound in mid-text is, and not what it is good for."""
    clip, _, _ = scene(index)
    rng = np.random.default_rng([TRAINING_SEED + index, 47])
    chosen = [clip.events[int(i)] for i in rng.permutation(len(clip.events))[: int(rng.integers(2, 4))]]
    reasons = [lead for key in ("find", "next", "previous", "again") for lead in SHORT_LEADS[key]]
    text = " ".join(listen(rng, pick(rng, reasons), event, clip.duration) for event in chosen)
    return Example(f"{clip.id}-mid", clip.audio, "Listen again.", (), heard(chosen[-1]), text), "interleaved"


def one_hop(seed: int, clip: Clip, sounds: Bank, num: int, operations: Collection[str] = ()) -> list[Example]:
    """Up to `num` different questions that one place in the scene answers: a word that is spoken, an attribute.

    Harder kinds need a model to find its way among several places, which this one does not learn in the time.
    """
    rng = np.random.default_rng([seed, 43])
    made: dict[str, Example] = {}
    for _ in range(num * 12):
        kind = ("word", "detail")[int(rng.integers(2))]
        known = timeline(clip, sounds)
        asked = which_word(rng, known) if kind == "word" else draw(kind, rng, known, NANO)
        if asked is None:
            continue
        reasons = leads(rng, asked)
        if asked.question not in made:
            example = as_example(rng, clip, kind, asked, reasons, operations)
            made[asked.question] = replace(example, id=f"{clip.id}-{len(made)}")
        if len(made) == num:
            break
    return list(made.values())


def which_word(rng: np.random.Generator, known: Timeline) -> Asked | None:
    """Which word is spoken, or spoken first or last? One place in the scene answers it."""
    words = [event for event in known.events if is_word(event)]
    if not words or len(known.other_words) < 4:
        return None
    last = len(words) > 1 and rng.random() < 0.5
    target, order = words[-1 if last else 0], "" if len(words) == 1 else " last" if last else " first"
    wrong = shuffled(rng, [word for word in known.other_words if word != target.label])[:3]
    question = f"Which word is spoken{order}?"
    return Asked(question, (), target.label, (target.label, *wrong), (Step("voice", target),))


def heldout(num: int, seed: int = 0) -> list[Example]:
    """Up to two questions about each of `num` scenes, from waveforms and voices that training never has."""
    sounds, clips = small_bank("heldout"), heldout_scenes(num, seed)
    return [question for i, clip in enumerate(clips) for question in one_hop(seed * APART + i, clip, sounds, 2)]


def heldout_scenes(num: int, seed: int = 0) -> list[Clip]:
    """The scenes of `heldout`."""
    return [make_scene(seed * APART + index, small_bank("heldout"), SCENES) for index in range(num)]


def rl_rows(index: int) -> list[Example]:
    """For RL: one question about a scene that no other stage has, without its chain."""
    return curriculum.rl_rows(index, scene, ask=one_hop)


def more_rl_rows(index: int) -> list[Example]:
    """For RL that goes on: questions like `rl_rows`, about scenes that it does not have."""
    return curriculum.rl_rows(index + RL_SCENES // 4, scene, ask=one_hop)


def other_rl_rows(index: int) -> list[Example]:
    """RL of other origin: other scenes, longer and fuller, and other questions: what came before, after, how often."""
    return curriculum.rl_rows(index + RL_SCENES // 2, partial(scene, config=FULLER), ("after", "before", "count"))


def new_model() -> AudioLM:
    """The small model with random weights."""
    return nano.create(curriculum.vocabulary(), SIZE)
