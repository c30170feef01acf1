"""Make text safe to store and print: keys and passwords are removed, and so are incomplete characters.

Servers echo the key that they were sent, addresses hold passwords, and JSON can hold half a character, which neither a
file in UTF-8 nor a database takes. Text from outside goes through `redact` before it is stored or shown.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

HIDDEN = "[hidden]"
_HALF = re.compile("[\ud800-\udfff]")
_IN_ADDRESS = re.compile(r"(?<=://)[^/?#\s]{1,300}@")
_AS_VALUE = re.compile(
    r"(?i)((?:\bbearer\s{1,3}|(?:api[_-]?key|access[_-]?token|auth[_-]?token|password|passwd|secret)"
    r"[\"']?\s{0,3}[:=]\s{0,3}[\"']?|[?&](?:key|token)=))([^\s\"'&,;<>()\[\]{}]{6,})"
)
_AS_KEY = re.compile(r"\b(?:sk|pk|rk|hf|gsk|xai|ghp|glpat)[-_](?=[\w-]{0,200}\d)[\w-]{16,}|\bAIza[\w-]{30,}")
"""The forms in which the well-known providers issue keys: a prefix, then at least 16 characters with a digit."""
_known: set[str] = set()


def hide(value: str) -> None:
    """Remember a key or password in all forms in which it may return. From now on `redact` removes it.

    Values of fewer than 6 characters are not remembered: they would be found in ordinary words.
    """
    if len(value) >= 6:
        coded = base64.b64encode(value.encode("utf-8", "replace")).decode()
        _known.update({value, quote(value, safe=""), json.dumps(value)[1:-1], coded})


def redact(text: str, prose: bool = False) -> str:
    """The text without remembered secrets, passwords in addresses, and keys; incomplete characters become U+FFFD.

    prose: the text is what a model wrote, of which `The password: "swordfish"` may well be a part. Then only remembered
    secrets, and keys in the form of a well-known provider, are taken out.
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    if not prose:
        text = _AS_VALUE.sub(rf"\1{HIDDEN}", _IN_ADDRESS.sub(f"{HIDDEN}@", text))
    return whole(_AS_KEY.sub(HIDDEN, text))


def each_text(change: Callable[[str], str], value: Any) -> Any:
    """Apply `change` (`redact`, `whole`) to every text in a value of dicts, lists and tuples, including keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {each_text(change, key): each_text(change, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(each_text(change, inner) for inner in value)
    return value


def one_line(text: str, most: int = 200) -> str:
    """A redacted text on one line of at most `most` characters, for an error message."""
    line = " ".join(redact(text[: 50 * most]).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def whole(text: str) -> str:
    """The text with U+FFFD for each half of a character (a lone surrogate), which no file in UTF-8 can hold."""
    return text if text.isascii() else _HALF.sub("\ufffd", text)


def is_whole(text: str) -> bool:
    """Whether the text holds no half of a character."""
    return text.isascii() or not _HALF.search(text)
