"""`relisten data show` and `relisten data validate`: show one example of a file, and find every bad line of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from relisten import audio, records, tags
from relisten.commands.terminal import Typist
from relisten.data.checks import IDENTIFIER, MIN_SECONDS, SLACK
from relisten.reports.strip import draw
from relisten.reports.text import console, printable, span
from relisten.types import MAX_SECONDS, Audio, Event, Example, Listen, Response, Segment, Trace


def show(file: Path, id: str, /, *, html: Path | None = None, max_seconds: float = MAX_SECONDS) -> None:
    """Show one example of a file: its waveform, labels, segments, question and chain of thought.

    Parameters
    ----------
    file
        A JSONL of examples (sft.jsonl, rl.jsonl, questions.jsonl), or of recordings with events (events.jsonl).
    id
        The example's id, or the number of its line.
    html
        Write a web page on which every label and segment can be played, instead of printing.
    max_seconds
        Longest recording that is read, in seconds.
    """
    example, events, texts = read(file, id)
    if not isinstance(example.audio, Path):
        raise ValueError(f"{file}: {example.id} names no recording; give it an audio_path")
    heard = audio.load(example.audio, max_seconds=max_seconds)
    if html is not None:
        from relisten.reports.answer_page import write_page

        name, told = example.audio.name, example.question or f"What is known of {example.id}"
        write_page(html, _answer(example, events, texts, heard), heard, told, example.choices, name)
        console().print(f"Page: {html}", soft_wrap=True)
    else:
        _print(console(), example, events, texts, heard)


def read(file: Path, id: str) -> tuple[Example, tuple[Event, ...], dict[str, str]]:
    """An example with its events and descriptions. In a file of recordings, the example has no question."""
    for number, row in enumerate(records.read(file), start=1):
        name = str(row.get("id") or Path(str(row.get("audio_path"))).stem)
        if id not in (name, str(number)):
            continue
        filled = row if row.get("question") else {"id": name, "question": " ", **row}
        try:
            example = records.example_from_record({**filled, "id": name}, file.parent)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
        said = row.get("descriptions")
        texts = {key: str(text) for key, text in said.items()} if isinstance(said, dict) else {}
        return example, tuple(events_of(row)), texts
    raise ValueError(f"{file}: has no example {id!r}; `relisten data validate {file}` lists what is wrong with a file")


def events_of(row: Mapping[str, Any]) -> Iterator[Event]:
    """The events of a line, each {"label", "start", "end"} or [label, start, end]; anything else is skipped."""
    listed = row.get("events")
    for event in listed if isinstance(listed, list) else []:
        parts = [event.get(key) for key in ("label", "start", "end")] if isinstance(event, dict) else event
        if isinstance(parts, list) and len(parts) == 3 and all(_number(part) for part in parts[1:]):
            yield Event(str(parts[0]), float(parts[1]), float(parts[2]))


def segments_of(example: Example) -> tuple[Segment, ...]:
    """The segments of the chain of thought; if there is no chain, those of the label `segments`."""
    if example.cot:
        return tags.parse(example.cot, tags.EVERY).segments
    listed = example.labels.get("segments")
    spans = [s for s in listed if isinstance(s, list) and len(s) == 2] if isinstance(listed, list) else []
    return tuple(Segment(float(s), float(e)) for s, e in spans if _number(s) and _number(e))


def _print(out: Console, example: Example, events: Sequence[Event], texts: Mapping[str, str], heard: Audio) -> None:
    width = max(min(out.width, 120), 20)
    out.print(Text.assemble((printable(example.id), "bold"), f"  {example.audio}  {heard.duration:.1f} s"))
    out.print(draw(heard, segments_of(example), width))
    for event in events:
        out.print(_label(event, heard.duration, width))
    for key, text in texts.items():
        out.print(Text.assemble((f"{key}: ", "bold"), printable(text)))
    if example.question.strip():
        out.print(Text("\n" + printable(example.question), "bold"))
    for choice in example.choices:
        right = choice == example.answer
        out.print(Text(f"  {'●' if right else '○'} {printable(choice)}", "green" if right else ""))
    if example.cot:
        out.print()
        typist = Typist(out)
        number = 0
        *closed, rest = tags.split(example.cot, tags.EVERY)
        for piece in [*closed, rest]:
            typist.text(piece)
            number += piece is not rest
            typist.num_heard = number
        typist.flush()
        out.print()


def _label(event: Event, duration: float, width: int) -> Text:
    """A bar under the waveform at the time of an event, with its label beside it."""
    scale = width / max(duration, 1e-9)
    first = min(max(int(event.start * scale), 0), width - 1)
    bar = "▔" * max(min(round(event.end * scale), width) - first, 1)
    name = f"{printable(event.label)} {span(Segment(event.start, event.end))}"
    if first + len(bar) + 1 + len(name) <= width or first <= len(name):
        return Text.assemble(" " * first, (bar, "bold"), " ", (name, "dim"))
    return Text.assemble((name.rjust(first - 1), "dim"), " ", (bar, "bold"))


def _answer(example: Example, events: Sequence[Event], texts: Mapping[str, str], heard: Audio) -> Any:
    """The example as an answer that the page can show: its chain of thought, then labels and descriptions."""
    from relisten.engine.answer import Answer

    labels = [f"{event.label} <seg>{event.start:.2f}, {event.end:.2f}</seg>" for event in events]
    parts = [example.cot or "", "Labels: " + "; ".join(labels) if labels else ""]
    parts += [f"{key.capitalize()}: {text}" for key, text in texts.items()]
    said = "\n\n".join(part for part in parts if part)
    listens = [Listen(0, 0, Segment(0.0, heard.duration))]  # a chain in a file names segments; nothing heard them again
    text = f"<think>{said}</think><answer>{example.answer or ''}</answer>"
    trace = Trace([], [], [], listens, 0, text=text, operations=tags.EVERY)
    response = Response(text, said, example.answer, segments_of(example), True)
    return Answer(example.answer, example.answer, response, trace, {}, segments_of(example))


def validate(file: Path, /, *, recordings: bool = True) -> int:
    """Name every bad line of a JSONL of examples with its reason; exits with 1 if there is any.

    Each line needs id, audio_path and question. Its choices, answer and cot must fit together, its times must lie in
    the recording, and the recording must open.

    Parameters
    ----------
    file
        The JSONL, in MMAR's form with `cot`, as `relisten data build` writes it and `relisten train` reads it.
    recordings
        Open every recording to read its length; --no-recordings checks only the texts.
    """
    if file.is_dir():
        raise ValueError(f"{file}: is a folder; name a JSONL of examples in it, for example {file / 'sft.jsonl'}")
    if not file.is_file():
        raise ValueError(f"{file}: no such file; name a JSONL of examples")
    out, counts, seen = console(), Counter[str](), dict[str, int]()
    for number, line in enumerate(file.open("rb"), start=1):
        if not line.strip():
            continue
        counts["lines"] += 1
        if reasons := list(faults(line, number, file.parent, seen, recordings)):
            counts["bad"] += 1
            for reason in reasons:
                out.print(f"line {number}: {printable(reason)}", soft_wrap=True)
    if not counts["lines"]:
        raise ValueError(f"{file}: holds no examples; write one JSON object a line")
    out.print(f"{counts['lines'] - counts['bad']} good, {counts['bad']} bad")
    return int(counts["bad"] > 0)


def faults(line: bytes, number: int, folder: Path, seen: dict[str, int], recordings: bool = True) -> Iterator[str]:
    """Everything that is wrong with one line. seen: the lines of the ids so far; the id of this line is added."""
    try:
        row = records.parsed(line, f"line {number}") or {}
        example = records.example_from_record(row, folder)
    except ValueError as error:
        yield str(error).removeprefix(f"line {number}: ")
        return
    if example.id in seen:
        yield f"the id {example.id!r} is used in line {seen[example.id]} too"
    seen.setdefault(example.id, number)
    yield from _text_faults(example)
    assert isinstance(example.audio, Path)
    try:
        duration: Any = _duration(example.audio) if recordings else row.get("duration")
    except ValueError as error:
        yield str(error)
        duration = None
    yield from _time_faults(example, row, float(duration) if _number(duration) else None)


def _text_faults(example: Example) -> Iterator[str]:
    choices = [choice.strip().casefold() for choice in example.choices]
    if len(set(choices)) < len(choices):
        yield "two choices are the same"
    if "" in choices or len(choices) == 1:
        yield "a choice is empty" if "" in choices else "there is only one choice"
    try:
        records.gold_segments(example)
    except ValueError as error:
        yield str(error)
    for name, text in (("question", example.question), ("cot", example.cot or ""), *(("choice", c) for c in choices)):
        if found := IDENTIFIER.search(text):
            yield f"the {name} holds the identifier {found[0]}; write the label's name"
    if example.cot is not None:
        if not example.cot.strip():
            yield "the chain of thought is empty; leave `cot` out instead"
        for tag in ("think", "answer"):
            if f"<{tag}>" in example.cot or f"</{tag}>" in example.cot:
                yield f"the chain of thought holds <{tag}>; remove that tag"
        num_tags = sum(max(example.cot.count(f"<{name}>"), example.cot.count(f"</{name}>")) for name in tags.EVERY)
        if (num_read := len(tags.parse(example.cot, tags.EVERY).segments)) < num_tags:
            yield f"{num_tags - num_read} of {num_tags} segments cannot be read (<seg>start, end</seg>, start first)"


def _time_faults(example: Example, row: Mapping[str, Any], duration: float | None) -> Iterator[str]:
    listed = row.get("events") or []
    events = list(events_of(row))
    if not isinstance(listed, list) or len(events) < len(listed):
        yield "events must be a list of [label, start, end]"
    spans = [(f"segment {s.start:g}, {s.end:g}", s.start, s.end) for s in segments_of(example)]
    spans += [(f"event {e.label!r}", e.start, e.end) for e in events]
    for name, start, end in spans:
        if not 0 <= start < end:
            yield f"{name} has no length or begins before the recording"
        elif duration is not None and end > duration + SLACK:
            yield f"{name} ends at {end:g} s, the recording at {duration:.2f} s"
        elif name.startswith("segment") and end - start < MIN_SECONDS - 1e-6:
            yield f"{name} is shorter than {MIN_SECONDS:g} s"


@lru_cache(maxsize=1024)
def _duration(path: Path) -> float:
    """The length of a recording in seconds. The file is read once for all questions about it."""
    return audio.duration(path)


def _number(value: Any) -> bool:
    return records.is_number(value) and math.isfinite(value)
