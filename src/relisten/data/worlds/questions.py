"""Questions about a scene, with choices, the answer and a grounded chain of thought, all from its events.

Every chain names a reason before each segment and what is heard after it. Right answers are spread evenly over the
positions, and wrong choices are drawn as right ones are, so that the text alone gives chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from relisten import tags
from relisten.data.worlds.scenes import Bank
from relisten.data.worlds.sounds import PITCHES
from relisten.types import Clip, Event, Example, Segment

Step = tuple[str, Event]
"""A reason for listening again, and the event that is then heard."""
Draft = tuple[str, list[str], str, list[Step], str]
"""Question, choices (in any order), answer, steps, conclusion."""
Maker = Callable[[np.random.Generator, Clip, Bank], Draft | None]

ASK = {
    "pitch": ("How high is the {0}?", "What is the pitch of the {0}?"),
    "direction": ("Which way does the {0} go?", "How does the {0} move?"),
    "count": ("How many {0}s are there in a row?", "Of how many {0}s is the series made?"),
    "rate": ("How fast is the {0}?", "At what speed does the {0} go?"),
    "length": ("How long is the {0}?", "Is the {0} short or long?"),
}
FIND = ("here it is", "this is the one", "listen to it", "asked about")
NEXT = ("right after it", "the next sound", "what follows", "next")
BEFORE = ("Just before it", "The sound before it", "What precedes it", "Back to the one before")
WORD = ("the next word", "the word after it", "the word that follows")
AGAIN = ("here again", "once more", "it comes back")
HEARD = (", {0}.", ", which is {0}.", ", where I hear {0}.", ", and it is {0}.", " with {0}.")


def name(event: Event) -> str:
    """What a caption calls an event: its label, or "word" for any spoken word."""
    return "word" if event.labels.get("group") == "word" else event.label


def heard(event: Event) -> str:
    """What a close listen tells of an event: "a voice saying seven", "a rising chirp", "three knocks", "a cow"."""
    if event.labels.get("group") == "word":
        return f"a voice saying {event.label}"
    value = event.labels.get("value")
    if value is None:
        return article(event.label)
    if event.labels.get("attribute") == "count":
        return f"{value} {event.label}{'' if value == 'one' else 's'}"
    return article(f"{value} {event.label}")


def article(text: str) -> str:
    """The text with "a" or "an" in front."""
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def segment(event: Event, duration: float) -> Segment:
    """The event's times as a chain writes them: tenths of a second, inside the recording, 0.2 s or longer."""
    last = round(duration, 1)
    start = max(0.0, min(round(event.start, 1), round(last - 0.2, 1)))
    return Segment(start, round(min(max(round(event.end, 1), start + 0.2), last), 1))


def _alone(clip: Clip) -> list[Event]:
    """Events that a question can name without doubt: their name stands for nothing else in the scene."""
    names = [name(e) for e in clip.events]
    return [e for e in clip.events if names.count(name(e)) == 1]


def _pick(rng: np.random.Generator, options: Sequence[Event]) -> Event:
    return options[int(rng.integers(len(options)))]


def _others(rng: np.random.Generator, bank: Bank, clip: Clip, answer: str, without: set[str], num: int) -> list[str]:
    """Wrong choices: labels of the scene and of the world, groups drawn as scenes draw them."""
    inside = [e.label for e in clip.events if e.label != answer and e.label not in without]
    wrong = list(dict.fromkeys(rng.permutation(inside).tolist()))[: int(rng.integers(0, 3))]
    while len(wrong) < num:
        group = bank.groups[int(rng.integers(len(bank.groups)))]
        label = str(rng.choice(group))
        if label not in wrong and label != answer and label not in without:
            wrong.append(label)
    return wrong[:num]


def _neighbour(rng: np.random.Generator, clip: Clip, bank: Bank, step: int) -> Draft | None:
    """What came right after (or before) an event."""
    events = clip.events
    named = [i for i, e in enumerate(events) if e in _alone(clip) and name(e) != "word" and 0 <= i + step < len(events)]
    if not named:
        return None
    at = named[int(rng.integers(len(named)))]
    reference, target = events[at], events[at + step]
    if target.label == reference.label:
        return None
    side = ("after", NEXT) if step > 0 else ("before", BEFORE)
    question = rng.choice([f"What came right {side[0]} the {{0}}?", f"Which sound is heard just {side[0]} the {{0}}?"])
    choices = [target.label, *_others(rng, bank, clip, target.label, {reference.label}, 3)]
    steps = [(str(rng.choice(FIND)), reference), (str(rng.choice(side[1])), target)]
    return str(question).format(name(reference)), choices, target.label, steps, ""


def after(rng: np.random.Generator, clip: Clip, bank: Bank) -> Draft | None:
    """What came right after X?"""
    return _neighbour(rng, clip, bank, 1)


def before(rng: np.random.Generator, clip: Clip, bank: Bank) -> Draft | None:
    """What came right before X?"""
    return _neighbour(rng, clip, bank, -1)


def word(rng: np.random.Generator, clip: Clip, bank: Bank) -> Draft | None:
    """Which word is spoken (after X)?"""
    words = [e for e in clip.events if name(e) == "word"]
    if not words or len(bank.words) < 4:
        return None
    target = _pick(rng, words)
    earlier = [e for e in _alone(clip) if name(e) != "word" and e.start < target.start]
    earlier = [e for e in earlier if next(w for w in words if w.start > e.start) is target]
    wrong = [str(w) for w in rng.permutation([w for w in bank.words if w != target.label])[:3]]
    if len(words) == 1 and (not earlier or rng.random() < 0.3):
        steps = [(str(rng.choice(FIND)), target)]
        return "Which word is spoken?", [target.label, *wrong], target.label, steps, ""
    if not earlier:
        return None
    reference = _pick(rng, earlier)
    steps = [(str(rng.choice(FIND)), reference), (str(rng.choice(WORD)), target)]
    question = f"Which word is spoken after the {name(reference)}?"
    return question, [target.label, *wrong], target.label, steps, ""


def which_word(rng: np.random.Generator, clip: Clip, bank: Bank) -> Draft | None:
    """Which word is spoken, or spoken first or last? Not among KINDS: one place in the scene answers it."""
    words = [e for e in clip.events if name(e) == "word"]
    if not words or len(bank.words) < 4:
        return None
    last = len(words) > 1 and rng.random() < 0.5
    target, order = words[-1 if last else 0], "" if len(words) == 1 else " last" if last else " first"
    wrong = [str(w) for w in rng.permutation([w for w in bank.words if w != target.label])[:3]]
    return f"Which word is spoken{order}?", [target.label, *wrong], target.label, [(str(rng.choice(FIND)), target)], ""


def detail(rng: np.random.Generator, clip: Clip, bank: Bank) -> Draft | None:
    """An attribute of one event, often a quiet or a short one."""
    from relisten.data.worlds import synth

    known = [e for e in _alone(clip) if "attribute" in e.labels]
    if not known:
        return None
    target = _pick(rng, known)
    attribute, value = str(target.labels["attribute"]), str(target.labels["value"])
    # By group, for a user may have recorded a "tone" too.
    choices = list(synth.KINDS[target.label][1] if target.labels["group"] == "parametric" else PITCHES)
    question = str(rng.choice(ASK[attribute])).format(target.label)
    return question, choices, value, [(str(rng.choice(FIND)), target)], ""


def count(rng: np.random.Generator, clip: Clip, bank: Bank) -> Draft | None:
    """How many times is X heard? One to three."""
    labels = [e.label for e in clip.events if name(e) != "word"]
    often = [label for label in sorted(set(labels)) if labels.count(label) > 1]
    once = [label for label in sorted(set(labels)) if labels.count(label) == 1]
    if not often or not once:
        return None
    # Twos and threes are as frequent as ones, or the text would tell. Threes fall off the end of scenes: made up for.
    label = str(rng.choice(once if rng.random() < 0.22 else often))
    found = [e for e in clip.events if e.label == label]
    if len(found) > 3 or (len(found) == 2 and rng.random() < 0.4):
        return None
    leads = [str(rng.choice(FIND)), *(str(rng.choice(AGAIN)) for _ in found[1:])]
    rest = caption(clip, clip.events.index(found[-1]) + 1)  # to the end, for there might be one more
    conclusion = f"{rest and f' {rest}.'} That is {len(found)}."
    return (
        f"How many times is the {label} heard?",
        ["1", "2", "3"],
        str(len(found)),
        [*zip(leads, found, strict=True)],
        conclusion,
    )


def _compare(
    rng: np.random.Generator, clip: Clip, word: str, key: Callable[[Event], float], margin: float
) -> Draft | None:
    """Of the sounds before and after X, which has the larger `key`? Not named, or their kinds would tell."""
    events = clip.events
    named = [i for i in range(1, len(events) - 1) if events[i] in _alone(clip) and name(events[i]) != "word"]
    named = [i for i in named if abs(key(events[i - 1]) - key(events[i + 1])) >= margin]
    if not named:
        return None
    at = named[int(rng.integers(len(named)))]
    first, reference, second = events[at - 1 : at + 2]
    answer = "before" if key(first) > key(second) else "after"
    steps = [
        (str(rng.choice(FIND)), reference),
        (str(rng.choice(BEFORE)), first),
        (str(rng.choice(NEXT)), second),
    ]
    question = f"Which sound is {word}, the one before the {name(reference)} or the one after it?"
    return question, ["before", "after"], answer, steps, f" The one {answer} is {word}."


def longer(rng: np.random.Generator, clip: Clip, bank: Bank) -> Draft | None:
    """Which lasts longer, the sound before X or the sound after it?"""
    return _compare(rng, clip, "longer", lambda e: e.end - e.start, 0.3)


def louder(rng: np.random.Generator, clip: Clip, bank: Bank) -> Draft | None:
    """Which is louder, the sound before X or the sound after it?"""
    return _compare(rng, clip, "louder", lambda e: float(str(e.labels.get("level", 0))), 7.0)


KINDS: dict[str, tuple[Maker, float]] = {
    "after": (after, 0.2),
    "before": (before, 0.14),
    "word": (word, 0.22),
    "detail": (detail, 0.2),
    "count": (count, 0.1),
    "longer": (longer, 0.08),
    "louder": (louder, 0.06),
}
"""Each kind's maker and its share of the questions."""


def make_question(rng: np.random.Generator, clip: Clip, bank: Bank, kind: str | None = None) -> Example | None:
    """One question of a kind (None: drawn by the shares), or None when the scene does not allow it."""
    names, shares = [*KINDS], np.array([share for _, share in KINDS.values()])
    drawn = kind or str(rng.choice(names, p=shares / shares.sum()))
    draft = KINDS[drawn][0](rng, clip, bank)
    return None if draft is None else from_draft(rng, clip, drawn, draft)


def from_draft(rng: np.random.Generator, clip: Clip, kind: str, draft: Draft) -> Example:
    """The question with its choices in a drawn order, and its chain."""
    question, choices, answer, steps, conclusion = draft
    choices = [str(c) for c in rng.permutation(choices)]
    gold = [segment(e, clip.duration) for _, e in steps]
    labels = {
        "kind": kind,
        "segments": [[s.start, s.end] for s in gold],
        "events": [[e.label, round(e.start, 3), round(e.end, 3)] for _, e in steps],
    }
    example = Example(clip.id, clip.audio, question, tuple(choices), answer, None, labels)
    return replace(example, cot=chain(rng, clip, steps, conclusion))


def chain(rng: np.random.Generator, clip: Clip, steps: Sequence[Step], conclusion: str) -> str:
    """A grounded chain of thought: it tells what the first hearing gave, sound by sound, and listens again on the way.

    "0.6 knock, 1.2 bell: here it is <seg>1.2, 1.6</seg>, a bell. 2.3 word: the next word <seg>2.3, 2.7</seg> ..." The
    first hearing is rough: the segments give what it leaves out. It stops where nothing more is needed.
    """
    parts: list[str] = []
    told = 0
    for lead, event in steps:
        upto = clip.events.index(event) + 1
        if upto > told:  # else the step goes back, to what was told before
            lead = f"{caption(clip, told, upto)}: {lead}"
        told = max(told, upto)
        parts.append(listen(rng, lead, event, clip.duration))
    return " ".join(parts) + conclusion


def listen(rng: np.random.Generator, lead: str, event: Event, duration: float) -> str:
    """A reason, the event's segment in a recording of so many seconds, and what a close listen tells of it."""
    written = tags.write_segment(segment(event, duration))
    return f"{lead} {written}{str(rng.choice(HEARD)).format(heard(event))}"


def caption(clip: Clip, first: int = 0, last: int | None = None) -> str:
    """What is heard, in order, each event with its start before it: "0.6 knock, 1.2 word"."""
    return ", ".join(f"{segment(e, clip.duration).start} {name(e)}" for e in clip.events[first:last])


def make_questions(seed: int, clip: Clip, bank: Bank, num: int) -> list[Example]:
    """Up to `num` different questions about a scene, the same for the same seed."""
    rng = np.random.default_rng([seed, 29])
    made: dict[str, Example] = {}
    for _ in range(num * 12):
        example = make_question(rng, clip, bank)
        if example is not None and example.question not in made:
            made[example.question] = replace(example, id=f"{clip.id}-{len(made)}")
        if len(made) == num:
            break
    return list(made.values())
