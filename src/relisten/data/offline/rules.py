"""The offline teacher: composes from exact metadata by templates, and judges by code.

It reads the same messages as any other teacher, and replies in the same form, so the whole pipeline runs without a key
or a network. What it cannot know from events with times (moods, meanings), it does not ask.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from relisten import tags
from relisten.data.checks import covered, said, sentences_end, spoken_of
from relisten.data.compose import HIDDEN, MANNERS, SHARES, SHORT, unblock
from relisten.data.messages import Messages, digest
from relisten.data.offline.asking import SOLVERS, Asked, Heard, Step, is_word, right
from relisten.data.offline.drawing import draw
from relisten.data.offline.phrases import CONCLUSIONS, GUESSED, HEARD, LEADS, OPENINGS, QUESTIONS, REASONS
from relisten.data.offline.remarks import pick, remarks, ruled_out, sentence
from relisten.data.store import Call
from relisten.data.worlds import questions
from relisten.data.worlds.questions import AGAIN, BEFORE, FIND, NEXT, WORD, segment
from relisten.types import Clip, Event, Segment

VERSION = 5
"""Counts up when what is written changes, so that older replies are not taken for newer ones."""
COVERS = 0.3
"""Share of a segment that another sound may fill before it is unclear which of the two is meant."""
REMARKED = ((1, 2, 2, 3, 3), (0, 1, 1))
"""How many remarks follow a segment, each as often: in most manners, and in the brief one."""
PLAIN = 2
"""How many wordings of a question, the plainest, a short chain's question may have."""
STYLES = {text: style for style, text in MANNERS.items()}
SHORT_LEADS = {"next": NEXT, "previous": BEFORE, "again": AGAIN, "voice": WORD}
"""By phrases.LEADS' keys; any other place is simply the one that was looked for."""


class Rules:
    """Composes where it is told what is known of a recording, judges where it is given a candidate besides."""

    name = f"rules {VERSION}"

    async def complete(self, messages: Messages) -> Call:
        """A question, or a verdict."""
        text = "\n".join(message["content"] for message in messages if message["role"] == "user")
        known, request, candidate = (unblock(name, text) for name in ("evidence", "request", "candidate"))
        if known is None:
            return Call("", "", "the rules teacher needs a prompt with $evidence", "lasting")
        if candidate is not None:
            return Call(verdict(known, candidate))
        rng = np.random.default_rng(int.from_bytes(digest(list(messages))[:8], "big"))
        written = write(known, request or {}, rng)
        if written is None:
            return Call("", "", "the events allow no question with one right answer", "lasting")
        return Call(json.dumps(written, ensure_ascii=False))

    async def close(self) -> None:
        """Nothing is held."""


def read_events(known: dict[str, Any]) -> tuple[Event, ...]:
    """The events of an evidence block in order of onset, by the names that a listener would give them."""
    events = []
    for entry in known.get("A4_events") or []:
        attributes = {key: value for key, value in entry.items() if key not in ("label", "start", "end")}
        if "kind_of" in attributes:
            attributes["kind_of"] = "; ".join(map(said, str(attributes["kind_of"]).split("; ")))
        events.append(Event(said(str(entry["label"])), float(entry["start"]), float(entry["end"]), attributes))
    return tuple(sorted(events, key=lambda event: event.start))


def write(known: dict[str, Any], request: dict[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
    """A question of the kind that is requested, else of another that the events allow; None where they allow none."""
    events = read_events(known)
    num_choices = min(max(int(request.get("num_choices", 4)), 2), 8)
    duration, manner = float(known.get("A5_duration", 0.0)), str(request.get("manner", ""))
    heard = Heard(events, duration, _labels(request, "other_labels"), _labels(request, "other_words"), num_choices)
    shares = [share for kind, share in SHARES.items() if kind != request.get("kind")]
    rest = [kind for kind in SHARES if kind != request.get("kind")]
    # Drawn by their shares too, or kinds that always can be asked would be asked too often.
    after = [rest[n] for n in rng.choice(len(rest), len(rest), replace=False, p=np.array(shares) / sum(shares))]
    for kind in [request.get("kind"), *after]:
        asked = draw(str(kind), rng, heard) if kind in SOLVERS else None
        if asked is not None:
            wordings = QUESTIONS[asked.wording][: PLAIN if manner == SHORT else None]
            choices = [str(choice) for choice in rng.permutation([asked.answer, *asked.wrong])]
            return {
                "kind": kind,
                "question": pick(rng, wordings).format(*asked.about),
                "choices": choices,
                "answer": asked.answer,
                "think": chain(rng, str(kind), asked, heard, manner, choices),
                "about": list(asked.about),
            }
    return None


def _labels(request: dict[str, Any], key: str) -> tuple[str, ...]:
    """Labels of other recordings as a listener says them, each once."""
    return tuple(dict.fromkeys(said(str(label)) for label in request.get(key, ()) if not HIDDEN.match(str(label))))


def chain(rng: np.random.Generator, kind: str, asked: Asked, heard: Heard, manner: str, choices: Sequence[str]) -> str:
    """A chain of thought in a manner: a reason before each segment, what is heard after it, and what follows."""
    if manner == SHORT:
        return _short_chain(rng, kind, asked, heard)
    style = STYLES.get(manner) or str(rng.choice(list(STYLES.values())))
    steps = list(asked.steps)
    if style == "sure":
        steps.append(replace(steps[int(rng.integers(len(steps)))], lead="sure"))
    opening, guess = _opening(rng, style, heard, choices)
    parts = [opening]
    # Neither leads nor kinds of remarks are repeated within a chain.
    named = dict.fromkeys(step.lead for step in steps)  # in order: a set's order would change from process to process
    leads: dict[str, list[str]] = {lead: list(rng.permutation(LEADS[lead])) for lead in named}
    used: set[str] = set()
    last: Event | None = None
    for step in steps:
        lead = leads[step.lead].pop() if leads[step.lead] else "Again"
        num = int(rng.choice(REMARKED[style == "brief"]))
        parts += [_listen(rng, step, heard, lead), *remarks(rng, num, step.event, last, heard, used)]
        last = step.event
    parts.append(pick(rng, REASONS[kind]).format(*(*asked.about, "", "")[:2], str(len(asked.steps)), asked.answer))
    parts += ruled_out(rng, {"choices": 8, "brief": 0}.get(style, int(rng.integers(2, 4))), kind, asked, heard, choices)
    if guess:
        key = "right" if guess == asked.answer else "wrong"
        parts.append(sentence(pick(rng, GUESSED[key]).format(guess)))
    return " ".join(part for part in (*parts, pick(rng, CONCLUSIONS).format(asked.answer)) if part)


def _short_chain(rng: np.random.Generator, kind: str, asked: Asked, heard: Heard) -> str:
    """In nano's own language: "0.6 knock, 1.2 bell: here it is <seg>1.2, 1.6</seg>, a bell."."""
    clip = Clip("", Path(), heard.duration, heard.events)
    steps = [(pick(rng, SHORT_LEADS.get(step.lead, FIND)), step.event) for step in asked.steps]
    written = questions.chain(rng, clip, steps, "")
    if kind == "count":  # to the end, for there might be one more
        rest = questions.caption(clip, heard.events.index(asked.steps[-1].event) + 1)
        return f"{written}{rest and f' {rest}.'} That is {asked.answer}."
    if kind in ("longer", "louder"):
        return f"{written} {sentence(asked.answer)} is {kind}."
    told = re.search(rf"(?<!\w){re.escape(asked.answer)}(?!\w)", written[sentences_end(written) :])
    return written if told else f"{written} So {asked.answer}."


def _opening(rng: np.random.Generator, style: str, heard: Heard, choices: Sequence[str]) -> tuple[str, str]:
    """How a chain begins, and the answer that it supposes, if it does."""
    if style == "brief":
        return "", ""
    key = {"sure": "plain"}.get(style, style)
    guess = choices[int(rng.integers(len(choices)))] if key == "guess" else ""
    told = {
        "overview": ", then ".join(_overview(heard, bool(rng.random() < 0.4))),
        "guess": guess,
        "choices": ", ".join(choices[:-1]) + f" and {choices[-1]}",
    }.get(key, "")
    return sentence(pick(rng, OPENINGS[key]).format(told)), guess


def _overview(heard: Heard, timed: bool) -> list[str]:
    """What one hearing gives: names in order, spoken words not understood yet, six at most."""
    events = [e for n, e in enumerate(heard.events) if n == 0 or _rough(e) != _rough(heard.events[n - 1])]
    names = [_rough(event) + (f" near {event.start:.1f}" if timed else "") for event in events]
    return names if len(names) <= 6 else [*names[:5], "more"]


def _rough(event: Event) -> str:
    return "a spoken word" if is_word(event) else f"the {event.label}"


def _listen(rng: np.random.Generator, step: Step, heard: Heard, lead: str) -> str:
    written = tags.write_segment(segment(step.event, heard.duration))
    return f"{lead.format(step.event.label)} {written}{pick(rng, HEARD).format(tell(step.event))}"


def tell(event: Event) -> str:
    """What a close listen tells of an event, a word in quotes."""
    if is_word(event):
        return f'a voice saying "{event.label}"'
    if isinstance(event.labels.get("heard"), str):
        return str(event.labels["heard"])
    value = event.labels.get("value")
    if value is None:
        return f"the {event.label}"
    if event.labels.get("attribute") == "count":
        return f"{value} {event.label}{'' if value == 'one' else 's'}"
    return f"the {event.label}, {value}"


def verdict(known: dict[str, Any], candidate: dict[str, Any]) -> str:
    """Both verdicts in the form that any judge writes: the question is answered anew, each segment looked up."""
    heard = Heard(read_events(known), float(known.get("A5_duration", 0.0)))
    question = _question_fault(heard, candidate)
    cot = _cot_fault(heard, candidate)
    reason = question or cot or "nothing"
    return f"[QA valid]: {'No' if question else 'Yes'}\n[CoT valid]: {'No' if cot else 'Yes'}\n[Reason]: {reason}"


def _question_fault(heard: Heard, candidate: dict[str, Any]) -> str:
    kind, about = str(candidate.get("kind")), [said(str(label)) for label in candidate.get("about") or []]
    if kind not in SOLVERS or not heard.events:
        return f"a question of the kind {kind!r} cannot be answered from events alone"
    if kind in ("after", "before", "longer", "louder", "together", "count", "when", "detail") and len(about) != 1:
        return "it is not told what the question is about"
    if kind == "between" and len(about) != 2:
        return "it is not told between which sounds"
    found = right(kind, about, heard)
    choices = {str(choice).casefold() for choice in candidate.get("choices") or []}
    valid = choices & {answer.casefold() for answer in found}
    if str(candidate.get("answer")).casefold() not in valid:
        return f"the events say {' or '.join(sorted(found)) or 'nothing of the kind'}"
    return "" if len(valid) == 1 else f"several choices are right: {', '.join(sorted(valid))}"


def _cot_fault(heard: Heard, candidate: dict[str, Any]) -> str:
    text = str(candidate.get("chain_of_thought"))
    segments = tags.parse(text).segments
    if not segments:
        return "the chain of thought listens to nothing"
    for one in segments:
        here = [event for event in heard.events if covered(one, event) > 0]
        if not here:
            return f"nothing is known to be heard at {one.start:g} to {one.end:g} s"
        if candidate.get("kind") != "together" and (fault := _unclear(one, here, text)):
            return fault
    last = text[sentences_end(text) :].casefold()
    if str(candidate.get("answer")).casefold() not in last:
        return "the chain of thought does not end with the given answer"
    return ""


def _unclear(one: Segment, here: Sequence[Event], text: str) -> str:
    """Two different sounds fill the segment, so what is heard there is not what the text says alone."""
    filling = {event.label for event in here if covered(one, event) >= COVERS}
    if len(filling) > 1:
        named = spoken_of(text, one, filling)
        if named != filling:
            return f"at {one.start:g} to {one.end:g} s there are {' and '.join(sorted(filling))}, not one alone"
    return ""
