"""The world of the study: the scenes of studies/echo, in which half of all sounds are hard to make out.

A hard sound goes by too fast, is too quiet, lies under a hum or under a hiss, and the operation that makes it plain is
known (worlds/hard.py). All rows share scenes, questions and choices. Captions and chains tell of a hard sound why it is
hard ("1.9 quick chirp"), in all rows alike. The chains differ in how they listen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from relisten.data.offline.short import heard, name, segment
from relisten.data.worlds import curriculum, hard
from relisten.data.worlds.curriculum import TRAINING_SEED, Ask, chain_rows
from relisten.data.worlds.scenes import Bank
from relisten.engine.operations import WAYS
from relisten.models import nano
from relisten.models.base import AudioLM
from relisten.types import Audio, Clip, Example, Format, Segment, SftExample
from studies.echo.world import APART, SCENES, SIZE, one_hop, small_bank

OPERATIONS = hard.WAYS
"""Those of the study. `clean` and `band` are left out: noise would lie over whole scenes, and a band takes two more
numbers, which a model of this size would have to learn as well."""
SHARE = 0.5
"""Of the sounds that are hard."""
MANNERS = {"slow": "quick", "loud": "quiet", "high": "humming", "low": "hissing"}
"""What a caption says of a sound that needs this operation."""


def scene(index: int) -> tuple[Clip, Bank, np.random.Generator]:
    """A scene from training's waveforms."""
    seed = TRAINING_SEED + index
    sounds = small_bank("train")
    return hard.hard_scene(seed, sounds, SCENES, SHARE), sounds, np.random.default_rng([seed, 41])


def asking(operations: Collection[str], at_random: bool = False) -> Ask:
    """Gives questions whose chains use these operations: each hard sound its own, or one that is drawn."""

    def ask(seed: int, clip: Clip, sounds: Bank, num: int) -> list[Example]:
        told = _mixed_up(clip, seed) if at_random else clip
        return [_by_way(example, clip) for example in one_hop(seed, told, sounds, num, operations)]

    return ask


def _mixed_up(clip: Clip, seed: int) -> Clip:
    """The clip with a drawn operation for each hard sound."""
    rng = np.random.default_rng([seed, 59])
    drawn = [str(rng.choice(OPERATIONS)) for _ in clip.events]
    events = [
        replace(event, labels=event.labels | {"way": way}) if "way" in event.labels else event
        for event, way in zip(clip.events, drawn, strict=True)
    ]
    return replace(clip, events=tuple(events))


def _by_way(example: Example, clip: Clip) -> Example:
    """The example, whose kind says which operation the sound needs that holds the answer."""
    onset = example.labels["events"][-1][1]
    event = min(clip.events, key=lambda event: abs(event.start - onset))
    cot = example.cot and with_manners(example.cot, clip)
    return replace(example, cot=cot, labels=example.labels | {"kind": str(event.labels.get("way", "plain"))})


def with_manners(text: str, clip: Clip) -> str:
    """A caption or chain in which the manner of each hard sound stands before its name."""
    for event in clip.events:
        if "way" in event.labels:
            told = f"{segment(event, clip.duration).start} {name(event)}"
            text = text.replace(told, told.replace(" ", f" {MANNERS[str(event.labels['way'])]} ", 1))
    return text


def _taught(index: int, formats: Sequence[Format], num_asked: int, ask: Ask) -> list[SftExample]:
    """The rows of a scene: chains, questions without one, a caption, what is heard at a time, two close listens."""
    clip, _, rng = scene(index)
    rows = chain_rows(index, scene, formats, num_asked, num_clips=1, ask=ask)
    caption = curriculum.tell(clip)
    told = replace(caption, answer=with_manners(str(caption.answer), clip))
    rows = [(told, format) if row.question == told.question else (row, format) for row, format in rows]
    return [*rows, (_close(rng, clip, int(rng.integers(len(clip.events)))), "conditioned")]


def clip_rows(index: int) -> list[SftExample]:
    """Close listens: each sound of two scenes, every second hard one after its operation."""
    rows: list[SftExample] = []
    for number in (2 * index, 2 * index + 1):
        clip, _, rng = scene(number)
        rows += [(_close(rng, clip, n), "conditioned") for n in range(len(clip.events))]
    return rows


def _close(rng: np.random.Generator, clip: Clip, number: int) -> Example:
    """One sound by itself, as a crop or as its operation makes it, and what it is."""
    event = clip.events[number]
    near = segment(event, clip.duration)
    end = min(clip.duration, near.end + float(rng.choice([0.0, 0.0, 0.1])))
    way = str(event.labels.get("way", "seg")) if rng.random() < 0.5 else "seg"
    assert isinstance(clip.audio, Audio)
    piece = WAYS[way].operation(clip.audio, Segment(near.start, end))
    return Example(f"{clip.id}-clip", piece, "What is it?", (), heard(event))


def base_rows(index: int) -> list[SftExample]:
    """What a recording holds: a caption, a time, two sounds, two questions answered at once; no chain."""
    return _taught(index, (), 2, asking(()))


def _cold(index: int, ask: Ask) -> list[SftExample]:
    return _taught(index, ("interleaved", "grounded", "interleaved"), 1, ask)


def crop_rows(index: int) -> list[SftExample]:
    """Chains in which every segment is heard as it is."""
    return _cold(index, asking(()))


def way_rows(index: int) -> list[SftExample]:
    """The same chains, in which a hard sound is heard through the operation that it needs."""
    return _cold(index, asking(OPERATIONS))


def random_rows(index: int) -> list[SftExample]:
    """The same chains, in which a hard sound is heard through any of the operations."""
    return _cold(index, asking(OPERATIONS, at_random=True))


def rl_rows(index: int) -> list[Example]:
    """For RL: one question about a scene that no other stage has, without its chain."""
    return curriculum.rl_rows(index, scene, ask=asking(()))


def heldout(num: int, seed: int = 0) -> list[Example]:
    """Up to two questions about each of `num` scenes, from waveforms and voices that training never has."""
    sounds = small_bank("heldout")
    make = partial(hard.hard_scene, bank=sounds, config=SCENES, share=SHARE)
    numbers = range(seed * APART, seed * APART + num)
    return [question for number in numbers for question in asking(())(number, make(number), sounds, 2)]


def vocabulary() -> Iterator[str]:
    """The texts of nano's world, and the tags of the operations."""
    yield from curriculum.vocabulary()
    yield from (f"<{way}>1.0, 2.0</{way}> <{way}> {MANNERS[way]}" for way in OPERATIONS for _ in range(4))


def new_model() -> AudioLM:
    """The small model with random weights."""
    return nano.create(vocabulary(), SIZE)
