"""One thread runs the engine; questions join its batch as rows, and leave it when their client does.

The event loop puts questions into a queue. The engine's thread takes them between two steps, and hands the events of
each step back with one call, so that a step costs the loop a single wake-up however many rows there are.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from relisten.engine.answering import AnswerSession
from relisten.engine.engine import AnswerEvent, Failed, Finished, Text, Update
from relisten.engine.generation import GenerationConfig
from relisten.serving.chat import RequestError
from relisten.types import Example

LOG = logging.getLogger("relisten.serving")
STOPPING = "the server is stopping; ask again in a moment"
PAUSE = 1.0
"""Seconds before a failed engine starts anew."""

Event = AnswerEvent | Failed


@dataclass(eq=False)
class _Asked:
    """A question on its way through the engine."""

    example: Example
    config: GenerationConfig
    num_answers: int
    texts: bool
    """Whether pieces of text are wanted before an answer is finished."""
    num_left: int
    """How many of its answers are unfinished."""
    events: asyncio.Queue[tuple[int, Event] | RequestError] = field(default_factory=asyncio.Queue)
    started: bool = False
    """Whether the engine has begun to answer it. The engine's thread sets this and what follows."""
    number: int | None = None
    """Its number in the batch."""
    num_written: int = 0
    """How many of its answers are finished."""


@dataclass(frozen=True)
class _Cancel:
    asked: _Asked


class Desk:
    """Takes questions and gives their events.

    session: opens a batch, in the engine's thread, and again after a step that raised an error. max_rows: how many
    answers it generates side by side. most: how many answers may run or wait at the same time.
    """

    def __init__(self, session: Callable[[], AbstractContextManager[AnswerSession]], max_rows: int, most: int) -> None:
        self.max_rows, self.most = max_rows, most
        self.stopping = False
        self.num_failed = 0
        """How many steps of the engine raised an error."""
        self.seconds_per_answer = 1.0
        """A moving average, from which clients are told when to ask again."""
        self._session = session
        self._inbox: queue.SimpleQueue[_Asked | _Cancel | None] = queue.SimpleQueue()
        self._asked: set[_Asked] = set()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    @property
    def num_running(self) -> int:
        """How many unfinished answers belong to a question that has begun."""
        return sum(asked.num_left for asked in self._asked if asked.started)

    @property
    def num_asked(self) -> int:
        """How many answers are unfinished, those that wait included."""
        return sum(asked.num_left for asked in self._asked)

    async def ask(
        self, example: Example, config: GenerationConfig, num_answers: int = 1, texts: bool = True
    ) -> AsyncIterator[tuple[int, Event]]:
        """Yield (number of the answer, event). Raises RequestError if there is no room, or if the answer is lost.

        texts: whether to yield Text events. Closing the iterator frees the rows.
        """
        self._check_room(num_answers)
        asked = _Asked(example, config, num_answers, texts, num_answers)
        started = time.perf_counter()
        self._asked.add(asked)
        self._inbox.put(asked)
        try:
            while asked.num_left or not asked.events.empty():
                found = await asked.events.get()
                if isinstance(found, RequestError):
                    raise found
                yield found
            self.seconds_per_answer += 0.1 * (time.perf_counter() - started - self.seconds_per_answer)
        finally:
            if asked in self._asked:
                self._asked.remove(asked)
                self._inbox.put(_Cancel(asked))

    def _check_room(self, num_answers: int) -> None:
        if self.stopping:
            raise RequestError(503, STOPPING, retry_after=5)
        if not self.alive:
            raise RequestError(503, "the engine has stopped; the server must be restarted", retry_after=60)
        if self.num_asked + num_answers > self.most:
            waiting = max(self.num_asked - self.max_rows, 1)
            seconds = round(self.seconds_per_answer * waiting / self.max_rows)
            said = f"{self.num_asked} answers run or wait, and this server takes at most {self.most}; ask again later"
            raise RequestError(503, said, retry_after=min(max(seconds, 1), 60))

    def stop(self) -> None:
        """Refuse new questions and those that still wait for a row. Answers that have begun are finished."""
        self.stopping = True
        for asked in self._asked:
            if not asked.started:
                asked.events.put_nowait(RequestError(503, STOPPING, retry_after=5))

    async def close(self) -> None:
        """End the engine's thread after its present step."""
        self.stopping = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join, 30.0)

    def _deliver(self, events: list[tuple[_Asked, int, Event]]) -> None:
        """Pass on what happened in a step. Called in the event loop."""
        for asked, sample, event in events:
            if asked not in self._asked:
                continue  # it was cancelled meanwhile
            if isinstance(event, Failed):
                asked.num_left = 0
            elif isinstance(event, Finished):
                asked.num_left -= 1
            if asked.num_left == 0:
                self._asked.remove(asked)
            asked.events.put_nowait((sample, event))

    def _tell_lost(self, lost: list[_Asked], status: int) -> None:
        """Tell the clients of these answers that a step raised an error. Called in the event loop."""
        self.num_failed += 1
        said, again = "the engine failed on this batch; the server's log says why", 5 if status == 503 else None
        for asked in self._asked.intersection(lost):
            asked.events.put_nowait(RequestError(status, said, retry_after=again))
            self._asked.remove(asked)

    # The methods below run in the engine's thread.

    def _run(self) -> None:
        going = True
        while going:
            there: dict[int, _Asked] = {}
            try:
                with self._session() as batch:
                    going = self._work(batch, there)
            except ValueError as error:  # in one line: for example, no server answers
                LOG.error("%s", error)
                self._lose(list(there.values()), 503)
            except Exception:
                LOG.exception("the engine failed; the answers of its batch are lost, and it starts anew")
                self._lose(list(there.values()), 500)

    def _work(self, batch: AnswerSession, there: dict[int, _Asked]) -> bool:
        """Step after step. Returns False when the server closes. there: the unfinished questions in the batch."""
        while True:
            for message in self._messages(wait=not batch.busy):
                if message is None:
                    return False
                if isinstance(message, _Asked):
                    message.number = batch.submit(message.example, message.config, message.num_answers)
                    there[message.number] = message
                elif (number := message.asked.number) is not None and there.get(number) is message.asked:
                    batch.cancel(number)
                    del there[number]
            found = [found for update in batch.step() if (found := _wanted(there, update)) is not None]
            if found:
                self._post(self._deliver, found)

    def _messages(self, wait: bool) -> Iterable[_Asked | _Cancel | None]:
        if wait:
            yield self._inbox.get()
        while not self._inbox.empty():
            yield self._inbox.get()

    def _lose(self, lost: list[_Asked], status: int) -> None:
        self._post(self._tell_lost, lost, status)
        time.sleep(PAUSE)

    def _post(self, function: Callable[..., None], *given: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *given)
        except RuntimeError:  # the loop is closed, so nobody waits any more
            LOG.debug("an event after the end of the loop is dropped")


def _wanted(there: dict[int, _Asked], update: Update) -> tuple[_Asked, int, Event] | None:
    """What the event loop has to know of an update, or None. Finished questions are removed from `there`."""
    number, sample, event = update
    asked = there.get(number)
    if asked is None:
        return None
    asked.started = True
    if isinstance(event, Text) and not asked.texts:
        return None
    if isinstance(event, Failed | Finished):
        asked.num_written += 1
        if isinstance(event, Failed) or asked.num_written == asked.num_answers:
            del there[number]
    return asked, sample, event
