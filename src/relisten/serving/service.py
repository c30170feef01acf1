"""The way of a request: its body is received, its recording decoded, and its question asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from relisten.audio import crop
from relisten.engine.answer import Answer, answered
from relisten.engine.answering import AnswerSession
from relisten.engine.engine import Failed, Finished
from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import Operation, offered
from relisten.serving import chat
from relisten.serving.chat import Bounds, Chat, RequestError, Sent
from relisten.serving.decoder import Decoded, Decoders
from relisten.serving.desk import Desk, Event
from relisten.serving.fetch import fetch
from relisten.serving.limits import Limits
from relisten.serving.metrics import Metrics
from relisten.types import Audio, Example, Segment, Trace

IDLE_SECONDS = 10.0
"""Seconds that a client may pause while it sends its request."""
LINGER = 2.0
"""Seconds in which the rest of a request that is too large is thrown away, so that the client can read the refusal."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Served:
    """The model that answers, in this process or on servers elsewhere."""

    name: str
    """What clients send as `model`."""
    rate: int
    """The sample rate (Hz) of its recordings."""
    session: Callable[[], AbstractContextManager[AnswerSession]]
    """Opens a batch, in the thread that runs it."""
    notice: Callable[[Trace, str, Sequence[str]], str | None]
    """Given an answer's trace, its question and choices: one sentence if the question lies outside of what the model
    was trained on, else None. It takes no time."""
    about: str | None = None
    """What a small model was trained for: a noun phrase."""
    operations: Mapping[str, Operation] = field(default_factory=lambda: offered(()))
    """What each tag does to a segment, by the tag's name."""


class Service:
    """A running server without its HTTP part. It must be made and closed in the event loop."""

    def __init__(self, served: Served, limits: Limits, config: GenerationConfig, max_seconds: float) -> None:
        self.served, self.limits, self.config, self.max_seconds = served, limits, config, max_seconds
        self.allow_urls = False
        """Whether recordings may be fetched from http and https addresses."""
        self.bounds = Bounds(served.name, config, limits.max_rows, limits.max_bytes)
        self.desk = Desk(served.session, limits.max_rows, limits.max_rows + limits.max_waiting)
        self.decoders = Decoders(limits.num_decoders, limits.upload_seconds)
        self._uploads = asyncio.Semaphore(limits.max_uploads)
        self.metrics = Metrics(
            {
                "rows": ("Answers that are generated now", lambda: self.desk.num_running),
                "waiting": ("Answers that wait for a row", lambda: self.desk.num_asked - self.desk.num_running),
                "dead_decoders": ("Decoding processes that a recording killed", lambda: self.decoders.num_dead),
                "engine_failures": ("Batches that were lost by an error", lambda: self.desk.num_failed),
            }
        )

    async def close(self) -> None:
        """End the engine's thread and the decoding processes."""
        await self.desk.close()
        await self.decoders.close()

    @asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """One of the places for receiving and decoding. Raises RequestError if none becomes free in time."""
        if self.desk.stopping:
            raise RequestError(503, "the server is stopping; ask again in a moment", retry_after=5)
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                await self._uploads.acquire()
        except TimeoutError:
            said = f"{self.limits.max_uploads} recordings are being received; send yours later"
            raise RequestError(429, said, retry_after=5) from None
        try:
            yield
        finally:
            self._uploads.release()

    async def receive(self, request: Request) -> bytearray:
        """The body of a request, within the bounds on its size and time. Raises RequestError or ClientDisconnect."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError(415, "send JSON with the header Content-Type: application/json")
        most = self.limits.max_bytes * 4 // 3 + (1 << 20)
        length = request.headers.get("content-length", "0")
        body, stream = bytearray(), request.stream().__aiter__()
        deadline = time.monotonic() + self.limits.upload_seconds
        try:
            while not (length.isdigit() and int(length) > most) and len(body) <= most:
                left = min(IDLE_SECONDS, deadline - time.monotonic())
                async with asyncio.timeout(max(left, 0)):
                    body += await anext(stream)
        except StopAsyncIteration:
            return body
        except TimeoutError:
            raise RequestError(408, "the request was not sent in time; send it again") from None
        body.clear()
        await _drain(stream)
        raise RequestError(413, chat.too_large(self.limits.max_bytes), "messages")

    async def recording(self, sent: Sent, stretch: Segment | None = None) -> Decoded:
        """A recording that was sent, or a stretch of it. Raises RequestError."""
        if sent.base64 is not None:
            content = await asyncio.to_thread(chat.file, sent.base64)
        elif not self.allow_urls:
            said = "this server fetches no recordings; send the file in base64, or start it with --allow-urls"
            raise RequestError(400, said, "messages")
        else:
            assert sent.url is not None
            content = await fetch(sent.url, self.limits.max_bytes, self.limits.upload_seconds)
        if len(content) > self.limits.max_bytes:
            raise RequestError(413, chat.too_large(self.limits.max_bytes), "messages")
        decoded = await self.decoders.decode(content, self.served.rate, self.max_seconds)
        heard = decoded.audio
        if stretch is None:
            return decoded
        if stretch.start >= heard.duration:
            said = f"relisten.stretch begins at {stretch.start:g} s; the recording ends at {heard.duration:.1f} s"
            raise RequestError(400, said, "relisten.stretch")
        part = crop(heard, stretch)
        if not len(part.samples):
            raise RequestError(400, "relisten.stretch holds no sample; choose a longer one", "relisten.stretch")
        # Not a view, which would keep the whole recording in memory.
        return Decoded(Audio(part.samples.copy(), part.rate), decoded.warnings)

    async def clip(self, sent: Sent, segment: Segment, operation: str, stretch: Segment | None) -> Audio:
        """A segment of a recording that was sent, or of a stretch of it, as the model hears it. Raises RequestError."""
        known = self.served.operations
        if operation not in known:
            said = f"operation is {operation[:40]!r}; this server has {', '.join(known)}"
            raise RequestError(400, said, "operation")
        if (operation == "band") != (segment.band is not None):
            raise RequestError(400, "band, [low, high] in Hz, goes with the operation band", "band")
        heard = (await self.recording(sent, stretch)).audio
        made = await asyncio.to_thread(known[operation], heard, segment)
        if not len(made.samples):
            said = f"segment holds no sample; the recording ends at {heard.duration:.1f} s"
            raise RequestError(400, said, "segment")
        return made

    async def events(self, asked: Chat, heard: Audio, started: float) -> AsyncIterator[tuple[int, Event | Answer]]:
        """Yield (number of the answer, event), with an `Answer` in place of Finished. Raises RequestError."""
        example = Example(asked.name, heard, asked.question, asked.choices)
        self.metrics.audio.inc(heard.duration)
        events = self.desk.ask(example, asked.config, asked.num_answers, asked.stream)
        seconds: dict[str, float] = {}
        try:
            async for sample, event in events:
                if asked.stream and not seconds:
                    seconds["first"] = time.perf_counter() - started
                    self.metrics.first.observe(seconds["first"])
                if isinstance(event, Failed):
                    raise RequestError(400, event.reason, "messages")
                if isinstance(event, Finished):
                    self.metrics.answered(event.trace)
                    took = seconds | {"total": time.perf_counter() - started}
                    notice = self.served.notice(event.trace, asked.question, asked.choices)
                    yield sample, answered(event.trace, asked.choices, took, notice)
                else:
                    yield sample, event
            self.metrics.total.observe(time.perf_counter() - started)
        finally:
            await events.aclose()  # type: ignore[attr-defined]


async def unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """The result of `work`, which is cancelled if the client goes away. Raises ClientDisconnect then."""
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def gone(request: Request) -> None:
    """Return when the client has gone away. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _drain(stream: AsyncIterator[bytes]) -> None:
    try:
        async with asyncio.timeout(LINGER):
            async for _ in stream:
                pass
    except (TimeoutError, ClientDisconnect):
        return
