"""Saving an answer as a page: the browser sends its question, recording and trace back, and gets the same one-file page
that `relisten ask --html` writes.

The server keeps no answers. What comes back is as untrusted as any request, and the page escapes all of it.
"""

from __future__ import annotations

from typing import Any, get_args

from relisten.engine.answer import answered
from relisten.reports.answer_page import page
from relisten.serving.chat import Chat, RequestError
from relisten.tags import EVERY
from relisten.types import Audio, Finish, Listen, Refusal, Segment, Trace

MAX_TOKENS = 1_000_000


def html(asked: Chat, heard: Audio, told: Any, model: str) -> str:
    """The page. told: the field `relisten` of the answer, with its trace. Raises RequestError."""
    if not isinstance(told, dict):
        raise RequestError(400, "answer must be the field relisten of a message, with its trace", "answer")
    notice = told.get("notice")
    seconds = told.get("seconds")
    try:
        kept = {str(name): float(value) for name, value in seconds.items()} if isinstance(seconds, dict) else {}
        answer = answered(trace(told["trace"]), asked.choices, kept, notice if isinstance(notice, str) else None)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise RequestError(400, f"answer holds no trace that can be read ({error!r:.80})", "answer") from None
    return page(answer, heard, asked.question, asked.choices, asked.name, model, "relisten serve")


def trace(given: Any) -> Trace:
    """A trace from its JSON. Raises LookupError, TypeError or ValueError on anything else."""
    token_ids, sampled = [int(token) for token in given["token_ids"]], [bool(flag) for flag in given["sampled"]]
    if not len(token_ids) == len(sampled) <= MAX_TOKENS:
        raise ValueError("token_ids and sampled do not fit together")
    finish = given["finish"]
    if finish not in get_args(Finish):
        raise ValueError("its finish is not known")
    listens = [
        Listen(
            int(listen["at"]),
            int(listen["num_tokens"]),
            _segment(listen["segment"]),
            str(listen["operation"]),
        )
        for listen in given["listens"]
    ]
    refusals = [Refusal(str(refusal["text"]), str(refusal["reason"])) for refusal in given["refusals"]]
    return Trace(
        token_ids,
        sampled,
        [0.0] * len(token_ids),
        listens,
        int(given["num_prompt"]),
        refusals,
        finish,
        str(given["text"]),
        tuple(str(name) for name in given.get("operations", ("seg",)))[: len(EVERY)],
    )


def _segment(given: Any) -> Segment:
    band = given.get("band")
    hertz = None if band is None else (_seconds(band[0]), _seconds(band[1]))
    return Segment(_seconds(given["start"]), _seconds(given["end"]), hertz)


def _seconds(given: Any) -> float:
    seconds = float(given)
    if not 0 <= seconds < 1e9:
        raise ValueError("a time is out of range")
    return seconds
