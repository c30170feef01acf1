"""The offline teacher `rules`: it writes questions from exact events by templates, and judges them by code.

It reads the same messages as any other teacher and replies in the same form, so that the whole pipeline runs without a
key or a network. It asks only what events with times can answer, so nothing about moods or meanings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from relisten import tags
from relisten.data.checks import MIN_SECONDS, covered, said, sentences_end, spoken_of
from relisten.data.compose import HIDDEN, MANNERS, SHARES, SHORT, unblock
from relisten.data.messages import Messages, digest
from relisten.data.offline import short, ways
from relisten.data.offline.drawing import PLAIN, SENTENCES, draw, pick, shuffled
from relisten.data.offline.phrases import CONCLUSIONS, GUESSED, HEARD, LEADS, OPENINGS, REASONS, WAYS
from relisten.data.offline.remarks import name, remarks, ruled_out, sentence
from relisten.data.offline.timeline import SOLVERS, Asked, Step, Timeline, is_word, right
from relisten.data.store import Call
from relisten.types import Event, Segment

VERSION = 6
"""Goes up when what is written changes, so that stored replies of an older version are not taken for new ones."""
COVERS = 0.3
"""The share of a segment from which a sound in it counts: two such sounds leave unclear which of them is meant."""
REMARKED = ((1, 2, 2, 3, 3), (0, 1, 1))
"""How many remarks may follow a segment, in most manners and in the brief one; each number is as likely."""
STYLES = {text: style for style, text in MANNERS.items()}


class Rules:
    """Judges if the messages hold a candidate, else writes a question."""

    name = f"rules {VERSION}"

    async def complete(self, messages: Messages) -> Call:
        """A question or a verdict, as the messages ask for. Never raises."""
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
        """Does nothing; no connection is held."""


def read_events(known: dict[str, Any]) -> tuple[Event, ...]:
    """The events of an evidence block in order of onset, with labels as a listener would say them.

    Events without a label or a time inside the recording are left out, and all of them if no segment fits into it.
    """
    events, duration = [], float(known.get("A5_duration", 0.0))
    if not MIN_SECONDS <= duration < math.inf:
        return ()
    for entry in known.get("A4_events") or []:
        attributes = {key: value for key, value in entry.items() if key not in ("label", "start", "end")}
        if "kind_of" in attributes:
            attributes["kind_of"] = "; ".join(map(said, str(attributes["kind_of"]).split("; ")))
        label, start, end = said(str(entry["label"])).strip(), float(entry["start"]), float(entry["end"])
        if label and 0 <= start < min(end, duration):
            events.append(Event(label, start, min(end, duration), attributes))
    return tuple(sorted(events, key=lambda event: event.start))


def write(known: dict[str, Any], request: dict[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
    """A question of the requested kind, or of another one if the events do not allow that; None if they allow none."""
    events = read_events(known)
    num_choices = min(max(int(request.get("num_choices", 4)), 2), 8)
    duration, manner = float(known.get("A5_duration", 0.0)), str(request.get("manner", ""))
    others = _labels(request, "other_labels")
    timeline = Timeline(events, duration, (others,) if others else (), _labels(request, "other_words"), num_choices)
    rest = [kind for kind in SHARES if kind != request.get("kind")]
    shares = [SHARES[kind] for kind in rest]
    # By their shares as well, or kinds that can always be asked would be asked too often.
    after = [rest[n] for n in rng.choice(len(rest), len(rest), replace=False, p=np.array(shares) / sum(shares))]
    operations = tuple(request.get("operations") or ())
    found: tuple[str, Asked] | None = None
    for kind in [request.get("kind"), *after]:
        asked = draw(kind, rng, timeline, PLAIN if manner == SHORT else SENTENCES) if kind in SOLVERS else None
        if asked is not None and (found is None or _needs(asked, timeline, operations)):
            found = kind, asked
        if found is not None and (not operations or _needs(found[1], timeline, operations)):
            break
    if found is None:
        return None
    kind, asked = found
    choices = shuffled(rng, asked.choices)
    return {
        "kind": kind,
        "question": asked.question,
        "choices": choices,
        "answer": asked.answer,
        "think": chain(rng, kind, asked, timeline, manner, choices, operations),
        "about": list(asked.about),
    }


def _needs(asked: Asked, timeline: Timeline, operations: Collection[str]) -> bool:
    """Whether a listen of the question's chain needs an operation."""
    return any(ways.way(step.event, timeline.events, operations) != ways.SEG for step in asked.steps)


def _labels(request: dict[str, Any], key: str) -> tuple[str, ...]:
    """Labels of other recordings as a listener would say them, each once."""
    return tuple(dict.fromkeys(said(str(label)) for label in request.get(key, ()) if not HIDDEN.match(str(label))))


def chain(
    rng: np.random.Generator,
    kind: str,
    asked: Asked,
    timeline: Timeline,
    manner: str,
    choices: Sequence[str],
    operations: Collection[str] = (),
) -> str:
    """A chain of thought: before each segment a reason, after it what is heard, at the end what follows.

    operations: the ways to listen that it may use.
    """
    if manner == SHORT:
        return short.chain(rng, kind, asked, timeline, short.leads(rng, asked), operations)
    style = STYLES.get(manner) or str(rng.choice(list(STYLES.values())))
    steps = list(asked.steps)
    if style == "sure":
        steps.append(replace(steps[int(rng.integers(len(steps)))], lead="sure"))
    opening, guess = _opening(rng, style, timeline, choices)
    parts = [opening]
    # Within a chain, no lead and no kind of remark is repeated.
    named = dict.fromkeys(step.lead for step in steps)  # in order: a set's order would change from process to process
    leads: dict[str, list[str]] = {lead: list(rng.permutation(LEADS[lead])) for lead in named}
    used: set[str] = set()
    last: Event | None = None
    for step in steps:
        lead = leads[step.lead].pop() if leads[step.lead] else "Again"
        num = int(rng.choice(REMARKED[style == "brief"]))
        parts += [_listen(rng, step, timeline, lead, operations), *remarks(rng, num, step.event, last, timeline, used)]
        last = step.event
    parts.append(pick(rng, REASONS[kind]).format(*(*asked.about, "", "")[:2], str(len(asked.steps)), asked.answer))
    parts += ruled_out(
        rng, {"choices": 8, "brief": 0}.get(style, int(rng.integers(2, 4))), kind, asked, timeline, choices
    )
    if guess:
        key = "right" if guess == asked.answer else "wrong"
        parts.append(sentence(pick(rng, GUESSED[key]).format(guess)))
    return " ".join(part for part in (*parts, pick(rng, CONCLUSIONS).format(asked.answer)) if part)


def _opening(rng: np.random.Generator, style: str, timeline: Timeline, choices: Sequence[str]) -> tuple[str, str]:
    """The first sentence of a chain, and the answer that it guesses, or ""."""
    if style == "brief":
        return "", ""
    key = {"sure": "plain"}.get(style, style)
    guess = choices[int(rng.integers(len(choices)))] if key == "guess" else ""
    told = {
        "overview": ", then ".join(_overview(timeline, bool(rng.random() < 0.4))),
        "guess": guess,
        "choices": ", ".join(choices[:-1]) + f" and {choices[-1]}",
    }.get(key, "")
    return sentence(pick(rng, OPENINGS[key]).format(told)), guess


def _overview(timeline: Timeline, timed: bool) -> list[str]:
    """The result of a first hearing: up to six names in order. Spoken words are not understood yet."""
    events = [e for n, e in enumerate(timeline.events) if n == 0 or name(e) != name(timeline.events[n - 1])]
    names = [name(event) + (f" near {event.start:.1f}" if timed else "") for event in events]
    return names if len(names) <= 6 else [*names[:5], "more"]


def _listen(rng: np.random.Generator, step: Step, timeline: Timeline, lead: str, operations: Collection[str]) -> str:
    written = ways.write(short.segment(step.event, timeline.duration), step.event, timeline.events, operations)
    name, _ = ways.way(step.event, timeline.events, operations)
    why = f", {pick(rng, WAYS[name])}" if name in WAYS else ""
    return f"{lead.format(step.event.label)}{why} {written}{pick(rng, HEARD).format(tell(step.event))}"


def tell(event: Event) -> str:
    """An event in words after a close listen; a spoken word is quoted."""
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
    """Both verdicts, in the form that any judge writes: the question is answered anew, and each segment looked up."""
    timeline = Timeline(read_events(known), float(known.get("A5_duration", 0.0)))
    question = _question_fault(timeline, candidate)
    cot = _cot_fault(timeline, candidate)
    reason = question or cot or "nothing"
    return f"[QA valid]: {'No' if question else 'Yes'}\n[CoT valid]: {'No' if cot else 'Yes'}\n[Reason]: {reason}"


def _question_fault(timeline: Timeline, candidate: dict[str, Any]) -> str:
    kind, about = str(candidate.get("kind")), [said(str(label)) for label in candidate.get("about") or []]
    if kind not in SOLVERS or not timeline.events:
        return f"a question of the kind {kind!r} cannot be answered from events alone"
    if kind in ("after", "before", "longer", "louder", "together", "count", "when", "detail") and len(about) != 1:
        return "it is not told what the question is about"
    if kind == "between" and len(about) != 2:
        return "it is not told between which sounds"
    found = right(kind, about, timeline)
    choices = {str(choice).casefold() for choice in candidate.get("choices") or []}
    valid = choices & {answer.casefold() for answer in found}
    if str(candidate.get("answer")).casefold() not in valid:
        return f"the events say {' or '.join(sorted(found)) or 'nothing of the kind'}"
    return "" if len(valid) == 1 else f"several choices are right: {', '.join(sorted(valid))}"


def _cot_fault(timeline: Timeline, candidate: dict[str, Any]) -> str:
    text = str(candidate.get("chain_of_thought"))
    segments = tags.parse(text, tags.EVERY).segments
    if not segments:
        return "the chain of thought listens to nothing"
    for one in segments:
        here = [event for event in timeline.events if covered(one, event) > 0]
        if not here:
            return f"nothing is known to be heard at {one.start:g} to {one.end:g} s"
        if candidate.get("kind") != "together" and (fault := _unclear(one, here, text)):
            return fault
    last = text[sentences_end(text) :].casefold()
    if str(candidate.get("answer")).casefold() not in last:
        return "the chain of thought does not end with the given answer"
    return ""


def _unclear(one: Segment, here: Sequence[Event], text: str) -> str:
    """Whether two different sounds fill a segment, and the text speaks of one alone."""
    filling = {event.label for event in here if covered(one, event) >= COVERS}
    if len(filling) > 1:
        named = spoken_of(text, one, filling)
        if named != filling:
            return f"at {one.start:g} to {one.end:g} s there are {' and '.join(sorted(filling))}, not one alone"
    return ""
