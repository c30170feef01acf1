"""The paper's four rewards, as plain functions (TracedResponse, Example) -> float; a user's own is one more of them.

    format       0.5   the response has the form asked for, all of it the model's own
    consistency  -0.1  for each segment's tag after which the text does not go on, at most -0.5
    accuracy     0.5   the answer is the right one
    segment      0.5   the answer is the right one, and at least one segment was really heard, in whatever way

Two more are not the paper's: `confidence` is what the authors' release computes in place of accuracy; `located` can
take the place of segment where questions have the segments that hold the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import groupby
from math import exp
from typing import TYPE_CHECKING

from relisten import run, tags
from relisten.engine.generation import AnswerConfig
from relisten.engine.listener import Hear, Listener
from relisten.records import gold_segments
from relisten.same_text import is_right
from relisten.segments import best_iou
from relisten.types import Example, Format, Response, Segment, Trace

if TYPE_CHECKING:
    from relisten.models.base import AudioLM

FORMAT, ACCURACY, SEGMENT = 0.5, 0.5, 0.5
FINAL = ".,;:!?。，；：！？ \t\n"
"""Characters that may follow an answer without changing it."""
BREAK, MOST_BREAKS = -0.1, 5
ROUNDING = 1e-3
"""Seconds. Times of segments are sums of floats."""


@dataclass(frozen=True, slots=True)
class TracedResponse(Response):
    """A parsed response, with facts that only its trace has."""

    heard: tuple[Segment, ...]
    """Segments that count for rewards. `interleaved`: those that were heard again. `grounded`: no audio is inserted, so
    a segment counts if the engine would have accepted it. A refused tag never counts."""
    continuations: tuple[str, ...]
    """For each segment's tag, the first character after blanks that the model itself wrote after it; "" if there is
    none."""
    answer_pieces: tuple[tuple[str, float], ...]
    """Text and log-probability (nats) of each sampled token of the answer."""
    complete: bool
    """Whether the model ended by itself, so that no limit closed its reasoning or its answer."""
    duration: float = float("inf")
    """Seconds of the recording; infinite if it is not known."""


RewardFunction = Callable[[TracedResponse, Example], float]


def format(response: TracedResponse, example: Example) -> float:
    """0.5 if the response is one <think> block and then one <answer> block, every tag is readable, and nothing was
    forced."""
    return FORMAT * (response.well_formed and response.complete)


def consistency(response: TracedResponse, example: Example) -> float:
    """-0.1 for each segment after which the sentence breaks off (a capital letter or a tag follows), at most -0.5.

    The authors' code looks at the very next character, so it accepts `</seg> The` and a line break, and it misses the
    second of two adjacent tags. Here blanks are skipped, inserted audio and forced text do not count as text that
    follows, and every tag counts.
    """
    breaks = sum(c == "<" or c.isupper() for c in response.continuations)
    return BREAK * min(MOST_BREAKS, breaks) if breaks else 0.0


def says_right(answer: str | None, example: Example) -> bool:
    """Whether an answer is the right one, ignoring case, blanks at its ends, and punctuation at its end.

    "Two knocks." is right for "two knocks". If another choice is written exactly as the answer, that choice is meant.
    """
    if is_right(answer, example.answer, example.choices):
        return True
    if any(is_right(answer, choice) for choice in example.choices):
        return False
    said, wanted, *choices = ((text or "").strip().rstrip(FINAL) for text in (answer, example.answer, *example.choices))
    return bool(wanted) and is_right(said, wanted, choices)


def accuracy(response: TracedResponse, example: Example) -> float:
    """0.5 for the right answer (see `says_right`). A missing answer counts as wrong."""
    return ACCURACY * says_right(response.answer, example)


def segment(response: TracedResponse, example: Example) -> float:
    """0.5 for the right answer if at least one segment was really heard."""
    return SEGMENT * (says_right(response.answer, example) and bool(response.heard))


def located(response: TracedResponse, example: Example) -> float:
    """Up to 0.5 for the right answer: 0.5 times the mean, over the labelled segments, of the best overlap (IoU) with a
    heard one.

    Labelled segments are in `example.labels["segments"]`, as [start, end] in seconds. Raises ValueError without any.
    """
    labelled = gold_segments(example)
    if not labelled:
        raise ValueError("it has no labels.segments; give each question its segments, or use the reward `segment`")
    overlaps = [best_iou(one, response.heard) for one in labelled]
    return SEGMENT * says_right(response.answer, example) * sum(overlaps) / len(overlaps)


def confidence(response: TracedResponse, example: Example) -> float:
    """The accuracy reward of the authors' code: 0.5 (1 - (p - 1)^2) if right, -0.5 p^2 if wrong.

    p is the probability of the answer's first token or, in a wrong answer, of the first token that differs from the
    right one, at the temperature of the rollout. Without a sampled answer the reward is 0 (the authors' code then reads
    p at a padding position).
    """
    if not response.answer_pieces:
        return 0.0
    if says_right(response.answer, example):
        return ACCURACY * (1 - (exp(response.answer_pieces[0][1]) - 1) ** 2)
    said, wanted = "", (example.answer or "").strip().casefold()
    for text, logprob in response.answer_pieces:
        said += text
        if not wanted.startswith(said.strip().casefold()):
            return -ACCURACY * exp(logprob) ** 2
    return -ACCURACY * exp(response.answer_pieces[-1][1]) ** 2  # it stops short of the right one


KNOWN: dict[str, RewardFunction] = {
    "format": format,
    "consistency": consistency,
    "accuracy": accuracy,
    "segment": segment,
    "located": located,
    "confidence": confidence,
}


def find(names: Sequence[str], max_heard: float = 0.0) -> dict[str, RewardFunction]:
    """Rewards by name or `module:function`; a text may hold several, with commas. Raises ValueError for others.

    max_heard: if it is above 0, `segment` and `located` are 0 for an answer whose segments together last longer than
    this share of the recording.
    """
    found: dict[str, RewardFunction] = {}
    for name in (part.strip() for text in names for part in text.split(",") if part.strip()):
        if name not in KNOWN and ":" not in name:
            raise ValueError(f"reward {name!r}: there are {', '.join(KNOWN)}, or your own as module:function")
        short = name.rpartition(":")[2]
        if short in found:
            raise ValueError(
                f"reward {name!r}: another reward has that name; give each reward once, and rename your own"
            )
        found[short] = KNOWN[name] if name in KNOWN else run.resolve(name)
        if max_heard and name in ("segment", "located"):
            found[short] = _within(KNOWN[name], max_heard)
    if not found:
        raise ValueError("no rewards: name at least one")
    return found


def _within(function: RewardFunction, share: float) -> RewardFunction:
    @wraps(function)
    def limited(response: TracedResponse, example: Example) -> float:
        earned = function(response, example)  # also beyond the limit, so that a question it cannot judge is named
        seconds = sum(one.duration for one in response.heard)
        return earned if seconds <= share * response.duration + ROUNDING else 0.0

    return limited


def score(functions: Mapping[str, RewardFunction], response: TracedResponse, example: Example) -> dict[str, float]:
    """Each reward of a response. Raises ValueError, in one line, if a user's own reward fails or gives no number."""
    rewards = {}
    for name, function in functions.items():
        try:
            value = function(response, example)
        except Exception as error:  # a user's own code may raise anything
            told = " ".join(str(error).split())
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise ValueError(f"reward {name!r} failed for question {example.id!r}: {kind}{told}"[:500]) from error
        if not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
            raise ValueError(f"reward {name!r} gave {value!r} for {example.id}; it must give a finite number")
        rewards[name] = float(value)
    return rewards


def try_out(functions: Mapping[str, RewardFunction], examples: Sequence[Example], format: Format) -> None:
    """Compute each reward of a made-up answer, so that one that cannot work is named before anything is sampled.

    A user's own reward is tried on the first example, ours on all of them. Raises ValueError as `score` does.
    """
    own = {name: getattr(function, "__wrapped__", function) for name, function in functions.items()}
    ours = {name: function for name, function in functions.items() if KNOWN.get(name) is own[name]}
    for index, example in enumerate(examples):
        score(ours if index else functions, _made_up(example, format), example)


def _made_up(example: Example, format: Format) -> TracedResponse:
    text = tags.write("It is heard <seg>0.0, 1.0</seg> here.", example.answer or "")
    said = tags.parse(text)
    return TracedResponse(
        said.text, said.think, said.answer, said.segments, said.well_formed,
        heard=() if format == "conditioned" else said.segments,
        continuations=("h",),
        answer_pieces=((example.answer or "", 0.0),),
        complete=True,
    )  # fmt: skip


def traced(model: AudioLM, trace: Trace, config: AnswerConfig) -> TracedResponse:
    """Parse the text of a trace and add what only the trace knows. Never raises, whatever the model wrote."""
    said = tags.parse(trace.text, trace.operations)
    closing = "|".join(f"</{name}>" for name in trace.operations)
    text, own = _written(model, trace)
    return TracedResponse(
        said.text,
        said.think,
        said.answer,
        said.segments,
        said.well_formed,
        heard=_heard(trace, config),
        continuations=tuple(_continuation(text, own, mark.end()) for mark in re.finditer(closing, text)),
        answer_pieces=_answer_pieces(model, trace),
        complete=trace.finish == "stop",
        duration=trace.listens[0].segment.end if trace.listens else float("inf"),
    )


def _heard(trace: Trace, config: AnswerConfig) -> tuple[Segment, ...]:
    if config.format == "interleaved":
        return tuple(listen.segment for listen in trace.listens[1:])
    if config.format == "conditioned" or not trace.listens:
        return ()
    # In a grounded answer nothing is heard. The same policy says which of its segments would have been.
    listener = Listener(
        trace.listens[0].segment.end, "interleaved", trace.operations, config.max_listens, config.min_segment
    )
    return tuple(action.segment for action in listener.feed(trace.text) if isinstance(action, Hear))


def _written(model: AudioLM, trace: Trace) -> tuple[str, list[bool]]:
    """The response's text, and for each of its characters whether the model wrote it (forced text it did not)."""
    text, own = "", []
    response = list(zip(trace.token_ids, trace.sampled, strict=True))[trace.num_prompt :]
    for sampled, run_of in groupby(response, key=lambda token: token[1]):
        piece = model.decode([token_id for token_id, _ in run_of])
        text += piece
        own += [sampled] * len(piece)
    return text, own


def _continuation(text: str, own: list[bool], end: int) -> str:
    while end < len(text) and own[end] and text[end].isspace():
        end += 1
    return text[end] if end < len(text) and own[end] else ""


def _answer_pieces(model: AudioLM, trace: Trace) -> tuple[tuple[str, float], ...]:
    """What sampled tokens put between the last <answer> and its end."""
    pieces = [
        (model.decode([token_id]), logprob, sampled)
        for token_id, logprob, sampled in zip(trace.token_ids, trace.logprobs, trace.sampled, strict=True)
    ][trace.num_prompt :]
    text = "".join(piece for piece, _, _ in pieces)
    start = text.rfind("<answer>")
    if start < 0:
        return ()
    start += len("<answer>")
    end = text.find("</answer>", start)
    end = len(text) if end < 0 else end
    found, at = [], 0
    for piece, logprob, sampled in pieces:
        inside = piece[max(0, start - at) : max(0, end - at)]  # a token may reach over the answer's ends
        if sampled and inside:
            found.append((inside, logprob))
        at += len(piece)
    return tuple(found)
