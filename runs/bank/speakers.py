"""Real people who say words of the list, from Debian's packages (make_bank.py). Whoever judges is held out whole."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path

from bank.packages import recording
from bank.pieces import Piece, Wave, trim

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
PHONETIC = (
    "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima", "mike",
    "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "uniform", "victor", "whiskey", "xray", "yankee",
    "zulu",
)  # fmt: skip
ALLISON = {
    **{word: f"digits/{number}" for number, word in enumerate(DIGITS + TEENS)},
    **{word: f"digits/{10 * number}" for number, word in enumerate(TENS, start=2)},
    **{word: f"digits/day-{number}" for number, word in enumerate(DAYS)},
    **{word: f"digits/mon-{number}" for number, word in enumerate(MONTHS)},
    **{letter: f"letters/{letter}" for letter in string.ascii_lowercase},
    **{word: f"phonetic/{word[0]}_p" for word in PHONETIC if word != "november"},
    **{word: f"digits/{word}" for word in ("hundred", "thousand", "million", "today", "tomorrow", "yesterday", "star")},
    **{
        "first": "digits/h-1",
        "second": "digits/h-2",
        "third": "digits/h-3",
        "last": "vm-last",
        "no": "vm-no",
        "hello": "hello",
    },
    **{
        "goodbye": "goodbye",
        "minute": "minute",
        "number": "number",
        "record": "dictate/record",
        "pause": "dictate/pause",
    },
    **{"press": "vm-press", "family": "vm-Family"},
}
JOHN = {
    **{word: f"symbols/math/{number}_en_GB" for number, word in enumerate(DIGITS)},
    **{letter: f"lowercase/{letter}_filled_en_GB" for letter in string.ascii_lowercase},
}
KTUBERLING = {
    **{name: f"en/{name}" for name in ("ball", "flower", "shoe")},
    **{name: f"en/egypt_{name}" for name in ("boy", "donkey", "girl", "man", "woman")},
    **{"hotel": "en/moon_hotel", "star": "en/moon_star", "cheese": "en/pizzeria_cheese"},
}
KLETTRES = {
    **{letter: f"en/alpha/{letter.upper()}" for letter in string.ascii_lowercase},
    **{word: f"en/syllab/{word}" for word in ("car", "hot", "key", "no", "sit")},
}
KLETTRES_GB = {
    **{letter: f"en_GB/alpha/{letter}" for letter in string.ascii_lowercase},
    **{word: f"en_GB/syllab/{word}" for word in ("ball", "car", "hot", "key", "no", "sit")},
}
HOGS = ("British", "Default", "Mobster", "Pirate", "Russian", "Surfer")
"""Voices of Hedgewars that say hello."""
SPEAKERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "allison": ("heldout", "ast", ALLISON),
    "john": ("heldout", "tux", JOHN),
    "ktuberling": ("train", "ktub", KTUBERLING),
    "klettres": ("train", "klettres", KLETTRES),
    "klettres-gb": ("train", "klettres", KLETTRES_GB),
    **{f"hog-{name.lower()}": ("train", "hog", {"hello": f"{name}/Hello"}) for name in HOGS},
}
"""Voice -> split, package, and the file of each word."""


def said(work: Path, voice: str, listed: list[str]) -> Iterator[tuple[Piece, Wave]]:
    split, package, names = SPEAKERS[voice]
    for word, name in names.items():
        if word not in listed:
            raise SystemExit(f"{voice}: {word!r} is not in words.txt")
        samples, origin = recording(work, f"{package}:{name}")
        about = (word, "word", split, origin.name, origin.author, origin.licence)
        yield Piece(*about, voice=voice, take=f"{package}:{name}"), trim(samples, 1.5)
