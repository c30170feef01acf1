"""A server on loopback that speaks as OpenAI's do, with a teacher behind it, and with faults on demand."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from relisten.data.offline.rules import Rules

Fault = Callable[[int, list[dict[str, str]]], str]
"""(number of the request, messages) -> what goes wrong with it; empty: nothing."""
PROMPT_TOKENS, COMPLETION_TOKENS = 200, 50


class TeacherServer(ThreadingHTTPServer):
    """Counts requests and faults; `url` is its address."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, fault: Fault = lambda number, messages: "", delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.delay = fault, delay
        self.lock = threading.Lock()
        self.num = 0
        self.faults: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        """Requests by messages that were answered well."""
        self.times: list[float] = []
        self.now = self.most = 0
        """Requests in hand at this moment, and the most there ever were."""
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed has gone away: no traceback for that."""


class Handler(BaseHTTPRequestHandler):
    server: TeacherServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, messages = self.server, body["messages"]
        with server.lock:
            server.num += 1
            number = server.num
            server.times.append(time.monotonic())
            server.now += 1
            server.most = max(server.most, server.now)
            server.bodies.append(body)
            fault = server.fault(number, messages)
            server.faults[fault] += 1
        try:
            if server.delay:
                time.sleep(server.delay)
            self.respond(fault, messages)
        finally:
            with server.lock:
                server.now -= 1

    def respond(self, fault: str, messages: list[dict[str, str]]) -> None:
        name, _, value = fault.partition(" ")
        if name in ("429", "503"):
            return self.send(int(name), {"error": {"message": "slow down"}}, {"Retry-After": value} if value else {})
        if name.isdigit():
            return self.send(int(name), {"error": {"message": "as asked for"}})
        if name == "timeout":
            time.sleep(float(value))
        text = asyncio.run(Rules().complete(messages)).text
        message: dict[str, Any] = {"role": "assistant", "content": text, "reasoning_content": "hm"}
        if name == "half":
            message["content"] = text[: len(text) // 2]
        elif name == "prose":
            message["content"] = f"<think>{{maybe}}</think>Here it is:\n```json\n{text}\n```\nDone."
        elif name == "empty":
            message["content"] = ""
        elif name == "refusal":
            message |= {"content": None, "refusal": "I would rather not."}
        elif name == "torn":
            return self.send(200, b'{"id": "x", "choices": [{"mess')
        elif not name:
            with self.server.lock:
                self.server.asked[json.dumps(messages)] += 1
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 250}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self.send(200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
                        "usage": usage})  # fmt: skip

    def send(self, code: int, body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for key, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def serving(fault: Fault = lambda number, messages: "", delay: float = 0.0) -> Iterator[TeacherServer]:
    """The server, running."""
    server = TeacherServer(fault, delay)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with serving(delay=float(sys.argv[1]) if sys.argv[1:] else 0.0) as running:
        print(running.url, flush=True)
        threading.Event().wait()
