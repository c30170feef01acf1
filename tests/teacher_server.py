"""A server on loopback that speaks as OpenAI's do, with a teacher behind it, and with faults on demand."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from relisten.data.offline.rules import Rules

Fault = Callable[[int, list[dict[str, str]]], str]
"""(number of the request, messages) -> what goes wrong with it; empty: nothing."""
Say = Callable[[dict[str, Any]], tuple[str, str]]
"""The body of a request -> the text of the reply and its finish_reason, in place of the teacher's."""
PROMPT_TOKENS, COMPLETION_TOKENS = 200, 50


class TeacherServer(ThreadingHTTPServer):
    """Counts requests and faults; `url` is its address."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, fault: Fault = lambda number, messages: "", delay: float = 0.0, say: Say | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.delay, self.say = fault, delay, say
        self.models = ["m"]
        self.lock = threading.Lock()
        self.num = 0
        self.faults: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        """Requests by messages that were answered well."""
        self.times: list[float] = []
        self.now = self.most = 0
        """Requests in hand at this moment, and the most there ever were."""
        self.bodies: list[dict[str, Any]] = []
        self.sent = 0
        """Bytes of replies that were sent in pieces."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed has gone away: no traceback for that."""


class Handler(BaseHTTPRequestHandler):
    server: TeacherServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

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
        if server.delay:
            time.sleep(server.delay)
        with server.lock:
            server.now -= 1  # before the reply is out: whoever reads it may ask again at once
        self.respond(fault, messages, body)

    def respond(self, fault: str, messages: list[dict[str, str]], body: dict[str, Any]) -> None:
        name, _, value = fault.partition(" ")
        if name in ("429", "503"):
            return self.send(int(name), {"error": {"message": "slow down"}}, {"Retry-After": value} if value else {})
        if name.startswith("3"):
            return self.send(int(name), b"", {"Location": value})
        if name.isdigit():
            return self.send(int(name), {"error": {"message": "as asked for"}})
        if name in BAD_BODIES:
            return BAD_BODIES[name](self, value)
        if name == "timeout":
            time.sleep(float(value))
        say, finish = self.server.say, "stop"
        if say is None:
            text = asyncio.run(Rules().complete(messages)).text
        else:
            text, finish = say(body)
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
        choice = {"index": 0, "finish_reason": finish, "message": message}
        self.send(200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
                        "usage": usage})  # fmt: skip

    def send_pieces(self, pieces: Iterable[bytes], headers: dict[str, str] | None = None, pause: float = 0.0) -> None:
        """A body of unknown length, piece by piece, until the client has had enough."""
        self.send_response(200)
        for key, value in {"Content-Type": "application/json", "Connection": "close", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            for piece in pieces:
                self.wfile.write(piece)
                self.server.sent += len(piece)
                time.sleep(pause)

    def send_half(self, _: str) -> None:
        """Half of a body whose length was promised, then nothing."""
        self.send(200, b'{"choices": [', {"Content-Length": "4000", "Connection": "close"})
        self.close_connection = True

    def echo_key(self, code: str) -> None:
        """The key that the client sent, in the error's text and in a header."""
        key = self.headers["Authorization"].removeprefix("Bearer ")
        self.send(int(code), {"error": {"message": f"the key {key} is not ours"}}, {"X-Key": key})

    def repeat_key(self, _: str) -> None:
        """The key that the client sent, in a reply that looks well."""
        key = self.headers["Authorization"].removeprefix("Bearer ")
        self.send(200, {"choices": [{"message": {"content": f"{{{key}}}", "reasoning": f"I saw {key}"}}]})

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


def bomb(megabytes: int) -> Iterator[bytes]:
    """Zeros as gzip: a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    for _ in range(megabytes):
        yield packer.compress(bytes(1 << 20))
    yield packer.flush()


BAD_BODIES: dict[str, Callable[[Handler, str], None]] = {
    "drip": lambda self, pause: self.send_pieces((b" " for _ in range(1 << 30)), pause=float(pause)),
    "huge": lambda self, megabytes: self.send_pieces(b" " * (1 << 20) for _ in range(int(megabytes))),
    "bomb": lambda self, megabytes: self.send_pieces(bomb(int(megabytes)), {"Content-Encoding": "gzip"}),
    "gzip": lambda self, body: self.send(200, gzip.compress(body.encode()), {"Content-Encoding": "gzip"}),
    "packed": lambda self, coding: self.send(200, b"{}", {"Content-Encoding": coding}),
    "cut": Handler.send_half,
    "body": lambda self, body: self.send(200, body.encode("utf-8", "surrogatepass")),
    "echo": Handler.echo_key,
    "repeat": Handler.repeat_key,
}
"""Replies that a server should not give, by the fault's name."""


@contextmanager
def serving(
    fault: Fault = lambda number, messages: "", delay: float = 0.0, say: Say | None = None
) -> Iterator[TeacherServer]:
    """The server, running."""
    server = TeacherServer(fault, delay, say)
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
