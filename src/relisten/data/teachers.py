"""Teachers write and judge questions. `complete(messages)` returns a call: a reply with its tokens, cost and seconds.

    rules               no network: templates and code (rules.py)
    recorded:FILE       replays the calls of a JSONL file: {"messages": [...], "text": "..."} a line
    anything else       a model behind an OpenAI-compatible server (servers.py)

A failure is a call with an `error`, never an exception, so that one missing reply does not stop the others.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from relisten import records, redact
from relisten.data import servers
from relisten.data.messages import Messages, digest
from relisten.data.offline.rules import Rules
from relisten.data.servers import DEFAULT, CallFailed, NotReached, Reply, Server
from relisten.data.store import Call

FIRST_WAIT = 0.5
"""Seconds before a call is sent again for the first time. The wait doubles each time, up to a minute."""
FIRST_RETRIES = 2
"""How often a connection is tried again as long as none was ever made: a wrong address is told within seconds."""
LONGEST_WAIT = 300.0
"""Most seconds that a server's Retry-After is followed."""


class Teacher(Protocol):
    """Replies to messages. `name` holds the model and its settings; replies are found again by it."""

    name: str

    async def complete(self, messages: Messages) -> Call:
        """A reply, or the reason why there is none. Never raises."""

    async def close(self) -> None:
        """Close its connections, if it has any."""


def open_teachers(composer: tuple[str, Server], judge: tuple[str, Server]) -> tuple[Teacher, Teacher]:
    """A composer and a judge, each by its name and its server; if they share a server, they share its limits."""
    first, second = open_teacher(*composer), open_teacher(*judge)
    if isinstance(first, Remote) and isinstance(second, Remote) and composer[1].url == judge[1].url:
        second.turn = first.turn
    return first, second


def open_teacher(name: str, server: Server = DEFAULT) -> Teacher:
    """The teacher of a name (see above). Raises ValueError if it cannot be asked."""
    if name == "rules":
        return Rules()
    if name.startswith("recorded:"):
        return Recorded(Path(name.removeprefix("recorded:")))
    return Remote(name, server)


class Recorded:
    """Replays recorded replies, found by their messages."""

    def __init__(self, path: Path) -> None:
        self._replies: dict[bytes, Call] = {}
        for number, line in enumerate(records.read(path), start=1):
            if not isinstance(line.get("messages"), list) or not isinstance(line.get("text"), str):
                raise ValueError(f"{path}, line {number}: needs messages (a list) and text")
            figures = [line.get(key, 0) for key in ("prompt_tokens", "completion_tokens")]
            if not all(isinstance(num, int) and 0 <= num < servers.MOST_TOKENS for num in figures):
                raise ValueError(
                    f"{path}, line {number}: prompt_tokens and completion_tokens must be numbers of tokens"
                )
            self._replies[digest(line["messages"])] = Call(
                redact.whole(line["text"]), prompt_tokens=figures[0], completion_tokens=figures[1]
            )
        self.name = f"recorded {digest(sorted(key.hex() for key in self._replies)).hex()}"

    async def complete(self, messages: Messages) -> Call:
        """The recorded reply to exactly these messages."""
        return self._replies.get(digest(messages)) or Call("", "", "no reply to these messages was recorded", "lasting")

    async def close(self) -> None:
        """Nothing is open."""


class Remote:
    """A model behind an OpenAI-compatible server. It waits and asks again as the server tells it to."""

    def __init__(self, model: str, server: Server, may_be_empty: bool = False) -> None:
        """may_be_empty: an empty reply is an answer too.

        Raises ValueError if the server cannot be asked at all, because its key or address is missing.
        """
        self.model, self.server, self.may_be_empty = model, server, may_be_empty
        self.name = json.dumps([model, server.url, server.temperature, server.max_tokens, server.json_mode])
        self._client = servers.connect(server, f"the teacher {model!r}")
        self.reached = False
        """Whether a connection was ever made. Until then it is soon given up, as the address may be wrong."""
        self.turn = Turn(60 / server.requests_per_minute if server.requests_per_minute else 0.0)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def complete(self, messages: Messages) -> Call:
        """A reply; it is asked for again after a failure that may pass."""
        return (await self.ask(messages))[0]

    async def ask(self, messages: Messages, more: Mapping[str, Any] | None = None) -> tuple[Call, str]:
        """A reply, and why it ended (finish_reason).

        more: fields of the request that `server` does not have. With them, the text of the reply is left as it was
        written.
        """
        begun = time.perf_counter()
        reply = Reply()  # an empty reply is paid for, too: its tokens add up here
        attempts = 1
        while failed := await self._once(messages, reply, more):
            never = isinstance(failed, NotReached) and not self.reached
            if failed.failure != "passing" or attempts > min(self.server.retries, FIRST_RETRIES if never else 1 << 30):
                break
            await _wait(attempts, failed)
            attempts += 1
        if isinstance(failed, NotReached) and not self.reached:
            address = redact.redact(str(self._client.base_url).rstrip("/"))
            failed = CallFailed(f"no server answers at {address} ({failed})", "fatal")
        cost = (reply.prompt_tokens * self.server.price_in + reply.completion_tokens * self.server.price_out) / 1e6
        call = Call(
            reply.text, reply.thought, str(failed or ""), failed.failure if failed else "", attempts,
            reply.prompt_tokens, reply.completion_tokens, cost, time.perf_counter() - begun,
        )  # fmt: skip
        return call, reply.finish

    async def _once(self, messages: Messages, reply: Reply, more: Mapping[str, Any] | None) -> CallFailed | None:
        server = self.server
        sent = redact.each_text(redact.whole, list(messages))
        asked: dict[str, Any] = {"model": self.model, "messages": sent, "temperature": server.temperature}
        if server.max_tokens:
            asked["max_tokens"] = server.max_tokens
        if server.json_mode:
            asked["response_format"] = {"type": "json_object"}
        asked |= more or {}
        await self.turn.wait()
        try:
            body = await servers.ask(self._client, "POST", "chat/completions", server.timeout, asked)
            servers.read(body, reply, self.may_be_empty, as_written=more is not None)
        except NotReached as failed:
            return failed
        except CallFailed as failed:
            self.reached = True
            self.turn.pause(failed.after or 0.0)
            return failed
        self.reached = True
        return None

    async def models(self) -> list[str]:
        """Names of the models that the server offers. Raises CallFailed."""
        found = await servers.ask(self._client, "GET", "models", self.server.timeout)
        listed = found.get("data") if isinstance(found, dict) else None
        return [one["id"] for one in listed or [] if isinstance(one, dict) and isinstance(one.get("id"), str)]


retrying: Counter[str] = Counter()
"""Calls of this process that are waiting to be sent again, counted by reason; the progress bar shows them."""


async def _wait(attempt: int, failed: CallFailed) -> None:
    """Wait before a call is sent again: as long as the server asks, or FIRST_WAIT doubled each time, with jitter."""
    seconds = min(FIRST_WAIT * 2 ** min(attempt - 1, 10), 60.0) + random.uniform(0, FIRST_WAIT)
    reason = str(failed)
    retrying[reason] += 1
    try:
        await asyncio.sleep(min(seconds if failed.after is None else failed.after, LONGEST_WAIT))
    finally:
        retrying[reason] -= 1
        if not retrying[reason]:
            del retrying[reason]


class Turn:
    """Decides when the next request may be sent: `gap` seconds after the last, and never during a pause."""

    def __init__(self, gap: float) -> None:
        self.gap = gap
        self._next = self._paused = 0.0

    def pause(self, seconds: float) -> None:
        """Let nobody ask for so many seconds, but no longer than LONGEST_WAIT."""
        self._paused = max(self._paused, time.monotonic() + min(seconds, LONGEST_WAIT))

    async def wait(self) -> None:
        """Return when it is this request's turn. If a pause begins meanwhile, wait for a new turn."""
        while True:
            mine = max(self._next, self._paused, time.monotonic())
            self._next = mine + self.gap
            await asyncio.sleep(max(mine - time.monotonic(), 0.0))
            if self._paused <= mine:
                return
