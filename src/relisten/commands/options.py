"""What several commands share: groups of options, loading a model, an answer as JSON, the command as it was typed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

from relisten.reports.text import console, named_seconds, printable

if TYPE_CHECKING:
    from relisten.engine.answer import Answer
    from relisten.engine.engine import GenerationConfig
    from relisten.models.base import AudioLM

MAX_SECONDS = 600.0
OUTPUT = Parameter(group=Group("Output", sort_key=1))
SAMPLING = Parameter(group=Group("Sampling", sort_key=2))
LIMITS = Parameter(group=Group("Limits", sort_key=3))
MACHINE = Parameter(group=Group("Machine", sort_key=4))


def load(model: str, options: dict[str, Any], device: str, dtype: str) -> tuple[GenerationConfig, AudioLM]:
    """The options, checked, and the model; a spinner on stderr while it loads."""
    with console(stderr=True).status(f"loading {printable(model)} …"):
        from transformers.utils.logging import disable_progress_bar

        from relisten import models
        from relisten.engine.engine import GenerationConfig

        disable_progress_bar()
        return GenerationConfig(**options), models.load(model, device=device, dtype=dtype)


def as_json(answer: Answer) -> dict[str, Any]:
    """Everything about one answer, ready for JSON. `tokens` add up to the trace's length."""
    trace = answer.trace
    inserted = sum(listen.num_tokens for listen in trace.listens[1:])
    sampled = sum(trace.sampled)
    return {
        "answer": answer.answer,
        "choice": answer.choice,
        "response": {
            "text": answer.response.text,
            "think": answer.response.think,
            "well_formed": answer.response.well_formed,
        },
        "segments": [
            {"start": listen.segment.start, "end": listen.segment.end, "operation": listen.operation}
            | {"at": listen.at, "num_tokens": listen.num_tokens}
            for listen in trace.listens[1:]
        ],
        "refusals": [asdict(refusal) for refusal in trace.refusals],
        "finish": trace.finish,
        "tokens": {
            "prompt": trace.num_prompt,
            "sampled": sampled,
            "forced": len(trace.token_ids) - trace.num_prompt - sampled - inserted,
            "audio": inserted,
        },
        "seconds": {name: round(value, 4) for name, value in named_seconds(answer.seconds).items()},
    }


def command_line(tokens: Sequence[str] | None = None) -> str:
    """The command as it was typed, quoted for a shell."""
    import shlex

    return shlex.join(["relisten", *(sys.argv[1:] if tokens is None else tokens)])
