"""Asks a teacher whether a question and its chain of thought are valid, by the paper's criteria (prompts/judge.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import Template

import numpy as np

from relisten.data.checks import MAX_CHARACTERS
from relisten.data.compose import Draft, TeacherPrompts, block, evidence
from relisten.data.messages import Messages
from relisten.types import Clip

# Blanks and marks are bounded, or a reply of nothing but line breaks would take time by the cube of its length.
_LINE = r"(?im)^[^\w\n]{{0,40}}{0}\W{{0,40}}valid[^\w:=]{{0,40}}[:=]\W{{0,40}}(yes|no)\b"
_REASON = r"(?im)^[^\w\n]{0,40}reason[^\w:]{0,40}:\s{0,40}(.+)$"


@dataclass(frozen=True, slots=True)
class Verdict:
    """If both are valid, the question goes to the SFT set; if only the question is, to the RL set; else nowhere."""

    question_ok: bool
    cot_ok: bool
    reason: str = ""


def ask_judge(clip: Clip, draft: Draft, prompts: TeacherPrompts, rng: np.random.Generator) -> Messages:
    """Messages that ask whether a draft is valid."""
    candidate = {
        "question": draft.question,
        "choices": list(draft.choices),
        "answer": draft.answer,
        "chain_of_thought": draft.cot[:MAX_CHARACTERS],  # a longer one has failed its checks already
        "kind": draft.kind,
        "about": list(draft.about),
    }
    name = sorted(prompts.judge)[int(rng.integers(len(prompts.judge)))]
    text = Template(prompts.judge[name]).substitute(
        evidence=block("evidence", evidence(clip)), candidate=block("candidate", candidate), request=""
    )
    return [{"role": "user", "content": text}]


def read_verdict(text: str) -> Verdict:
    """The verdict in a judge's reply. If a line is repeated, the last one counts.

    Raises ValueError that tells the judge which line is missing.
    """
    question = re.findall(_LINE.format("(?:QA|question)"), text)
    cot = re.findall(_LINE.format("(?:CoT|chain[ -]of[ -]thought)"), text)
    if not question or not cot:
        name = "QA" if not question else "CoT"
        raise ValueError(f"there is no line [{name} valid]: Yes or No")
    reason = re.findall(_REASON, text)
    said = reason[-1].strip().strip('"') if reason else ""
    said = "" if said.lower().rstrip(".") == "nothing" else said[:300]
    return Verdict(question[-1].lower() == "yes", cot[-1].lower() == "yes", said)
