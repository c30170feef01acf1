"""Which of the choices an answer names: the rule of every answer, in use and in evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence


def chosen(answer: str | None, choices: Sequence[str]) -> str | None:
    """The choice that an answer means: the same text, else the longest choice that stands in it as whole words.

    Case and blanks at the ends do not count. None where two choices that stand in it are equally long.
    """
    if answer is None:
        return None
    said = answer.strip().casefold()
    for choice in choices:
        if choice.strip().casefold() == said:
            return choice
    found = [c for c in choices if re.search(rf"(?<!\w){re.escape(c.strip().casefold())}(?!\w)", said) and c.strip()]
    longest = max((len(c.strip()) for c in found), default=0)
    best = [c for c in found if len(c.strip()) == longest]
    return best[0] if len(best) == 1 else None


def is_right(prediction: str | None, answer: str | None) -> bool:
    """Whether an answer is the right one as a text; case and blanks at the ends do not count."""
    if prediction is None or answer is None:
        return False
    return prediction.strip().casefold() == answer.strip().casefold()
