"""`python -m benchmarks.serving`: `relisten serve` beside the engine that it runs, and under clients that misbehave.

Both sides answer the same questions with the shipped model, greedily, and every answer must be the same text. The
server runs in a process of its own, the clients in this one, so they share the machine's cores: read the CPU seconds
where the machine is busy with other work.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import httpx2
import psutil

import relisten
from benchmarks.timing import show
from relisten import audio, records
from relisten.cli import main, standalone
from relisten.data.worlds.scene_files import write_scenes
from relisten.engine.answer import answer_each
from relisten.engine.engine import Engine, Text
from relisten.engine.generation import GenerationConfig
from relisten.models.scope import notice_of
from relisten.reports.table import Table
from relisten.types import Example

MAX_BYTES = 2_000_000
"""The server's --max-bytes, so that a recording that is too large need not be large."""
PAUSE = 0.2
"""Seconds between two clients of the same kind that misbehave."""


@dataclass
class Load:
    """What the clients of one run saw."""

    texts: dict[str, str] = field(default_factory=dict)
    """What the model wrote, by the question's id."""
    firsts: list[float] = field(default_factory=list)
    """Seconds from sending a question to its first text, where it was streamed."""
    again: int = 0
    """How often a question was sent again because the server was full."""
    faults: Counter[str] = field(default_factory=Counter)
    """How many clients misbehaved, by kind and the status they got."""
    wall: float = 0.0
    cpu: float = 0.0
    """CPU seconds of the server and its decoders."""
    memory: float = 0.0
    """MB of the server's process after the run."""


def serving(
    *, num: int = 200, clients: int = 32, rows: int = 32, repeats: int = 3, seed: int = 7000, out: Path | None = None
) -> int:
    """Ask the same questions of the engine and of a server that runs it, in turns; takes minutes.

    Parameters
    ----------
    num
        Questions.
    clients
        Questions that are asked at the same time.
    rows
        Answers that are generated side by side, on both sides.
    repeats
        How often each side runs. The last runs of the server are those with clients that misbehave.
    seed
        Number of the first scene.
    out
        A JSON file for all figures.
    """
    if min(num, clients, rows, repeats) < 1:
        raise ValueError("num, clients, rows and repeats must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), num=(num + 1) // 2, seed=seed, questions=2)
        examples = records.read_examples(Path(folder) / "questions.jsonl")[:num]
        engine = Engine(relisten.load("nano"), max_rows=rows)
        bodies = {example.id: body(example) for example in examples}
        evals, asks, loads, rough = [], [], [], []
        with server(rows) as (address, process):
            asyncio.run(load(address, process, dict(list(bodies.items())[:clients]), clients))  # warm
            offline(engine, examples[:clients])
            for _ in range(repeats):
                expected, times = offline(engine, examples)
                evals.append(times)
                asks.append(offline(engine, examples, notices=True)[1])
                loads.append(asyncio.run(load(address, process, bodies, clients)))
            for _ in range(repeats):
                rough.append(asyncio.run(load(address, process, bodies, clients, faults=True)))
            alone = asyncio.run(load(address, process, dict(list(bodies.items())[:20]), 1, streamed=lambda n: True))
        firsts = [first_text(engine, example) for example in examples[:20]]
    wrong = [different(one.texts, expected) for one in (*loads, *rough)]
    show([*tables(len(examples), evals, asks, loads, rough, alone, firsts)], {
        "questions": len(examples), "clients": clients, "rows": rows, "different": wrong,
        "eval": evals, "ask": asks, "serve": [vars(replace(one, texts={})) for one in loads],
        "rough": [vars(replace(one, texts={})) for one in rough], "first alone": alone.firsts, "first local": firsts,
        "load average": os.getloadavg(),
    }, out)  # fmt: skip
    print(f"answers that differ from the engine's: {sum(wrong)} of {len(examples) * len(wrong)}")
    return int(any(wrong))


def different(found: dict[str, str], expected: dict[str, str]) -> int:
    """How many answers are lost or are another text."""
    return sum(found.get(name) != text for name, text in expected.items())


def offline(
    engine: Engine, examples: Sequence[Example], notices: bool = False
) -> tuple[dict[str, str], dict[str, float]]:
    """The texts of `relisten eval`'s loop, and its seconds of wall time and CPU, reading the files included.

    notices: as in `relisten ask QUESTIONS.jsonl`, also tell whether each question lies outside of what the model knows.
    """
    wall, cpu = perf_counter(), process_time()
    texts: dict[str, str] = {}

    def ready(example: Example) -> Example:
        assert isinstance(example.audio, Path)
        return replace(example, audio=audio.load(example.audio, engine.model.rate))

    for index, _, trace in answer_each(engine, examples, GenerationConfig(), ready):
        assert not isinstance(trace, str), trace
        if notices:
            notice_of(engine.model, trace, examples[index].question, examples[index].choices)
        texts[examples[index].id] = trace.text
    return texts, {"wall": perf_counter() - wall, "cpu": process_time() - cpu}


def first_text(engine: Engine, example: Example) -> float:
    """Seconds from the file to the first text, without a server."""
    started = perf_counter()
    assert isinstance(example.audio, Path)
    heard = replace(example, audio=audio.load(example.audio, engine.model.rate))
    for event in engine.stream(heard):
        if isinstance(event, Text):
            break
    return perf_counter() - started


def body(example: Example) -> dict[str, Any]:
    """A request for an answer, without `stream`."""
    assert isinstance(example.audio, Path)
    sound = {"data": base64.b64encode(example.audio.read_bytes()).decode(), "format": "flac"}
    content = [{"type": "text", "text": example.question}, {"type": "input_audio", "input_audio": sound}]
    own = {"choices": list(example.choices), "name": example.id}
    return {"model": "nano", "messages": [{"role": "user", "content": content}], "relisten": own}


@contextmanager
def server(rows: int) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a server on a free port."""
    command = [sys.executable, "-m", "relisten", "serve", "--port", "0", "--max-rows", str(rows)]
    command += ["--max-bytes", str(MAX_BYTES)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = ""
    while (found := re.search(r"http://[\d.]+:\d+", told)) is None:
        if not (line := process.stderr.readline()):
            raise RuntimeError(f"the server did not start: {told}")
        told += line
    try:
        yield found[0], psutil.Process(process.pid)
    finally:
        process.terminate()
        assert process.wait(60) == 0


def used(process: psutil.Process) -> float:
    """CPU seconds of a process and of its children, those that have ended included."""
    seconds = 0.0
    for one in [process, *process.children(recursive=True)][::-1]:
        with suppress(psutil.NoSuchProcess):  # it has ended since they were listed: its parent, read later, counts it
            times = one.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


async def load(
    address: str,
    process: psutil.Process,
    bodies: dict[str, dict[str, Any]],
    clients: int,
    faults: bool = False,
    streamed: Callable[[int], bool] = lambda number: number % 2 == 0,
) -> Load:
    """Ask all questions, `clients` at a time, some of them streamed. faults: among clients that misbehave."""
    found, waiting = Load(), list(enumerate(bodies.items()))[::-1]
    wall, cpu = perf_counter(), used(process)
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=address, timeout=300, limits=limits) as client:

        async def work() -> None:
            while waiting:
                number, (name, given) = waiting.pop()
                found.texts[name] = await ask(client, given, streamed(number), found)

        workers = [asyncio.create_task(work()) for _ in range(clients)]
        rough = [asyncio.create_task(misbehave(client, kind, bodies, found)) for kind in FAULTS] if faults else []
        await asyncio.gather(*workers)
        for task in rough:
            task.cancel()
        await asyncio.gather(*rough, return_exceptions=True)
    found.wall, found.cpu = perf_counter() - wall, used(process) - cpu
    found.memory = process.memory_info().rss / 1e6
    return found


async def ask(client: httpx2.AsyncClient, given: dict[str, Any], stream: bool, found: Load) -> str:
    """What the model wrote. A server that is full is asked again when it says so."""
    started, path = perf_counter(), "/v1/chat/completions"
    while True:
        async with client.stream("POST", path, json=given | {"stream": stream}) as reply:
            if reply.status_code in (429, 503):
                found.again += 1
                await asyncio.sleep(float(reply.headers["retry-after"]))
                continue
            if reply.status_code != 200:
                raise RuntimeError(f"status {reply.status_code}: {(await reply.aread()).decode()}")
            if not stream:
                message = json.loads(await reply.aread())["choices"][0]["message"]
                return str(message["relisten"]["response"]["text"])
            return await streamed_text(reply, started, found)


async def streamed_text(reply: httpx2.Response, started: float, found: Load) -> str:
    """The text of a stream: its pieces must add up to the whole that its last piece holds."""
    thinking, content, first = "", "", True
    async for line in reply.aiter_lines():
        if not line.startswith("data: {"):
            continue
        choice = json.loads(line[6:])["choices"][0]
        delta = choice["delta"]
        thinking, content = thinking + delta.get("reasoning", ""), content + (delta.get("content") or "")
        if first and thinking + content:
            found.firsts.append(perf_counter() - started)
            first = False
        if choice["finish_reason"]:
            told = delta["relisten"]
            assert (thinking, content) == (told["response"]["think"] or "", told["answer"] or ""), told
            return str(told["response"]["text"])
    raise RuntimeError("the stream ended without an answer")


# clients that misbehave


async def misbehave(client: httpx2.AsyncClient, kind: str, bodies: dict[str, dict[str, Any]], found: Load) -> None:
    """One client after another of the same kind, until the run ends."""
    for number in range(1_000_000):
        given = list(bodies.values())[number % len(bodies)]
        status = await FAULTS[kind](client, given)
        found.faults[f"{kind}: {status}"] += 1
        await asyncio.sleep(PAUSE)


async def slow_reader(client: httpx2.AsyncClient, given: dict[str, Any]) -> str:
    """Reads a stream a few bytes at a time."""
    async with raw(client, json.dumps(given | {"stream": True}).encode()) as (reader, _):
        first = await reader.read(64)
        for _ in range(20):
            await asyncio.sleep(0.1)
            await reader.read(16)
        return first.split(b" ")[1].decode()


async def half_a_body(client: httpx2.AsyncClient, given: dict[str, Any]) -> str:
    """Sends half of its request and leaves."""
    content = json.dumps(given).encode()
    async with raw(client, content[: len(content) // 2], len(content)):
        await asyncio.sleep(0.5)
    return "left"


async def dead_client(client: httpx2.AsyncClient, given: dict[str, Any]) -> str:
    """Asks, and leaves before the answer."""
    async with raw(client, json.dumps(given | {"stream": True}).encode()) as (reader, _):
        await reader.read(16)
    return "left"


async def bad_audio(client: httpx2.AsyncClient, given: dict[str, Any]) -> str:
    """Sends a recording whose second half is noise."""
    sound = bytearray(base64.b64decode(given["messages"][0]["content"][1]["input_audio"]["data"]))
    sound[len(sound) // 2 :] = os.urandom(len(sound) - len(sound) // 2)
    return await status(client, given, bytes(sound))


async def no_audio(client: httpx2.AsyncClient, given: dict[str, Any]) -> str:
    """Sends something that is no recording."""
    return await status(client, given, os.urandom(50_000))


async def too_large(client: httpx2.AsyncClient, given: dict[str, Any]) -> str:
    """Sends a recording that is too large."""
    return await status(client, given, bytes(MAX_BYTES + 1))


FAULTS = {
    "slow reader": slow_reader, "half a body": half_a_body, "dead client": dead_client, "damaged recording": bad_audio,
    "no recording": no_audio, "too large": too_large,
}  # fmt: skip


async def status(client: httpx2.AsyncClient, given: dict[str, Any], sound: bytes) -> str:
    """The status of a request with another recording."""
    text = given["messages"][0]["content"][0]
    audio_part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound).decode(), "format": "flac"}}
    changed = given | {"messages": [{"role": "user", "content": [text, audio_part]}]}
    return str((await client.post("/v1/chat/completions", json=changed)).status_code)


@asynccontextmanager
async def raw(
    client: httpx2.AsyncClient, content: bytes, length: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a request, or the beginning of one, was sent. It is cut at the end."""
    port = client.base_url.port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {length or len(content)}\r\n\r\n".encode() + content)
    try:
        await writer.drain()
        yield reader, writer
    finally:
        writer.transport.abort()


# tables


def tables(
    num: int, evals: Sequence[dict[str, float]], asks: Sequence[dict[str, float]], loads: Sequence[Load],
    rough: Sequence[Load], alone: Load, firsts: Sequence[float],
) -> Iterator[Table]:  # fmt: skip
    """Throughput with first-token times, and what misbehaved."""
    rows = []
    for name, timed in (("eval's loop", evals), ("ask's loop", asks)):
        ratios = [one["wall"] / of.wall for one, of in zip(timed, loads, strict=True)]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        found = cells(num, [one["wall"] for one in timed], [one["cpu"] for one in timed])
        rows.append([name, *found, shown, "", milli(firsts) if timed is evals else "", ""])
    for name, runs in (("serve", loads), ("serve, with faults", rough)):
        times = sorted(first for one in runs for first in one.firsts)
        late = times[int(0.95 * len(times))] if times else 0.0
        memory = " ".join(f"{one.memory:.0f}" for one in runs)
        together = f"{statistics.median(times):.2f} s, 95 %: {late:.2f} s" if times else ""
        own = milli(alone.firsts) if name == "serve" else ""
        rows.append([name, *cells(num, [r.wall for r in runs], [r.cpu for r in runs]), "", together, own, memory])
    head = ["side", "questions a second", "CPU s a question", "serve is as fast"]
    head += ["first text, all at once", "first text, one", "MB after each run"]
    yield Table(head, rows, title=f"{num} questions")
    counted = sum((one.faults for one in rough), Counter[str]())
    yield Table(["kind: status", "clients"], [[k, str(n)] for k, n in sorted(counted.items())], title="Misbehaviour")


def cells(num: int, walls: Sequence[float], cpus: Sequence[float]) -> list[str]:
    """Two cells: medians of questions a second and of CPU seconds a question."""
    return [f"{num / statistics.median(walls):.1f}", f"{statistics.median(cpus) / num:.3f}"]


def milli(seconds: Sequence[float]) -> str:
    """The median in milliseconds."""
    return f"{1000 * statistics.median(seconds):.0f} ms"


commands = standalone(serving, "python -m benchmarks.serving")

if __name__ == "__main__":
    main(commands=commands)
