"""Recognises text that only repeats itself, as a model writes when it is caught in a loop."""

from __future__ import annotations

LONGEST = 256
"""Characters of the longest stretch that is recognised."""
TIMES = 6
"""A stretch must stand at least this many times in a row ..."""
LEAST = 600
"""... and the repeats must be at least this many characters in all, so that a list of knocks is not cut."""
WINDOW = max(LONGEST * TIMES, LEAST + LONGEST)
"""How many characters of the end of a text are needed to decide."""
PROBE = 24
"""Characters of the text's end that are searched for; where they occur before, a stretch may begin."""


def repeats(text: str) -> bool:
    """Whether the end of `text` is one stretch (1 to 256 characters), written at least 6 times in a row, 600 characters
    or more in all. Only exact repeats count. Each call takes time linear in WINDOW.

    >>> repeats("so the dog barks again. " * 25), repeats("The dog barks: " + "woof, " * 12)
    (True, False)
    """
    if len(text) < LEAST:
        return False
    probe, at = text[-PROBE:], len(text) - PROBE
    while (at := text.rfind(probe, 0, at + PROBE - 1)) >= 0:
        period = len(text) - PROBE - at
        if period > LONGEST:
            return False
        length = max(LEAST, TIMES * period)
        if length <= len(text) and text[-length + period :] == text[-length:-period]:
            return True
    return False
