"""The caller: each reply is paid for once, and found in the store from then on.

Every reply is stored before it is used. A reply is found by the content of its question, so it does not matter when the
process died, or which settings have changed since.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relisten import redact
from relisten.data import describers
from relisten.data.budget import Budget, Prices, Stopped
from relisten.data.messages import Messages, digest
from relisten.data.servers import CallFailed
from relisten.data.store import Call, Failure, Store
from relisten.data.teachers import Remote, Teacher
from relisten.types import Clip

USED = ("calls", "failed", "prompt_tokens", "completion_tokens", "cost")
"""The sums that are kept for the calls that a clip needed."""
AUDIO_TOKENS = 25
"""Tokens of a second of audio in Qwen2.5-Omni, to estimate the cost of a description."""
IN_A_ROW = 25
"""The build stops when this many calls in a row fail: the server is down, and every clip would wait for it."""


@dataclass(frozen=True)
class NamedDescriber:
    """A describer with the name under which its descriptions are stored."""

    name: str
    """As in `describers.find`."""
    describe: Callable[[Clip], Clip]
    """Returns the clip with descriptions (keys: sound, speech, music), and with events if it found some."""
    prices: Prices = (0.0, 0.0)


class Caller:
    """Asks teachers and the describer within a budget, with a limit on the calls in flight."""

    def __init__(
        self, store: Store, budget: Budget, in_flight: int = 64, describing: int = 1, prices: Prices = (0.0, 0.0)
    ) -> None:
        """in_flight: most calls to teachers at the same time. describing: most clips that are described at a time.

        prices: of the teachers. A call's likely cost is reserved in the budget before the call is made.
        """
        self.store, self.budget, self.prices = store, budget, prices
        self.stopped = ""
        """Why the build ends early, or an empty text."""
        self.in_flight = 0
        """Calls to teachers that are waiting for their reply."""
        self.calls = 0
        """Calls that were made, not counting those found in the store."""
        self._calling, self._describing = asyncio.Semaphore(in_flight), asyncio.Semaphore(describing)
        self._failures = 0
        self._replies = [1, 1_000]
        self._descriptions = [0, 0]
        """Number of replies (descriptions) so far, and their tokens in all."""
        self._used: dict[str, dict[str, float]] = {}

    async def ask(self, stage: str, clip: str, teacher: Teacher, messages: Messages, again: int = 0) -> Call:
        """The call that replies to these messages. Raises Stopped, and ValueError if no call can succeed.

        again: the number of the reply, if the same messages are to get several.
        """
        key = digest([teacher.name, list(messages), *([again] if again else [])])
        call = self.store.call(key)
        if call is None:
            async with self._calling:
                self._check()
                asked = sum(len(message["content"]) for message in messages) / 3
                with self.budget.reserve(asked, self._replies[1] / self._replies[0], self.prices):
                    self.in_flight += 1
                    try:
                        call = await teacher.complete(messages)
                    finally:
                        self.in_flight -= 1
                self._know_the_cost(call, teacher)
                if call.completion_tokens:
                    self._replies = [self._replies[0] + 1, self._replies[1] + call.completion_tokens]
                self._keep(key, stage, clip, call)
        return self._use(clip, call, "teacher")

    async def describe(self, describer: NamedDescriber, known: bytes, clip: Clip) -> Call:
        """The call whose text is JSON with what a describer finds in a clip. Raises the same errors as `ask`.

        known: the clip's fingerprint, by which the call is found again.
        """
        key = digest([describer.name, known.hex()])
        call = self.store.call(key)
        if call is None:
            async with self._describing:
                self._check()
                num, tokens = self._descriptions
                first = 3 * (AUDIO_TOKENS * clip.duration + 300) if "://" in describer.name else 0.0
                with self.budget.reserve(tokens / num if num else first, 0.0, describer.prices):
                    call = await asyncio.to_thread(_describe, describer, clip)
                self._descriptions = [num + 1, tokens + call.prompt_tokens + call.completion_tokens]
                self._keep(key, "describe", clip.id, call)
        return self._use(clip.id, call, "describer")

    def used(self, clip: str) -> dict[str, float]:
        """Sums over the calls that a clip needed, including those found in the store. They are then forgotten."""
        return self._used.pop(clip, dict.fromkeys(USED, 0))

    def _check(self) -> None:
        if self.stopped:
            raise Stopped(self.stopped)

    def _know_the_cost(self, call: Call, teacher: Teacher) -> None:
        """Stop if there is a budget and the server does not report the tokens of its replies."""
        told = call.error or call.prompt_tokens or call.completion_tokens
        if isinstance(teacher, Remote) and not told and (self.budget.max_cost or self.budget.max_tokens):
            self.stopped = "the server does not say how many tokens a reply takes (usage), so no budget can be kept"

    def _keep(self, key: bytes, stage: str, clip: str, call: Call) -> None:
        """Book a call and store it before another is begun, so that a kill loses no more than the calls in flight."""
        self.calls += 1
        self.budget.book(call)
        self._failures = self._failures + 1 if call.failure == "passing" else 0
        if self._failures >= IN_A_ROW or call.failure == "fatal":  # calls that wait for their turn are not sent
            self.stopped = f"{self._failures} calls in a row failed, the last with: {call.error}"
        self.store.keep_call(key, stage, clip, call)

    def _use(self, clip: str, call: Call, who: str) -> Call:
        """Count a call, found or made, for the clip that needed it."""
        sums = self._used.setdefault(clip, dict.fromkeys(USED, 0))
        for name, value in {"calls": 1, "failed": bool(call.error)}.items():
            sums[name] += value
        for name in USED[2:]:
            sums[name] += getattr(call, name)
        if call.failure == "fatal":
            raise ValueError(f"the {who} cannot be asked at all ({call.error}); correct that and start again")
        return call


def _describe(describer: NamedDescriber, clip: Clip) -> Call:
    """Describe a clip in this thread; the call's text is JSON."""
    begun = time.perf_counter()
    count = describers.Used()
    describers.used.set(count)
    text = error = ""
    kind: Failure = ""
    try:
        found = describer.describe(clip)
        events = [[e.label, e.start, e.end, e.labels] for e in found.events]
        made: Any = {"descriptions": found.descriptions, "events": events}
        text = json.dumps(redact.each_text(redact.whole, made), ensure_ascii=False)
    except CallFailed as failed:
        error, kind = str(failed), failed.failure
    except Exception as failed:  # decoders and models of all kinds run here; one bad recording must not stop the build
        error, kind = redact.one_line(f"{type(failed).__name__}: {failed}", 300), "lasting"
    cost = (count.prompt_tokens * describer.prices[0] + count.completion_tokens * describer.prices[1]) / 1e6
    taken = (count.prompt_tokens, count.completion_tokens, cost, time.perf_counter() - begun)
    return Call(text, "", error, kind, max(count.requests, 1), *taken)
