"""Writes the request to a teacher (what is known of a recording, which question to write) and reads its reply."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from relisten.data.messages import Messages, digest
from relisten.engine.operations import WAYS
from relisten.types import Clip

SHIPPED = Path(__file__).parent / "prompts"
NUM_OTHERS = 12
"""How many labels of other recordings a teacher is given for wrong choices."""
HIDDEN = re.compile(r"^/(m|g|t)/\w+$")
"""An identifier of AudioSet's ontology. It must not appear in any text."""
SHARES = {
    "after": 0.14, "before": 0.12, "between": 0.06, "count": 0.12, "first": 0.05, "last": 0.05, "longest": 0.02,
    "longer": 0.1, "louder": 0.05, "together": 0.06, "detail": 0.12, "word": 0.08, "when": 0.06, "order": 0.06,
}  # fmt: skip
"""The kinds of questions, and how often each is asked for. A teacher may choose another kind if one does not fit.

"longest" is rare because names often tell which sound is long; "longer" does not name the two sounds that it compares.
"""
MEANINGS = {
    "after": "what is heard right after something",
    "before": "what is heard right before something",
    "between": "what is heard between two things",
    "count": "how many times something is heard",
    "first": "what is heard first",
    "last": "what is heard last",
    "longest": "which sound lasts longest, or how long something lasts",
    "longer": "which lasts longer, what is heard before something or what is heard after it",
    "louder": "which is louder, what is heard before something or what is heard after it",
    "together": "what is heard at the same time as something",
    "detail": "how something sounds: its pitch, speed, loudness, direction, mood, who or what makes it",
    "word": "what is said or sung, or how",
    "when": "in which part of the recording something is heard",
    "order": "in which order things are heard",
}
Labels = dict[str, dict[str, Any]]
"""The number of each label by group ("" and "word"), and under "kind_of" the wider labels of those that have any."""
MANNERS = {
    "overview": "go through the recording in the order of time",
    "plain": "start from what the question names, find it, and work from there",
    "guess": "suppose an answer first, then check it by listening",
    "choices": "rule the choices out one by one, listening where it decides",
    "brief": "be brief: only the segments that decide, a reason before each",
    "sure": "think aloud as a careful listener who goes back once to make sure",
}
"""How a chain of thought may be written. One manner is drawn for each question, so that chains differ."""
MAX_FALSE_STARTS = 1000
"""The search for a JSON object in a reply ends after this many braces that do not begin one."""
SHORT = (
    "in the fewest words, question and thought: what is heard up to the place that decides, each sound with its time,"
    " then that place"
)
"""The manner `short`, for models that are too small for sentences. It is used only if it is asked for."""


def find_manner(name: str) -> str:
    """The text of a manner by its name; a text of several words is itself a manner, and "" means that one is drawn.

    Raises ValueError for an unknown name.
    """
    if not name or " " in name.strip():
        return name
    known = {**MANNERS, "short": SHORT}
    if name not in known:
        raise ValueError(f"manner {name!r} is not known; give one of {', '.join(known)}, or a sentence of your own")
    return known[name]


@dataclass(frozen=True, slots=True)
class Draft:
    """A question as a teacher wrote it, not checked yet."""

    question: str
    choices: tuple[str, ...]
    answer: str
    cot: str
    kind: str = ""
    about: tuple[str, ...] = ()
    """The labels that the question names, if the teacher gives them."""


@dataclass(frozen=True)
class TeacherPrompts:
    """The prompts for teachers, with the placeholders $evidence, $request and, for the judge, $candidate."""

    compose: Mapping[str, str]
    """By file name without .md. One of them is drawn for each question."""
    judge: Mapping[str, str]


@cache
def read_prompts(folder: Path | None = None) -> TeacherPrompts:
    """The prompts of a folder (compose*.md, judge*.md), and the shipped ones for a stage that it has none of.

    Raises ValueError if the folder holds no prompts, or one that cannot be used.
    """
    found: dict[str, dict[str, str]] = {}
    if folder and not any([*folder.glob("compose*.md"), *folder.glob("judge*.md")]):
        raise ValueError(f"{folder}: holds no prompts; put files compose*.md or judge*.md there")
    for stage, needed in (("compose", "$evidence"), ("judge", "$candidate")):
        paths = sorted(folder.glob(f"{stage}*.md")) if folder else []
        for path in paths or sorted(SHIPPED.glob(f"{stage}*.md")):
            try:
                text = path.read_text(encoding="utf-8").strip()
            except UnicodeDecodeError:
                raise ValueError(f"{path}: is not UTF-8; save it as UTF-8") from None
            except OSError as error:
                raise ValueError(f"{path}: cannot be read ({error.strerror}); give a text file") from None
            if needed not in text:
                raise ValueError(f"{path}: does not contain {needed}, which the teacher needs; put it where it belongs")
            try:
                Template(text).substitute(evidence="", request="", candidate="")
            except (KeyError, ValueError) as error:
                raise ValueError(f"{path}: a placeholder is wrong ({error}); write $$ for a dollar sign") from None
            found.setdefault(stage, {})[path.stem] = text
    return TeacherPrompts(found["compose"], found["judge"])


def hashes(prompts: TeacherPrompts) -> dict[str, str]:
    """A hash of each prompt, by its name."""
    return {name: digest(text).hex() for name, text in sorted({**prompts.compose, **prompts.judge}.items())}


def evidence(clip: Clip) -> dict[str, Any]:
    """Everything known of a recording, in the form that teachers read: A1 to A5 of the paper (A4 are the events)."""
    known: dict[str, Any] = {
        f"A{n}_{key}": clip.descriptions[key] for n, key in _DESCRIBED if clip.descriptions.get(key)
    }
    known["A4_events"] = [
        {
            "label": event.label,
            "start": round(event.start, 2),
            "end": round(min(event.end, clip.duration), 2),
            **{key: value for key, value in event.labels.items() if _plain(value)},
        }
        for event in clip.events
        if not HIDDEN.match(event.label)
    ]
    return known | {"A5_duration": round(clip.duration, 2)}


_DESCRIBED = ((1, "sound"), (2, "speech"), (3, "music"))


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not (isinstance(value, str) and HIDDEN.match(value))


def survey(clips: Iterable[Clip]) -> Labels:
    """How often each label occurs, by group. Spoken words are a group, because they are no choices beside sounds."""
    counted: Labels = {}
    for clip in clips:
        for event in clip.events:
            if not HIDDEN.match(event.label):
                group = counted.setdefault("word" if event.labels.get("group") == "word" else "", {})
                group[event.label] = group.get(event.label, 0) + 1
                if event.labels.get("kind_of"):
                    counted.setdefault("kind_of", {})[event.label] = str(event.labels["kind_of"])
    return counted


def ask(
    clip: Clip,
    prompts: TeacherPrompts,
    labels: Labels,
    rng: np.random.Generator,
    manner: str = "",
    operations: Collection[str] = (),
) -> tuple[str, Messages]:
    """The name of the prompt, and messages that ask for one question about a clip.

    `manner` is the text of a manner (`find_manner`), or "" to draw one. `labels` come from `survey`: wrong choices are
    drawn as often as they are right elsewhere, so that the choices alone give nothing away. operations: the ways to
    listen that a chain may use beside <seg>.
    """
    kind = str(rng.choice(list(SHARES), p=np.array(list(SHARES.values())) / sum(SHARES.values())))
    inside = {event.label for event in clip.events}
    every = {label: num for group in ("", "word") for label, num in labels.get(group, {}).items()}
    every = {label: num for label, num in every.items() if not _akin(label, inside, labels.get("kind_of", {}))}
    words = {label: num for label, num in labels.get("word", {}).items() if label not in inside}
    has_words = any(event.labels.get("group") == "word" for event in clip.events)
    drawn = str(rng.choice(list(MANNERS.values())))
    request = {
        "kind": kind,
        "about": MEANINGS[kind],
        "manner": manner or drawn,
        "num_choices": 4,
        "other_labels": _draw(rng, every, NUM_OTHERS),
        **({"other_words": _draw(rng, words, NUM_OTHERS)} if has_words else {}),
        "number": int(rng.integers(1 << 31)),
    }
    if operations:
        request["operations"] = {name: WAYS[name].tell.strip() for name in operations}
    names = sorted(prompts.compose)
    name = names[int(rng.integers(len(names)))]
    text = Template(prompts.compose[name]).substitute(
        evidence=block("evidence", evidence(clip)), request=block("request", request)
    )
    return name, [{"role": "user", "content": text}]


def _akin(label: str, inside: Collection[str], kind_of: Mapping[str, str]) -> bool:
    """Whether a label is in a recording, or is wider or narrower than one there: it cannot be a wrong choice then."""
    above = kind_of.get(label, "").split("; ")
    return any(label == one or one in above or label in kind_of.get(one, "").split("; ") for one in inside)


def _draw(rng: np.random.Generator, counted: Mapping[str, int], num: int) -> list[str]:
    if not counted:
        return []
    weights = np.array(list(counted.values()), float)
    drawn = rng.choice(len(weights), min(num, len(weights)), replace=False, p=weights / weights.sum())
    names = list(counted)
    return [names[index] for index in drawn]


def block(name: str, value: Any) -> str:
    """A value as JSON between tags, with one line for each event."""
    lines = [f"{json.dumps(key)}: {_indented(inner)}" for key, inner in value.items()]
    return f"<{name}>\n{{" + ",\n".join(lines) + f"}}\n</{name}>"


def _indented(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n  " + ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def unblock(name: str, text: str) -> dict[str, Any] | None:
    """The value that `block` wrote into a text: the last one of that name, or None if there is none."""
    opening = f"<{name}>\n"
    start = text.rfind(opening)
    end = text.find(f"\n</{name}>", start)
    if start < 0 or end < 0:
        return None
    try:
        value = json.loads(text[start + len(opening) : end])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_draft(text: str) -> Draft:
    """The draft in a teacher's reply. Raises ValueError that tells the teacher what is wrong with it."""
    fields = read_object(text)
    missing = [key for key in ("question", "choices", "answer", "think") if not fields.get(key)]
    if missing:
        raise ValueError(f"the JSON lacks {', '.join(missing)}")
    question, answer, thought = (_text(key, fields[key]) for key in ("question", "answer", "think"))
    choices = fields["choices"]
    if isinstance(choices, dict):  # {"A": "...", "B": "..."}
        answer = _text("a choice", choices.get(answer.strip(" ()."), answer))
        choices = list(choices.values())
    if not isinstance(choices, list):
        raise ValueError("choices must be a list of texts")
    shown = tuple(_without_letter(_text("a choice", choice)) for choice in choices)
    if re.fullmatch(r"[A-H]", answer) and answer not in shown and ord(answer) - ord("A") < len(shown):
        answer = shown[ord(answer) - ord("A")]
    answer = _without_letter(answer)
    same = [choice for choice in shown if choice.casefold() == answer.casefold()]
    kind, about = fields.get("kind"), fields.get("about")
    return Draft(
        question,
        shown,
        same[0] if same else answer,
        re.sub(r"</?think>", "", thought).strip(),
        _text("kind", kind)[:40] if isinstance(kind, str) else "",
        tuple(_text("about", a)[:200] for a in about[:8] if isinstance(a, str)) if isinstance(about, list) else (),
    )


def _text(name: str, value: Any) -> str:
    """A text or a number of a reply, as a text that can be written anywhere."""
    if not isinstance(value, str | int | float):
        raise ValueError(f"the JSON is wrong: {name} must be a text, not a list or an object")
    return str(value).encode("utf-8", "replace").decode().strip()  # JSON can write half a character (\ud800)


def _without_letter(choice: str) -> str:
    """A choice without the letter that a teacher put in front of it: "B) a dog" is "a dog"."""
    return re.sub(r"^\(?[A-H][.):]\s+", "", choice)


def read_object(text: str) -> dict[str, Any]:
    """The JSON object in a reply, whatever stands around it; of several, the one with the most keys.

    Trailing commas and raw line breaks are accepted. Time is linear in the text: after `MAX_FALSE_STARTS` braces that
    begin no object, or once they have cost ten times the text's length, the search ends. Raises ValueError if there is
    no object.
    """
    decoder = json.JSONDecoder(strict=False)
    best: dict[str, Any] = {}
    for mended in (text, re.sub(r",(\s*[}\]])", r"\1", text)):
        wasted = num_false = 0
        found = _OBJECT.search(mended)
        while found and num_false < MAX_FALSE_STARTS and wasted <= 10 * len(mended):
            at = found.start()
            try:
                value, end = decoder.raw_decode(mended, at)
                best = value if len(value) > len(best) else best
            except RecursionError:
                raise ValueError("the JSON object in the reply is nested too deeply") from None
            except ValueError as error:
                # For a string without an end, `pos` is its start; an error about a too long number has no `pos`.
                whole = "Unterminated" in str(error)
                wasted += error.pos - at if isinstance(error, json.JSONDecodeError) and not whole else len(mended)
                num_false, end = num_false + 1, at + 1
            found = _OBJECT.search(mended, end)
    if not best:
        raise ValueError("there is no complete JSON object in the reply")
    return best


_OBJECT = re.compile(r'\{\s*["}]')


def ask_again(messages: Messages, reply: str, reason: str) -> Messages:
    """The messages that tell a teacher what was wrong with its reply, and ask for a better one."""
    said = f"That cannot be used: {reason}. Write it again, corrected, in the form asked for and nothing else."
    return [*messages, {"role": "assistant", "content": reply}, {"role": "user", "content": said}]
