"""Answer a file of questions with a model; every answer is on disk before the next is awaited."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from tqdm import tqdm

from relisten import records, tags
from relisten.audio import MAX_SECONDS
from relisten.choices import read_choice
from relisten.engine.answer import answer_each
from relisten.engine.answering import Answering, EngineFactory
from relisten.engine.engine import Engine, GenerationConfig
from relisten.engine.sampling import row_generator
from relisten.evals.figures import groups, ruled
from relisten.evals.hearing import Hearing, Hears, PromptAudio, asked_as, check_hearing, hearing
from relisten.evals.reading import status
from relisten.evals.runs import way
from relisten.files import check_size, size_of
from relisten.models.base import AudioLM
from relisten.types import Example, Trace

_TAG = re.compile(r"</?\w+>")
_LETTER = re.compile(r"\w")


@dataclass(frozen=True)
class Asking:
    """How a run asks its questions; how the model generates is in `GenerationConfig`."""

    hears: Hears = "own"
    recording: PromptAudio = "own"
    samples: int = 1
    """Answers to each question."""
    shuffle: int | None = None
    """Random seed for the order of the choices, which differs for each sample. None: the order of the file."""
    shard: tuple[int, int] = (0, 1)
    """(which, of how many): shard 1 of 4 asks questions 1, 5, 9 and so on, counted from 0."""

    def __post_init__(self) -> None:
        which, num = self.shard
        if self.samples < 1:
            raise ValueError(f"--samples {self.samples}: ask for 1 or more")
        if not 0 <= which < num:
            raise ValueError(
                f"--shard {which}/{num}: shards are counted from 0, so write 0/{max(num, 1)} for the first"
            )


@dataclass(frozen=True)
class _Job:
    """One request to the engine: a question as it is shown, for one sample or for all of them."""

    question: Example
    shown: Example
    order: tuple[int, ...] | None
    """The shown choices' places in the file; None where they were not shuffled."""
    samples: tuple[int, ...]


def evaluate(
    model: AudioLM,
    examples: Sequence[Example],
    out: Path,
    config: GenerationConfig = GenerationConfig(),
    asking: Asking = Asking(),
    max_rows: int = 32,
    max_seconds: float = MAX_SECONDS,
    make: EngineFactory = Engine,
    told: Callable[[dict[str, float]], None] = lambda figures: None,
) -> list[dict[str, Any]]:
    """Answer what `out` (JSONL) does not hold yet, append, and return every record in the order of the questions.

    A question that cannot be asked (an unreadable recording, one too long for the model) has a record with `error`,
    and is tried again by the next call. make: makes the engine. told: is given what the engine used, at the end: its
    seconds and, in this process, rows, forwards and memory. Raises ValueError where `out` is removed or changed
    meanwhile, or if the engine's servers no longer answer.
    """
    check(examples, config, asking, max_rows)
    which, num = asking.shard
    mine = examples[which::num]
    done = {(str(r["id"]), int(r.get("sample", 0))) for r in records.resume(out)}
    heard = hearing(asking.hears, examples, model, max_seconds, asking.recording, config.seed)
    model, config = asked_as(model, config, asking.hears, asking.recording)
    jobs = [job for job in _jobs(mine, asking) if any((job.question.id, sample) not in done for sample in job.samples)]
    engine = make(model, operations=heard.operations(model.prompts.operations), max_rows=max_rows)
    total, size = len(mine) * asking.samples, size_of(out)
    with tqdm(total=total, initial=total - sum(len(job.samples) for job in jobs), desc="answers", unit="a") as bar:
        for job, sample, trace, seconds in _answers(engine, jobs, config, heard.ready):
            bar.update()
            if (job.question.id, sample) not in done:
                size = records.append(out, _line(job, sample, trace, seconds, heard), size)
                done.add((job.question.id, sample))
    check_size(out, size)
    used = engine.usage.figures() if isinstance(engine, Engine) else {}
    told(used | {f"engine_{name}_seconds": value for name, value in engine.seconds.items()})
    by_key = {(r["id"], r.get("sample", 0)): r for r in records.read(out, torn=True)}
    return [by_key[e.id, sample] for e in mine for sample in range(asking.samples)]


def check(examples: Sequence[Example], config: GenerationConfig, asking: Asking, max_rows: int = 32) -> None:
    """Raises ValueError where these settings cannot be used, before anything is written."""
    check_hearing(asking.hears, asking.recording, examples, config.format)
    for example in examples:
        records.gold_segments(example)
    if asking.shard[0] >= len(examples):
        raise ValueError(f"--shard {asking.shard[0]}/{asking.shard[1]}: holds none of the {len(examples)} questions")
    if asking.shuffle is not None and asking.shuffle < 0:
        raise ValueError(f"--shuffle {asking.shuffle}: a seed is 0 or more")
    if max_rows < 1:
        raise ValueError(f"--max-rows {max_rows}: must be at least 1")


def _jobs(examples: Sequence[Example], asking: Asking) -> Iterator[_Job]:
    """A question whose choices are not shuffled is one job for all of its samples, so its prompt is read once."""
    for example in examples:
        if asking.shuffle is None or not example.choices:
            yield _Job(example, example, None, tuple(range(asking.samples)))
            continue
        for sample in range(asking.samples):
            rng = row_generator(asking.shuffle, example.id, sample)
            order = tuple(int(place) for place in rng.permutation(len(example.choices)))
            # A row draws by its example's id: samples of one question must not draw alike.
            name = f"{example.id}#{sample}" if sample else example.id
            shown = replace(example, id=name, choices=tuple(example.choices[place] for place in order))
            yield _Job(example, shown, order, (sample,))


def _answers(
    engine: Answering, jobs: Sequence[_Job], config: GenerationConfig, ready: Callable[[Example], Example]
) -> Iterator[tuple[_Job, int, Trace | str, float]]:
    """(job, sample, trace or the reason why there is none, seconds since the answer before) as answers finish.

    The time that goes into reading files is left out.
    """
    reading = 0.0

    def timed(example: Example) -> Example:
        nonlocal reading
        started = perf_counter()
        try:
            return ready(example)
        finally:
            reading += perf_counter() - started

    counts = [len(job.samples) for job in jobs]
    last, reading = perf_counter(), 0.0
    for index, place, trace in answer_each(engine, [job.shown for job in jobs], config, timed, counts):
        seconds, job = perf_counter() - last - reading, jobs[index]
        for sample in job.samples if isinstance(trace, str) else job.samples[place : place + 1]:
            yield job, sample, trace, seconds
        last, reading = perf_counter(), 0.0


def _line(job: _Job, sample: int, trace: Trace | str, seconds: float, heard: Hearing) -> dict[str, Any]:
    order = {} if job.order is None else {"order": list(job.order)}
    if isinstance(trace, str):
        return error_record(job.question, trace) | {"sample": sample} | order
    line = record(job.question, trace, job.shown.choices) | {"sample": sample, "seconds": round(seconds, 4)} | order
    duration = trace.listens[0].segment.end
    given = [heard.where(job.shown, listen.segment, duration) for listen in trace.listens[1:]]
    return line | {"given": [[round(s.start, 4), round(s.end, 4)] for s in given]}


def record(example: Example, trace: Trace, shown: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything worth keeping of one answer, as JSON. shown: the choices in the order in which the model read them."""
    response = tags.parse(trace.text, trace.operations)
    choice = read_choice(response.answer, example.choices if shown is None else shown)
    if not example.choices:
        choice = response.answer
    labels = example.labels
    counts = {"prompt": trace.num_prompt, "sampled": sum(trace.sampled), "all": len(trace.token_ids)}
    return {
        "id": example.id,
        "question": example.question,
        "choices": list(example.choices),
        "answer": example.answer,
        "answer_prediction": choice,
        "status": status(response.answer, choice, trace.text, example.choices),
        "response": trace.text,
        "well_formed": response.well_formed,
        "named": [[s.start, s.end] for s in response.segments],
        "heard": [[listen.segment.start, listen.segment.end] for listen in trace.listens[1:]],
        "refusals": [[r.text, r.reason] for r in trace.refusals],
        "finish": trace.finish,
        "num_tokens": None if trace.text_alone else counts,
        "words": num_words(trace.text),
        "duration": trace.listens[0].segment.end if trace.listens else None,
        "kind": str(labels.get("kind") or ""),
        "gold": [[s.start, s.end] for s in records.gold_segments(example)],
        **groups(labels),
        **ruled(labels, response.answer, example.question),
        **({} if trace.operations == ("seg",) else {"operations": [way(listen) for listen in trace.listens[1:]]}),
    }


def num_words(text: str) -> int:
    """Length of an answer, as the paper counts it: pieces between blanks that are more than punctuation, tags left out.

    Example: num_words("<think>A bell - twice.</think>") is 3.
    """
    # Each piece is looked at once. One pattern for all of it would try every start in a long run of punctuation.
    return sum(_LETTER.search(piece) is not None for piece in _TAG.sub(" ", text).split())


def error_record(example: Example, reason: str) -> dict[str, Any]:
    """What is kept of a question that could not be asked: the fields of `record`, empty, and `error`."""
    nothing = record(example, Trace([], [], [], [], 0))
    return nothing | {"finish": "error", "status": "failed", "error": reason}
