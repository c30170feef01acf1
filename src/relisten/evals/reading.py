"""What a prediction answers, and what became of a question whose answer declares no choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from relisten import tags

Status = Literal["answered", "unparsed", "refused", "failed"]
"""`answered`: a choice was read (or any text, for an open question). `unparsed`: something was written that means no
choice. `refused`: the same, and the words decline to answer. `failed`: the question was not asked, or has no line."""

_DECLINES = re.compile(
    r"\b(?:i(?:'m|’m| am)? (?:sorry|unable|can(?:no|'|’)t|do not know|don(?:'|’)t know)|(?:cannot|can not|can(?:'|’)t"
    r"|could not) (?:be )?(?:answer|determin|tell|identif|hear|listen|process|assist|help)|(?:unable|not able) to"
    r"|as an ai|none of the (?:above|choices|options|provided)|not enough information|insufficient information)",
    re.IGNORECASE,
)


def answer_text(prediction: str) -> str | None:
    """What a prediction answers: what its last answer tag holds, else what follows its thought, else the whole text.

    None where there is a thought and nothing after it, or an answer that does not end.
    """
    answer = tags.parse(prediction).answer
    if answer is not None:
        return answer
    _, closed, rest = prediction.rpartition("</think>")
    if "<answer>" in prediction or (not closed and "<think>" in prediction):
        return None
    return (rest.strip() or None) if closed else prediction


def status(answer: str | None, choice: str | None, text: str, choices: Sequence[str]) -> Status:
    """What became of a question that was asked. text: all that was written."""
    if choice is not None or (not choices and answer):
        return "answered"
    return "refused" if _DECLINES.search(text if answer is None else answer) else "unparsed"
