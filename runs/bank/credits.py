"""Author and licence of a file, as the copyright file of its Debian package states them (machine-readable format)."""

from __future__ import annotations

import fnmatch
import re
from functools import cache
from pathlib import Path

SPDX = {
    "CC0": "CC0-1.0", "CC-BY": "CC-BY-3.0", "CC-BY-SA-3": "CC-BY-SA-3.0", "CC-BY-SA-4": "CC-BY-SA-4.0",
    "GPL-2": "GPL-2.0-only", "GPL-2+": "GPL-2.0-or-later", "GPL-3": "GPL-3.0-only", "GPL-3+": "GPL-3.0-or-later",
    "LGPL-3": "LGPL-3.0-only", "LGPL-3+": "LGPL-3.0-or-later", "GFDL-1.3": "GFDL-1.3-only", "Expat": "MIT",
    "BSD-2-clause": "BSD-2-Clause", "BSD-3-clause": "BSD-3-Clause", "free-art": "Free Art License 1.3",
    "public-domain": "public domain",
}  # fmt: skip
"""Debian's short names that differ from SPDX's."""


def credit(folder: Path, path: str) -> tuple[str, str] | None:
    """Author and licence of a file of an unpacked package, or None if its copyright file names no such file.

    The file names paths of the source, which are longer than those that are installed; so a pattern fits if it fits the
    end of the path. As Debian has it, the last paragraph that fits counts.
    """
    found = None
    for patterns, author, licence in _paragraphs(folder):
        if any(_fits(path, pattern) for pattern in patterns):
            found = (author, SPDX.get(licence, licence))
    return found


def _fits(path: str, pattern: str) -> bool:
    if pattern == "*" or fnmatch.fnmatch(path, pattern):
        return True
    parts = pattern.split("/")
    fewest = 3 if parts[-1] == "*" else 1  # "sounds/*" would fit the sounds of everybody
    ends = ["/".join(parts[start:]) for start in range(len(parts) - fewest + 1)]
    return any(fnmatch.fnmatch(f"/{path}", f"*/{end}") for end in ends)


@cache
def _paragraphs(folder: Path) -> list[tuple[list[str], str, str]]:
    text = next(folder.rglob("copyright")).read_text(encoding="utf-8", errors="replace")
    if "copyright-format" not in text[:400]:
        return []
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Z][\w-]*):[ \t]*((?:.*(?:\n[ \t]+.*)*))", paragraph, re.M))
        if {"Files", "Copyright", "License"} <= set(fields):
            holders = [
                re.sub(r"^[\d,\s-]+|\(c\)\s*|<.*|,+\s*$", "", line.strip()).strip()
                for line in fields["Copyright"].splitlines()
            ]
            names = ", ".join(dict.fromkeys(name for name in holders if name))
            found.append((fields["Files"].split(), names[:120], fields["License"].split("\n")[0].strip()))
    return found
