"""Reading an answer: which of the choices a text means, and what it is when it means none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from relisten import tags
from relisten.choices import chosen

Status = Literal["answered", "unparsed", "refused", "failed"]
"""`answered`: a choice was read (or any text, for an open question). `unparsed`: something was written that means no
choice. `refused`: the same, and the words decline to answer. `failed`: the question was not asked, or has no line."""

_LABEL = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[.):])\s+(?=\S)")
"""A choice's own label: "(A) cow", "A. cow", "A) cow"."""
_SAYS = r"\s*(?:(?:the\s+)?(?:correct\s+|right\s+)?(?:answer|option|choice)(?:\s+is)?\s*[:#]?\s*)?"
_LETTER = re.compile(_SAYS + r"(?:\(([A-Z])\)|([A-Z])(?:[.):](?=\s|$)|\s*$))(.*)", re.DOTALL | re.IGNORECASE)
_INDEX = re.compile(_SAYS + r"\(?([1-9][0-9]?)[.):]{0,2}\s*", re.IGNORECASE)
_NOTE = re.compile(r"\s*[A-G][#♯b♭]?(?:[\s-]*(?:flat|sharp|natural|major|minor|maj|min|m))*\s*")
_NUMERALS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20",
}  # fmt: skip
_NUMERAL = re.compile(r"\b(?:" + "|".join(_NUMERALS) + r")\b", re.IGNORECASE)
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


def read_choice(answer: str | None, choices: Sequence[str]) -> str | None:
    """The choice that an answer means, or None. In this order, the first that decides:

    the same text; the longest choice that stands in it as whole words; both again without the choices' own labels
    ("A. cow"); both again with numbers in figures (three = 3); a letter ("B", "(b)", "B. ..."); a bare number.
    """
    if answer is None or not answer.strip():
        return None
    # Twenty questions of MMAU-mini offer a choice twice; they are one choice.
    distinct = list({choice.strip().casefold(): choice for choice in reversed(choices)}.values())[::-1]
    for simpler in (str, _bare, _in_figures):
        told = {simpler(choice): choice for choice in reversed(distinct)}
        found = chosen(simpler(answer), list(told)) if len(told) == len(distinct) else None
        if found is not None:
            return told[found]
    return _by_letter(answer, choices) or _by_number(answer, choices)


def status(answer: str | None, choice: str | None, text: str, choices: Sequence[str]) -> Status:
    """What became of a question that was asked. text: all that was written."""
    if choice is not None or (not choices and answer):
        return "answered"
    return "refused" if _DECLINES.search(text if answer is None else answer) else "unparsed"


def _bare(text: str) -> str:
    return _LABEL.sub("", text, count=1) if _LABEL.match(text) else text


def _in_figures(text: str) -> str:
    return _NUMERAL.sub(lambda match: _NUMERALS[match[0].lower()], _bare(text))


def _by_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The choice with that label of its own, where all have one, else the one in that place.

    None by place where choices are notes or keys (C, D major): a letter names those, offered or not.
    """
    match = _LETTER.fullmatch(answer)
    if match is None:
        return None
    letter = (match[1] or match[2]).upper()
    own = [_LABEL.match(choice) for choice in choices]
    labels = [(m[1] or m[2]).upper() for m in own if m]
    if len(labels) < len(choices) or len(set(labels)) < len(labels):
        if any(_NOTE.fullmatch(choice) for choice in choices):
            return None
        labels = [chr(ord("A") + i) for i in range(len(choices))]
    return choices[labels.index(letter)] if letter in labels else None


def _by_number(answer: str, choices: Sequence[str]) -> str | None:
    """The choice in that place, counted from 1; none where choices hold numbers: then a number is a wrong answer."""
    match = _INDEX.fullmatch(_in_figures(answer))
    if match is None or any(re.search(r"\d", _in_figures(choice)) for choice in choices):
        return None
    place = int(match[1])
    return choices[place - 1] if place <= len(choices) else None
