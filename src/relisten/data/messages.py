"""Chat messages to a teacher, and a short name for any value by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

Messages = Sequence[dict[str, str]]
"""Chat messages, {"role": ..., "content": ...} each."""


def digest(value: Any) -> bytes:
    """A name of 16 bytes for any value that JSON can write. Equal values have equal names."""
    return hashlib.blake2b(_ENCODE(value).encode(), digest_size=16).digest()


_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""Made once: json.dumps makes a new encoder at each call, which takes too long for a million clips."""
