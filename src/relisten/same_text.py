"""Whether two texts say the same, and the forms in which they are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathit)\s{0,3}\{([^{}]{0,200})\}")
_EMPHASIS = re.compile(r"^[\s#>-]{1,9}(?=[^\W\d]|[(\[])|[*`$\u200b\u200c\u200d\ufeff]|(?<!\w)_{1,3}|_{1,3}(?!\w)")
_ENDS = " \t\r\n.,;:!?\"'“”‘’„«»「」『』。、"
_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: n for n, word in enumerate(["zero", *_UNITS, *_TEENS])} | {w: 10 * n for n, w in enumerate(_TENS, 2)}
_WORDS = "|".join(["zero", *_UNITS, *_TEENS])
_NUMERAL = re.compile(
    rf"(?<!hundred )(?<!hundred and )(?<!thousand )(?<!point )"
    rf"\b(?:({'|'.join(_TENS)})(?:[- ]({'|'.join(_UNITS)}))?|({_WORDS}))\b(?! (?:hundred|thousand|million|point)\b)"
)
_PRONOUN = re.compile(
    r"(?:\b(?:the|this|that|which|first|second|third|last|next|no|other|each|any|every|some) one\b|\bone of\b)"
)
"""Where "one" is no number."""
_ATTACHED = re.compile(r"(?<=\d)(?=(?:k?hz|s|sec|ms|min|bpm|db)\b)")
"""Between a number and its unit, as in 30Hz."""
_ACCIDENTAL = re.compile(r"\b([a-g])[ -]?(sharp|flat)(?= (?:major|minor)\b)|(?<=[a-g])[♯♭]")


def is_right(prediction: str | None, answer: str | None, choices: Iterable[str] = ()) -> bool:
    """Whether an answer equals the right one as a text. Surrounding blanks do not count, nor do case and Unicode form,
    unless two of the choices differ in nothing else (Cm7 and CM7)."""
    if prediction is None or answer is None:
        return False
    if len({choice.strip() for choice in choices if fold(choice) == fold(answer)}) > 1:
        return prediction.strip() == answer.strip()
    return fold(prediction) == fold(answer)


def is_same(said: str | None, answer: str | None) -> bool:
    """Whether two texts say the same: case, punctuation at their ends and the form of numerals do not count."""
    if said is None or answer is None:
        return False
    key = key_of(unmarked(said))
    return is_right(said, answer) or (bool(key) and key == key_of(unmarked(answer)))


def fold(text: str) -> str:
    """The text in one Unicode form, in lower case and without surrounding blanks."""
    return unicodedata.normalize("NFKC", text).strip().casefold()


def unmarked(text: str) -> str:
    """The text in one Unicode form, without the marks of Markdown and LaTeX and without its thoughts; case is kept."""
    text = unicodedata.normalize("NFKC", text)
    _, closed, rest = text.rpartition("</think>")
    text = _WRAPPER.sub(r"\1", rest if closed and rest.strip() else text)
    return _EMPHASIS.sub("", text).strip()


def key_of(text: str) -> str:
    """What texts are compared by: lower case, numerals as figures, nothing but words at the ends."""
    low = _ACCIDENTAL.sub(lambda m: (m[1] or "") + ("#" if m[2] == "sharp" or m[0] == "♯" else "b"), text.casefold())
    low = _ATTACHED.sub(" ", low)
    kept = {match.start() + match[0].index("one") for match in _PRONOUN.finditer(low)}

    def figures(match: re.Match[str]) -> str:
        if match.start() in kept:
            return match[0]
        tens, unit, plain = match.groups()
        return str(_VALUES[plain] if plain else _VALUES[tens] + (_VALUES[unit] if unit else 0))

    return " ".join(_NUMERAL.sub(figures, low).strip(_ENDS).split())
