"""An answer as one self-contained web page: the waveform, the reasoning, every heard segment playable.

Whatever a model wrote, a question or a file name is untrusted: all of it is escaped, and the page's content policy
runs no script but the one that is shipped with it, and asks nothing of the network.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from relisten import __version__, records, tags
from relisten.audio import encoded
from relisten.engine.listener import MAX_QUOTED
from relisten.engine.operations import offered, phrase
from relisten.reports.page import WEB, template
from relisten.reports.strip import levels
from relisten.reports.text import FINISHES, named_seconds, safe
from relisten.types import Audio, Listen, Refusal, Segment

if TYPE_CHECKING:
    from relisten.engine.answer import Answer

NUM_COLOURS = 6
NUM_BARS = 200
LONGEST_WAV = 60.0
"""Seconds. Longer recordings are embedded as FLAC, which has half the size and plays in every current browser."""


@dataclass(frozen=True)
class Mark:
    """A tag in the reasoning: heard (with a listen behind it), named only, or refused."""

    segment: Segment | None
    heard: bool = False
    refusal: Refusal | None = None
    operation: str = "seg"

    @property
    def way(self) -> str:
        """How the segment was heard, for people; "" for a plain crop."""
        return phrase(self.operation, self.segment) if self.segment and self.heard else ""


def write_page(
    path: Path,
    answer: Answer,
    audio: Audio,
    question: str,
    choices: Sequence[str] = (),
    name: str = "recording",
    model: str = "",
    command: str = "",
) -> None:
    """Write the page, to a path that the user typed; a file appears whole or not at all."""
    records.write_atomic(path, page(answer, audio, question, choices, name, model, command), follow=True)


def page(
    answer: Answer, audio: Audio, question: str, choices: Sequence[str], name: str, model: str, command: str
) -> str:
    """The page's HTML."""
    shown = _reasoning_alone(answer.trace.text)
    pieces = annotate(shown, answer.trace.listens[1:], answer.trace.refusals, audio.duration, answer.trace.operations)
    drawn = [piece for piece in pieces if isinstance(piece, Mark) and piece.segment is not None]
    lanes = _lanes(drawn, audio.duration)
    body = Template((WEB / "answer.html").read_text(encoding="utf-8")).substitute(
        question=safe(question),
        choices=_choices(choices, answer.choice),
        notice=f'<p class="notice" role="note">{safe(answer.notice)}</p>' if answer.notice else "",
        lanes=max(lanes, default=-1) + 1,
        tabs="".join(_tab(n, mark, lanes[n], audio.duration) for n, mark in enumerate(drawn)),
        bands="".join(_band(n, mark, audio.duration) for n, mark in enumerate(drawn)),
        wave=_wave(audio, drawn),
        axis=_axis(audio.duration),
        seconds=f"{audio.duration:.2f}",
        seconds_shown=f"{audio.duration:.1f}",
        hint=_hint(drawn),
        audio=_audio_address(audio),
        clips="".join(_clip(n, mark, audio) for n, mark in enumerate(drawn)),
        reasoning=reasoning(pieces, _segment),
        answer=_answer(answer, choices),
        details=_details(answer, name, model, command),
    )
    meta = f'{safe(name)}<span aria-hidden="true"> · </span>{audio.duration:.1f} s'
    return template(f"{question} · relisten", meta, body, "answer.js")


_TURN = re.compile(r"</think>\s*<answer>")


def _reasoning_alone(text: str) -> str:
    """What stands in <think>, where a response is a <think> and an <answer> and nothing else; else all of it."""
    whole = text.strip()
    turns = list(_TURN.finditer(whole))
    if not (turns and whole.startswith("<think>") and whole.endswith("</answer>")):
        return text
    think = whole[len("<think>") : turns[-1].start()]
    return text if "think>" in think else think


def annotate(
    text: str,
    listens: Sequence[Listen],
    refusals: Sequence[Refusal],
    duration: float,
    names: Collection[str] = ("seg",),
) -> list[str | Mark]:
    """Text cut at its tags. A tag is heard when the next listen is of its segment, else refused, else only named.

    names: the tags that the model could use.
    """
    shown = {re.escape(name) for name in names} | {re.escape(listen.operation) for listen in listens}
    every = "|".join(sorted(shown))
    pieces: list[str | Mark] = []
    heard, refused, position = list(listens), list(refusals), 0
    for match in re.finditer(rf"<({every})>((?:(?!<\1>).)*?)</\1>", text, re.DOTALL):
        pieces.append(text[position : match.start()])
        position = match.end()
        named = tags.parse_segment(match[2], match[1])
        of_this = next((n for n, refusal in enumerate(refused) if refusal.text == match[0][:MAX_QUOTED]), None)
        if heard and named is not None and _same(named, heard[0].segment, duration):
            listen = heard.pop(0)
            pieces.append(Mark(listen.segment, heard=True, operation=listen.operation))
        elif of_this is not None:
            pieces.append(Mark(None, refusal=refused[of_this]))
            del refused[: of_this + 1]  # those before it are of tags that never closed
        elif named is not None and 0 <= named.start < named.end and named.start < duration:
            pieces.append(Mark(Segment(named.start, min(named.end, duration))))
        else:
            pieces.append(match[0])
    pieces.append(text[position:])
    # What no tag in the shown text accounts for was still heard: it is drawn, after the text.
    pieces += [Mark(listen.segment, heard=True, operation=listen.operation) for listen in heard]
    return [piece for piece in pieces if piece != ""]


def _same(named: Segment, heard: Segment, duration: float) -> bool:
    """Whether `heard` is `named` after ordering and clamping."""
    start, end = sorted((named.start, named.end))
    return abs(max(start, 0.0) - heard.start) < 0.02 and abs(min(end, duration) - heard.end) < 0.02


def _percent(seconds: float, duration: float) -> str:
    return f"{100 * min(max(seconds / max(duration, 1e-9), 0.0), 1.0):.3f}%"


def _times(segment: Segment) -> str:
    return f"{segment.start:.1f}–{segment.end:.1f}\u2009s"


def _target(number: int, mark: Mark) -> str:
    """Class and data attributes that buttons and bands of one segment share."""
    kind = "" if mark.heard else " named"
    return f's{number % NUM_COLOURS}{kind}" data-n="{number}'


def label(number: int, mark: Mark) -> str:
    """What the button of a segment does, for screen readers. number: counted from 0."""
    assert mark.segment is not None
    start, end = mark.segment.start, mark.segment.end
    return f"Play segment {number + 1}, {start:.1f} to {end:.1f} seconds{mark.way and ', ' + mark.way}"


def as_heard(mark: Mark, audio: Audio) -> Audio | None:
    """The sound that an operation made of a segment; None for a plain crop, which the recording itself holds.

    Raises ValueError if the operation is not known here, or if its package is not installed.
    """
    if not mark.way or mark.segment is None:
        return None
    return offered([mark.operation])[mark.operation](audio, mark.segment)


def unchanged(number: int, error: ValueError) -> str:
    """A note on a segment that `as_heard` could not make, so that its button plays the recording itself (HTML)."""
    return f'<p class="note">Segment {number + 1} plays unchanged: {safe(str(error))}.</p>'


def _button_data(number: int, mark: Mark) -> str:
    segment = mark.segment
    assert segment is not None
    clip = f' data-clip="clip-sound{number}"' if mark.way else ""
    data = f'data-start="{segment.start:.3f}" data-end="{segment.end:.3f}"{clip}'
    return f'type="button" {data} aria-label="{safe(label(number, mark))}"'


def _lanes(marks: Sequence[Mark], duration: float) -> list[int]:
    """The row of each segment's tab, so that no tab covers another; a tab takes at least 3.5 % of the width."""
    ends: list[float] = []
    lanes = []
    for mark in marks:
        assert mark.segment is not None
        start = min(mark.segment.start, 0.965 * duration)
        lane = next((n for n, end in enumerate(ends) if end <= start), len(ends))
        ends[lane : lane + 1] = [max(mark.segment.end, start + 0.035 * duration)]
        lanes.append(lane)
    return lanes


def _tab(number: int, mark: Mark, lane: int, duration: float) -> str:
    assert mark.segment is not None
    left, width = _percent(mark.segment.start, duration), _percent(mark.segment.duration, duration)
    place = f"left: min({left}, calc(100% - 22px)); width: {width}; top: {lane * 26}px"
    return (
        f'<button class="tab {_target(number, mark)}" style="{place}"'
        f" {_button_data(number, mark)}>{number + 1}</button>"
    )


def _band(number: int, mark: Mark, duration: float) -> str:
    assert mark.segment is not None
    left, width = _percent(mark.segment.start, duration), _percent(mark.segment.duration, duration)
    return f'<span class="{_target(number, mark)}" style="left: {left}; width: {width}"></span>'


def _wave(audio: Audio, marks: Sequence[Mark]) -> str:
    """Rounded bars of the level, and over them the same bars in colour, cut to each heard segment."""
    num_bars = max(min(NUM_BARS, len(audio.samples)), 1)
    width = 1000 / num_bars
    heights = np.maximum(levels(audio, num_bars) * 116, 3)
    bars = "".join(
        f'<rect x="{n * width + 0.2 * width:.2f}" y="{66 - h / 2:.1f}" width="{0.6 * width:.2f}" height="{h:.1f}"'
        f' rx="{0.3 * width:.2f}"/>'
        for n, h in enumerate(heights)
    )
    clips, parts = "", ""
    for n, mark in enumerate(marks):
        assert mark.segment is not None
        x, w = (1000 * s / max(audio.duration, 1e-9) for s in (mark.segment.start, mark.segment.duration))
        clips += f'<clipPath id="clip{n}"><rect x="{x:.2f}" y="0" width="{w:.2f}" height="132"/></clipPath>'
        parts += f'<use href="#bars" class="part s{n % NUM_COLOURS}" clip-path="url(#clip{n})"/>'
    return (
        '<svg viewBox="0 0 1000 132" preserveAspectRatio="none" role="img" aria-label="Waveform of the recording">'
        f'<defs><g id="bars">{bars}</g>{clips}</defs><use href="#bars" class="all"/>{parts}</svg>'
    )


def _axis(duration: float) -> str:
    """About eight round times."""
    if duration <= 0:
        return ""
    power = 10.0 ** np.floor(np.log10(duration / 8))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= duration / 8)
    ticks = np.arange(0, 0.975 * duration, step)
    return "".join(f'<span style="left: {_percent(t, duration)}">{t:.6g}{"" if t else " s"}</span>' for t in ticks)


def _choices(choices: Sequence[str], chosen: str | None) -> str:
    if not choices:
        return ""
    rows = [
        f'<li class="chosen" aria-current="true">{safe(choice)}</li>'
        if choice == chosen
        else f"<li>{safe(choice)}</li>"
        for choice in choices
    ]
    return f'<ul class="choices" aria-label="Choices">{"".join(rows)}</ul>'


def _hint(marks: Sequence[Mark]) -> str:
    num_heard = sum(mark.heard for mark in marks)
    if not marks:
        return "No segment was heard again"
    counted = f"{len(marks)} segment{'s' * (len(marks) > 1)}"
    keys = f"<kbd>1</kbd>{'–<kbd>' + str(min(len(marks), 9)) + '</kbd>' if len(marks) > 1 else ''}"
    return f"{counted} {'heard again' if num_heard else 'named'} · press {keys} to listen"


def reasoning(pieces: Sequence[str | Mark], segment: Callable[[int, Mark], str]) -> str:
    """HTML of a reasoning. segment: gives the HTML of a heard or named segment with its number, counted from 0."""
    html, number = "", 0
    for piece in pieces:
        if isinstance(piece, str):
            html += safe(piece)
        elif piece.segment is not None:
            html += segment(number, piece)
            number += 1
        elif piece.refusal is not None:
            text, reason = safe(piece.refusal.text), safe(piece.refusal.reason)
            html += f'<span class="refused"><s>{text}</s> (not heard: {reason})</span>'
    return html.strip() or '<span class="refused">The model wrote nothing.</span>'


def _segment(number: int, mark: Mark) -> str:
    assert mark.segment is not None
    data = _button_data(number, mark)
    way = f"<i>{safe(mark.way)}</i>" if mark.way else ""
    return f'<button class="seg {_target(number, mark)}" {data}><b>{number + 1}</b>{_times(mark.segment)}{way}</button>'


def _answer(answer: Answer, choices: Sequence[str]) -> str:
    if answer.answer is None:
        return '<p class="text">None</p><p class="note">The model wrote none in &lt;answer&gt;.</p>'
    html = f'<p class="text">{safe(answer.choice or answer.answer)}</p>'
    if choices and answer.choice is None:
        html += '<p class="note">This is none of the choices.</p>'
    if answer.trace.finish in FINISHES:
        html += f'<p class="note">{FINISHES[answer.trace.finish]}</p>'
    return html


def _details(answer: Answer, name: str, model: str, command: str) -> str:
    trace = answer.trace
    inserted = sum(listen.num_tokens for listen in trace.listens[1:])
    rows = {
        "Model": safe(model),
        "Recording": safe(name),
        # A training example has no tokens: no model wrote it, and nothing was heard again.
        "Heard again": f"segments: {max(len(trace.listens) - 1, 0)}; tags refused: {len(trace.refusals)}"
        if trace.token_ids or (trace.text_alone and model)
        else "",
        "Tokens": f"{trace.num_prompt} in the prompt, {sum(trace.sampled)} written, {inserted} of audio heard again"
        if trace.token_ids
        else "",
        "Time": safe(", ".join(f"{key} {value:.1f} s" for key, value in named_seconds(answer.seconds).items())),
        "Finish": safe(trace.finish) if trace.token_ids or (trace.text_alone and model) else "",
        "Command": f"<code>{safe(command)}</code>" if command else "",
        "Versions": f"relisten {__version__}, torch {safe(version('torch'))}, transformers {version('transformers')}",
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }
    return "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in rows.items() if value)


def _clip(number: int, mark: Mark, audio: Audio) -> str:
    """The sound of a segment as an operation made it; "" for a plain crop."""
    try:
        made = as_heard(mark, audio)
    except ValueError as error:  # what was answered elsewhere is still shown
        return unchanged(number, error)
    if made is None:
        return ""
    return f'<audio id="clip-sound{number}" preload="auto" controls src="{_audio_address(made)}"></audio>'


def _audio_address(audio: Audio) -> str:
    """The recording itself as a data: address."""
    format, kind = ("WAV", "audio/wav") if audio.duration <= LONGEST_WAV else ("FLAC", "audio/flac")
    content = encoded(np.clip(audio.samples, -1, 1), audio.rate, format)
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
