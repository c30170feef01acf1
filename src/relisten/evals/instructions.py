"""Whether an answer follows an instruction that code can check: the rules of MMAU-Pro's instructions, by their names.

The rules are those of MMAU-Pro's script at commit 960e93a. For an empty answer that script counts some of them as
followed ("No Commas"); here a question without an answer is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from relisten.extras import install_hint

Arguments = Mapping[str, Any]
"""What an instruction asks for, such as {"N": 3}; names that it does not use are missing or None."""
_SIGNS, _SIGNS_AND_BLANKS = re.compile(r"[^a-zA-Z]"), re.compile(r"[^a-zA-Z ]")
_BULLET, _HIGHLIGHT = re.compile(r"(?:^|\n)\s*\*\s+"), re.compile(r"\*[^*]+\*")
_PLACEHOLDER, _TITLE = re.compile(r"\[[^\]]+\]"), re.compile(r"<<[^>]+>>")


def followed(answer: str, name: str, arguments: Arguments, question: str = "") -> bool:
    """Whether an answer follows the instruction of this name; False for a name that is not known.

    question: the text of the prompt, which one instruction asks to be repeated. Raises ValueError if sentences are to
    be counted and nltk, which does that, cannot.
    """
    if name == "Repeat Prompt":
        return answer.strip().lower().startswith(question.strip().lower())
    if rule := _COUNTED.get(name):
        count, right = rule
        return right(count(answer, arguments), arguments)
    return name in _HELD and _HELD[name](answer, arguments)


def check_sentences() -> None:
    """Raises ValueError, which says what to install, if sentences cannot be counted."""
    _num_sentences("One. Two.", {})


def _num_sentences(text: str, _: Arguments) -> int:
    try:
        from nltk.tokenize import sent_tokenize
    except ImportError:
        raise ValueError(
            f"the sentences of an answer are counted by nltk, which is not installed; {install_hint('scores')}"
        ) from None
    try:
        return len(sent_tokenize(text))
    except LookupError:
        raise ValueError(
            "the sentences of an answer are counted by nltk, whose model is missing; run"
            " `python -m nltk.downloader punkt_tab`"
        ) from None


def _text(arguments: Arguments, name: str) -> str:
    return str(arguments.get(name) or "")


def _number(arguments: Arguments, name: str, default: float = 0) -> float:
    value = arguments.get(name)
    return float(value) if isinstance(value, int | float) else default


def _listed(arguments: Arguments, name: str) -> list[str]:
    return [word.lower() for word in _text(arguments, name).split(", ")]


def _num_capital_words(text: str, _: Arguments) -> int:
    return sum(word.isupper() for word in text.split())


def _num_keywords(text: str, arguments: Arguments) -> int:
    return len(re.findall(rf"\b{re.escape(_text(arguments, 'keyword').lower())}\b", text.lower()))


def _num_sections(text: str, arguments: Arguments) -> int:
    parts = re.split(rf"\s*{re.escape(_text(arguments, 'section_splitter'))}\s*", text.strip())
    return sum(bool(part.strip()) for part in parts)


def _two_answers(text: str) -> bool:
    parts = [part.lower().strip() for part in text.split("******")]
    return len(parts) == 2 and parts[0] != parts[1]


def _quoted(text: str) -> bool:
    return text.strip().startswith('"') and text.strip().endswith('"')


def _exactly(count: int, arguments: Arguments) -> bool:
    return count == _number(arguments, "N")


def _at_least(count: int, arguments: Arguments) -> bool:
    return count >= _number(arguments, "N")


def _at_most(count: int, arguments: Arguments) -> bool:
    return count <= _number(arguments, "N")


def _between(count: int, arguments: Arguments) -> bool:
    return _number(arguments, "N1") <= count <= _number(arguments, "N2", 999)


_Count = Callable[[str, Arguments], int]
_Right = Callable[[int, Arguments], bool]
_LIMITS: dict[str, _Right] = {"at least": _at_least, "at most": _at_most, "range": _between}
_LIMITED: dict[str, _Count] = {
    "Number Words": lambda text, _: len(text.split()),
    "Number Sentences": _num_sentences,
    "All-capital Words": _num_capital_words,
}
_COUNTED: dict[str, tuple[_Count, _Right]] = {
    "Keyword Frequency": (_num_keywords, _exactly),
    "Number Paragraphs": (lambda text, _: sum(bool(part.strip()) for part in text.split("***")), _exactly),
    "Number Placeholder": (lambda text, _: len(_PLACEHOLDER.findall(text)), _at_least),
    "Number Bullets": (lambda text, _: len(_BULLET.findall(text)), _exactly),
    "Minimum Number Highlighted Section": (lambda text, _: len(_HIGHLIGHT.findall(text)), _at_least),
    "Multiple Sections": (_num_sections, _exactly),
    **{f"{what} ({limit})": (count, right) for what, count in _LIMITED.items() for limit, right in _LIMITS.items()},
}
"""Instructions about a number: how it is counted, and when it is right."""
_HELD: dict[str, Callable[[str, Arguments], bool]] = {
    "Include Keywords": lambda text, a: all(word in text.lower() for word in _listed(a, "keywords")),
    "Forbidden Words": lambda text, a: not any(word in text.lower() for word in _listed(a, "forbidden_words")),
    "Postscript": lambda text, a: _SIGNS.sub("", _text(a, "postscript_marker")).lower() in _SIGNS.sub("", text).lower(),
    "Title": lambda text, _: bool(_TITLE.search(text)),
    "Two Responses": lambda text, _: _two_answers(text),
    "All Uppercase": lambda text, _: text.isupper(),
    "All Lowercase": lambda text, _: text.islower(),
    "Start Checker": lambda text, a: _letters(text).startswith(_letters(_text(a, "start_phrase"))),
    "End Checker": lambda text, a: _letters(text).endswith(_letters(_text(a, "end_phrase"))),
    "Quotation": lambda text, _: _quoted(text),
    "No Commas": lambda text, _: "," not in text,
}
"""Other instructions."""


def _letters(text: str) -> str:
    return _SIGNS_AND_BLANKS.sub("", text).lower()
