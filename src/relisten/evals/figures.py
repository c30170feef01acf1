"""The figures of a run, from its records: accuracies with their intervals and groups, counts of what failed."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from relisten import records
from relisten.evals.instructions import followed
from relisten.evals.reading import Status
from relisten.evals.scoring import wilson, word_match
from relisten.same_text import is_right, is_same
from relisten.segments import best_iou
from relisten.types import Format, Segment

Failed = Literal["wrong", "first-choice"]
"""How a missing answer counts: as wrong, or as if it were choices[0], as in the paper's release. That alone is worth 28
points on MMAR and 40 on MMAU-mini."""

GROUPS = ("modality", "category", "sub_category", "language", "difficulty", "length_type")
Record = dict[str, Any]
Rule = Literal["words", "choice", "instruction", "judge"]
"""When an answer is right: it has the right words (MMAR, MMAU); it is the right choice; it follows an instruction; or
only a language model can say (`relisten judge`), so there is no accuracy."""
_LISTED = re.compile(r"\[(['\"])([^'\"\[\]\\]{1,200})\1\]")


@dataclass(frozen=True)
class Tally:
    """Counts of one group of answers."""

    num: int
    questions: int
    """Different questions; fewer than answers where several answers to each were sampled."""
    right: int
    """Right by the rule of each question (`right`)."""
    exact: int
    """Answers in which the choice that was read is the right one."""
    right_answered: int
    """Right answers among those with the status `answered`."""
    counts: dict[Status, int]
    chance: float
    """Expected accuracy of guessing among the choices."""
    first_choice: float
    """Accuracy of always choosing the first choice."""
    known: bool
    """Whether the right answers are known, and a rule says which answers agree with them."""

    @property
    def accuracy(self) -> float:
        """Right answers over all; unread answers and errors count as wrong."""
        return self.right / self.num if self.num else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval (Wilson) over questions, because several answers to one question are not independent."""
        return wilson(self.accuracy * self.questions, self.questions)

    @property
    def over_answered(self) -> float:
        """Right over answered."""
        return self.right_answered / self.counts["answered"] if self.counts["answered"] else 0.0


def groups(labels: dict[str, Any]) -> dict[str, str]:
    """The groups that a question belongs to, under MMAR's names; "" where its labels do not say.

    MMAU's `task` is its modality, MMAU-Pro's `sub-cat` its sub-category; its `length_type` is the recording's.
    """
    found = {
        "modality": labels.get("modality", labels.get("task")),
        "category": labels.get("category"),
        "sub_category": labels.get("sub-category", labels.get("sub-cat")),
        "language": labels.get("language"),
        "difficulty": labels.get("difficulty"),
        "length_type": labels.get("length_type"),
    }
    return {name: _plain(str(value)) if value else "" for name, value in found.items()}


def _plain(name: str) -> str:
    """`['Reasoning']` is Reasoning: 13 questions of MMAU's test-mini hold a list written as a text."""
    match = _LISTED.fullmatch(name)
    return match[2] if match else name


def ruled(labels: dict[str, Any], answer: str | None, question: str) -> dict[str, Any]:
    """The rule of a question, if it is not that on words, and whether an answer follows its instruction."""
    rule = labels.get("rule")
    if rule == "instruction":
        name, arguments = str(labels.get("task_identifier")), labels.get("kwargs") or {}
        return {"rule": rule, "followed": answer is not None and followed(answer, name, arguments, question)}
    return {"rule": rule} if rule in ("choice", "judge") else {}


def status_of(record: Record) -> Status:
    """The record's status; records of older versions do not hold it, so it follows from their other fields."""
    if "error" in record:
        return "failed"
    found: Status = record.get("status") or ("unparsed" if record["answer_prediction"] is None else "answered")
    return found


def prediction(record: Record, failed: Failed = "wrong") -> str | None:
    """The text that is scored: the answer, or what counts in its place (`failed`)."""
    if failed == "first-choice" and status_of(record) != "answered" and record["choices"]:
        return str(record["choices"][0])
    said: str | None = record["answer_prediction"]
    return said


def right(record: Record, failed: Failed = "wrong") -> bool:
    """Whether the answer is right by the rule of its question, which is that on words if it says no other.

    An open question has no choices, so its text is compared: case, punctuation at the ends and numerals do not count.
    """
    said = prediction(record, failed)
    if record.get("rule") == "instruction":
        return bool(record["followed"])
    if not record["choices"]:
        return is_same(said, record["answer"])
    if record.get("rule") == "choice":
        return said is not None and said == record["answer"]
    return word_match(said, record["answer"], record["choices"])


def tally(answers: Iterable[Record], failed: Failed = "wrong") -> Tally:
    """Counts over some records."""
    answers = list(answers)
    rights = [right(r, failed) for r in answers]
    statuses = [status_of(r) for r in answers]
    chosen = [r for r in answers if r["choices"]]
    first = [word_match(r["choices"][0], r["answer"], r["choices"]) for r in chosen]
    return Tally(
        num=len(answers),
        questions=len({r["id"] for r in answers}),
        right=sum(rights),
        exact=sum(_exact(r) for r in answers),
        right_answered=sum(ok for ok, status in zip(rights, statuses, strict=True) if status == "answered"),
        counts={status: statuses.count(status) for status in get_args(Status)},
        chance=mean(1 / len(r["choices"]) for r in chosen) or 0.0,
        first_choice=mean(first) or 0.0,
        known=any(r["answer"] is not None and r.get("rule") != "judge" for r in answers),
    )


def _exact(record: Record) -> bool:
    """Whether the choice that was read is the right one."""
    if record.get("rule") == "instruction":
        return bool(record["followed"])
    return is_right(record.get("choice", record["answer_prediction"]), record["answer"], record["choices"])


def by_question(answers: Iterable[Record], failed: Failed = "wrong") -> dict[str, float]:
    """For each question's id the share of its answers that are right; two runs are compared on these."""
    found: dict[str, list[bool]] = defaultdict(list)
    for r in answers:
        found[str(r["id"])].append(right(r, failed))
    return {name: sum(rights) / len(rights) for name, rights in found.items()}


def summary(answers: Sequence[Record], format: Format = "interleaved", failed: Failed = "wrong") -> dict[str, Any]:
    """Accuracy over all and by groups, micro and macro, and what the answers and their segments were like.

    Errors are wrong answers in the accuracy; the figures on segments, form and length leave them out.
    """
    kinds = {kind: kind if kind != "all" else "all (kind)" for kind in sorted({r.get("kind") or "" for r in answers})}
    kinds.pop("", None)
    rows = {"all": _row(answers, failed)}
    rows |= {name: _row([r for r in answers if r.get("kind") == kind], failed) for kind, name in kinds.items()}
    grouped = {group: found for group in GROUPS if (found := _grouped(answers, group, failed))}
    asked = [r for r in answers if "error" not in r]
    everything = {"kind": {kind: rows[name] for kind, name in kinds.items()}, **grouped}
    return {
        "rows": rows,
        "groups": grouped,
        "macro": {group: _macro(found) for group, found in everything.items() if found},
        "samples": _samples(answers, failed),
        "failed_are": failed,
        "mean_iou": mean_iou(answers, format),
        "segments_per_answer": mean(len(r["named"]) for r in asked if "named" in r),
        "listens_per_answer": mean(len(r["heard"]) for r in asked if "heard" in r),
        "well_formed": mean(r["well_formed"] for r in asked if "well_formed" in r),
        "words": mean(r["words"] for r in asked if "words" in r),
        "seconds": mean(r["seconds"] for r in asked if "seconds" in r),
    }


def mean_iou(answers: Iterable[Record], format: Format = "interleaved") -> float | None:
    """Mean of `gold_overlaps`; None where there are none to count."""
    return mean(gold_overlaps(answers, format))


def gold_overlaps(answers: Iterable[Record], format: Format = "interleaved") -> list[float]:
    """For each gold segment the best overlap (IoU, 0 to 1) with a named segment.

    Where the format asks for segments, every question that was asked counts, and an answer that names none counts as 0.
    Conditioned answers are not asked for segments, so only those that name some count.
    """
    return [
        best_iou(Segment(*gold), [Segment(*pair) for pair in r["named"]])
        for r in answers
        if r.get("named") or (format != "conditioned" and "error" not in r and "named" in r)
        for gold in r.get("gold") or []
    ]


def write_summary(path: Path, what: dict[str, Any], follow: bool = False) -> None:
    """Write figures as JSON, whole or not at all. follow: for a path that the user typed, as in `files.replacing`."""
    records.write_atomic(path, json.dumps(what, indent=2) + "\n", follow)


def _row(answers: Sequence[Record], failed: Failed) -> dict[str, Any]:
    """The figures of one group; accuracies are None where the right answers are withheld."""
    t = tally(answers, failed)
    sure = {
        "accuracy": round(t.accuracy, 6),
        "interval": [round(x, 6) for x in t.interval],
        "over_answered": round(t.over_answered, 6),
        "exact": round(t.exact / t.num, 6) if t.num else 0.0,
        "first_choice": round(t.first_choice, 6),
    }
    return {
        "n": t.num,
        **(sure if t.known else dict.fromkeys(sure)),
        "chance": round(t.chance, 6),
        "answered": t.counts["answered"],
        "unparsed": t.counts["unparsed"],
        "refused": t.counts["refused"],
        "errors": t.counts["failed"],
    }


def _grouped(answers: Sequence[Record], group: str, failed: Failed) -> dict[str, dict[str, Any]]:
    """The figures of each group by one label, the largest first; {} where no record has the label."""
    found: dict[str, list[Record]] = defaultdict(list)
    for r in answers:
        found[str(r.get(group) or "none")].append(r)
    if set(found) == {"none"}:
        return {}
    return {name: _row(rows, failed) for name, rows in sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))}


def _macro(rows: dict[str, dict[str, Any]]) -> float | None:
    """Mean of the groups' accuracies, each counting alike: the paper's "Avg" on MMAR is that over modalities.

    Questions without the label are not a group.
    """
    return mean(row["accuracy"] for name, row in rows.items() if name != "none" and row["accuracy"] is not None)


def _samples(answers: Sequence[Record], failed: Failed) -> dict[str, Any] | None:
    """What several answers to each question give together; None where each has one."""
    questions: dict[str, list[Record]] = defaultdict(list)
    for r in answers:
        questions[str(r["id"])].append(r)
    most = max((len(group) for group in questions.values()), default=0)
    if most < 2:
        return None
    groups = list(questions.values())
    several = [_agreement(group) for group in groups if len(group) > 1]
    return {
        "k": most,
        "avg": mean(by_question(answers, failed).values()),
        "majority": mean(right(majority(group), failed) for group in groups),
        "any": mean(any(right(r, failed) for r in group) for group in groups),
        "agreement": mean(several),
        "unanimous": mean(share == 1 for share in several),
        "shuffled": any("order" in r for r in answers),
        "chose_shown_first": _shown_first(answers),
    }


def majority(group: Sequence[Record]) -> Record:
    """The answer that most samples of a question give, the first of several such. Without any that could be read, the
    first sample."""
    votes = Counter(r["answer_prediction"] for r in group if status_of(r) == "answered")
    if not votes:
        return group[0]
    winner = votes.most_common(1)[0][0]
    return next(r for r in group if r["answer_prediction"] == winner)


def _agreement(group: Sequence[Record]) -> float:
    """Share of the pairs of a question's samples that give the same answer; an unread answer agrees with none."""
    said = [r["answer_prediction"] if status_of(r) == "answered" else None for r in group]
    pairs = [(a, b) for i, a in enumerate(said) for b in said[i + 1 :]]
    alike = [a for a, b in pairs if a is not None and a == b]
    return len(alike) / len(pairs)


def _shown_first(answers: Sequence[Record]) -> float | None:
    """Share of the answers to shuffled choices that chose the choice shown first. Far from `chance`, it is a bias."""
    return mean(
        r["answer_prediction"] == r["choices"][r["order"][0]]
        for r in answers
        if "order" in r and status_of(r) == "answered"
    )


def mean(values: Iterable[float]) -> float | None:
    """The mean as a float; None without values."""
    found = list(values)
    return float(np.mean(found)) if found else None
