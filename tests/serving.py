"""A server in a thread, a batch whose answers are scripted, and what tests send."""

from __future__ import annotations

import base64
import itertools
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relisten import tags
from relisten.engine.engine import Failed, Finished, Heard, Text, Update
from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import WAYS
from relisten.serving.app import build
from relisten.serving.limits import Limits
from relisten.serving.server import make_server
from relisten.serving.service import Served, Service
from relisten.types import Audio, Example, Listen, Segment, Trace

EXAMPLES = Path(__file__).parent.parent / "examples"
RATE = 16_000


@dataclass
class FakeBatch:
    """Writes `pieces` one a step, for at most `max_rows` answers at a time."""

    pieces: Sequence[str] = ("<think>", "a bell ", "<seg>0.5, 1.0</seg>", "</think>", "<answer>", "two", "</answer>")
    max_rows: int = 2
    seconds: float = 0.0
    """How long a step takes."""
    go: threading.Event = field(default_factory=threading.Event)
    """Cleared, steps wait until it is set."""
    num_steps: int = 0
    live: dict[tuple[int, int], int] = field(default_factory=dict)
    waiting: list[tuple[int, int]] = field(default_factory=list)
    examples: dict[int, Example] = field(default_factory=dict)
    """Those that run or wait."""
    latest: Example | None = None
    """The one that was answered last."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.go.set()

    @contextmanager
    def session(self) -> Iterator[FakeBatch]:
        """As `Engine.session`."""
        yield self

    @property
    def busy(self) -> bool:
        """As `Session.busy`."""
        return bool(self.live or self.waiting)

    def submit(self, example: Example, config: GenerationConfig, num_samples: int) -> int:
        """As `Session.submit`."""
        number = next(self.numbers)
        self.examples[number] = example
        self.waiting += [(number, sample) for sample in range(num_samples)]
        return number

    def cancel(self, question: int) -> None:
        """As `Session.cancel`."""
        self.waiting = [place for place in self.waiting if place[0] != question]
        self.live = {place: step for place, step in self.live.items() if place[0] != question}

    def step(self) -> list[Update]:
        """As `Session.step`."""
        self.num_steps += 1
        time.sleep(self.seconds)
        self.go.wait()
        while self.waiting and len(self.live) < self.max_rows:
            self.live[self.waiting.pop(0)] = 0
        updates: list[Update] = []
        for (number, sample), step in list(self.live.items()):
            question = self.examples[number].question
            if question == "break":
                del self.live[number, sample]
                raise RuntimeError("the engine broke, as the test wanted")
            if question == "unreachable":
                del self.live[number, sample]
                raise ValueError("no server answers, as the test wanted")
            if question == "fail":
                del self.live[number, sample]
                updates.append(Update(number, sample, Failed("the question cannot be asked, as the test wanted")))
                continue
            updates.append(Update(number, sample, Text(self.pieces[step])))
            updates += [Update(number, sample, Heard(listen)) for listen in listens_of(self.pieces[step])]
            self.live[number, sample] += 1
            if step + 1 == len(self.pieces):
                del self.live[number, sample]
                updates.append(Update(number, sample, Finished(self.trace(number))))
                self.latest = self.examples[number]
        there = {number for number, _ in [*self.live, *self.waiting]}
        self.examples = {number: example for number, example in self.examples.items() if number in there}
        return updates

    def trace(self, number: int) -> Trace:
        """The trace of a finished answer."""
        audio = self.examples[number].audio
        assert isinstance(audio, Audio)
        text = "".join(self.pieces)
        listens = [Listen(1, 5, Segment(0.0, audio.duration)), *listens_of(text)]
        sampled = [False] * 8 + [True] * 7 + [False] * 12
        return Trace(list(range(27)), sampled, [0.0] * 27, listens, 8, text=text, operations=tags.EVERY)


def listens_of(text: str) -> list[Listen]:
    """What is heard when a text is written, with whatever operation."""
    found = re.findall(rf"<({'|'.join(tags.EVERY)})>([^<]*)</\1>", text)
    read = [(name, tags.parse_segment(inside, name)) for name, inside in found]
    return [Listen(9, 12, segment, name) for name, segment in read if segment is not None]


@contextmanager
def running(
    served: Served | FakeBatch,
    limits: Limits | None = None,
    config: GenerationConfig | None = None,
    max_seconds: float = 600.0,
    api_key: str | None = None,
    hosts: Sequence[str] = (),
    examples: Sequence[Example] = (),
    allow_urls: bool = False,
) -> Iterator[tuple[str, Service]]:
    """The address of a server in a thread, and its service."""
    if isinstance(served, FakeBatch):
        operations = {name: way.operation for name, way in WAYS.items()}
        served = Served("fake", RATE, served.session, lambda *_: None, operations=operations)

    def make() -> Service:
        service = Service(served, limits or Limits(num_decoders=1), config or GenerationConfig(), max_seconds)
        service.allow_urls = allow_urls
        return service

    sock = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()
    app = build(make, examples, api_key, hosts)
    server = make_server(app, 10.0, ready.set)
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    try:
        assert ready.wait(60)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", app.state.service
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def encoded(path: Path | bytes) -> str:
    """A file in base64."""
    return base64.b64encode(path if isinstance(path, bytes) else path.read_bytes()).decode()


def messages(
    question: str = "How many bells?", audio: Path | bytes = EXAMPLES / "scene-2.flac"
) -> list[dict[str, Any]]:
    """One message with a question and a recording."""
    sound = {"type": "input_audio", "input_audio": {"data": encoded(audio), "format": "flac"}}
    return [{"role": "user", "content": [{"type": "text", "text": question}, sound]}]


def body(
    question: str = "How many bells?", audio: Path | bytes = EXAMPLES / "scene-2.flac", **given: Any
) -> dict[str, Any]:
    """A whole request to the scripted batch."""
    return {"model": "fake", "messages": messages(question, audio)} | given
