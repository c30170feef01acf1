"""An answer as JSON: for `relisten ask --json`, for lines of many answers, and for the server."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from relisten.reports.text import named_seconds
from relisten.types import Listen

if TYPE_CHECKING:
    from relisten.engine.answer import Answer


def heard(listen: Listen) -> dict[str, Any]:
    """What was heard: start, end, operation, and the band (Hz) of a `<band>`."""
    segment = listen.segment
    band = {} if segment.band is None else {"band": list(segment.band)}
    return {"start": segment.start, "end": segment.end, "operation": listen.operation} | band


def as_json(answer: Answer) -> dict[str, Any]:
    """Everything about one answer, ready for JSON. The counts in `tokens` add up to the length of the trace.

    An answer from a chat API has no tokens: then `tokens` is null, as are `at` and `num_tokens` of its segments.
    """
    trace = answer.trace
    inserted = sum(listen.num_tokens for listen in trace.listens[1:])
    sampled = sum(trace.sampled)
    alone = trace.text_alone
    counts = {
        "prompt": trace.num_prompt,
        "sampled": sampled,
        "forced": len(trace.token_ids) - trace.num_prompt - sampled - inserted,
        "audio": inserted,
    }
    return {
        "answer": answer.answer,
        "choice": answer.choice,
        "notice": answer.notice,
        "response": {
            "text": answer.response.text,
            "think": answer.response.think,
            "well_formed": answer.response.well_formed,
        },
        "segments": [
            heard(listen) | {"at": None if alone else listen.at, "num_tokens": None if alone else listen.num_tokens}
            for listen in trace.listens[1:]
        ],
        "refusals": [asdict(refusal) for refusal in trace.refusals],
        "finish": trace.finish,
        "tokens": None if alone else counts,
        "seconds": {name: round(value, 4) for name, value in named_seconds(answer.seconds).items()},
    }
