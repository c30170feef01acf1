"""The official word-matching rule of MMAR and MMAU, and the confidence interval of an accuracy."""

from __future__ import annotations

import math
import re

_WORD = re.compile(r"\w+")


def words(text: str) -> frozenset[str]:
    """The different words of a text in lower case: runs of letters, digits and underscores of any script."""
    return frozenset(_WORD.findall(text.lower()))


def word_match(prediction: str | None, answer: str | None, choices: tuple[str, ...] | list[str]) -> bool:
    """The rule of MMAR and MMAU: all words of the answer are in the prediction, and none that only wrong choices have.

    Words of no choice do not count, nor do order and repetition: "3:1" and "1:3" are the same answer here.
    """
    if prediction is None or answer is None:
        return False
    said, gold = words(prediction), words(answer)
    offered = frozenset[str]().union(*map(words, choices))
    return bool(said) and gold <= said and not (said & offered) - gold


def wilson(right: float, num: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a proportion (95 % for z = 1.96); (0, 1) when nothing was counted."""
    if num == 0:
        return 0.0, 1.0
    share, scale = right / num, 1 + z * z / num
    centre = (share + z * z / (2 * num)) / scale
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)
