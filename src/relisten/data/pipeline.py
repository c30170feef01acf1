"""Works on many clips side by side: reads the source, skips finished clips, works on the rest, shows progress."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from relisten.data import teachers
from relisten.data.budget import Stopped
from relisten.data.caller import Caller
from relisten.data.job import Plan, fingerprint, outcome
from relisten.data.sources import LeftOut
from relisten.data.store import TOGETHER
from relisten.types import Clip

LOOK = 0.5
"""Seconds between two updates of the progress bar's text."""
Job = tuple[bytes, Clip]
"""The fingerprint of a clip that needs work, and the clip."""


class Pipeline:
    """Works on every clip of a source that has no outcome yet."""

    def __init__(
        self, plan: Plan, caller: Caller, out: Path, left_out: LeftOut | None = None, width: int = 128
    ) -> None:
        """out: the build's folder. left_out: is told of clips whose id came before. width: number of clips at a time.

        With twice as many clips as calls in flight, there is always a clip that has a call to make.
        """
        self.plan, self.caller, self.out, self.width = plan, caller, out, width
        self.left_out = left_out or LeftOut()
        self._identity = plan.identity()
        self._waiting: asyncio.Queue[Job | None] = asyncio.Queue(2 * width)

    async def run(self, clips: Iterator[Clip], total: int | None = None) -> None:
        """Work until the source ends or the caller stops. Raises ValueError if no call can succeed."""
        lasting: Exception | None = None
        with tqdm(total=total, unit="clip", smoothing=0.05) as bar:
            shown = asyncio.create_task(self._show(bar))
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.width):
                        group.create_task(self._work(bar))
                    await self._feed(clips, bar)
            except* ValueError as errors:
                lasting = errors.exceptions[0]
            finally:
                shown.cancel()
                with suppress(asyncio.CancelledError):
                    await shown
            bar.set_postfix_str(self._state(), refresh=False)
        if lasting is not None:  # raised in the clause above, Python 3.11.2 would put it back into a group
            raise lasting

    async def _feed(self, clips: Iterator[Clip], bar: tqdm[Any]) -> None:
        """Queue every clip that needs work. The source is read to its end even after a stop, because the clips that
        were finished earlier belong in the sets."""
        while batch := await asyncio.to_thread(self._meet, clips):
            bar.update(batch.count(None))
            for job in batch:
                if job is not None and not self.caller.stopped:
                    await self._waiting.put(job)
        for _ in range(self.width):
            await self._waiting.put(None)

    def _meet(self, clips: Iterator[Clip]) -> list[Job | None]:
        """The next clips of the source, with None for those that need no work; empty at the end of the source.

        This runs in a thread, so that no call waits for it.
        """
        batch = list(itertools.islice(clips, TOGETHER))
        keys = [fingerprint(clip, self._identity) for clip in batch]
        found = self.caller.store.meet([(key, clip.id) for key, clip in zip(keys, batch, strict=True)])
        for clip, news in zip(batch, found, strict=True):
            if news == "twice":
                self.left_out(clip.id, "another recording has this id")
        return [(k, clip) if news == "new" else None for k, clip, news in zip(keys, batch, found, strict=True)]

    async def _work(self, bar: tqdm[Any]) -> None:
        while (job := await self._waiting.get()) is not None:
            key, clip = job
            if self.caller.stopped:
                continue
            try:
                made = await outcome(clip, self.plan, self.caller, self.out)
            except Stopped as stop:
                self.caller.stopped = self.caller.stopped or str(stop)
                continue
            made["used"] = self.caller.used(clip.id)
            self.caller.store.keep_outcome(key, clip.id, made, made.get("again", False))
            bar.update()
            await asyncio.sleep(0)  # with a teacher that never waits, nothing else would run

    async def _show(self, bar: tqdm[Any]) -> None:
        """Keep the bar's text up to date, even while every call waits to be sent again."""
        before = ""
        while True:
            if (now := self._state()) != before:
                bar.set_postfix_str(before := now)
            await asyncio.sleep(LOOK)

    def _state(self) -> str:
        budget = self.caller.budget
        told = f"{self.caller.in_flight} in flight, {budget.spent.tokens:,} tokens, cost {budget.spent.cost:.2f}"
        if teachers.retrying:
            reason, _ = teachers.retrying.most_common(1)[0]
            told += f", {teachers.retrying.total()} wait to be sent again ({reason[:60]})"
        return told
