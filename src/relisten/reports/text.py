"""Text for people: what is safe to print, a console without markup, and how numbers, spans and timings are written."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from html import escape

from rich.console import Console

from relisten.types import Segment

FINISHES = {
    "length": "The limit on new tokens was reached, so the answer was forced.",
    "listens": "The limit on listens was reached, so the answer was forced.",
    "context": "The model's context was full, so the answer was forced.",
    "repetition": "The model repeated itself, so its text was cut there and the answer was forced.",
}


def printable(text: str) -> str:
    """Text that cannot steer a terminal or a page: control characters and direction overrides become `�`."""
    return "".join("�" if _steers(c) else c for c in text)


def safe(text: str) -> str:
    """`printable` text with everything escaped that means something in HTML."""
    return escape(printable(text))


def broken(text: str, most: int) -> list[str]:
    """Text in lines of at most `most` characters, broken after a blank, hyphen or slash where there is one."""
    lines = []
    while len(text) > most:
        end = max(text.rfind(mark, most // 3, most) for mark in " -/_") + 1 or most
        lines.append(text[:end].rstrip())
        text = text[end:]
    return [*lines, text]


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """A share from 0 to 1, such as an accuracy, with three decimals."""
    return number(value, 3)


def percent(value: float | None) -> str:
    """A share from 0 to 1 as `99.4 %`."""
    return "-" if value is None else f"{100 * value:.1f} %"


def interval(ends: Sequence[float] | None, form: str = ".3f") -> str:
    """`0.412 to 0.533`."""
    return "-" if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"


def p_value(p: float) -> str:
    """Three decimals, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def counted(counts: Mapping[str, int]) -> str:
    """`stop 55, length 2`."""
    return ", ".join(f"{name} {num:,}" for name, num in counts.items()) or "none"


def _steers(character: str) -> bool:
    return character not in "\n\t" and (
        unicodedata.category(character) in ("Cc", "Cs")
        or unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    )


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """Rich would exit with 1; a reader that has gone (head, less) is the user's wish, and `cli.run` sees to it."""
        raise BrokenPipeError


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no emoji codes, no guessing of colours."""
    return _Terminal(stderr=stderr, markup=False, emoji=False, highlight=False)


def span(segment: Segment) -> str:
    """`1.2–1.9 s`."""
    return f"{segment.start:.1f}–{segment.end:.1f} s"


def named_seconds(seconds: dict[str, float]) -> dict[str, float]:
    """The engine's counters under the names people read."""
    names = {"load": "load", "prefill": "prefill", "listen": "listening", "decode": "decoding", "server": "server"}
    return {name: seconds[key] for key, name in names.items() if key in seconds}
