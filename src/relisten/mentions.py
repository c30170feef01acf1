"""Which phrases a text asserts: whole words and numbers, outside negations and questions, in several languages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_CLOSED = frozenset({
    "yes", "no", "true", "false", "both", "neither", "none", "either", "all", "ja", "nein", "oui", "non", "si", "sí",
    "sim", "não", "да", "нет", "是", "否", "对", "不", "不是", "有", "没有", "はい", "いいえ",
})  # fmt: skip
"""Phrases that are words of any text; they are read only where they open it."""
_HARMLESS = re.compile(
    r"\b(?:no doubt|without (?:a |any )?doubt|not only|no question)\b|間違い(?:なく?い?|ありません)", re.IGNORECASE
)
_BEFORE = re.compile(
    r"\b(?:not|no|never|neither|nor|without|cannot|rather than|instead of|except|unlike|excluding|other than"
    r"|doubt|unlikely|unclear|whether|if|unless"
    r"|nicht|keine?[nmrs]?|weder|statt|pas|non|ni|aucune?|plutôt que|ningún|ninguna|sin|não|nem|не|нет|ни)\b"
    r"|n['’]t\b|不|没|非|而不|排除",
    re.IGNORECASE,
)
"""A negation of what comes after it; of what came before, where nothing does."""
_AFTER = re.compile(
    r"\b(?:wrong|incorrect|absent|false|ruled out|falsch|faux|fausse|incorrecta?|sbagliat[ao])\b"
    r"|(?:では|じゃ)?(?:な[いく]|ません)|아니|아닙|않|없"
)
"""A negation of what came right before it."""
_BREAK = re.compile(
    r"[;!?。！？；、\n—–]|[.:](?=\s|$)|[,:](?!\d| (?:dass|that|que)\b)|而是|但"
    r"|\s(?:but|sondern|aber|mais|pero|sino|mas|ma|но|а|so|therefore)\s",
    re.IGNORECASE,
)

_BEYOND = re.compile(r"(?:\b(?:more|less|fewer|greater|longer|shorter|higher|lower) than |(?:^|\s)[-−])$")
"""Before a number, these name another number."""
_PARTICLE = re.compile(r"[^가-힣]|[가이는은를을의도와과에만로으입인였라하]|소리|목소리|$")
"""What may follow a Korean word without being a part of it (소 is no word in 소리)."""


@dataclass(frozen=True)
class Mention:
    """Where a phrase stands in a text: characters from `start` to `end`."""

    phrase: int
    """Its place among the phrases."""
    start: int
    end: int


def mentioned(text: str, low: str, phrases: Sequence[tuple[str, str]]) -> frozenset[int]:
    """Which phrases a text asserts, by their place in `phrases`: those it names outside negations and questions.

    Args:
        text: The text with its case.
        low: The same text in the form in which phrases are compared (lower case, numerals as figures).
        phrases: Each with its case, and in the form in which phrases are compared.
    """
    opening = re.match(r"[^\s,.;:!?。，、的]+(?=的?(?:[,.;:!?。，、]|$))", low)
    if opening and (closed := frozenset(i for i, (_, key) in enumerate(phrases) if key == opening[0] in _CLOSED)):
        return closed
    low = _HARMLESS.sub(lambda match: " " * len(match[0]), low)
    mentions = _mentions(text, low, phrases)
    question = text.rstrip().endswith("?")
    return frozenset(m.phrase for clause in _clauses(low, mentions, question) for m in clause)


def _mentions(text: str, low: str, phrases: Sequence[tuple[str, str]]) -> list[Mention]:
    """The longest phrases that stand in the text as whole words, from left to right, without overlap."""
    found: list[Mention] = []
    for index, (written, key) in enumerate(phrases):
        if not key or key in _CLOSED:
            continue
        if len(key) == 1 and key.isalpha() and key.isascii():
            # A single letter is a phrase only where it is written as one: "The note is D", not "I'd".
            letter = re.escape(written)
            alone = re.search(rf"(?<![\w'’]){letter}(?:(?=[.,;:)]|\s*$)|(?<!^{letter})\b(?!['’]))", text)
            place = low.find(key)
            found += [Mention(index, place, place + 1)] if alone and place >= 0 else []
            continue
        found += [Mention(index, start, start + len(key)) for start in _whole_words(low, key)]
    found.sort(key=lambda m: (m.start, -(m.end - m.start)))
    kept: list[Mention] = []
    for mention in found:
        if not kept or mention.start >= kept[-1].end:
            kept.append(mention)
    return kept


def _whole_words(text: str, key: str) -> Iterator[int]:
    """Where a key stands in a text, neither within a longer word nor within a longer number (1:20, 20.5, 20-25)."""
    at = text.find(key)
    while at >= 0:
        before, after = text[max(0, at - 2) : at], text[at + len(key) : at + len(key) + 2]
        whole = not (joins(key[0], before[::-1]) or joins(key[-1], after))
        if key[0].isdigit():
            whole = whole and not _BEYOND.search(text[max(0, at - 16) : at])
        elif "가" <= key[-1] <= "힣":
            whole = whole and not "가" <= before[-1:] <= "힣" and bool(_PARTICLE.match(text, at + len(key)))
        if whole:
            yield at
        at = text.find(key, at + 1)


def joins(edge: str, beside: str) -> bool:
    """Whether the character at a key's edge and what stands beside it (nearest first) are one word or one number."""
    if not beside or not edge.isalnum():
        return False
    if edge.isdigit() and beside[0] in ".,:/-–" and beside[1:].isdigit():
        return True
    written_apart = edge.isascii() or unicodedata.name(edge, "").split()[0] in ("LATIN", "CYRILLIC", "GREEK")
    return written_apart and (beside[0].isalnum() or beside[0] == "_") and not _is_cjk(beside[0])


def _is_cjk(character: str) -> bool:
    return unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL"))


def _clauses(low: str, mentions: Sequence[Mention], question: bool) -> Iterator[list[Mention]]:
    """For each clause, the mentions in it that are asserted."""
    inside = [(m.start, m.end) for m in mentions]
    bounds = [
        match.span() for match in _BREAK.finditer(low) if not any(start <= match.start() < end for start, end in inside)
    ]
    begin = 0
    for end, after in [*bounds, (len(low), len(low))]:
        here = [m for m in mentions if begin <= m.start < end]
        asked = low[end:after] == "?" or (end == len(low) and question)
        if here and not asked:
            yield _asserted(low, begin, end, here)
        begin = after


def _asserted(low: str, begin: int, end: int, mentions: list[Mention]) -> list[Mention]:
    """The mentions of one clause that no negation beside them takes back."""

    def free(match: re.Match[str]) -> bool:
        return not any(m.start <= match.start() < m.end for m in mentions)

    denied: set[Mention] = set()
    for match in filter(free, _BEFORE.finditer(low, begin, end)):
        following = [m for m in mentions if m.start >= match.end()]
        denied |= set(following or mentions)
    for match in filter(free, _AFTER.finditer(low, begin, end)):
        denied |= {m for m in mentions if m.end <= match.start()} and {
            max((m for m in mentions if m.end <= match.start()), key=lambda m: m.end)
        }
    return [m for m in mentions if m not in denied]
