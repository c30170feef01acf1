"""The paper's four rewards, as plain functions (TracedResponse, Example) -> float; a user's own is one more of them.

    format       0.5   the response has the form asked for, all of it the model's own
    consistency  -0.1  for each </seg> after which the text does not go on, at most -0.5
    accuracy     0.5   the answer is the right one
    segment      0.5   the answer is the right one, and at least one segment was really heard

Two more are not the paper's: `confidence` is what the authors' release computes in place of accuracy; `located` can
take the place of segment where questions have the segments that hold the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import exp

from relisten import run, tags
from relisten.choices import is_right
from relisten.engine.listener import Hear, Listener
from relisten.engine.row import GenerationConfig
from relisten.models.base import AudioLM
from relisten.records import gold_segments
from relisten.segments import best_iou
from relisten.types import Example, Response, Segment, Trace

FORMAT, ACCURACY, SEGMENT = 0.5, 0.5, 0.5
BREAK, MOST_BREAKS = -0.1, 5


@dataclass(frozen=True, slots=True)
class TracedResponse(Response):
    """What a response says, and what only its trace knows."""

    heard: tuple[Segment, ...]
    """Segments that count: heard again (`interleaved`); named, and such as would be heard (`grounded`). A tag that was
    refused is not among them, whatever it says."""
    continuations: tuple[str, ...]
    """For each </seg>, the first character that the model itself wrote after it, blanks skipped; "" for none."""
    answer_pieces: tuple[tuple[str, float], ...]
    """The sampled tokens of the answer: each one's text and log-probability (nats)."""
    complete: bool
    """The model ended by itself; no limit closed the thought or the answer for it."""


RewardFunction = Callable[[TracedResponse, Example], float]


def format(response: TracedResponse, example: Example) -> float:
    """0.5 for one thought and then one answer, nothing around them, every tag readable, and no part of it forced."""
    return FORMAT * (response.well_formed and response.complete)


def consistency(response: TracedResponse, example: Example) -> float:
    """-0.1 for each segment after which the sentence breaks off: a capital letter or a tag follows; at least -0.5.

    The authors' release looks at the very next character, so that `</seg> The` and a line break pass, and loses the
    second of two tags side by side. Here blanks are skipped, inserted audio and forced text are no continuation, and
    each tag counts.
    """
    breaks = sum(c == "<" or c.isupper() for c in response.continuations)
    return BREAK * min(MOST_BREAKS, breaks) if breaks else 0.0


def accuracy(response: TracedResponse, example: Example) -> float:
    """0.5 for the right answer; case and blanks at its ends do not count. No answer is wrong."""
    return ACCURACY * is_right(response.answer, example.answer)


def segment(response: TracedResponse, example: Example) -> float:
    """0.5 for the right answer where at least one segment was really heard."""
    return SEGMENT * (is_right(response.answer, example.answer) and bool(response.heard))


def located(response: TracedResponse, example: Example) -> float:
    """Up to 0.5 for the right answer: times the overlap (IoU) of each labelled segment with the heard one nearest it.

    Labelled are those in `example.labels["segments"]`, as [start, end] in seconds. Raises ValueError where none are.
    """
    labelled = gold_segments(example)
    if not labelled:
        raise ValueError(f"reward located: {example.id} has no labels.segments; give them, or use the reward segment")
    overlaps = [best_iou(one, response.heard) for one in labelled]
    return SEGMENT * is_right(response.answer, example.answer) * sum(overlaps) / len(overlaps)


def confidence(response: TracedResponse, example: Example) -> float:
    """The release's own accuracy: 0.5 (1 - (p - 1)^2) when right, -0.5 p^2 when wrong.

    p is the probability of the answer's first token, or of the first one at which a wrong answer leaves the right one.
    No sampled answer gives 0 (the release then reads p at a padding position).
    """
    if not response.answer_pieces:
        return 0.0
    if is_right(response.answer, example.answer):
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


def find(names: Sequence[str]) -> dict[str, RewardFunction]:
    """Rewards by name, or by `module:function`; a name may hold several with commas. Raises ValueError on others."""
    found: dict[str, RewardFunction] = {}
    for name in (part.strip() for text in names for part in text.split(",") if part.strip()):
        if name not in KNOWN and ":" not in name:
            raise ValueError(f"reward {name!r}: there are {', '.join(KNOWN)}, and your own as module:function")
        short = name.rpartition(":")[2]
        if short in found:
            raise ValueError(f"reward {name!r}: there is one of that name already; name each once, rename your own")
        found[short] = KNOWN[name] if name in KNOWN else run.resolve(name)
    if not found:
        raise ValueError("no rewards: name at least one")
    return found


def score(functions: Mapping[str, RewardFunction], response: TracedResponse, example: Example) -> dict[str, float]:
    """Each reward of a response. Raises ValueError where a user's own gives no number."""
    rewards = {}
    for name, function in functions.items():
        value = function(response, example)
        if not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
            raise ValueError(f"reward {name!r} gave {value!r} for {example.id}; it must give a finite number")
        rewards[name] = float(value)
    return rewards


def traced(model: AudioLM, trace: Trace, config: GenerationConfig) -> TracedResponse:
    """What a trace says, with what only the trace knows. Takes whatever a model wrote: never raises."""
    said = tags.parse(trace.text)
    text, own = _written(model, trace)
    return TracedResponse(
        said.text,
        said.think,
        said.answer,
        said.segments,
        said.well_formed,
        heard=_heard(trace, config),
        continuations=tuple(_continuation(text, own, mark.end()) for mark in re.finditer("</seg>", text)),
        answer_pieces=_answer_pieces(model, trace),
        complete=trace.finish == "stop",
    )


def _heard(trace: Trace, config: GenerationConfig) -> tuple[Segment, ...]:
    if config.format == "interleaved":
        return tuple(listen.segment for listen in trace.listens[1:])
    if config.format == "conditioned" or not trace.listens:
        return ()
    # In a grounded answer nothing is heard; the same policy says which of its segments would be.
    listener = Listener(trace.listens[0].segment.end, "interleaved", ("seg",), config.max_listens, config.min_segment)
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
