"""Takes one clip through the stages describe, compose, check and judge.

The outcome of a clip depends only on the clip and the plan. So a build that was stopped twenty times makes the same
sets as one that was never stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import marshal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from relisten import audio
from relisten.data import checks, compose, judge, leakage
from relisten.data.caller import Caller, NamedDescriber
from relisten.data.compose import Draft, Labels, TeacherPrompts
from relisten.data.messages import Messages, digest
from relisten.data.store import Call
from relisten.data.teachers import Teacher
from relisten.files import make_folder
from relisten.types import Audio, Clip, Event


@dataclass(frozen=True)
class Plan:
    """Everything that decides the outcome of a clip, except the clip itself."""

    composer: Teacher
    judge: Teacher
    prompts: TeacherPrompts
    labels: Labels = field(default_factory=dict)
    """Labels of the source, from which wrong choices are drawn."""
    describer: NamedDescriber | None = None
    benchmarks: leakage.Benchmarks = leakage.NONE
    questions: int = 1
    """Questions about each clip."""
    repairs: int = 1
    """How often a teacher is told what is wrong with its reply and asked again."""
    seed: int = 0
    manner: str = ""
    """How every chain of thought is to be written (`compose.find_manner`); if empty, one is drawn for each."""
    operations: tuple[str, ...] = ()
    """The ways to listen that chains of thought may use beside <seg>."""

    def identity(self) -> str:
        """A name for the whole plan. Under another plan, a clip has another outcome."""
        prompts = compose.hashes(self.prompts)
        names = [self.composer.name, self.judge.name, self.describer.name if self.describer else ""]
        rest = [prompts, self.labels, self.questions, self.repairs, self.seed, self.benchmarks.name, self.manner]
        rest += [self.operations] if self.operations else []
        return digest([*names, *rest]).hex()


class Rejected(Exception):  # noqa: N818
    """A clip or question that is rejected. `again`: for a reason that may pass."""

    def __init__(self, stage: str, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.stage, self.reason, self.again = stage, reason, again


def fingerprint(clip: Clip, plan: str = "") -> bytes:
    """A name of 16 bytes for all that is known of a clip (its audio by its path), under a plan."""
    where = str(clip.audio) if isinstance(clip.audio, Path) else clip.audio.samples.size
    events = [(e.label, e.start, e.end, e.labels) for e in clip.events]
    known = (plan, clip.id, where, clip.duration, events, clip.descriptions)
    try:
        written = marshal.dumps(known, 2)  # a third of the time of text; version 2 has no references to share
    except ValueError:  # a label that only its own class can write
        written = repr(known).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(written, digest_size=16).digest()


async def outcome(clip: Clip, plan: Plan, caller: Caller, out: Path) -> dict[str, Any]:
    """The outcome of a clip: its questions, or the stage and the reason of its rejection.

    Its key `again` is true if a failure may pass, so that the clip is worth another try. out: the build's folder, in
    which a recording that exists only in memory is saved. Raises Stopped, and ValueError if no call can succeed.
    """
    made: dict[str, Any] = {"questions": []}
    try:
        if plan.benchmarks and (reason := await asyncio.to_thread(plan.benchmarks.leak, clip)):
            raise Rejected("source", reason)
        clip = await described(clip, plan, caller)
        made |= {"duration": round(clip.duration, 3), "audio": str(clip.audio), "descriptions": clip.descriptions}
        made["events"] = [[e.label, round(e.start, 3), round(e.end, 3)] for e in clip.events]
    except Rejected as rejected:
        return made | {"stage": rejected.stage, "reason": rejected.reason, "again": rejected.again}
    # The seed depends on the clip alone, so another judge gets the same questions, and their calls are found again.
    own = int.from_bytes(digest([clip.id, made["events"]]), "big")
    for number in range(plan.questions):
        rng = np.random.default_rng([plan.seed, own, number])
        try:
            made["questions"].append({"number": number} | await _question(clip, plan, caller, rng))
        except Rejected as rejected:
            made["questions"].append({"number": number, "stage": rejected.stage, "reason": rejected.reason})
            made["again"] = made.get("again", False) or rejected.again
    if isinstance(clip.audio, Audio):
        made["audio"] = str(_saved(clip, clip.audio, out)) if any("draft" in q for q in made["questions"]) else ""
    return made


def _saved(clip: Clip, recording: Audio, out: Path) -> Path:
    """Save a recording that existed only in memory. Returns its path."""
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in clip.id)[:150]
    path = make_folder(out / "audio") / f"{name}-{digest(clip.id).hex()[:6]}.flac"
    audio.save(path, recording)
    return path


async def described(clip: Clip, plan: Plan, caller: Caller) -> Clip:
    """The clip with what the describer finds in it. Raises Rejected if nothing is known of it then."""
    if plan.describer is not None:
        call = await caller.describe(plan.describer, fingerprint(clip), clip)
        if call.error:
            raise Rejected("describe", call.error, again=call.failure == "passing")
        found = json.loads(call.text)
        events = tuple(Event(*event) for event in found["events"])
        clip = replace(clip, descriptions=found["descriptions"], events=events)
    if not clip.events and not clip.descriptions:
        raise Rejected("describe", "nothing is known of this recording; use a describer that finds events")
    return clip


async def _question(clip: Clip, plan: Plan, caller: Caller, rng: np.random.Generator) -> dict[str, Any]:
    prompt, messages = compose.ask(clip, plan.prompts, plan.labels, rng, plan.manner, plan.operations)
    draft, fault = await _composed(clip, plan, caller, messages)
    verdict = await _judged(clip, plan, caller, judge.ask_judge(clip, draft, plan.prompts, rng))
    asked = {
        "question": draft.question, "choices": list(draft.choices), "answer": draft.answer, "cot": draft.cot,
        "kind": draft.kind, "prompt": prompt,
    }  # fmt: skip
    if not verdict.question_ok:
        return {"draft": asked, "stage": "judge", "reason": f"question not valid: {verdict.reason}"}
    why = fault or ("" if verdict.cot_ok else verdict.reason or "the judge gives no reason")
    return {"draft": asked, "route": "rl" if why else "sft", "cot_fault": why}


async def _composed(clip: Clip, plan: Plan, caller: Caller, messages: Messages) -> tuple[Draft, str]:
    """A draft whose question passes the checks, and the fault of its chain of thought, or an empty text."""
    best: tuple[Draft, str] | None = None
    stage = reason = ""
    for _ in range(1 + plan.repairs):
        call = _good("compose", await caller.ask("compose", clip.id, plan.composer, messages))
        try:
            draft = compose.read_draft(call.text)
            stage, reason = "check", checks.question_fault(draft)
            if not reason:
                reason = checks.cot_fault(draft, clip, plan.operations)
                best = draft, reason
            if not reason:
                return draft, ""
        except ValueError as error:
            stage, reason = "compose", str(error)
        messages = compose.ask_again(messages, call.text, reason)
    if best is None:
        raise Rejected(stage, reason)
    return best


async def _judged(clip: Clip, plan: Plan, caller: Caller, messages: Messages) -> judge.Verdict:
    reason = ""
    for _ in range(1 + plan.repairs):
        call = _good("judge", await caller.ask("judge", clip.id, plan.judge, messages))
        try:
            return judge.read_verdict(call.text)
        except ValueError as error:
            reason = str(error)
        messages = compose.ask_again(messages, call.text, reason)
    raise Rejected("judge", reason)


def _good(stage: str, call: Call) -> Call:
    """The call, if it gave a reply. Raises Rejected if it failed."""
    if call.error:
        raise Rejected(stage, f"teacher: {call.error}", again=call.failure == "passing")
    return call
