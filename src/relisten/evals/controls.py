"""The controls that show whether a model answers from what it hears: silence, another recording, the text alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from relisten.evals.comparison import Comparison, compare, to_json
from relisten.evals.figures import Failed, Tally, tally
from relisten.evals.hearing import Hears, PromptAudio
from relisten.evals.runner import Asking
from relisten.evals.runs import Run
from relisten.types import Format

CONTROLS: dict[str, tuple[str, Hears, PromptAudio]] = {
    "silence": ("silence of the same length", "silence", "silence"),
    "other": ("another question's recording", "other", "other"),
    "text": ("nothing, the text alone", "off", "none"),
}
"""The name of a control, which is also its folder -> what the model hears, for its segments and in the prompt."""
OWN = "the recording"


@dataclass(frozen=True)
class Controlled:
    """A run beside a control of it."""

    heard: str
    """What the model heard."""
    run: Run
    tally: Tally
    change: Comparison | None
    """From the run with the recording to the control, paired by question; None for the run itself."""


def asked(control: str, asking: Asking, format: Format) -> Asking:
    """How a control asks the same questions. Only interleaved answers hear segments, so only those are swapped."""
    _, hears, recording = CONTROLS[control]
    return replace(asking, hears=hears if format == "interleaved" else "own", recording=recording)


def controlled(own: Run, controls: Mapping[str, Run], failed: Failed = "wrong") -> list[Controlled]:
    """The run, then each control beside it. controls: by name."""
    own = replace(own, name=OWN)
    found = [Controlled(OWN, own, tally(own.records, failed), None)]
    for name, run in controls.items():
        run = replace(run, name=CONTROLS[name][0])
        found.append(Controlled(run.name, run, tally(run.records, failed), compare(own, run, failed=failed)))
    return found


def as_json(found: list[Controlled]) -> dict[str, Any]:
    """For a file: accuracy with its interval for each, and the paired change by group for each control."""
    return {
        each.heard: {
            "n": each.tally.num,
            "accuracy": round(each.tally.accuracy, 6),
            "interval": [round(x, 6) for x in each.tally.interval],
            "change": None if each.change is None else to_json(each.change),
        }
        for each in found
    }
