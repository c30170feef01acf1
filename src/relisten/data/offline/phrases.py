"""The words of questions and chains of thought, read from prompts/phrases.toml, which explains every table."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Texts = Sequence[str]
"""Ways to say the same; one of them is drawn."""
_READ: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "prompts" / "phrases.toml").read_text("utf-8"))

QUESTIONS: Mapping[str, Texts] = _READ["questions"]
MORE_QUESTIONS: Mapping[str, Texts] = _READ["more_questions"]
HELDOUT_QUESTIONS: Mapping[str, Texts] = _READ["heldout_questions"]
OPENINGS: Mapping[str, Texts] = _READ["openings"]
LEADS: Mapping[str, Texts] = _READ["leads"]
WAYS: Mapping[str, Texts] = _READ["ways"]
HEARD: Texts = _READ["heard"]
REMARKS: Mapping[str, Texts] = _READ["remarks"]
RULED_OUT: Mapping[str, Texts] = _READ["ruled_out"]
ORDERED: Texts = _READ["ordered"]
THIRD: Sequence[Texts] = _READ["third"]
GUESSED: Mapping[str, Texts] = _READ["guessed"]
REASONS: Mapping[str, Texts] = _READ["reasons"]
CONCLUSIONS: Texts = _READ["conclusions"]
SHORT_LEADS: Mapping[str, Texts] = _READ["short_leads"]
SHORT_HEARD: Texts = _READ["short_heard"]
