"""Judging: is the question valid, is its chain of thought valid? By the paper's criteria (prompts/judge.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import Template

import numpy as np

from relisten.data.compose import Draft, Prompts, block, evidence
from relisten.data.messages import Messages
from relisten.types import Clip

_LINE = r"(?im)^\W*\[?\s*{0}\s*valid\s*\]?\W*[:=]\W*(yes|no)\b"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Both valid: SFT. The question alone: RL. Else the question is dropped."""

    question_ok: bool
    cot_ok: bool
    reason: str = ""


def ask_judge(clip: Clip, draft: Draft, prompts: Prompts, rng: np.random.Generator) -> Messages:
    """Messages that ask whether a draft is valid."""
    candidate = {
        "question": draft.question,
        "choices": list(draft.choices),
        "answer": draft.answer,
        "chain_of_thought": draft.cot,
        "kind": draft.kind,
        "about": list(draft.about),
    }
    name = sorted(prompts.judge)[int(rng.integers(len(prompts.judge)))]
    text = Template(prompts.judge[name]).substitute(
        evidence=block("evidence", evidence(clip)), candidate=block("candidate", candidate), request=""
    )
    return [{"role": "user", "content": text}]


def read_verdict(text: str) -> Verdict:
    """The verdict in a reply; of repeated lines the last counts. Raises ValueError that says what is missing."""
    question = re.findall(_LINE.format("(?:QA|question)"), text)
    cot = re.findall(_LINE.format("(?:CoT|chain[ -]of[ -]thought)"), text)
    if not question or not cot:
        name = "QA" if not question else "CoT"
        raise ValueError(f"there is no line [{name} valid]: Yes or No")
    reason = re.findall(r"(?im)^\W*\[?\s*reason\s*\]?\W*:\s*(.+)$", text)
    said = reason[-1].strip().strip('"') if reason else ""
    said = "" if said.lower().rstrip(".") == "nothing" else said[:300]
    return Verdict(question[-1].lower() == "yes", cot[-1].lower() == "yes", said)
