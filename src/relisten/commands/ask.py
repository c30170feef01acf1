"""`relisten ask`: one recording and one question, or a JSONL of many."""

from __future__ import annotations

import json as jsonlib
import os
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.text import Text

from relisten.commands.options import GENERATION, MODEL, OUTPUT, ModelOptions, command_line
from relisten.engine.generation import GenerationConfig
from relisten.reports.answer_json import as_json
from relisten.reports.text import console, printable
from relisten.types import Audio

if TYPE_CHECKING:
    from relisten.engine.answer import Answer
    from relisten.engine.answering import Answering
    from relisten.models.base import AudioLM

EXAMPLE = "example"
"""The name of the recording that comes with relisten, where no file has this name."""


def ask(
    audio: Path,
    question: str | None = None,
    /,
    *,
    choices: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)] = (),
    json: Annotated[bool, OUTPUT, Parameter(show_default=False, negative=())] = False,
    html: Annotated[Path | None, OUTPUT] = None,
    out: Annotated[Path | None, OUTPUT] = None,
    generation: Annotated[GenerationConfig, GENERATION] = GenerationConfig(),
    options: Annotated[ModelOptions, MODEL] = ModelOptions(),
) -> int:
    """Ask a question about a recording (or many, from a JSONL).

    The reasoning is printed as the model writes it. Each segment that it hears again is marked in the text and drawn on
    a strip of the waveform.

    Parameters
    ----------
    audio
        A recording in any format that libsndfile or FFmpeg reads. Or a .jsonl of questions in MMAR's form: one object a
        line with id, audio_path (relative to the file), question, and optionally choices and answer. Or the word
        example, for a recording that comes with relisten.
    question
        What to ask. With a .jsonl, leave it out.
    choices
        Texts to choose from: --choices red blue green. Without them the question is open.
    json
        Print one JSON object instead: answer, response, segments, refusals, finish, token counts, seconds.
    html
        Also write one self-contained page with the waveform, on which each heard segment can be played.
    out
        With a .jsonl: append the answers to this file as they come, one JSON line each. After a stop, the same command
        continues.
    """
    started = time.perf_counter()
    if audio.suffix.lower() in (".jsonl", ".json"):
        if question is not None or choices or html is not None:
            raise ValueError(f"{audio}: its questions are asked; leave out your own question, --choices and --html")
    elif question is None:
        raise ValueError(f"{audio}: what do you ask? Give a question after the recording")
    elif not question.strip():
        raise ValueError("the question is empty; write a question")
    elif generation.only_choices and not choices:
        raise ValueError("--only-choices needs --choices: the texts of which the answer shall be one")
    elif out is not None:
        raise ValueError("--out needs a .jsonl of questions; for one question, use --json or --html")
    if str(audio) == EXAMPLE and not audio.exists():
        audio = Path(str(files("relisten") / "assets" / "example.flac"))
    _check_writable(audio, html, out)
    if question is None:
        from relisten.commands.ask_many import ask_many

        return ask_many(audio, out, generation, options)
    recording = _load_audio(audio, options.max_seconds)
    loaded, make = options.open(live=not json)
    told = notice(loaded, recording, question, choices)
    if told and not json:
        console().print(Text(printable(told), "yellow"), soft_wrap=True)
    seconds = {"load": time.perf_counter() - started}
    answer = _stream(make(loaded), recording, audio, question, choices, generation, quiet=json)
    answer = replace(answer, seconds=seconds | answer.seconds, notice=told)
    if json:
        print(jsonlib.dumps(as_json(answer), ensure_ascii=False, indent=2))
    else:
        from relisten.commands import terminal

        out_console = console()
        terminal.show_answer(out_console, answer, choices)
        terminal.show_strip(out_console, recording, answer.trace.listens[1:])
    if html is not None:  # after the answer, so that a page that cannot be written loses nothing
        from relisten.reports.answer_page import write_page

        write_page(
            html, answer, recording, question, choices, name=audio.name, model=options.name, command=command_line()
        )
    if not json:
        terminal.show_seconds(console(), answer.seconds, html)
    return 0 if answer.answer is not None else 1


def _check_writable(asked: Path, *results: Path | None) -> None:
    """Raises ValueError if a result cannot be written, before anything is loaded."""
    for path in filter(None, results):
        folder = path.absolute().parent
        if not folder.is_dir() and path.suffix != ".jsonl":  # for a .jsonl the folder is made
            raise ValueError(f"{path}: the folder {folder} does not exist; make it first")
        if path.is_dir() or (folder.is_dir() and not os.access(path if path.exists() else folder, os.W_OK)):
            raise ValueError(f"{path}: cannot be written; name a file in a folder that you may write to")
        if path.exists() and asked.exists() and path.samefile(asked):
            raise ValueError(f"{path}: is also the input; name another file for the result")


def notice(model: AudioLM, recording: Audio, question: str, choices: tuple[str, ...]) -> str | None:
    """One sentence if the question lies outside of what the model was trained on, else None."""
    from relisten.engine.question import audible
    from relisten.models import scope

    return scope.notice(model, audible(model, recording), question, choices)


def _load_audio(path: Path, max_seconds: float) -> Audio:
    from relisten import audio

    return audio.load(path, max_seconds=max_seconds)


def _stream(
    engine: Answering,
    recording: Audio,
    path: Path,
    question: str,
    choices: tuple[str, ...],
    config: GenerationConfig,
    quiet: bool,
) -> Answer:
    """Answer one question. Unless quiet, print the reasoning as it is written."""
    from relisten.commands.terminal import Typist
    from relisten.engine import engine as events
    from relisten.engine.answer import answered
    from relisten.types import Example

    typist = None if quiet else Typist(console())
    example = Example(id=path.name, audio=recording, question=question, choices=choices)
    for event in engine.stream(example, config):
        if isinstance(event, events.Finished):
            if typist:
                typist.flush()
                typist.console.print()
            return answered(event.trace, choices, engine.seconds)
        if typist is None:
            continue
        if isinstance(event, events.Text):
            typist.text(event.text)
        elif isinstance(event, events.Heard):
            typist.heard(event.listen)
        elif isinstance(event, events.Refused):
            typist.refused(event.refusal)
    raise AssertionError("the stream ended without Finished")
