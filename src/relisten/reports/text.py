"""Text for people: what is safe to print, a console without markup, and the words for spans, endings and timings."""

from __future__ import annotations

import unicodedata

from rich.console import Console

from relisten.types import Segment

FINISHES = {
    "length": "The limit on new tokens was reached, so the answer was forced.",
    "listens": "The limit on listens was reached, so the answer was forced.",
    "context": "The model's context was full, so the answer was forced.",
}


def printable(text: str) -> str:
    """Text that cannot steer a terminal or a page: control characters and direction overrides become `�`."""
    return "".join("�" if _steers(c) else c for c in text)


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
    names = {"load": "load", "prefill": "prefill", "listen": "listening", "decode": "decoding"}
    return {name: seconds[key] for key, name in names.items() if key in seconds}
