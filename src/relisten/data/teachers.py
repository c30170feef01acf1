"""Teachers: who writes and judges questions. `complete(messages)` gives a call: a reply, and what it took.

    rules               no network: templates and code (rules.py)
    recorded:FILE       replays the calls of a JSONL file: {"messages": [...], "text": "..."} a line
    anything else       a model behind an OpenAI-compatible endpoint

A failure is a call with an `error`, never an exception: one that cannot be had does not stop the others.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from relisten import records
from relisten.data.messages import Messages, digest
from relisten.data.offline.rules import Rules
from relisten.data.store import Call, Failure

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

LONGEST_WAIT = 300.0
"""Seconds; a server that asks for longer (Retry-After) is asked again after these."""


class Teacher(Protocol):
    """Whoever replies to messages. `name` says which and with which settings: it is part of a reply's identity."""

    name: str

    async def complete(self, messages: Messages) -> Call:
        """A reply, or the reason why there is none. Never raises."""

    async def close(self) -> None:
        """Give back what it holds."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server and how to ask it."""

    model: str
    url: str = ""
    """Its address up to and with /v1; empty: the client's own default (OPENAI_BASE_URL, else OpenAI)."""
    key: str = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    temperature: float = 1.0
    max_tokens: int = 0
    """Of a reply, a reasoning model's thoughts included; 0: the server's limit."""
    json_mode: bool = False
    """Ask for `response_format: json_object`."""
    timeout: float = 600.0
    """Seconds for one request."""
    retries: int = 8
    """Further requests after one that failed for a passing reason (429, 5xx, connection, timeout, empty reply)."""
    requests_per_minute: float = 0.0
    """0: no limit of ours."""
    price_in: float = 0.0
    """Of a million tokens of prompt."""
    price_out: float = 0.0
    """Of a million tokens of reply."""


def open_teachers(composer: Endpoint, judge: Endpoint) -> tuple[Teacher, Teacher]:
    """A composer and a judge; of one server they take turns, which keep to its limit together."""
    first, second = open_teacher(composer), open_teacher(judge)
    if isinstance(first, OpenAITeacher) and isinstance(second, OpenAITeacher) and composer.url == judge.url:
        second.turn = first.turn
    return first, second


def open_teacher(endpoint: Endpoint) -> Teacher:
    """The teacher that an endpoint's model names. Raises ValueError where it cannot be had."""
    if endpoint.model == "rules":
        return Rules()
    if endpoint.model.startswith("recorded:"):
        return Recorded(Path(endpoint.model.removeprefix("recorded:")))
    return OpenAITeacher(endpoint)


class Recorded:
    """Replays replies by the messages they answered."""

    def __init__(self, path: Path) -> None:
        self._replies: dict[bytes, Call] = {}
        for number, line in enumerate(records.read(path), start=1):
            if not isinstance(line.get("messages"), list) or not isinstance(line.get("text"), str):
                raise ValueError(f"{path}, line {number}: needs messages (a list) and text")
            figures = {key: int(line.get(key, 0)) for key in ("prompt_tokens", "completion_tokens")}
            self._replies[digest(line["messages"])] = Call(line["text"], **figures)  # type: ignore[arg-type]
        self.name = f"recorded {digest(sorted(key.hex() for key in self._replies)).hex()}"

    async def complete(self, messages: Messages) -> Call:
        """What was replied to these very messages."""
        return self._replies.get(digest(messages)) or Call("", "", "no reply to these messages was recorded", "lasting")

    async def close(self) -> None:
        """Nothing is held."""


class OpenAITeacher:
    """A model behind an OpenAI-compatible endpoint; waits and asks again as the server bids."""

    def __init__(self, endpoint: Endpoint) -> None:
        if endpoint.url and not endpoint.url.startswith(("http://", "https://")):
            raise ValueError(f"url {endpoint.url!r}: write a server's address, such as http://localhost:8000/v1")
        try:
            import openai
            import tenacity  # noqa: F401
        except ImportError:
            raise ValueError("an OpenAI-compatible teacher needs two packages; pip install 'relisten[data]'") from None
        key = os.environ.get(endpoint.key)
        if not key and not endpoint.url:
            raise ValueError(
                f"teacher {endpoint.model!r} needs a key in {endpoint.key}; set it, give the address of a server that"
                " needs none, or use the teacher 'rules'"
            )
        self.endpoint = endpoint
        self.name = json.dumps(
            [endpoint.model, endpoint.url, endpoint.temperature, endpoint.max_tokens, endpoint.json_mode]
        )
        # max_retries=0: retries are ours, so that every request is counted and a 429 slows all calls, not one.
        self._client: AsyncOpenAI = openai.AsyncOpenAI(
            api_key=key or "none", base_url=endpoint.url or None, timeout=endpoint.timeout, max_retries=0
        )
        self.turn = Turn(60 / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def complete(self, messages: Messages) -> Call:
        """A reply, asked for again while the reason for its absence may pass."""
        import tenacity

        begun = time.perf_counter()
        attempts = 0
        passing = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Passing),
            stop=tenacity.stop_after_attempt(1 + self.endpoint.retries),
            wait=_wait,
            reraise=True,
        )
        call = Call("")
        used = [0, 0]  # an empty reply is paid for, too
        try:
            async for attempt in passing:
                with attempt:
                    attempts += 1
                    call = await self._once(messages, used)
        except (_Passing, _Final) as failure:
            call = Call("", "", str(failure), failure.failure)
        cost = (used[0] * self.endpoint.price_in + used[1] * self.endpoint.price_out) / 1e6
        seconds = time.perf_counter() - begun
        return Call(call.text, call.thought, call.error, call.failure, attempts, used[0], used[1], cost, seconds)

    async def _once(self, messages: Messages, used: list[int]) -> Call:
        import openai

        await self.turn.wait()
        asked: dict[str, Any] = {"model": self.endpoint.model, "messages": list(messages)}
        asked["temperature"] = self.endpoint.temperature
        if self.endpoint.max_tokens:
            asked["max_tokens"] = self.endpoint.max_tokens
        if self.endpoint.json_mode:
            asked["response_format"] = {"type": "json_object"}
        try:
            reply = await self._client.chat.completions.create(**asked)
        except openai.APIStatusError as error:
            reason = f"{error.status_code}: {_one_line(error.message)}"
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                after = retry_after(error)
                if error.status_code in (429, 503):
                    self.turn.pause(after or 0.0)
                raise _Passing(reason, after) from None
            raise _Final(reason, "fatal" if error.status_code in (401, 402, 403, 404) else "lasting") from None
        except openai.APIError as error:  # connection, timeout, half a body
            raise _Passing(f"{type(error).__name__}: {_one_line(str(error))}") from None
        except (ValueError, TypeError) as error:  # a body that is not what it says it is
            raise _Passing(f"unreadable reply ({_one_line(str(error))})") from None
        return _read(reply, used)


class _Passing(Exception):  # noqa: N818
    """A failure that may pass; `after` so many seconds, where the server says."""

    failure: Failure = "passing"

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _Final(Exception):  # noqa: N818
    """A failure that will not."""

    def __init__(self, reason: str, failure: Failure = "lasting") -> None:
        super().__init__(reason)
        self.failure = failure


class Turn:
    """When the next request may go: `gap` seconds after the last, and not before a pause is over."""

    def __init__(self, gap: float) -> None:
        self.gap = gap
        self._next = self._paused = 0.0

    def pause(self, seconds: float) -> None:
        """Let nobody ask for so long."""
        self._paused = max(self._paused, time.monotonic() + min(seconds, LONGEST_WAIT))

    async def wait(self) -> None:
        """Return when it is this request's turn; one that a pause overtakes waits for another."""
        while True:
            mine = max(self._next, self._paused, time.monotonic())
            self._next = mine + self.gap
            await asyncio.sleep(max(mine - time.monotonic(), 0.0))
            if self._paused <= mine:
                return


def _wait(state: Any) -> float:
    """Seconds until the next attempt: what the server asked for, or 0.5 s doubled each time, with jitter."""
    import tenacity

    failure = state.outcome.exception()
    if isinstance(failure, _Passing) and failure.after is not None:
        return min(failure.after, LONGEST_WAIT)
    return tenacity.wait_exponential_jitter(multiplier=0.5, max=60, jitter=0.5)(state)


def retry_after(error: APIStatusError) -> float | None:
    """Seconds that the server asks to wait, given as seconds, milliseconds or a date."""
    headers = error.response.headers
    try:
        if "retry-after-ms" in headers:
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        given = headers.get("retry-after", "")
        if not given:
            return None
        if re.fullmatch(r"[0-9.]+", given):
            return float(given)
        return max(parsedate_to_datetime(given).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _read(reply: Any, used: list[int]) -> Call:
    """Text and thoughts of a completion; an empty one may be better next time, a refusal will not."""
    usage = getattr(reply, "usage", None)
    used[0] += int(getattr(usage, "prompt_tokens", 0) or 0)
    used[1] += int(getattr(usage, "completion_tokens", 0) or 0)
    choices = getattr(reply, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise _Passing("the reply holds no message")
    message = choices[0].message
    if getattr(message, "refusal", None):
        raise _Final(f"refused: {_one_line(message.refusal)}")
    if choices[0].finish_reason == "content_filter":
        raise _Final("refused: the server's content filter")
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""
    text = message.content if isinstance(message.content, str) else ""
    # A server without a reasoning parser leaves the thoughts in the text.
    if not text.lstrip().startswith(("{", "```")):
        inside, closed, after = text.partition("</think>")
        if closed:
            thought, text = thought or inside.replace("<think>", ""), after
    if not text.strip():
        hint = "; max_tokens was reached while it reasoned" if choices[0].finish_reason == "length" else ""
        raise (_Final if hint else _Passing)(f"empty reply{hint}")
    return Call(text.strip(), str(thought).strip())


def _one_line(text: str) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 200 else line[:197] + "..."
