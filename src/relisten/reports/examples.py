"""Answers to look at and listen to: drawn by lot from the right, the wrong and the unparsed ones of a run."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b

import numpy as np

from relisten import tags
from relisten.audio import encoded, load
from relisten.evals.figures import Record, right, status_of
from relisten.evals.runs import Run, listens, questions_of
from relisten.reports.answer_page import NUM_COLOURS, Mark, annotate, as_heard, label, reasoning, unchanged
from relisten.reports.strip import levels
from relisten.reports.text import safe
from relisten.types import Audio, Example, Refusal, Segment

CLASSES = ("right", "wrong", "unparsed")
MAX_BYTES = 6_000_000
"""The most sound in one page, before it is written as text, which adds a third. Later recordings have no sound."""
RATE = 16_000
"""Samples per second (Hz) of the sound in the page."""
TOO_LARGE = "the page would grow too large"
NUM_BARS = 160
HEIGHT = 64


def examples_of(runs: Sequence[Run], num: int) -> tuple[str, str]:
    """HTML: `num` answers of each class for every run, those of the first unfolded; and the sounds that they share."""
    if not num:
        return "", ""
    html = (
        "<section><h2>Examples</h2><p>Drawn by lot, by the question's id alone. A filled number was heard again, an"
        " outlined one only named; the line under a waveform is the labelled event. A segment plays as its operation"
        " made it. Sounds are those of the recording itself, whatever a control put in their place.</p>"
    )
    sounds = Sounds({})
    for place, run in enumerate(runs):
        try:
            sounds.examples = {example.id: example for example in questions_of(run)}
        except (ValueError, OSError) as error:
            sounds.examples = {}
            html += f"<p class='caption'>{safe(str(error))}</p>"
        lots = draw_lots(run, num)
        shown = "".join(example_html(record, sounds) for name in CLASSES for record in lots[name])
        missing = [name for name in CLASSES if not lots[name]]
        shown += f"<p class='caption'>There is none that is {' or '.join(missing)}.</p>" if missing else ""
        html += f"<details{' open' if place == 0 else ''}><summary>{safe(run.name)}</summary>{shown}</details>"
    return html + "</section>", "".join(sounds.elements)


def draw_lots(run: Run, num: int) -> dict[str, list[Record]]:
    """Up to `num` answers of each class, by a lot that depends on the id alone, so runs tend to show the same ones."""
    found: dict[str, list[Record]] = {name: [] for name in CLASSES}
    for record in sorted(run.answered, key=_lot):
        name = verdict(record)
        if len(found[name]) < num:
            found[name].append(record)
    return found


def verdict(record: Record) -> str:
    """right, wrong or unparsed (refused among them)."""
    if right(record):
        return "right"
    return "wrong" if status_of(record) == "answered" else "unparsed"


def _lot(record: Record) -> str:
    return blake2b(str(record["id"]).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Play:
    """What a button plays."""

    sound: str
    """The id of an <audio>; "" where there is none."""
    part: Segment
    """Which part of that sound, in seconds."""
    note: str = ""
    """HTML: why it is not what the model heard; "" where it is."""


@dataclass
class Sounds:
    """The recordings in a page: each once, up to `MAX_BYTES` in all."""

    examples: Mapping[str, Example]
    """The questions by id; empty where their file is gone."""
    names: dict[str, str] = field(default_factory=dict)
    """A recording, or a segment of it and its operation -> the id of its <audio>; "" where it did not fit."""
    elements: list[str] = field(default_factory=list)
    num_bytes: int = 0

    def get(self, question: str) -> tuple[Audio | None, str]:
        """A question's recording (None: it cannot be read) and the id of its <audio> ("": it is not in the page)."""
        example = self.examples.get(question)
        if example is None:
            return None, ""
        try:
            audio = example.audio if isinstance(example.audio, Audio) else load(example.audio, RATE)
        except (ValueError, OSError):
            return None, ""
        key = str(example.audio) if not isinstance(example.audio, Audio) else str(id(example.audio))
        return audio, self._name(key, audio)

    def play(self, number: int, mark: Mark, audio: Audio | None, sound: str) -> Play:
        """What the button of a segment plays. audio, sound: its recording, as `get` returns them."""
        assert mark.segment is not None
        if audio is None or not sound:
            return Play("", mark.segment)
        try:
            made = as_heard(mark, audio)
        except ValueError as error:
            return Play(sound, mark.segment, unchanged(number, error))
        if made is None:
            return Play(sound, mark.segment)
        name = self._name(f"{sound} {mark.operation} {mark.segment}", made)
        note = "" if name else f'<p class="note">Segment {number + 1} is without sound: {TOO_LARGE}.</p>'
        return Play(name, Segment(0.0, made.duration), note)

    def _name(self, key: str, audio: Audio) -> str:
        if key not in self.names:
            self.names[key] = self._embed(audio)
        return self.names[key]

    def _embed(self, audio: Audio) -> str:
        content = encoded(np.clip(audio.samples, -1, 1), audio.rate, "FLAC")
        if self.num_bytes + len(content) > MAX_BYTES:
            return ""
        self.num_bytes += len(content)
        name = f"sound{len(self.elements)}"
        address = f"data:audio/flac;base64,{base64.b64encode(content).decode()}"
        self.elements.append(f'<audio id="{name}" preload="none" src="{address}"></audio>')
        return name


def example_html(record: Record, sounds: Sounds) -> str:
    """One answer: question, choices, waveform with what was named and what is labelled, reasoning, answer."""
    audio, sound = sounds.get(str(record["id"]))
    duration = audio.duration if audio else float(record.get("duration") or 0.0)
    written = record.get("response", record["answer_prediction"]) or ""  # of anybody's predictions the second
    names = tags.EVERY if "operations" in record else ("seg",)
    parsed = tags.parse(written, names)
    shown = parsed.think if parsed.well_formed and parsed.think is not None else written
    pieces = annotate(shown, listens(record), [Refusal(*pair) for pair in record.get("refusals", ())], duration, names)
    marks = [p for p in pieces if isinstance(p, Mark) and p.segment is not None]
    plays = [sounds.play(number, mark, audio, sound) for number, mark in enumerate(marks)]
    gold = [Segment(*pair) for pair in record.get("gold") or []]
    drawn = _wave(audio, marks, gold) if audio else "<p class='caption'>The recording is not at hand.</p>"
    kind = verdict(record)
    notes = "".join(play.note for play in plays)
    whole = Play(sound, Segment(0.0, duration))
    play = _button(whole, "▶ whole recording", "whole", "Play the whole recording") if sound else ""
    return (
        f'<article class="example {kind}"><p class="tag">{kind}</p><h4>{safe(record["question"])}</h4>'
        f"{_choices(record)}<div class='wave2'>{drawn}</div>"
        f'<p class="row">{play}<span class="caption">{safe(str(record["id"]))} · {duration:.1f} s'
        f"{' · without sound: ' + TOO_LARGE if audio and not sound else ''}</span></p>"
        f'<p class="reasoning">{reasoning(pieces, partial(_segment, plays))}</p>{notes}</article>'
    )


def _choices(record: Record) -> str:
    said, gold = record.get("choice", record["answer_prediction"]), record["answer"]
    listed = ""
    for choice in record["choices"]:
        name = "gold" if choice == gold else "said" if choice == said else ""
        mark = (" ✓" if choice == gold else "") + (" ← answered" if choice == said else "")
        listed += f'<li class="{name}">{safe(choice)}{mark}</li>'
    written = tags.parse(record["response"]).answer if "response" in record else record["answer_prediction"]
    none = f"answered: {safe(written[:80])}" if written else "no answer was written"
    none = "" if said is not None else f"<li class='said'>{none}</li>"
    return f"<ul class='choices2'>{listed}{none}</ul>"


def _wave(audio: Audio, marks: Sequence[Mark], gold: Sequence[Segment]) -> str:
    """Bars of the level, in the colour of the segment they lie in; a line beneath for each labelled event."""
    scale = 1000 / max(audio.duration, 1e-9)
    step = 1000 / NUM_BARS
    bars = ""
    for n, height in enumerate(np.maximum(levels(audio, NUM_BARS) * HEIGHT, 2)):
        at = (n + 0.5) * step / scale
        owner = next((k for k, m in enumerate(marks) if m.segment and m.segment.start <= at < m.segment.end), None)
        colour = "all" if owner is None else f"part s{owner % NUM_COLOURS}"
        x, y = n * step + 0.2 * step, HEIGHT / 2 - height / 2
        bars += f'<rect class="{colour}" x="{x:.1f}" y="{y:.1f}" width="{0.6 * step:.1f}" height="{height:.1f}"/>'
    for event in gold:
        width = event.duration * scale
        bars += f'<rect class="gold" x="{event.start * scale:.1f}" y="{HEIGHT + 5}" width="{width:.1f}" height="4"/>'
    return (
        f'<svg viewBox="0 0 1000 {HEIGHT + 10}" preserveAspectRatio="none" role="img"'
        f' aria-label="Waveform; a line under it where the labelled event is">{bars}</svg>'
    )


def _segment(plays: Sequence[Play], number: int, mark: Mark) -> str:
    """A segment in the reasoning, as a button where there is sound."""
    assert mark.segment is not None
    kind = f"seg s{number % NUM_COLOURS}{'' if mark.heard else ' named'}"
    way = f"<i>{safe(mark.way)}</i>" if mark.way else ""
    text = f"<b>{number + 1}</b>{mark.segment.start:.1f}–{mark.segment.end:.1f} s{way}"
    return _button(plays[number], text, kind, label(number, mark))


def _button(play: Play, text: str, kind: str, told: str) -> str:
    """A button that plays a part of a sound; without sound only its text (HTML). told: for screen readers."""
    if not play.sound:
        return f'<span class="{kind}">{text}</span>'
    data = f'data-sound="{play.sound}" data-start="{play.part.start:.3f}" data-end="{play.part.end:.3f}"'
    return f'<button type="button" class="{kind}" {data} aria-label="{safe(told)}">{text}</button>'
