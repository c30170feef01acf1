"""nano's second world: what a person can make at a desk with a microphone, in recordings of 3 to 60 s.

Scenes are mixed from a wider bank of sounds and words, sparse or dense, over recorded backgrounds, through rooms and
cheap microphones. The questions are those of scene_questions.py in many wordings, and some that cannot be answered,
because the sound that they name is not there: then the right answer is CANNOT_TELL.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from relisten.data.offline import short
from relisten.data.offline.drawing import Manner, draw, pick, shuffled
from relisten.data.offline.timeline import Asked, Step, is_word
from relisten.data.worlds import desk, synth
from relisten.data.worlds.scene_questions import as_example, timeline
from relisten.data.worlds.scenes import ATTRIBUTES, RATE, Alter, Bank, SceneConfig, bank, make_scene
from relisten.data.worlds.sounds import PITCHES, Sound
from relisten.data.worlds.synth import Split
from relisten.data.worlds.wordings import HELDOUT, WORDINGS
from relisten.types import Clip, Example

CANNOT_TELL = "cannot tell"
"""The right answer to a question about a sound that is not there."""
BANK = Path(os.environ.get("RELISTEN_BANK", "out/bank"))
"""Where `runs/make_bank.py` puts the wider bank."""
FEWEST = 5
"""The fewest recordings of a label in training; a sound that can be computed needs none."""
ABSENT = 0.14
"""The share of questions that cannot be answered."""
OPEN = 0.15
"""The share of questions without choices."""
OFFERED = 0.3
"""The share of the questions with choices in which CANNOT_TELL is one of them, whether it is right or not."""
SHARES = {
    "after": 0.15, "before": 0.11, "between": 0.03, "word": 0.2, "after word": 0.09, "detail": 0.16, "count": 0.1,
    "first": 0.06, "last": 0.06, "longer": 0.05, "louder": 0.04,
}  # fmt: skip
"""The kinds of questions, and how often each is asked."""
TRAINED, JUDGED = Manner(WORDINGS, max_count=4), Manner(HELDOUT, max_count=4)
"""The wordings of training, and the others that only judge."""
STRANGERS = (
    "elephant", "violin", "tractor", "saxophone", "lion", "fireworks", "sewing machine", "accordion", "bagpipes",
    "chainsaw", "whale", "harmonica", "lawn mower", "seagull", "banjo", "printer",
)  # fmt: skip
"""Sounds that may be asked about without being there. Those that a bank has are left out (`_absent`)."""


@cache
def microphone_bank(split: Split, folder: Path = BANK) -> Bank:
    """The wider bank of a split. Raises ValueError, in one line, if it has not been made."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no bank of sounds; make it with `python runs/make_bank.py {folder}`")
    return widened(bank(split, folder), bank("train", folder))


def widened(sounds: Bank, train: Bank) -> Bank:
    """A bank with the computed sounds, without labels of which training has too few recordings; half are words or what
    hands and mouths make."""
    few = {label for label, found in train.sounds.items() if len(found) < FEWEST and label not in ATTRIBUTES}
    kept = {label: found for label, found in sounds.sounds.items() if label not in few and label in train.sounds}
    kept = {label: found for label, found in kept.items() if found[0].kind != "word" or label not in ATTRIBUTES}
    kept = {label: varied(found) if sounds.split == "train" else found for label, found in kept.items()}
    words = tuple(label for label, found in kept.items() if found[0].kind == "word")
    instruments = tuple(label for label, found in kept.items() if found[0].kind == "instrument")
    others = tuple(label for label in kept if label not in (*words, *instruments))
    made = tuple(sorted(set(synth.KINDS) - set(kept)))
    groups = (words, tuple(desk.KINDS), others, words, tuple(desk.KINDS), others, (*instruments, *made))
    models = dict.fromkeys(desk.KINDS, desk.make) | dict.fromkeys(synth.KINDS, synth.make)
    return Bank(kept, tuple(group for group in groups if group), sounds.split, sounds.beds, models)


def varied(takes: tuple[Sound, ...]) -> tuple[Sound, ...]:
    """The takes of a label, in which half of the voices are not espeak's: those are many and sound alike, so the others
    are repeated."""
    alike = [take for take in takes if take.voice.startswith("espeak")]
    others = [take for take in takes if not take.voice.startswith("espeak")]
    return (*alike, *others * (max(1, round(len(alike) / len(others))) if others else 1))


def drawn_config(rng: np.random.Generator, seconds: tuple[float, float] = (3.0, 60.0)) -> SceneConfig:
    """A length, more often a short one, and a density, from sounds close together to a few sounds far apart."""
    low, high = seconds
    length = round(float(low * (high / low) ** rng.random()), 1)
    gap = float(0.4 * (max(1.0, 0.45 * length) / 0.4) ** rng.random())
    most = int(np.clip(round(length / (0.9 + gap / 2)) + 1, 1, 16))
    return SceneConfig(
        length, length, min_events=min(most, 1 + int(length > 4) + int(length > 8)), max_events=most, max_gap=gap,
        quiet=0.2, reverb=0.4, speed=0.12, min_snr=8.0, beds=0.5, telephone=0.3, stock=True,
    )  # fmt: skip


def microphone_scene(
    seed: int,
    sounds: Bank,
    seconds: tuple[float, float] = (3.0, 60.0),
    id: str | None = None,
    alter: Alter | None = None,
) -> Clip:
    """The scene of a number, the same for the same number and bank. It has at least one event.

    alter: as for `make_scene`.
    """
    for again in range(20):
        config = drawn_config(np.random.default_rng([seed, 59, again]), seconds)
        clip = make_scene(seed, sounds, config, id, alter)
        if clip.events:
            return clip
    raise ValueError(f"the bank's sounds are too long for recordings of {seconds[0]:g} to {seconds[1]:g} s")


def real_words(sounds: Bank) -> tuple[Sound, ...]:
    """The words that real people say. Raises ValueError if there are none."""
    found = tuple(sound for word in sounds.words for sound in sounds.sounds[word] if not sound.synthetic)
    if not found:
        raise ValueError("the bank has no word of a real person in this split; make the whole bank")
    return found


def word_scene(
    seed: int, sounds: Bank, words: Sequence[Sound], id: str | None = None, alter: Alter | None = None
) -> Clip:
    """One of the words alone, over a background; the numbers go through the words in turn. alter: as for `make_scene`;
    it may make the word up to 1.43 times as long."""
    sound = words[seed % len(words)]
    alone = Bank({sound.label: (sound,)}, ((sound.label,),), sounds.split, sounds.beds)
    length = len(sound.samples) / RATE * (1.15 if alter is None else 1.5) + 1.0
    config = drawn_config(np.random.default_rng([seed, 59]), (length, length))
    return make_scene(seed, alone, replace(config, min_events=1, max_events=1, speed=0.05), id, alter)


def word_question(seed: int, clip: Clip, manner: Manner = TRAINED) -> Example:
    """Which word is spoken, without choices."""
    rng, event = np.random.default_rng([seed, 61]), clip.events[0]
    question = pick(rng, manner.questions["word"])
    asked = Asked(question, (), event.label, (event.label,), (Step("voice", event),))
    example = as_example(rng, clip, "word", asked, short.leads(rng, asked))
    return replace(example, id=f"{clip.id}-0", choices=())


def microphone_questions(
    seed: int,
    clip: Clip,
    sounds: Bank,
    num: int,
    manner: Manner = TRAINED,
    absent: float = ABSENT,
    open: float = OPEN,
    offered: float = OFFERED,
) -> list[Example]:
    """Up to `num` different questions about a scene, the same for the same seed.

    absent: the share that cannot be answered. open: the share without choices. offered: the share in which CANNOT_TELL
    is one of the choices, whether it is right or not.
    """
    rng = np.random.default_rng([seed, 61])
    made: dict[str, Example] = {}
    for _ in range(num * 12):
        asked = _absent(rng, clip, sounds, manner) if rng.random() < absent else _present(rng, clip, sounds, manner)
        if asked is None or asked.question in made:
            continue
        if open or offered:
            asked = _offered(rng, asked, open, offered)
        made[asked.question] = replace(asked, id=f"{clip.id}-{len(made)}")
        if len(made) == num:
            break
    return list(made.values())


def _offered(rng: np.random.Generator, example: Example, open: float, offered: float) -> Example:
    """The question without choices, or with CANNOT_TELL among them, or as it is. The right answer is always offered."""
    drawn = rng.random()
    if drawn < open and example.labels["kind"] not in ("longer", "louder", "detail"):
        return replace(example, choices=())
    if drawn < open + offered or example.answer == CANNOT_TELL:
        return replace(example, choices=(*example.choices, CANNOT_TELL))
    return example


def _present(rng: np.random.Generator, clip: Clip, sounds: Bank, manner: Manner) -> Example | None:
    """A question that the recording answers, or None if it does not allow the kind that was drawn."""
    kind = _kind(rng, SHARES)
    if kind == "after word":
        return _after_word(rng, clip, sounds, manner)
    asked = draw(kind, rng, timeline(clip, sounds), manner)
    if asked is not None and kind == "count" and ATTRIBUTES.get(asked.about[0], ("",))[0] == "count":
        return None  # how many knocks, or how many times some knocks? Both could be meant
    return None if asked is None else as_example(rng, clip, kind, asked, short.leads(rng, asked))


def _kind(rng: np.random.Generator, shares: dict[str, float]) -> str:
    kinds, at = list(shares), rng.random() * sum(shares.values())
    for kind in kinds:
        at -= shares[kind]
        if at < 0:
            return kind
    return kinds[-1]


def _after_word(rng: np.random.Generator, clip: Clip, sounds: Bank, manner: Manner) -> Example | None:
    """What follows a spoken word. The chain listens to every word until it has found it."""
    words = [n for n, event in enumerate(clip.events) if is_word(event)]
    spoken = [clip.events[n].label for n in words]
    found = [n for n in words if n + 1 < len(clip.events) and spoken.count(clip.events[n].label) == 1]
    found = [n for n in found if _apart(clip, n) and words.index(n) < 4]
    if not found:
        return None
    at = pick(rng, found)
    word, target = clip.events[at], clip.events[at + 1]
    steps = [Step("voice", clip.events[n]) for n in words if n <= at] + [Step("next", target)]
    choices = (target.label, *_others(rng, clip, sounds, {target.label, word.label}))
    asked = Asked(
        pick(rng, manner.questions["after word"]).format(word.label), (word.label,), target.label, choices, tuple(steps)
    )
    reasons = ["listen to it", *["the next word"] * (len(steps) - 2), "right after it"]
    return as_example(rng, clip, "after word", asked, reasons)


def _apart(clip: Clip, at: int) -> bool:
    """Whether what follows an event begins clearly after it, and nothing else begins with that."""
    one, other = clip.events[at : at + 2]
    third = clip.events[at + 2].start if at + 2 < len(clip.events) else other.start + 1
    return other.start > one.end - 0.1 and third - other.start > 0.15


def _others(rng: np.random.Generator, clip: Clip, sounds: Bank, taken: set[str], num: int = 3) -> list[str]:
    """Wrong choices: up to two labels of the recording, the rest from others."""
    inside = shuffled(rng, [label for label in dict.fromkeys(e.label for e in clip.events) if label not in taken])
    wrong = inside[: int(rng.integers(0, 3))]
    for _ in range(100):
        if len(wrong) >= num:
            break
        label = pick(rng, pick(rng, sounds.groups))
        if label not in wrong and label not in taken:
            wrong.append(label)
    return wrong[:num]


_ABSENT_KINDS: dict[str, float] = {
    "after": 0.3,
    "before": 0.22,
    "word": 0.12,
    "word after": 0.12,
    "after word": 0.12,
    "detail": 0.12,
}


def _absent(rng: np.random.Generator, clip: Clip, sounds: Bank, manner: Manner) -> Example | None:
    """A question about a sound that is not there. The chain goes through the whole recording and does not find it."""
    kind = _kind(rng, _ABSENT_KINDS)
    present = {event.label for event in clip.events}
    words = [event for event in clip.events if is_word(event)]
    if kind == "word":
        if words or len(sounds.words) < 4:
            return None
        choices = [sounds.words[int(n)] for n in rng.permutation(len(sounds.words))[:4]]
        return _cannot(rng, clip, kind, pick(rng, manner.questions["word"]), choices, "word", ())
    if kind == "after word":
        left = [word for word in sounds.words if word not in present]
        if not left or len(words) > 4:
            return None
        label, heard = pick(rng, left), tuple(words)
    else:
        labels = [label for group in sounds.groups for label in group if label not in sounds.words]
        left = [label for label in labels if label not in present]
        if kind == "detail":
            return None if not left else _absent_detail(rng, clip, pick(rng, left), sounds, manner)
        strangers = [name for name in STRANGERS if name not in labels]
        label, heard = pick(rng, strangers) if rng.random() < 0.2 or not left else pick(rng, left), ()
    if kind == "word after":
        choices = [sounds.words[int(n)] for n in rng.permutation(len(sounds.words))[:4]]
    else:
        choices = _others(rng, clip, sounds, {label}, 4)
    question = pick(rng, manner.questions[kind]).format(label)
    return _cannot(rng, clip, kind, question, choices, label, heard)


def _absent_detail(rng: np.random.Generator, clip: Clip, label: str, sounds: Bank, manner: Manner) -> Example | None:
    values = _values(label, sounds)
    if values is None:
        return None
    attribute, choices = values
    key = "count of" if attribute == "count" else attribute
    return _cannot(rng, clip, "detail", pick(rng, manner.questions[key]).format(label), choices, label, ())


def _values(label: str, sounds: Bank) -> tuple[str, tuple[str, ...]] | None:
    """The attribute of a label and its values, if it has one."""
    if label in ATTRIBUTES:
        return ATTRIBUTES[label]
    return ("pitch", PITCHES) if label in sounds.sounds and sounds.sounds[label][0].pitch else None


def _cannot(
    rng: np.random.Generator,
    clip: Clip,
    kind: str,
    question: str,
    choices: Sequence[str],
    label: str,
    heard: Sequence[object],
) -> Example:
    """A question to which CANNOT_TELL is the right answer."""
    told, parts = 0, list[str]()
    for number, event in enumerate(clip.events):
        if event in heard:
            lead = "listen to it" if not parts else "the next word"
            parts.append(short.listen(rng, f"{short.caption(clip, told, number + 1)}: {lead}", event, clip.duration))
            told = number + 1
    rest = short.caption(clip, told)
    cot = " ".join([*parts, *([f"{rest}."] if rest else []), f"There is no {label}. So {CANNOT_TELL}."])
    labels = {"kind": f"no {kind}", "segments": [], "events": []}
    return Example(clip.id, clip.audio, question, tuple(shuffled(rng, choices)), CANNOT_TELL, cot, labels)
