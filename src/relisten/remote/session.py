"""A running batch of conversations with servers: the counterpart of `engine.session.Session` for engines elsewhere.

Every answer is a coroutine. They run in one event loop, which is driven only while `step` waits, so nothing of this
module runs beside the caller's own code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from relisten.engine.answering import Failed, Update
from relisten.engine.generation import GenerationConfig
from relisten.engine.row import AnswerEvent
from relisten.types import Example

STEP = 0.05
"""The longest time in seconds that a step waits for an event. A question that is submitted meanwhile waits for it."""


class CannotBeAsked(ValueError):  # noqa: N818
    """One question cannot be asked. The others can."""


@dataclass
class Asked:
    """A submitted question."""

    number: int
    example: Example
    config: GenerationConfig
    prepared: Any = None
    """What the engine prepared for the first answer, kept for the other answers."""
    begun: bool = False
    """Whether a server has accepted it. If one refuses it later, the question is not the cause."""


Converse = Callable[[Asked, int], AsyncIterator[AnswerEvent]]
"""Given a question and the number of an answer, the events of that answer. Raises CannotBeAsked, or ValueError if no
question can be asked."""


class RemoteSession:
    """Answers that are generated side by side; made by `VllmEngine.session` and `ChatEngine.session`.

    It has the methods of `engine.session.Session`, and all of them must be called from one thread.
    """

    def __init__(self, converse: Converse, max_rows: int) -> None:
        self.seconds = {"server": 0.0}
        """Wall-clock seconds that were spent waiting for servers."""
        self._converse = converse
        self._loop = asyncio.new_event_loop()
        # A notebook runs an event loop in its own thread, where a second one cannot be driven.
        self._thread = ThreadPoolExecutor(1, "relisten-engine")
        self._room = asyncio.Semaphore(max_rows)
        self._changed = asyncio.Event()
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._live: set[tuple[int, int]] = set()
        self._updates: list[Update] = []
        self._broken: BaseException | None = None
        self._num_submitted = 0

    def submit(self, example: Example, config: GenerationConfig | None = None, num_samples: int = 1) -> int:
        """Ask a question. Returns its number; `step` tells what happens to its answers."""
        number, self._num_submitted = self._num_submitted, self._num_submitted + 1
        asked = Asked(number, example, config or GenerationConfig())
        for sample in range(num_samples):
            task = self._tasks[number, sample] = self._loop.create_task(self._answer(asked, sample))
            task.add_done_callback(partial(self._done, (number, sample)))
        return number

    def cancel(self, question: int, sample: int | None = None) -> None:
        """Give up an answer (None: all answers of the question). No more updates about it are returned."""
        for place, task in self._tasks.items():
            if place[0] == question and sample in (None, place[1]):
                task.cancel()
        self.run(self._settled())
        self._updates = [u for u in self._updates if u.question != question or sample not in (None, u.sample)]

    @property
    def busy(self) -> bool:
        """Whether an answer is unfinished, or an update has not been returned yet."""
        return bool(self._tasks or self._updates or self._broken)

    @property
    def num_waiting(self) -> int:
        """Number of answers that have not been started."""
        return len(self._tasks) - len(self._live)

    @property
    def num_live(self) -> int:
        """Number of answers that are being generated."""
        return len(self._live)

    def step(self) -> list[Update]:
        """Wait for updates, at most `STEP` seconds, and return them. Raises ValueError if no question can be asked."""
        started = perf_counter()
        self.run(self._wait())
        self.seconds["server"] += perf_counter() - started
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken
        updates, self._updates = self._updates, []
        return updates

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Give up what is unfinished, then run `last`, which closes connections."""
        for task in self._tasks.values():
            task.cancel()
        try:
            self.run(self._settled())
            self.run(last)
            self.run(self._loop.shutdown_asyncgens())
        finally:
            self._thread.shutdown()
            self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the session's event loop, and wait for its result."""
        return self._thread.submit(self._loop.run_until_complete, work).result()

    @staticmethod
    def alone(work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in a new event loop, also if one is already running in this thread, as in a notebook."""
        with ThreadPoolExecutor(1, "relisten-engine") as thread:
            return thread.submit(asyncio.run, work).result()

    async def _wait(self) -> None:
        if self._tasks and not (self._updates or self._broken):
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(STEP):
                    await self._changed.wait()

    async def _settled(self) -> None:
        cancelled = [task for task in self._tasks.values() if task.cancelling()]
        await asyncio.gather(*cancelled, return_exceptions=True)

    async def _answer(self, asked: Asked, sample: int) -> None:
        place = asked.number, sample
        try:
            async with self._room:
                self._live.add(place)
                async with aclosing(self._converse(asked, sample)) as events:  # type: ignore[type-var]
                    async for event in events:
                        self._updates.append(Update(*place, event))
                        self._changed.set()
        except CannotBeAsked as error:
            self._updates.append(Update(asked.number, 0, Failed(str(error))))
            for other, task in self._tasks.items():  # the failure is reported once for all of its answers
                if other[0] == asked.number and other != place:
                    task.cancel()
        except Exception as error:  # any error is raised by `step`
            self._broken = self._broken or error

    def _done(self, place: tuple[int, int], task: asyncio.Task[None]) -> None:
        """Called for every answer, also for one that is cancelled before it has begun."""
        self._live.discard(place)
        del self._tasks[place]
        self._changed.set()
