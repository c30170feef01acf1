"""Scores that a language model gives: the reasoning of MMAR's answers, MMAU-Pro's open answers, Big Bench Audio's.

Each `Judge` says what the model is asked about an answer, and reads the score in its reply. Who is asked, and what that
costs, is not decided here. The requests are worded anew, because no licence lets us copy the published ones; what they
contain, and how a reply becomes a score, is as published. A reply that does not have the form is a ValueError.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from relisten import tags
from relisten.evals.figures import Record, mean, right, status_of
from relisten.evals.paired import bootstrap

Row = Mapping[str, Any]
"""An entry of the question file, as published."""
Request = list[dict[str, str]]
"""Chat messages, {"role": ..., "content": ...} each."""


@dataclass(frozen=True)
class Judge:
    """How a language model scores answers."""

    name: str
    runs: int
    """How often each answer is judged; of three or more, the best and the worst score are dropped."""
    request: Callable[[Record, Row], Request | None]
    """What it is asked about an answer; None for an answer that scores 0 without being judged. ValueError, which says
    what is wrong with it, if the question cannot be judged."""
    read: Callable[[str, Row], float]
    """The score, 0 to 1, in a reply."""
    alone: bool = False
    """Whether its score stands in place of an accuracy."""


@dataclass(frozen=True)
class Judged:
    """An answer and its score."""

    record: Record
    scores: tuple[float, ...]
    """0 to 1, one for each run of the judge; () for an answer that was not judged."""
    error: str = ""
    """Why a run gave no score; empty where all did."""

    @property
    def score(self) -> float:
        """0 to 1; 0 for an answer that did not have to be judged."""
        return trimmed(self.scores)


def trimmed(scores: Sequence[float]) -> float:
    """The mean without the best and the worst of three or more scores; 0 without scores."""
    kept = sorted(scores)[1:-1] if len(scores) >= 3 else scores
    return sum(kept) / len(kept) if kept else 0.0


def summary(judged: Sequence[Judged], groups: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures of all answers that have a score, under "all", and by each of these groups that they have."""
    scored = [each for each in judged if not each.error]
    found = {"all": {"all": _figures(scored)}}
    for group in groups:
        names = sorted({str(each.record.get(group) or "") for each in scored} - {""})
        if names:
            found[group] = {n: _figures([each for each in scored if each.record.get(group) == n]) for n in names}
    return found


def _figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """n, mean score with its interval over questions, and accuracy; None for open answers, which have no rule."""
    by_question: dict[str, list[float]] = {}
    for each in judged:
        by_question.setdefault(str(each.record["id"]), []).append(each.score)
    means = [sum(scores) / len(scores) for scores in by_question.values()]
    return {
        "n": len(judged),
        "score": mean(each.score for each in judged),
        "interval": [round(end, 6) for end in bootstrap(means)] if means else None,
        "accuracy": mean(
            right(r) for r in (each.record for each in judged) if r["choices"] or r.get("rule") == "choice"
        ),
    }


def _answer(record: Record) -> str:
    """What the model answered, without its thought."""
    text = str(record.get("response") or "")
    return tags.parse(text).answer or str(record.get("answer_prediction") or "") or text


# --- MMAR-Rubrics -----------------------------------------------------------------------------------------------------

_RUBRIC_SYSTEM = (
    "You grade how well a model reasoned when it answered a question about a recording. Go strictly by the reference"
    " and the rubric that you are given, and be impartial and exact."
)
_RUBRIC = Template(
    """# Question
$question

# Right answer
$answer

# Reference reasoning
$thinking

# Rubric
$rubric

# What the model wrote
$thought
Its answer: $said

# Your task
Grade each criterion of the rubric, in its order, by what the model wrote. Reply with a JSON list and nothing else, one
object for each criterion: {"name": its name, "score": one of its possible scores, "justification": why, in less than
50 words, with evidence from the reasoning}."""
)
_LIST_BEGINS, _LIST_ENDS = re.compile(r"\[\s*\{"), re.compile(r"\}\s*\]")


def rubric_of(row: Row) -> list[dict[str, Any]]:
    """The criteria of a question. MMAR's file holds a list; an older copy of it, the list written as a text."""
    given = row.get("rubric")
    try:
        rubric = ast.literal_eval(given) if isinstance(given, str) else given
        named = all(isinstance(item["name"], str) and max(item["choices"]) >= 0 for item in rubric or [])
    except (TypeError, KeyError, ValueError, SyntaxError, MemoryError, RecursionError):
        named = False
    if not named or not rubric:
        raise ValueError(f"question {row.get('id')!r} has no rubric; take MMAR-meta.jsonl of February 2026 or later")
    return list(rubric)


def ask_rubric(record: Record, row: Row) -> Request | None:
    """A wrong answer scores 0 and is not judged, however it was reasoned."""
    criteria = [
        f"{n}. {item['name']}\n   Rule: {item.get('scoring_point', '')}\n   Possible scores: {item['choices']}"
        for n, item in enumerate(rubric_of(row), start=1)
    ]
    if not right(record):
        return None
    text = _RUBRIC.substitute(
        question=row.get("question", ""), answer=row.get("answer", ""), thinking=row.get("thinking", ""),
        rubric="\n".join(criteria), thought=tags.parse(str(record.get("response") or "")).think or "",
        said=record["answer_prediction"],
    )  # fmt: skip
    return [{"role": "system", "content": _RUBRIC_SYSTEM}, {"role": "user", "content": text}]


def read_rubric(text: str, row: Row) -> float:
    """The points that a reply gives over the most that the rubric allows."""
    rubric = rubric_of(row)
    begin, ends = _LIST_BEGINS.search(text), [match.end() for match in _LIST_ENDS.finditer(text)]
    if begin and ends and ends[-1] > begin.end():
        text = text[begin.start() : ends[-1]]
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the reply is no JSON list") from None
    if not isinstance(items, list) or len(items) != len(rubric):
        raise ValueError(f"the reply must be a JSON list of {len(rubric)} objects")
    points = 0.0
    for item, criterion in zip(items, rubric, strict=True):
        score = item.get("score") if isinstance(item, dict) and "name" in item else None
        if not isinstance(score, int | float) or score not in criterion["choices"]:
            raise ValueError(f"the score of {criterion['name']!r} must be one of {criterion['choices']}")
        points += score
    most = sum(max(criterion["choices"]) for criterion in rubric)
    return points / most if most else 0.0


# --- MMAU-Pro's open answers ------------------------------------------------------------------------------------------

_OPEN_SYSTEM = "You grade the answers of other models, fairly and by the reference."
_OPEN = Template(
    """A model answered an open question about a recording. Grade its answer by the reference answer.

Question: $question

Reference answer: $answer

Answer of the model: $said

Give a whole number from 1 (worst) to 5 (best) for correctness (do the facts agree with the reference?), relevance (does
it answer this question?), completeness (does it have all that matters in the reference?) and clarity (is it easy to
follow?), each with a reason of one or two sentences. Then give their average. Reply in exactly this form:

CORRECTNESS: number - reason
RELEVANCE: number - reason
COMPLETENESS: number - reason
CLARITY: number - reason
OVERALL: average - what you think of the answer as a whole"""
)
_CRITERIA = "CORRECTNESS", "RELEVANCE", "COMPLETENESS", "CLARITY"
_UNSAID = 3.0
"""What MMAU-Pro's script takes for a criterion that the reply leaves out."""


def ask_open(record: Record, row: Row) -> Request | None:
    """An answer that was not given scores 0 and is not judged. (MMAU-Pro's script has an empty text judged.)"""
    if status_of(record) != "answered":
        return None
    text = _OPEN.substitute(question=row.get("question", ""), answer=row.get("answer", ""), said=_answer(record))
    return [{"role": "system", "content": _OPEN_SYSTEM}, {"role": "user", "content": text}]


def read_open(text: str, row: Row) -> float:
    """The overall score over 5. The mean of the criteria stands for one that is missing, or 3, as in the script."""
    found = {name: match for name in (*_CRITERIA, "OVERALL") if (match := _line(name).search(text))}
    scores = {name: float(match[1]) for name, match in found.items()}
    if not scores or not all(1 <= score <= 5 for score in scores.values()):
        raise ValueError("the reply must have a line such as CORRECTNESS: 4 for each criterion, from 1 to 5")
    overall = scores.get("OVERALL", _UNSAID)
    if overall == _UNSAID:
        overall = sum(scores.get(name, _UNSAID) for name in _CRITERIA) / len(_CRITERIA)
    return overall / 5


def _line(name: str) -> re.Pattern[str]:
    number = r"(\d+(?:\.\d+)?)" if name == "OVERALL" else r"(\d+)"
    return re.compile(rf"{name}:\s*{number}", re.IGNORECASE)


# --- Big Bench Audio --------------------------------------------------------------------------------------------------

_VERDICT = Template(
    """A model answered a spoken question. Decide whether its answer agrees with the official answer.
Judge its final answer, and not the way to it. If it contradicts itself, judge what it answers first. Leave out of
account what has nothing to do with the question. A number may be written as a word, and names may be misspelled.

Official answer: $answer

Answer of the model:
$said

Reply with one word: CORRECT or INCORRECT."""
)


def ask_verdict(record: Record, row: Row) -> Request | None:
    """The question itself is in the recording only, so the judge does not see it."""
    said = _answer(record)
    if "error" in record or not said.strip():
        return None
    return [{"role": "user", "content": _VERDICT.substitute(answer=row.get("official_answer", ""), said=said)}]


def read_verdict(text: str, row: Row) -> float:
    """1 for CORRECT, 0 for INCORRECT."""
    words = set(re.findall(r"\b(?:IN)?CORRECT\b", text.upper()))
    if len(words) != 1:
        raise ValueError("the reply must be CORRECT or INCORRECT")
    return float(words == {"CORRECT"})


RUBRICS = Judge("MMAR-Rubrics", 5, ask_rubric, read_rubric)
OPEN = Judge("MMAU-Pro, open answers", 1, ask_open, read_open, alone=True)
VERDICT = Judge("Big Bench Audio", 1, ask_verdict, read_verdict)
