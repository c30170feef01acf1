"""What nano is taught: training rows made on the fly. Row `i` is the same at every run, so training can resume.

The stage `clips` teaches single sounds. It is short, and without it the audio encoder learns slowly. The stage `base`
teaches what a recording holds: a caption with times, what is heard at a time, and chains of thought that name segments.
The stage `sft` is the cold start: chains of thought, most of them with the segment's audio inserted after its tag. Each
stage keeps a few rows of the stages before it, so that nothing is forgotten.

Captions call a spoken word "word" and leave attributes out, which only clips and chains tell. So a segment that is
heard again tells more than the whole recording did, which makes it worth listening again at this model size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np

from relisten.audio import crop
from relisten.data.offline.short import caption, heard, name, segment
from relisten.data.worlds.channel import altered
from relisten.data.worlds.microphone import microphone_bank, microphone_questions, microphone_scene, word_scene
from relisten.data.worlds.scene_questions import make_questions
from relisten.data.worlds.scenes import Alter, Bank, SceneConfig, bank, make_scene
from relisten.data.worlds.sounds import Sound
from relisten.data.worlds.wordings import WORDINGS
from relisten.models import nano
from relisten.models.base import AudioLM
from relisten.types import Audio, Clip, Event, Example, Format, Segment, SftExample

Scene = Callable[[int], tuple[Clip, Bank, np.random.Generator]]
"""Gives the scene of a number, the bank it was made from, and the random generator for its rows."""
Ask = Callable[[int, Clip, Bank, int], list[Example]]
"""Gives up to so many questions about a scene, the same for the same seed (its first argument)."""
TRAINING_SEED = 1_000_000
"""The number of the first scene of training. Held-out scenes are numbered from 0."""
RL_SCENES = 5_000_000
"""The number of the first scene of RL, counted from the first of training."""
SECONDS = ((3.0, 8.0), (8.0, 16.0), (16.0, 30.0), (30.0, 60.0))
"""How long the scenes are that both worlds are taught with."""
SHARES = (0.46, 0.3, 0.16, 0.08)
"""How often scenes are so long."""
ANOTHER_STAGE = 1_024_000
"""By how much the index of a scene grows from a stage of both worlds to the next, so that no scene comes twice."""


ALTERED: Alter = partial(altered, strength=1.6)
"""What the last two stages of both worlds do to each sound."""


SLIPS = 0.25
"""The share of chains that name another sound than there is, where this can be."""


def nano_scene(index: int) -> tuple[Clip, Bank, np.random.Generator]:
    """A scene of training. Every second one is longer, 8 to 16 s, with many or few sounds."""
    sounds, seed = bank("train"), TRAINING_SEED + index
    config = SceneConfig()
    if index % 2:
        drawn = np.random.default_rng([seed, 53])
        seconds = float(drawn.uniform(8.0, 16.0))
        config = SceneConfig(seconds, seconds, max_events=round(seconds / 2), max_gap=float(drawn.uniform(0.9, 3.5)))
    return make_scene(seed, sounds, config), sounds, np.random.default_rng([seed, 41])


def clip_rows(index: int, scene: Scene = nano_scene) -> list[SftExample]:
    """Two scenes: each of their sounds on its own, and what it is."""
    rows: list[SftExample] = []
    for number in (2 * index, 2 * index + 1):
        clip, _, rng = scene(number)
        rows += [(close_listen(rng, clip, event), "conditioned") for event in clip.events]
    return rows


def base_rows(index: int) -> list[SftExample]:
    """One scene: two grounded chains, a caption, what is heard at a time, two clips."""
    return chain_rows(index, nano_scene, ("grounded", "grounded"), num_asked=0, num_clips=2)


def sft_rows(index: int) -> list[SftExample]:
    """One scene: two interleaved chains, a grounded one, a question answered at once, a caption, a clip."""
    return chain_rows(index, nano_scene, ("interleaved", "interleaved", "grounded"), num_asked=1, num_clips=1)


def rl_rows(
    index: int, scene: Scene = nano_scene, kinds: Sequence[str] = (), ask: Ask = make_questions
) -> list[Example]:
    """For GRPO: one question without its chain, of one of the kinds, about a scene that no other stage uses.

    If the scene allows none, another scene, far behind it, takes its place.
    """
    number, found = index, list[Example]()
    while not found:
        number += RL_SCENES
        clip, sounds, _ = scene(number)
        questions = ask(number, clip, sounds, 4)
        found = [q for q in questions if not kinds or q.labels["kind"] in kinds]
    return [replace(found[0], cot=None)]


def chain_rows(
    index: int, scene: Scene, formats: Sequence[Format], num_asked: int, num_clips: int, ask: Ask = make_questions
) -> list[SftExample]:
    """One scene: a chain in each of the formats, questions without one, a caption, what is heard at a time, clips."""
    clip, sounds, rng = scene(index)
    questions = ask(index, clip, sounds, len(formats) + num_asked)
    rows: list[SftExample] = list(zip(questions, formats, strict=False))
    kept = [replace(question, cot=None) for question in questions[len(formats) :]]
    kept += [tell(clip), what_at(rng, clip), *(close_listen(rng, clip) for _ in range(num_clips))]
    return [*rows, *((row, "conditioned") for row in kept)]


def _words(index: int, num: int, alter: Alter | None = None) -> list[SftExample]:
    """Words, each alone over a background, and which they are."""
    sounds, rng = microphone_bank("train"), np.random.default_rng([TRAINING_SEED + index, 43])
    numbers = range(TRAINING_SEED + num * index, TRAINING_SEED + num * index + num)
    clips = (word_scene(number, sounds, spoken_words(), alter=alter) for number in numbers)
    return [(close_listen(rng, clip), "conditioned") for clip in clips]


@cache
def spoken_words() -> tuple[Sound, ...]:
    """All takes of all words that are trained, shuffled."""
    sounds = microphone_bank("train")
    found = [sound for word in sounds.words for sound in sounds.sounds[word]]
    return tuple(found[int(n)] for n in np.random.default_rng(0).permutation(len(found)))


def wide_base_rows(index: int) -> list[SftExample]:
    """As `base_rows`, with one of the two chains interleaved, about a scene of either world; more clips, and words."""
    return [*wide_rows(index, ("grounded", "interleaved"), 0, 4), *_words(index, 4)]


def wide_sft_rows(index: int) -> list[SftExample]:
    """As `sft_rows`, about a scene of either world; more clips, and words."""
    index += ANOTHER_STAGE
    return [*wide_rows(index, ("interleaved", "interleaved", "grounded"), 1, 2), *_words(index, 2)]


def wide_varied_rows(index: int) -> list[SftExample]:
    """As `wide_sft_rows`, with more words. The sounds are altered, so that none is known by heart.

    One chain of four names another sound than there is: then the recording and the choices must decide.
    """
    index += 2 * ANOTHER_STAGE
    rows = wide_rows(index, ("interleaved", "interleaved", "grounded"), 1, 2, alter=ALTERED)
    rng = np.random.default_rng([TRAINING_SEED + index, 71])
    rows = [(slipped(rng, example) if rng.random() < SLIPS else example, format) for example, format in rows]
    return [*rows, *_words(index, 4, ALTERED)]


def slipped(rng: np.random.Generator, example: Example) -> Example:
    """The same question and answer, but the chain ends with another sound of the answer's kind, one that is no choice.

    An example without choices, or whose chain does not end with what was heard, stays as it is.
    """
    told, tag, said = (example.cot or "").rpartition("</seg>")
    answer = str(example.answer)
    found = re.search(rf"(saying |an? (?:\w+ )?|one ){re.escape(answer)}(?=[.]?$)", said)
    group = next((group for group in microphone_bank("train").groups if answer in group), ())
    others = [label for label in group if label not in example.choices]
    if not tag or answer not in example.choices or not others or not found:
        return example
    other = str(rng.choice(others))
    article = "an " if other[0] in "aeiou" else "a "
    lead = article if found[1] in ("a ", "an ") else found[1]
    return replace(example, cot=f"{told}{tag}{said[: found.start()]}{lead}{other}{said[found.end() :]}")


def wide_rows(
    index: int, formats: Sequence[Format], num_asked: int, num_clips: int, alter: Alter | None = None
) -> list[SftExample]:
    """`chain_rows` about a scene of either world: of those up to 16 s every second one is of the first."""
    seconds = SECONDS[int(np.random.default_rng([index, 67]).choice(len(SECONDS), p=SHARES))]
    ask: Ask = make_questions
    if index % 2 or seconds[1] > 16.0:
        sounds, ask = microphone_bank("train"), microphone_questions
        clip = microphone_scene(TRAINING_SEED + index, sounds, seconds, alter=alter)
    else:
        clip, sounds, _ = quick_scene(index, seconds, alter)
    scene = clip, sounds, np.random.default_rng([TRAINING_SEED + index, 41])
    return chain_rows(index, lambda _: scene, formats, num_asked, num_clips, ask)


def wide_rl_rows(index: int) -> list[Example]:
    """For GRPO: one question with choices about a scene of either world, of 3 to 30 s, that no other stage uses.

    Its sounds are altered: a sound that is known by heart is named whatever the choices are.
    """
    number, found = index, list[Example]()
    while not found:
        number += RL_SCENES
        if number % 2:
            sounds, seed = microphone_bank("train"), TRAINING_SEED + number
            scene = microphone_scene(seed, sounds, (3.0, 30.0), alter=ALTERED)
            found = microphone_questions(number, scene, sounds, 1, open=0.0)
        else:
            clip, sounds, _ = quick_scene(number, (5.0, 16.0), ALTERED)
            found = make_questions(number, clip, sounds, 1)
    return [replace(found[0], cot=None)]


def quick_scene(
    index: int, seconds: tuple[float, float], alter: Alter | None = None
) -> tuple[Clip, Bank, np.random.Generator]:
    """As `nano_scene`, of so many seconds and mixed faster. alter: as for `make_scene`."""
    sounds, seed = bank("train"), TRAINING_SEED + index
    drawn = np.random.default_rng([seed, 53])
    config = SceneConfig(stock=True)
    if seconds[1] > 8.0:
        length = float(drawn.uniform(max(8.0, seconds[0]), seconds[1]))
        gap = float(drawn.uniform(0.9, 3.5))
        config = SceneConfig(length, length, max_events=round(length / 2), max_gap=gap, stock=True)
    return make_scene(seed, sounds, config, alter=alter), sounds, np.random.default_rng([seed, 41])


def tell(clip: Clip) -> Example:
    """The request to tell everything that is heard."""
    return Example(clip.id, clip.audio, "Tell what is heard.", (), caption(clip))


def what_at(rng: np.random.Generator, clip: Clip) -> Example:
    """The question what is heard at a time, near the middle of an event."""
    event = clip.events[int(rng.integers(len(clip.events)))]
    time = round(float(rng.uniform(0.3, 0.7)) * (event.end - event.start) + event.start, 1)
    return Example(clip.id, clip.audio, f"What is heard at {time}?", (), name(event))


def close_listen(rng: np.random.Generator, clip: Clip, event: Event | None = None) -> Example:
    """A segment as a model would ask for it, slightly off at both ends, and what it is."""
    event = event or clip.events[int(rng.integers(len(clip.events)))]
    near = segment(event, clip.duration)
    start = max(0.0, round(near.start + float(rng.choice([-0.1, 0.0, 0.0, 0.1])), 1))
    end = max(start + 0.2, round(near.end + float(rng.choice([-0.1, 0.0, 0.0, 0.1])), 1))
    assert isinstance(clip.audio, Audio)
    piece = crop(clip.audio, Segment(start, min(end, clip.duration)))
    return Example(f"{clip.id}-clip", piece, "What is it?", (), heard(event))


def vocabulary(wide: bool = False) -> Iterator[str]:
    """Texts with every word and every tenth of a second that nano reads or writes, for its tokenizer.

    wide: also what belongs to the world at the microphone.
    """
    yield from (f"<seg>{tenths / 10:.1f}, {tenths / 10:.1f}</seg>" for tenths in range(600) for _ in range(4))
    for index in range(400):
        for rows in (base_rows(index), sft_rows(index)):
            for example, _ in rows:
                yield "\n".join([example.question, *example.choices, "listen", example.cot or "", str(example.answer)])
    labels = {label for split in ("train", "heldout") for group in bank(split).groups for label in group}
    if wide:
        labels |= {label for group in microphone_bank("train").groups for label in group}
        yield from (text for texts in WORDINGS.values() for text in texts for _ in range(4))
        for index in range(1, 1200, 2):
            for example, _ in wide_rows(index, ("grounded", "grounded"), 2, 1):
                yield "\n".join([example.question, *example.choices, example.cot or "", str(example.answer)])
    yield from (f"{label}\n {label}" for label in sorted(labels) for _ in range(4))
    yield from ["user\n<think></think><answer></answer>assistant\n"] * 4


def new_nano() -> AudioLM:
    """A nano with random weights and a tokenizer for these texts; training from nothing begins with it."""
    return nano.create(vocabulary())
