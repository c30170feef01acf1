"""The handlers of the server's addresses."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from relisten.audio import encoded
from relisten.engine.answer import Answer
from relisten.engine.engine import Heard, Refused, Text
from relisten.serving import chat, replies, saving
from relisten.serving.chat import Chat, RequestError
from relisten.serving.decoder import Decoded
from relisten.serving.replies import Head, Splitter
from relisten.serving.service import Service, gone, unless_gone
from relisten.types import Trace

TOO_LONG = "the request took longer than this server allows; ask for less, or ask again when it is less busy"


async def chat_completions(request: Request) -> Response:
    """`POST /v1/chat/completions`: an answer in OpenAI's chat form."""
    service: Service = request.app.state.service
    started = time.perf_counter()
    deadline = started + service.limits.request_seconds
    try:
        async with asyncio.timeout(service.limits.request_seconds):
            async with service.uploading():
                given = await _given(service, request)
                asked = chat.read(given, service.bounds)
                del given  # it holds the recording a second time
                heard = await unless_gone(request, service.recording(asked.sent, asked.stretch))
            if not asked.stream:
                return JSONResponse(await unless_gone(request, _whole(service, asked, heard, started)))
            pieces = _pieces(service, asked, heard, started)
            # The status is sent after the first piece: until then the question may still be refused.
            return _Stream(await unless_gone(request, anext(pieces)), pieces, deadline)
    except TimeoutError:
        raise RequestError(504, TOO_LONG) from None


async def page(request: Request) -> Response:
    """`POST /v1/relisten/page`: a request and its answer as one self-contained HTML file."""
    service: Service = request.app.state.service
    async with service.uploading():
        given = await _given(service, request)
        inner = given.get("request")
        asked = chat.read(inner if isinstance(inner, dict) else {}, service.bounds)
        heard = await unless_gone(request, service.recording(asked.sent, asked.stretch))
        html = await asyncio.to_thread(saving.html, asked, heard.audio, given.get("answer"), service.served.name)
    headers = {"Content-Disposition": 'attachment; filename="answer.html"', "Content-Security-Policy": "sandbox"}
    return Response(html, media_type="text/html", headers=headers)


async def recording(request: Request) -> Response:
    """`POST /v1/relisten/recording`: a recording as the model hears it, as WAV, for browsers that cannot decode it."""
    service: Service = request.app.state.service
    async with service.uploading():
        given = await _given(service, request)
        sent = chat.recording("input_audio", given.get("input_audio"), service.limits.max_bytes)
        heard = (await unless_gone(request, service.recording(sent))).audio
        content = await asyncio.to_thread(encoded, np.clip(heard.samples, -1, 1), heard.rate, "WAV")
    return Response(content, media_type="audio/wav")


async def clip(request: Request) -> Response:
    """`POST /v1/relisten/clip`: a segment of a recording as the model hears it after an operation, as WAV."""
    service: Service = request.app.state.service
    async with service.uploading():
        given = await _given(service, request)
        sent = chat.recording("input_audio", given.get("input_audio"), service.limits.max_bytes)
        segment, stretch = chat.heard_segment(given), chat.read_stretch(given.get("stretch"))
        operation = str(given.get("operation", "seg"))
        made = await unless_gone(request, service.clip(sent, segment, operation, stretch))
        content = await asyncio.to_thread(encoded, np.clip(made.samples, -1, 1), made.rate, "WAV")
    return Response(content, media_type="audio/wav")


async def models(request: Request) -> Response:
    """`GET /v1/models`: the model that answers, and what it was trained for."""
    service: Service = request.app.state.service
    told = {
        "about": service.served.about,
        "max_seconds": service.max_seconds,
        "max_bytes": service.limits.max_bytes,
        "operations": [*service.served.operations],
        "defaults": asdict(service.config),
    }
    model = {"id": service.served.name, "object": "model", "created": request.app.state.created}
    return JSONResponse({"object": "list", "data": [model | {"owned_by": "relisten", "relisten": told}]})


async def health(request: Request) -> Response:
    """`GET /health`: 200 while questions are taken, else 503."""
    service: Service = request.app.state.service
    well = service.desk.alive and not service.desk.stopping
    return JSONResponse({"status": "ok" if well else "stopping"}, 200 if well else 503)


async def metrics(request: Request) -> Response:
    """`GET /metrics`: counters for Prometheus."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def examples(request: Request) -> Response:
    """`GET /v1/relisten/examples`: questions to try."""
    listed = [
        {"name": example.audio.name, "question": example.question, "choices": list(example.choices)}
        for example in request.app.state.examples
    ]
    return JSONResponse({"data": listed})


async def example_audio(request: Request) -> Response:
    """`GET /v1/relisten/examples/{number}`: the recording of an example."""
    given = request.app.state.examples
    number = request.path_params["number"]
    if number >= len(given):
        raise RequestError(404, "there is no such example")
    return FileResponse(given[number].audio)


async def _given(service: Service, request: Request) -> dict[str, Any]:
    return await asyncio.to_thread(chat.parse, await service.receive(request))


async def _whole(service: Service, asked: Chat, heard: Decoded, started: float) -> replies.Json:
    answers: dict[int, Answer] = {}
    async for sample, event in service.events(asked, heard.audio, started):
        if isinstance(event, Answer):
            answers[sample] = event
    listed = [answers[sample] for sample in range(asked.num_answers)]
    return _head(service).completion(listed, heard.warnings, asked.trace)


async def _pieces(service: Service, asked: Chat, heard: Decoded, started: float) -> AsyncIterator[bytes]:
    """The reply as server-sent events."""
    head, splitters = _head(service), [Splitter() for _ in range(asked.num_answers)]
    begun: set[int] = set()
    traces: dict[int, Trace] = {}
    async for sample, event in service.events(asked, heard.audio, started):
        if sample not in begun:
            begun.add(sample)
            yield replies.event(head.chunk(sample, {"role": "assistant", "content": "", "relisten": {}}))
        if isinstance(event, Text):
            thinking, answer = splitters[sample].feed(event.text)
            if thinking or answer:
                yield replies.event(head.chunk(sample, replies.text_delta(thinking, answer)))
        elif isinstance(event, Heard | Refused):
            yield replies.event(head.chunk(sample, replies.listening_delta(event)))
        elif isinstance(event, Answer):
            traces[sample] = event.trace
            delta = {"relisten": replies.whole(event, heard.warnings, asked.trace)}
            yield replies.event(head.chunk(sample, delta, replies.finish(event.trace)))
    if asked.include_usage:
        yield replies.event(head.last_chunk([traces[sample] for sample in sorted(traces)]))
    yield replies.event("[DONE]")


def _head(service: Service) -> Head:
    return Head(f"chatcmpl-{uuid.uuid4().hex}", service.served.name)


class _Stream(Response):
    """A reply of server-sent events. It ends when the client leaves, or with an error event at the deadline."""

    def __init__(self, first: bytes, pieces: AsyncIterator[bytes], deadline: float) -> None:
        # X-Accel-Buffering tells a proxy (nginx) not to collect pieces.
        super().__init__(media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first, self._rest, self._deadline = first, pieces, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, and free the rows in any case."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        work = asyncio.create_task(self._write(send))
        watch = asyncio.create_task(gone(Request(scope, receive)))
        try:
            left = max(self._deadline - time.perf_counter(), 0)
            done, _ = await asyncio.wait({work, watch}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            watch.cancel()
            ended, _ = await asyncio.gather(work, watch, return_exceptions=True)
        if work in done and isinstance(ended, RequestError):
            await self._end(send, ended)
        elif work in done and isinstance(ended, BaseException):
            raise ended
        elif not done:
            await self._end(send, RequestError(504, TOO_LONG))

    async def _write(self, send: Send) -> None:
        try:
            await _send(send, self._first)
            async for piece in self._rest:
                await _send(send, piece)
            await _send(send, b"", more=False)
        finally:
            await self._rest.aclose()  # type: ignore[attr-defined]

    async def _end(self, send: Send, refusal: RequestError) -> None:
        await _send(send, replies.event(replies.error(refusal.status, refusal.message, refusal.param)), more=False)


async def _send(send: Send, content: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})
