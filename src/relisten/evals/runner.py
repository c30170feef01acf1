"""Answer a file of questions with a model and score the answers; every answer is on disk before the next is awaited."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from relisten import records, tags
from relisten.answer import chosen
from relisten.audio import load
from relisten.engine import Engine, GenerationConfig
from relisten.evals.scoring import iou, wilson
from relisten.models.base import AudioLM
from relisten.operations import Operation, crop
from relisten.types import Audio, Example, Segment, Trace

Hears = Literal["own", "other", "silence"]
"""What a re-listen gives: the recording's own crop; another recording's at the same times; silence."""


@dataclass(frozen=True)
class Tally:
    """Counts of one group of questions."""

    num: int
    right: int
    unparsed: int
    chance: float
    """What guessing among the choices gives."""

    @property
    def accuracy(self) -> float:
        """Right over all; an answer that cannot be read is wrong."""
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
) -> list[dict[str, Any]]:
    """Answer what `out` (JSONL) does not hold yet, append, and return every record in the order of the questions."""
    done = records.done_ids(out)
    waiting, operation = hearing(hears, examples, [e for e in examples if e.id not in done], model.rate)
    engine = Engine(model, operations={"seg": operation}, max_rows=max_rows)
    for index, _, trace in tqdm(engine.run(waiting, config, 1), total=len(waiting), desc="answers", unit="q"):
        records.append(out, record(waiting[index], trace))
    by_id = {r["id"]: r for r in records.read(out, torn=True)}
    return [by_id[e.id] for e in examples]


def hearing(
    hears: Hears, examples: Sequence[Example], waiting: Sequence[Example], rate: int
) -> tuple[list[Example], Operation]:
    """The examples to ask, and what their `<seg>` does.

    For `other`, the recording half the list away stands in, repeated where it is too short; the ones to ask are held
    in memory, so that the operation can tell whose segment it is given.
    """
    if hears == "own":
        return [*waiting], crop
    if hears == "silence":
        return [*waiting], lambda audio, segment: Audio(np.zeros_like(crop(audio, segment).samples), audio.rate)
    if len(examples) < 2:
        raise ValueError("hears other: needs two recordings or more, so that one can stand in for another")
    place = {example.id: index for index, example in enumerate(examples)}
    asked = [replace(e, audio=_audio(e, rate)) for e in waiting]
    stand_in = {id(e.audio): examples[(place[e.id] + len(examples) // 2) % len(examples)] for e in asked}

    def operation(audio: Audio, segment: Segment) -> Audio:
        start, num = round(segment.start * audio.rate), len(crop(audio, segment).samples)
        other = _audio(stand_in[id(audio)], rate)
        return Audio(np.take(other.samples, range(start, start + num), mode="wrap"), audio.rate)

    return asked, operation


def _audio(example: Example, rate: int) -> Audio:
    return example.audio if isinstance(example.audio, Audio) else load(example.audio, rate=rate)


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
        sum(r["answer_prediction"] is not None and r["answer_prediction"] == r["answer"] for r in answers),
        sum(r["answer_prediction"] is None for r in answers),
        float(np.mean([1 / len(r["choices"]) for r in answers if r["choices"]] or [0.0])),
    )


def mean_iou(answers: Iterable[dict[str, Any]]) -> float | None:
    """Mean best overlap of a gold segment with a named one, over the answers that name any; None where none do."""
    found = [
        max((iou(Segment(*gold), Segment(*named)) for named in r["named"]), default=0.0)
        for r in answers
        if r["named"]
        for gold in r["gold"]
    ]
    return float(np.mean(found)) if found else None


def summary(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy with its interval, over all and by question kind, and what the segments were like."""
    kinds = sorted({r["kind"] for r in answers if r["kind"]})
    rows = {"all": tally(answers), **{kind: tally(r for r in answers if r["kind"] == kind) for kind in kinds}}
    return {
        "rows": {
            name: {
                "n": t.num,
                "accuracy": round(t.accuracy, 4),
                "interval": [round(x, 4) for x in t.interval],
                "chance": round(t.chance, 4),
                "unparsed": t.unparsed,
            }
            for name, t in rows.items()
        },
        "mean_iou": mean_iou(answers),
        "segments_per_answer": float(np.mean([len(r["named"]) for r in answers])) if answers else 0.0,
        "well_formed": float(np.mean([r["well_formed"] for r in answers])) if answers else 0.0,
    }


def write_summary(path: Path, what: dict[str, Any]) -> None:
    """As JSON, whole or not at all."""
    records.write_atomic(path, json.dumps(what, indent=2) + "\n")
