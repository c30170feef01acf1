"""A group of vLLM servers: each request goes to the least busy one, and a server that fails is left out for a while.

A request takes at most `timeout` seconds and its reply at most as many bytes as `data.servers` allows. Redirects are
not followed, so a recording goes to the addresses that were given and to no other.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from relisten import redact
from relisten.data.servers import MOST_BYTES, CallFailed, opened, whole_body
from relisten.models.base import AudioLM
from relisten.models.trial import PROBE
from relisten.records import is_number

GENERATE = "/inference/v1/generate"
KEY = "VLLM_API_KEY"
"""The environment variable that holds the key of servers that were started with --api-key."""
CONNECT = 10.0
"""Seconds in which a server must accept a connection."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds that a server is left out after a failure; doubled with each failure in a row."""
TRIES = 9
"""How often one request is sent, and how often in a row every server may fail, before the run stops. With one server
this takes two minutes."""


class Unreachable(ValueError):  # noqa: N818
    """No server answers."""


@dataclass
class Machine:
    """One server, and what is known about it."""

    url: str
    model: str = ""
    """The name of the model that it serves."""
    context: int = 0
    """The longest sequence that it takes, in tokens."""
    processed: bool = False
    """Whether its log-probabilities leave out banned tokens (--logprobs-mode processed_logprobs)."""
    checked: bool = False
    """Whether it has been found to serve the right model since its last failure."""
    busy: int = 0
    """Requests that it is answering."""
    failures: int = 0
    """Failures in a row."""
    back: float = 0.0
    """It gets no requests before this time (of time.monotonic)."""
    sent: set[str] = field(default_factory=set)
    """The pieces of audio that it has received."""


def machines(engine: str) -> list[Machine]:
    """The servers of a comma-separated list of addresses. Raises ValueError if one is not an address."""
    found = []
    for url in (part.strip() for part in engine.split(",")):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            shown = redact.one_line(url)
            raise ValueError(f"--engine {shown!r}: write a vLLM server's address such as http://localhost:8000")
        redact.hide(parts.password or "")
        found.append(url.rstrip("/").removesuffix("/v1"))
    return list(map(Machine, dict.fromkeys(found)))


class Fleet:
    """The servers of one session. The connections belong to one event loop."""

    def __init__(self, machines: Sequence[Machine], model: AudioLM, timeout: float = 600.0) -> None:
        """model: what every server must serve. timeout: seconds that one request may take."""
        self.machines, self.timeout = machines, timeout
        self._model = model
        key = os.environ.get(KEY, "")
        redact.hide(key)
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(timeout, connect=min(CONNECT, timeout)),
            limits=httpx2.Limits(max_connections=None),
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def pick(self, preferred: Machine | None = None) -> Machine:
        """The server for the next request: the preferred one if it is not left out now, or else the least busy one."""
        while True:
            now = time.monotonic()
            up = [machine for machine in self.machines if machine.back <= now]
            if not up:
                await asyncio.sleep(min(machine.back for machine in self.machines) - now)
                continue
            machine = preferred if preferred in up and preferred else min(up, key=lambda one: one.busy)
            if machine.checked:
                return machine
            try:
                await self.check(machine)
            except CallFailed as failed:
                self.failed(machine, failed)
                preferred = None

    def failed(self, machine: Machine, failed: CallFailed) -> None:
        """Leave a server out for a while. Raises ValueError if it refuses for good, or if no server has answered for
        long."""
        if failed.failure == "fatal":
            raise ValueError(f"{machine.url}: {failed}") from None
        if machine.back <= time.monotonic():  # several answers may find out at the same time
            machine.failures += 1
            wait = min(FIRST_WAIT * 2 ** (machine.failures - 1), LONGEST_WAIT)
            machine.back = time.monotonic() + (wait if failed.after is None else min(failed.after, LONGEST_WAIT))
            machine.checked = False  # it may come back with another model
            machine.sent.clear()
        if all(one.failures >= TRIES for one in self.machines):
            self.give_up(failed)

    def give_up(self, failed: CallFailed) -> None:
        """Raise Unreachable."""
        listed = ", ".join(machine.url for machine in self.machines)
        raise Unreachable(f"{listed}: no server answers ({failed}); when one does, start again") from None

    async def generate(self, machine: Machine, body: dict[str, Any], live: bool) -> AsyncIterator[dict[str, Any]]:
        """The reply to a request: one object, or with `live` an object for every few tokens. Raises CallFailed."""
        machine.busy += 1
        try:
            if live:
                async for piece in self._stream(machine, body | {"stream": True}):
                    yield piece
            else:
                yield await self.post(machine, GENERATE, body)
            machine.failures = 0
        finally:
            machine.busy -= 1

    async def check(self, machine: Machine) -> None:
        """Check what a server serves. Raises CallFailed: `passing` if it may answer later, else `fatal`."""
        listed = await self._json(machine, "GET", "/v1/models")
        first = _first(listed.get("data"))
        machine.model, machine.context = str(first.get("id", "")), _whole(first.get("max_model_len"))
        if not machine.model or not machine.context:
            raise CallFailed("it does not list a model with its max_model_len, so it is no vLLM server", "fatal")
        own = self._model.encode(PROBE)
        asked = {"model": machine.model, "prompt": PROBE, "add_special_tokens": False}
        try:
            tokens = (await self._json(machine, "POST", "/tokenize", asked)).get("tokens")
        except CallFailed as failed:
            if not str(failed).startswith("404"):
                raise
            tokens = own  # a router may not pass this on; every reply is compared with its prompt all the same
        if tokens != own:
            raise CallFailed(
                f"it serves {machine.model!r}, whose tokens are not those of {self._model.name!r}; give that model with"
                " --model, or serve the folder that `relisten export vllm` writes",
                "fatal",
            )
        # The first token is made certain. Raw log-probabilities are computed before that, processed ones after.
        wanted = {str(own[0]): 100}
        sampling = {"temperature": 0, "max_tokens": 1, "logprobs": 0, "logit_bias": wanted}
        found = await self._probe(machine, {"token_ids": own[1:], "sampling_params": sampling})
        ids, logprobs = tokens_of(found)
        if ids != own[:1]:
            raise CallFailed("it does not honour logit_bias, so it would sample placeholders of audio", "fatal")
        machine.processed = logprobs[0] > -1e-3
        machine.checked = True

    async def _probe(self, machine: Machine, body: dict[str, Any]) -> dict[str, Any]:
        """Ask for one token. Raises CallFailed that says what is wrong if the server cannot give it."""
        try:
            return await self.post(machine, GENERATE, body)
        except CallFailed as failed:
            if failed.failure == "passing":
                raise
            version = str((await self._json(machine, "GET", "/version")).get("version", "of unknown version"))
            hint = (
                "start it with --enable-scale-out" if str(failed).startswith("403") else "relisten needs 0.32 or newer"
            )
            raise CallFailed(f"vLLM {version[:40]} does not answer at {GENERATE} ({failed}); {hint}", "fatal") from None

    async def post(self, machine: Machine, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that a server replies with. Raises CallFailed."""
        return await self._json(machine, "POST", path, body)

    async def _json(self, machine: Machine, method: str, path: str, body: Any = None) -> dict[str, Any]:
        async with opened(self._client, method, machine.url + path, self.timeout, body) as response:
            content = await whole_body(response)
        try:
            found = json.loads(content) if content.strip() else {}
        except (ValueError, RecursionError):
            raise CallFailed("unreadable reply: it is not JSON", "passing") from None
        if not isinstance(found, dict):
            raise CallFailed("unreadable reply: it is no JSON object", "passing")
        return found

    async def _stream(self, machine: Machine, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The objects of a reply in server-sent events."""
        size, ended = 0, False
        async with opened(self._client, "POST", machine.url + GENERATE, self.timeout, body) as response:
            async for line in response.aiter_lines():
                size += len(line)
                if size > MOST_BYTES:
                    raise CallFailed(f"the reply is longer than {MOST_BYTES:,} bytes", "passing")
                if line.startswith("data:") and line[5:].strip() == "[DONE]":
                    ended = True
                elif line.startswith("data:"):
                    try:
                        piece = json.loads(line[5:])
                    except (ValueError, RecursionError):
                        raise CallFailed("unreadable reply: an event is not JSON", "passing") from None
                    if not isinstance(piece, dict) or "error" in piece:
                        raise CallFailed(f"the server fails in the midst: {redact.one_line(str(piece))}", "passing")
                    yield piece
        if not ended:
            raise CallFailed("the reply ends before its end", "passing")


def tokens_of(reply: dict[str, Any]) -> tuple[list[int], list[float]]:
    """The token ids in a reply and their log-probabilities. Raises CallFailed if they are missing."""
    choice = _first(reply.get("choices"))
    ids = choice.get("token_ids") or []
    told = choice.get("logprobs")
    content = (told.get("content") if isinstance(told, dict) else None) or []
    logprobs = [float(one["logprob"]) for one in content if isinstance(one, dict) and is_number(one.get("logprob"))]
    whole = isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids) and len(ids) == len(logprobs)
    if not whole or not (
        ids or choice.get("finish_reason")
    ):  # the last piece of a stream may have only the reason why it ends
        raise CallFailed("the reply holds no tokens with their log-probabilities", "passing")
    if choice.get("finish_reason") == "abort":
        raise CallFailed("the server gave the request up", "passing")
    return ids, logprobs


def _first(value: Any) -> dict[str, Any]:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}


def _whole(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
