"""Answer a file of questions with a model and score the answers; every answer is on disk before the next is awaited."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from relisten import records, tags
from relisten.answer import BLOCK, answer_each, chosen
from relisten.audio import MAX_SECONDS, load, sample_at
from relisten.engine import Engine, GenerationConfig
from relisten.evals.scoring import iou, is_right, wilson
from relisten.models.base import AudioLM
from relisten.operations import Operation, crop
from relisten.row import audible
from relisten.types import Audio, Example, Format, Segment, Trace

Hears = Literal["own", "other", "silence"]
"""What a re-listen gives: the recording's own crop; another recording's at the same times; silence."""


@dataclass(frozen=True)
class Tally:
    """Counts of one group of questions."""

    num: int
    right: int
    unparsed: int
    errors: int
    """Questions that could not be asked."""
    chance: float
    """What guessing among the choices gives."""

    @property
    def accuracy(self) -> float:
        """Right over all; an answer that cannot be read is wrong, and so is an error."""
        return self.right / self.num if self.num else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % (Wilson)."""
        return wilson(self.right, self.num)


def evaluate(
    model: AudioLM,
    examples: Sequence[Example],
    out: Path,
    config: GenerationConfig = GenerationConfig(),
    hears: Hears = "own",
    max_rows: int = 32,
    max_seconds: float = MAX_SECONDS,
) -> list[dict[str, Any]]:
    """Answer what `out` (JSONL) does not hold yet, append, and return every record in the order of the questions.

    A question that cannot be asked (an unreadable recording, one too long for the model) has a record with `error`,
    and is tried again by the next call.
    """
    done = {str(r["id"]) for r in records.resume(out)}
    waiting = [e for e in examples if e.id not in done]
    ready, operation = hearing(hears, examples, model, max_seconds)
    engine = Engine(model, operations={"seg": operation}, max_rows=max_rows)
    answers = answer_each(engine, waiting, config, ready)
    for index, trace in tqdm(answers, total=len(waiting), desc="answers", unit="q"):
        example = waiting[index]
        records.append(out, error_record(example, trace) if isinstance(trace, str) else record(example, trace))
    by_id = {r["id"]: r for r in records.read(out, torn=True)}
    return [by_id[e.id] for e in examples]


def hearing(
    hears: Hears, examples: Sequence[Example], model: AudioLM, max_seconds: float = MAX_SECONDS
) -> tuple[Callable[[Example], Example], Operation]:
    """What puts an example's recording in memory (ValueError where it cannot), and what its `<seg>` does.

    For `other`, the recording half the list of different recordings away stands in, repeated where it is too short;
    questions about one recording have one stand-in.
    """

    def ready(example: Example) -> Example:
        return replace(example, audio=_audio(example.audio, model.rate, max_seconds))

    if hears == "own":
        return ready, crop
    if hears == "silence":
        return ready, lambda audio, segment: Audio(np.zeros_like(crop(audio, segment).samples), audio.rate)
    return _other(examples, model, max_seconds)


def _other(
    examples: Sequence[Example], model: AudioLM, max_seconds: float
) -> tuple[Callable[[Example], Example], Operation]:
    """`hearing` for `other`."""
    recordings = list(dict.fromkeys(_whose(e) for e in examples))
    if len(recordings) < 2:
        raise ValueError("hears other: needs two recordings or more, so that one can stand in for another")
    half = len(recordings) // 2
    stand_ins = dict(zip(recordings, [*recordings[half:], *recordings[:half]], strict=True))
    places: dict[int, Path | Audio] = {}  # by the identity of a recording in memory, which is all an operation is given

    @lru_cache(maxsize=BLOCK)
    def loaded(recording: Path | Audio) -> Audio:
        return audible(model, _audio(recording, model.rate, max_seconds))

    def ready(example: Example) -> Example:
        # The engine makes what is at another rate, or too short, anew; what is audible already it hands on itself.
        audio = audible(model, _audio(example.audio, model.rate, max_seconds))
        places[id(audio)] = stand_ins[_whose(example)]
        loaded(places[id(audio)])  # an unreadable stand-in is a reason not to ask, here and not in the midst of others
        return replace(example, audio=audio)

    def operation(audio: Audio, segment: Segment) -> Audio:
        start = sample_at(segment.start, audio.rate, len(audio.samples))
        num = len(crop(audio, segment).samples)
        other = loaded(places[id(audio)])
        return Audio(np.take(other.samples, range(start, start + num), mode="wrap"), audio.rate)

    return ready, operation


def _whose(example: Example) -> Path | Audio:
    """What tells an example's recording from others: the file, whatever path leads to it, or the object in memory."""
    return example.audio if isinstance(example.audio, Audio) else example.audio.resolve()


def _audio(recording: Path | Audio, rate: int, max_seconds: float) -> Audio:
    """In memory; a file's is at `rate` (Hz)."""
    return recording if isinstance(recording, Audio) else load(recording, rate, max_seconds)


def record(example: Example, trace: Trace) -> dict[str, Any]:
    """Everything worth keeping of one answer, as JSON."""
    response = tags.parse(trace.text)
    choice = chosen(response.answer, example.choices) if example.choices else response.answer
    return {
        "id": example.id,
        "question": example.question,
        "choices": list(example.choices),
        "answer": example.answer,
        "answer_prediction": choice,
        "response": trace.text,
        "well_formed": response.well_formed,
        "named": [[s.start, s.end] for s in response.segments],
        "heard": [[listen.segment.start, listen.segment.end] for listen in trace.listens[1:]],
        "refusals": [[r.text, r.reason] for r in trace.refusals],
        "finish": trace.finish,
        "num_tokens": {"prompt": trace.num_prompt, "sampled": sum(trace.sampled), "all": len(trace.token_ids)},
        "kind": example.labels.get("kind", ""),
        "gold": example.labels.get("segments", []),
    }


def tally(answers: Iterable[dict[str, Any]]) -> Tally:
    """Counts over some records."""
    answers = list(answers)
    return Tally(
        len(answers),
        sum(is_right(r["answer_prediction"], r["answer"]) for r in answers),
        sum(r["answer_prediction"] is None and "error" not in r for r in answers),
        sum("error" in r for r in answers),
        float(np.mean([1 / len(r["choices"]) for r in answers if r["choices"]] or [0.0])),
    )


def error_record(example: Example, reason: str) -> dict[str, Any]:
    """What is kept of a question that could not be asked: the fields of `record`, empty, and `error`."""
    nothing = record(example, Trace([], [], [], [], 0))
    return nothing | {"finish": "error", "error": reason}


def mean_iou(answers: Iterable[dict[str, Any]], format: Format = "interleaved") -> float | None:
    """Mean, over gold segments, of the best overlap with a named one; None where there are none to count.

    A format that asks for segments counts every question that was asked, naming nothing as 0. A conditioned answer
    is not asked for any: only those that name some count.
    """
    found = [
        max((iou(Segment(*gold), Segment(*named)) for named in r["named"]), default=0.0)
        for r in answers
        if r["named"] or (format != "conditioned" and "error" not in r)
        for gold in r["gold"]
    ]
    return float(np.mean(found)) if found else None


def summary(answers: Sequence[dict[str, Any]], format: Format = "interleaved") -> dict[str, Any]:
    """Accuracy with its interval, over all and by question kind, and what the segments were like.

    Errors are wrong answers in the accuracy; the figures on segments and form leave them out.
    """
    kinds = sorted({r["kind"] for r in answers if r["kind"]})
    rows = {"all": tally(answers), **{kind: tally(r for r in answers if r["kind"] == kind) for kind in kinds}}
    asked = [r for r in answers if "error" not in r]
    return {
        "rows": {
            name: {
                "n": t.num,
                "accuracy": round(t.accuracy, 4),
                "interval": [round(x, 4) for x in t.interval],
                "chance": round(t.chance, 4),
                "unparsed": t.unparsed,
                "errors": t.errors,
            }
            for name, t in rows.items()
        },
        "mean_iou": mean_iou(answers, format),
        "segments_per_answer": float(np.mean([len(r["named"]) for r in asked])) if asked else 0.0,
        "well_formed": float(np.mean([r["well_formed"] for r in asked])) if asked else 0.0,
    }


def write_summary(path: Path, what: dict[str, Any]) -> None:
    """As JSON, whole or not at all."""
    records.write_atomic(path, json.dumps(what, indent=2) + "\n")
