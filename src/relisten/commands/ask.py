"""`relisten ask`: one recording and one question, or a JSONL of many."""

from __future__ import annotations

import json as jsonlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from relisten.commands.options import LIMITS, MACHINE, MAX_SECONDS, OUTPUT, SAMPLING, as_json, command_line, load
from relisten.reports.text import console
from relisten.types import Audio, Format

if TYPE_CHECKING:
    from relisten.engine.answer import Answer
    from relisten.engine.engine import GenerationConfig
    from relisten.models.base import AudioLM


def ask(
    audio: Path,
    question: str | None = None,
    /,
    *,
    choices: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)] = (),
    model: str = "nano",
    format: Format = "interleaved",
    json: Annotated[bool, OUTPUT, Parameter(show_default=False, negative=())] = False,
    html: Annotated[Path | None, OUTPUT] = None,
    out: Annotated[Path | None, OUTPUT] = None,
    temperature: Annotated[float, SAMPLING] = 0.0,
    top_p: Annotated[float, SAMPLING] = 1.0,
    top_k: Annotated[int, SAMPLING] = 0,
    seed: Annotated[int, SAMPLING] = 0,
    max_new_tokens: Annotated[int, LIMITS] = 2048,
    max_listens: Annotated[int, LIMITS] = 8,
    min_segment: Annotated[float, LIMITS] = 0.2,
    max_seconds: Annotated[float, LIMITS] = MAX_SECONDS,
    device: Annotated[str, MACHINE] = "auto",
    dtype: Annotated[str, MACHINE] = "auto",
) -> int:
    """Ask a question about a recording (or many, from a JSONL).

    The reasoning is printed as it comes; what the model hears again is marked, and drawn on a strip of the waveform.

    Parameters
    ----------
    audio
        A recording in any format libsndfile or FFmpeg reads. Or a .jsonl of questions in MMAR's form, one object a
        line: id, audio_path (relative to the file), question, and perhaps choices, answer.
    question
        What to ask. Left out with a .jsonl.
    choices
        Texts to choose from: --choices red blue green. Without them the question is open.
    model
        nano (built in), a folder, or a hub name such as Qwen/Qwen2.5-Omni-7B.
    format
        conditioned: reasons in text alone. grounded: names segments. interleaved: names segments and hears them again.
    temperature
        0 takes the likeliest token at every step; above 0 samples.
    top_p
        Sample from the likeliest tokens that together have this probability.
    top_k
        Sample from this many likeliest tokens; 0 is off.
    seed
        Of the sampling.
    max_new_tokens
        Tokens the model may write for the whole answer; at the limit the answer is forced.
    max_listens
        Segments it may hear again; at one more the answer is forced.
    min_segment
        Seconds; a shorter segment is refused.
    max_seconds
        Longest recording taken.
    device
        auto (CUDA, then MPS, then CPU) or a torch device such as cuda:1.
    dtype
        auto (the checkpoint's own), float32, bfloat16 or float16.
    json
        Print one JSON object instead: answer, response, segments, refusals, finish, token counts, seconds.
    html
        Also write one self-contained page: the waveform, and each heard segment playable.
    out
        With a .jsonl: append the answers here, one JSON line each, as they come; run again to go on after a stop.
    """
    started = time.perf_counter()
    if audio.suffix.lower() in (".jsonl", ".json"):
        if question is not None or choices or html is not None:
            raise ValueError(f"{audio}: questions and choices are in this file; leave out yours, and --html")
    elif question is None:
        raise ValueError(f"{audio}: what do you ask? Give a question after the recording")
    elif out is not None:
        raise ValueError("--out goes with a .jsonl of questions; use --json or --html for one question")
    _check_writable(audio, html, out)
    options = {
        "format": format, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed,
        "max_new_tokens": max_new_tokens, "max_listens": max_listens, "min_segment": min_segment,
    }  # fmt: skip
    if question is None:
        from relisten.commands.ask_many import ask_many

        return ask_many(audio, out, model, options, max_seconds, {"device": device, "dtype": dtype})
    recording = _load_audio(audio, max_seconds)
    config, loaded = load(model, options, device=device, dtype=dtype)
    seconds = {"load": time.perf_counter() - started}
    answer = _stream(loaded, recording, audio, question, choices, config, quiet=json)
    answer = replace(answer, seconds=seconds | answer.seconds)
    if json:
        print(jsonlib.dumps(as_json(answer), ensure_ascii=False, indent=2))
    else:
        from relisten.commands import terminal

        out_console = console()
        terminal.show_answer(out_console, answer, choices)
        terminal.show_strip(out_console, recording, answer.trace.listens[1:])
    if html is not None:  # after the answer, which a page that cannot be written must not take along
        from relisten.reports.answer_page import write_page

        write_page(html, answer, recording, question, choices, name=audio.name, model=model, command=command_line())
    if not json:
        terminal.show_seconds(console(), answer.seconds, html)
    return 0 if answer.answer is not None else 1


def _check_writable(asked: Path, *results: Path | None) -> None:
    """Raises ValueError where a result cannot go where it shall, before anything is loaded."""
    for path in filter(None, results):
        folder = path.absolute().parent
        if not folder.is_dir() and path.suffix != ".jsonl":  # those make their folder
            raise ValueError(f"{path}: the folder {folder} does not exist; make it first")
        if path.is_dir() or (folder.is_dir() and not os.access(path if path.exists() else folder, os.W_OK)):
            raise ValueError(f"{path}: cannot be written; name a file in a folder of yours")
        if path.exists() and asked.exists() and path.samefile(asked):
            raise ValueError(f"{path}: is what you ask about; name another file for the result")


def _load_audio(path: Path, max_seconds: float) -> Audio:
    from relisten import audio

    return audio.load(path, max_seconds=max_seconds)


def _stream(
    model: AudioLM,
    recording: Audio,
    path: Path,
    question: str,
    choices: tuple[str, ...],
    config: GenerationConfig,
    quiet: bool,
) -> Answer:
    """Answer one question; unless quiet, print the reasoning as it comes."""
    from relisten.commands.terminal import Typist
    from relisten.engine.answer import answered
    from relisten.engine.engine import Engine, Finished, Heard, Refused, Text
    from relisten.types import Example

    typist = None if quiet else Typist(console())
    engine = Engine(model)
    example = Example(id=path.name, audio=recording, question=question, choices=choices)
    for event in engine.stream(example, config):
        if isinstance(event, Finished):
            if typist:
                typist.flush()
                typist.console.print()
            return answered(event.trace, choices, engine.seconds)
        if typist is None:
            continue
        if isinstance(event, Text):
            typist.text(event.text)
        elif isinstance(event, Heard):
            typist.heard(event.listen)
        elif isinstance(event, Refused):
            typist.refused(event.refusal)
    raise AssertionError("the stream ended without Finished")
