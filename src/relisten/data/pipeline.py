"""From recordings with times to questions: describe, compose, check, judge, each clip on its own, many side by side.

Every reply is on the disk before the next is asked for, and found again by the content of its question: what was paid
for once is never paid for again, whenever the process died. What comes of a clip depends on nothing but the clip and
the settings, so a run that was stopped twenty times ends like one that was not. `export` makes the sets of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import marshal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from relisten import audio, records, redact
from relisten.data import checks, compose, judge, leakage
from relisten.data import describers as describe
from relisten.data.compose import Draft, Labels, Prompts
from relisten.data.messages import Messages, digest
from relisten.data.servers import Failed
from relisten.data.sources import LeftOut
from relisten.data.store import TOGETHER, Call, Failure, Store
from relisten.data.teachers import Teacher
from relisten.files import make_folder
from relisten.types import Audio, Clip, Event

USED = ("calls", "prompt_tokens", "completion_tokens", "cost")
"""What is noted of the calls that a clip needed."""
Describer = Callable[[Clip], Clip]
"""The clip with descriptions by the keys sound, speech, music, and with events where it found some."""
SURVEYED = 5_000
"""Clips from which the labels for wrong choices are counted."""
AUDIO_TOKENS = 25
"""A second, as Qwen2.5-Omni counts."""
IN_A_ROW = 25
"""Calls that fail one after another before the run stops: the server is down, and each clip would wait for it."""


@dataclass(frozen=True)
class Limits:
    """How much at once, and how much in all."""

    in_flight: int = 64
    """Calls at the same time."""
    describing: int = 1
    """Clips that are described at the same time."""
    max_cost: float = 0.0
    """In the currency of the prices; over all runs into the folder. 0: none."""
    max_total_tokens: int = 0
    """Prompt and reply, over all runs into the folder. 0: none."""


@dataclass(frozen=True)
class Plan:
    """What makes a clip's outcome what it is."""

    composer: Teacher
    judge: Teacher
    prompts: Prompts
    labels: Labels = field(default_factory=dict)
    """Of the source, for wrong choices."""
    describer: Describer | None = None
    describer_name: str = ""
    describer_prices: tuple[float, float] = (0.0, 0.0)
    """Of a million tokens in and out."""
    prices: tuple[float, float] = (0.0, 0.0)
    """Of teachers, likewise: what calls in flight are reckoned at before they are paid."""
    benchmarks: leakage.Benchmarks = leakage.NONE
    questions: int = 1
    """About each clip."""
    repairs: int = 1
    """Times a teacher is told what is wrong and asked again."""
    seed: int = 0
    manner: str = ""
    """How every chain of thought shall go (`compose.find_manner`); "": drawn."""

    def identity(self) -> str:
        """A name for all of it: with another plan a clip comes out otherwise."""
        prompts = compose.hashes(self.prompts)
        names = [self.composer.name, self.judge.name, self.describer_name]
        rest = [prompts, self.labels, self.questions, self.repairs, self.seed, self.benchmarks.name, self.manner]
        return digest([*names, *rest]).hex()


class Rejected(Exception):  # noqa: N818
    """A clip or question that goes no further. `again`: for a reason that may pass."""

    def __init__(self, stage: str, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.stage, self.reason, self.again = stage, reason, again


class Stopped(Exception):  # noqa: N818
    """The budget is spent, or the teacher cannot be reached."""


def fingerprint(clip: Clip, plan: str = "") -> bytes:
    """A name for all that is known of a clip (its audio by its path), under a plan."""
    where = str(clip.audio) if isinstance(clip.audio, Path) else clip.audio.samples.size
    events = [(e.label, e.start, e.end, e.labels) for e in clip.events]
    known = (plan, clip.id, where, clip.duration, events, clip.descriptions)
    try:
        written = marshal.dumps(known, 2)  # a third of the time of text; version 2 has no references to share
    except ValueError:  # a label that only its own class can write
        written = repr(known).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(written, digest_size=16).digest()


class Build:
    """One run over a source. `waiting` and `failed` are counted for the progress bar."""

    def __init__(self, plan: Plan, limits: Limits, store: Store, out: Path, left_out: LeftOut | None = None) -> None:
        self.plan, self.limits, self.store, self.out = plan, limits, store, out
        self.left_out = left_out or LeftOut()
        self.identity = plan.identity()
        self.in_flight = 0
        self.most_in_flight = 0
        self.stopped = ""
        """Why the run ended early; empty where it did not."""
        spent = store.spent()
        self.cost, self.tokens, self.calls = spent.cost, spent.tokens, 0
        self._reserved = [0.0, 0.0]
        self._replies = [1, 1_000]
        self._descriptions = [0, 0]
        self._failures = 0
        self._used: dict[str, dict[str, float]] = {}
        self._calling = asyncio.Semaphore(limits.in_flight)
        self._describing = asyncio.Semaphore(limits.describing)

    async def run(self, clips: Iterator[Clip], total: int | None = None) -> None:
        """Every clip of the source that has no outcome yet. Raises ValueError where no call can succeed."""
        waiting: asyncio.Queue[tuple[bytes, Clip] | None] = asyncio.Queue(4 * self.limits.in_flight)
        lasting: Exception | None = None
        with tqdm(total=total, unit="clip", smoothing=0.05) as bar:
            try:
                async with asyncio.TaskGroup() as group:
                    # Twice as many clips as calls, so that those between two calls leave no call idle.
                    for _ in range(2 * self.limits.in_flight):
                        group.create_task(self._work(waiting, bar))
                    await self._feed(clips, waiting, bar)
            except* ValueError as errors:
                lasting = errors.exceptions[0]
        if lasting is not None:  # raised in the clause above, Python 3.11.2 would put it back into a group
            raise lasting

    async def _feed(self, clips: Iterator[Clip], waiting: asyncio.Queue[Any], bar: tqdm[Any]) -> None:
        """Meets every clip, after a stop too: what came of it before belongs in the sets."""
        while num := (met := await asyncio.to_thread(self._meet, clips))[0]:
            bar.update(num - len(met[1]))
            for job in met[1]:
                if not self.stopped:
                    await waiting.put(job)
        for _ in range(2 * self.limits.in_flight):
            await waiting.put(None)

    def _meet(self, clips: Iterator[Clip]) -> tuple[int, list[tuple[bytes, Clip]]]:
        """Reads the next clips: how many, and those that have no outcome yet.

        All in the thread that reads the source, so that no call waits for it.
        """
        batch = list(itertools.islice(clips, TOGETHER))
        keys = [fingerprint(clip, self.identity) for clip in batch]
        found = self.store.meet([(key, clip.id) for key, clip in zip(keys, batch, strict=True)])
        for clip, news in zip(batch, found, strict=True):
            if news == "twice":
                self.left_out(clip.id, "another recording has this id")
        return len(batch), [(k, clip) for k, clip, news in zip(keys, batch, found, strict=True) if news == "new"]

    async def _work(self, waiting: asyncio.Queue[tuple[bytes, Clip] | None], bar: tqdm[Any]) -> None:
        while (job := await waiting.get()) is not None:
            if self.stopped:
                continue
            try:
                outcome, again = await self.outcome(job[1])
            except Stopped as stop:
                self.stopped = self.stopped or str(stop)
                continue
            outcome["used"] = self._used.pop(job[1].id, dict.fromkeys(USED, 0))
            await self.store.keep_outcome(job[0], job[1].id, outcome, again)
            bar.update()
            bar.set_postfix_str(f"{self.in_flight} in flight, {self.tokens:,} tokens, cost {self.cost:.2f}", False)

    async def outcome(self, clip: Clip) -> tuple[dict[str, Any], bool]:
        """All that came of a clip, and whether to try it again another day."""
        made: dict[str, Any] = {"questions": []}
        again = False
        try:
            if self.plan.benchmarks and (reason := await asyncio.to_thread(self.plan.benchmarks.leak, clip)):
                raise Rejected("source", reason)
            clip = await self.described(clip)
            made |= {"duration": round(clip.duration, 3), "audio": str(clip.audio), "descriptions": clip.descriptions}
            made["events"] = [[e.label, round(e.start, 3), round(e.end, 3)] for e in clip.events]
        except Rejected as rejected:
            return made | {"stage": rejected.stage, "reason": rejected.reason}, rejected.again
        # Drawn by the clip alone: with another judge or describer the same questions are asked for, and found again.
        own = int.from_bytes(digest([clip.id, made["events"]]), "big")
        for number in range(self.plan.questions):
            rng = np.random.default_rng([self.plan.seed, own, number])
            try:
                made["questions"].append({"number": number} | await self._question(clip, rng))
            except Rejected as rejected:
                made["questions"].append({"number": number, "stage": rejected.stage, "reason": rejected.reason})
                again |= rejected.again
        if isinstance(clip.audio, Audio):
            made["audio"] = str(self._saved(clip)) if any("draft" in q for q in made["questions"]) else ""
        return made, again

    def _saved(self, clip: Clip) -> Path:
        """A recording that was in memory only, as a file."""
        assert isinstance(clip.audio, Audio)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in clip.id)[:150]
        path = make_folder(self.out / "audio") / f"{name}-{digest(clip.id).hex()[:6]}.flac"
        audio.save(path, clip.audio)
        return path

    async def described(self, clip: Clip) -> Clip:
        """The clip with what the describer finds in it. Raises Rejected where that is nothing."""
        if self.plan.describer is not None:
            key = digest([self.plan.describer_name, fingerprint(clip).hex()])
            call = self.store.call(key)
            if call is None:
                async with self._describing:
                    if self.stopped:
                        raise Stopped(self.stopped)
                    with self._reserved_for(self._description(clip), 0.0, self.plan.describer_prices):
                        call = await asyncio.to_thread(_describe, self.plan.describer, clip, self.plan.describer_prices)
                    self._book(call, described=True)
                    taken = call.prompt_tokens + call.completion_tokens
                    self._descriptions = [self._descriptions[0] + 1, self._descriptions[1] + taken]
                    await self.store.keep_call(key, "describe", clip.id, call)
            self._use(clip.id, call)
            if call.failure == "fatal":
                raise ValueError(f"the describer cannot be asked at all ({call.error}); mend that and start again")
            if call.error:
                raise Rejected("describe", call.error, again=call.failure == "passing")
            found = json.loads(call.text)
            events = tuple(Event(*event) for event in found["events"])
            clip = replace(clip, descriptions=found["descriptions"], events=events)
        if not clip.events and not clip.descriptions:
            raise Rejected("describe", "nothing is known of this recording; use a describer that finds events")
        return clip

    def _description(self, clip: Clip) -> float:
        """Tokens that describing a clip will take: the average so far, at first three questions with the audio."""
        num, tokens = self._descriptions
        served = "://" in self.plan.describer_name
        return tokens / num if num else 3 * (AUDIO_TOKENS * clip.duration + 300) * served

    async def _question(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        prompt, messages = compose.ask(clip, self.plan.prompts, self.plan.labels, rng, self.plan.manner)
        draft, fault = await self._composed(clip, messages)
        verdict = await self._judged(clip, judge.ask_judge(clip, draft, self.plan.prompts, rng))
        asked = {
            "question": draft.question, "choices": list(draft.choices), "answer": draft.answer, "cot": draft.cot,
            "kind": draft.kind, "prompt": prompt,
        }  # fmt: skip
        if not verdict.question_ok:
            return {"draft": asked, "stage": "judge", "reason": f"question not valid: {verdict.reason}"}
        why = fault or ("" if verdict.cot_ok else verdict.reason or "the judge gives no reason")
        return {"draft": asked, "route": "rl" if why else "sft", "cot_fault": why}

    async def _composed(self, clip: Clip, messages: Messages) -> tuple[Draft, str]:
        """A draft whose question passes the checks, and what is wrong with its chain of thought, if anything."""
        best: tuple[Draft, str] | None = None
        stage = reason = ""
        for _ in range(1 + self.plan.repairs):
            call = await self._ask("compose", clip.id, self.plan.composer, messages)
            try:
                read = compose.read_draft(call.text)  # JSON can hold half a character, even where its text does not
                draft = replace(read, **redact.each_text(redact.whole, asdict(read)))
                stage, reason = "check", checks.question_fault(draft)
                if not reason:
                    reason = checks.cot_fault(draft, clip)
                    best = draft, reason
                if not reason:
                    return draft, ""
            except ValueError as error:
                stage, reason = "compose", str(error)
            messages = compose.ask_again(messages, call.text, reason)
        if best is None:
            raise Rejected(stage, reason)
        return best

    async def _judged(self, clip: Clip, messages: Messages) -> judge.Verdict:
        reason = ""
        for _ in range(1 + self.plan.repairs):
            call = await self._ask("judge", clip.id, self.plan.judge, messages)
            try:
                return judge.read_verdict(call.text)
            except ValueError as error:
                reason = str(error)
            messages = compose.ask_again(messages, call.text, reason)
        raise Rejected("judge", reason)

    async def _ask(self, stage: str, clip: str, teacher: Teacher, messages: Messages) -> Call:
        """The reply to messages, from the store or from the teacher. Raises Rejected where there is none."""
        key = digest([teacher.name, list(messages)])
        call = self.store.call(key)
        if call is None:
            async with self._calling:
                if self.stopped:
                    raise Stopped(self.stopped)
                with self._counted(messages):
                    call = await teacher.complete(messages)
                self._book(call)
                await self.store.keep_call(key, stage, clip, call)  # before another is begun: a kill loses no more
        self._use(clip, call)
        if call.failure == "fatal":
            raise ValueError(f"the teacher cannot be asked at all ({call.error}); mend that and start again")
        if call.error:
            raise Rejected(stage, f"teacher: {call.error}", again=call.failure == "passing")
        return call

    @contextmanager
    def _counted(self, messages: Messages) -> Iterator[None]:
        """A teacher's call in flight."""
        written = sum(len(message["content"]) for message in messages) / 3
        with self._reserved_for(written, self._replies[1] / self._replies[0], self.plan.prices):
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                yield
            finally:
                self.in_flight -= 1

    @contextmanager
    def _reserved_for(self, asked: float, replied: float, prices: tuple[float, float]) -> Iterator[None]:
        """Reserves the tokens that a call is likely to take, so that those in flight keep to the budget too."""
        tokens, cost = asked + replied, (asked * prices[0] + replied * prices[1]) / 1e6
        limits = self.limits
        if limits.max_total_tokens and self.tokens + self._reserved[1] + tokens > limits.max_total_tokens:
            raise Stopped(f"the budget of {limits.max_total_tokens:,} tokens is spent ({self.tokens:,} so far)")
        if limits.max_cost and self.cost + self._reserved[0] + cost > limits.max_cost:
            raise Stopped(f"the budget of {limits.max_cost:g} is spent ({self.cost:.4g} so far)")
        self._reserved = [self._reserved[0] + cost, self._reserved[1] + tokens]
        try:
            yield
        finally:
            self._reserved = [self._reserved[0] - cost, self._reserved[1] - tokens]

    def _use(self, clip: str, call: Call) -> None:
        """Note a call that a clip needed, found or made."""
        sums = self._used.setdefault(clip, dict.fromkeys(USED, 0))
        for name in USED:
            sums[name] += 1 if name == "calls" else getattr(call, name)

    def _book(self, call: Call, described: bool = False) -> None:
        self.calls += 1
        self.cost += call.cost
        self.tokens += call.prompt_tokens + call.completion_tokens
        if call.completion_tokens and not described:
            self._replies = [self._replies[0] + 1, self._replies[1] + call.completion_tokens]
        self._failures = self._failures + 1 if call.failure == "passing" else 0
        if self._failures >= IN_A_ROW or call.failure == "fatal":  # those that wait for their turn are not sent
            self.stopped = f"{self._failures} calls in a row failed, the last with: {call.error}"


def _describe(describer: Describer, clip: Clip, prices: tuple[float, float]) -> Call:
    begun = time.perf_counter()
    count = describe.Used()
    describe.used.set(count)
    text = error = ""
    kind: Failure = ""
    try:
        found = describer(clip)
        events = [[e.label, e.start, e.end, e.labels] for e in found.events]
        text = json.dumps({"descriptions": found.descriptions, "events": events}, ensure_ascii=False)
    except Failed as failed:
        error, kind = str(failed), failed.failure
    except Exception as failed:  # decoders and models of all kinds run here; one bad recording stops nothing
        error, kind = " ".join(f"{type(failed).__name__}: {failed}".split())[:300], "lasting"
    cost = (count.prompt_tokens * prices[0] + count.completion_tokens * prices[1]) / 1e6
    taken = (count.prompt_tokens, count.completion_tokens, cost, time.perf_counter() - begun)
    return Call(text, "", error, kind, max(count.requests, 1), *taken)


def left_out(path: Path) -> Callable[[str, str], None]:
    """Notes what a source leaves out, in a file that is begun anew."""
    records.write_atomic(path, "")
    file = path.open("a", encoding="utf-8", buffering=1 << 16)

    def note(id: str, reason: str) -> None:
        file.write(json.dumps({"id": id, "stage": "source", "reason": reason}, ensure_ascii=False) + "\n")
        file.flush()

    return note
