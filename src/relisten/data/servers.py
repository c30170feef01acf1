"""Requests to OpenAI-compatible servers, bounded in time and in size.

A request and its whole reply take at most `timeout` seconds and MOST_BYTES bytes after decompression, whatever the
server does. Redirects are not followed, so a prompt goes to no other address than the one that was given. A reply that
is refused, or that is not a completion, raises `CallFailed`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2

from relisten import redact
from relisten.data.store import Failure

OPENAI = "https://api.openai.com/v1"
MOST_BYTES = 8 << 20
"""Most bytes of a reply after decompression. The longest replies of models, with their thoughts, take a tenth of it."""
MOST_CHARACTERS = 100_000
"""Most characters of a reply without its thoughts. A question with its chain of thought takes some 2,000."""
MOST_TOKENS = 1 << 40
"""If a server reports more tokens than this for one call, its report is wrong."""
_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")


@dataclass(frozen=True, kw_only=True)
class Server:
    """How an OpenAI-compatible server is asked."""

    url: str = ""
    """Address of the server, up to and including /v1. By default OPENAI_BASE_URL, or else OpenAI's own."""
    key: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key (never the key itself)."""
    temperature: float = 1.0
    """Sampling temperature of the teacher that composes; the judge is always asked at 0."""
    max_tokens: int = 0
    """Most tokens in a reply, a reasoning model's thoughts included; 0 leaves the limit to the server."""
    json_mode: bool = False
    """Ask the server for a JSON object when composing (`response_format`)."""
    timeout: float = 600.0
    """Seconds that one request may take, from connecting to the last byte of its reply."""
    retries: int = 8
    """How often a request is sent again after a failure that may pass: 429, 5xx, timeout, empty or odd reply."""
    requests_per_minute: float = 0.0
    """Most requests that are sent to a server in a minute; 0 sets no limit."""
    price_in: float = 0.0
    """Price of a million tokens of prompt."""
    price_out: float = 0.0
    """Price of a million tokens of reply."""


DEFAULT = Server()


class CallFailed(ValueError):  # noqa: N818
    """A call that gave no reply, with the reason in one line."""

    def __init__(self, reason: str, failure: Failure, after: float | None = None) -> None:
        """failure: as in `Call.failure`. after: seconds to wait, if the server asks for it."""
        super().__init__(reason)
        self.failure, self.after = failure, after


class NotReached(CallFailed):
    """No server took the connection."""


@dataclass
class Reply:
    """A server's reply, and its tokens. The tokens are counted even if the reply is useless."""

    text: str = ""
    thought: str = ""
    """What a reasoning model thought beside its reply."""
    finish: str = ""
    """Why it ended (finish_reason)."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def check_key(name: str) -> None:
    """Raise ValueError if `name` cannot be the name of an environment variable. It is not shown, as it may be a key."""
    if name not in os.environ and not _NAME.fullmatch(name):
        raise ValueError(
            "key: names no environment variable that is set. Give the name of the variable that holds the key, such as"
            " OPENAI_API_KEY, and not the key itself (what you gave is not printed, in case it is one)"
        )


def ready(server: Server, who: str) -> str:
    """The key of a server. Raises ValueError, which says that `who` needs it, if the key or the address is wrong."""
    try:
        right = not server.url or httpx2.URL(server.url).scheme in ("http", "https")
    except httpx2.InvalidURL:
        right = False
    if not right:
        raise ValueError(
            f"url {redact.one_line(server.url)!r}: write a server's address such as http://localhost:8000/v1"
        )
    check_key(server.key)
    key = os.environ.get(server.key, "")
    if not key and (not server.url or server.key != Server.key):
        raise ValueError(
            f"{who} needs a key in the environment variable {server.key}; set it, or give the address (url) of a server"
            " that needs none"
        )
    redact.hide(key)
    redact.hide(unquote(urlsplit(server.url).password or ""))
    return key or "none"


def connect(server: Server, who: str) -> httpx2.AsyncClient:
    """A client for a server. Close it. Raises ValueError as `ready` does."""
    key = ready(server, who)
    # Compression is not asked for: a reply is small, and one that unpacks without end is not sent by mistake.
    return httpx2.AsyncClient(
        base_url=server.url or os.environ.get("OPENAI_BASE_URL") or OPENAI,
        headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"},
        timeout=server.timeout,
        limits=httpx2.Limits(max_connections=None),
        follow_redirects=False,
    )


@asynccontextmanager
async def opened(
    client: httpx2.AsyncClient, method: str, url: str, timeout: float, body: Any = None
) -> AsyncIterator[httpx2.Response]:
    """A response with status 200, which must be read within `timeout` seconds. Other outcomes raise CallFailed."""
    try:
        async with asyncio.timeout(timeout), client.stream(method, url, json=body) as response:
            if response.status_code != 200:
                raise refused(response.status_code, response.headers, _message(await whole_body(response)))
            yield response
    except (TimeoutError, httpx2.TimeoutException):
        raise CallFailed(f"timeout: no complete reply within {timeout:g} s", "passing") from None
    except httpx2.ConnectError as error:
        raise NotReached(f"no connection: {redact.one_line(str(error))}", "passing") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:  # half a body, a broken connection
        raise CallFailed(f"{type(error).__name__}: {redact.one_line(str(error))}", "passing") from None


def _message(content: bytes) -> str:
    """The message in a server's error reply."""
    text = content.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for key in ("error", "detail", "message"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return found if isinstance(found, str) else text


async def whole_body(response: httpx2.Response) -> bytes:
    """The body of an open response, decompressed. Raises CallFailed if it is too long, or compressed in an odd way."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):  # of these, a small piece unpacks to a bounded one
        raise CallFailed(f"the reply is compressed in a form that was not asked for ({encoding[:40]})", "passing")
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise CallFailed(f"the reply is longer than {MOST_BYTES:,} bytes", "passing")
    return b"".join(parts)


async def ask(client: httpx2.AsyncClient, method: str, url: str, timeout: float, body: Any = None) -> Any:
    """The JSON that a server replies with, which may be anything. Raises CallFailed."""
    async with opened(client, method, url, timeout, body) as response:
        content = await whole_body(response)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = redact.one_line(str(error)) or type(error).__name__
        raise CallFailed(f"unreadable reply ({reason})", "passing") from None


def refused(status: int, headers: Mapping[str, str], message: str) -> CallFailed:
    """What a status other than 200 means."""
    if 300 <= status < 400:
        target = redact.one_line(headers.get("location", "another address"))
        return CallFailed(
            f"{status}: the server points to {target}; redirects are not followed, give that as url", "fatal"
        )
    reason = f"{status}: {redact.one_line(message)}"
    if status in (408, 409, 429) or status >= 500:
        return CallFailed(reason, "passing", retry_after(headers))
    return CallFailed(reason, "fatal" if status in (401, 402, 403, 404) else "lasting")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, given as seconds, milliseconds or a date; None if it does not ask."""
    given = headers.get("retry-after", "").strip()
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        elif re.fullmatch(r"[0-9.]{1,20}", given):
            seconds = float(given)
        else:
            seconds = parsedate_to_datetime(given).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(seconds, 0.0) if seconds == seconds else None


def read(body: Any, reply: Reply, may_be_empty: bool, as_written: bool) -> None:
    """Fill in a reply from a completion. Raises CallFailed; tokens that were paid for are in the reply all the same.

    may_be_empty: an empty text is a reply too; otherwise it is a failure that may pass. as_written: leave the text as
    it was written, with its thoughts and white space.
    """
    usage = (body.get("usage") if isinstance(body, dict) else None) or {}
    for name in ("prompt_tokens", "completion_tokens"):
        setattr(reply, name, getattr(reply, name) + _count(usage, name))
    choice = _part(_part(body, "choices", list), 0, dict)
    message = _part(choice, "message", dict)
    if message.get("refusal"):
        raise CallFailed(f"refused: {redact.one_line(str(message['refusal']))}", "lasting")
    if choice.get("finish_reason") == "content_filter":
        raise CallFailed("refused: the server's content filter", "lasting")
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    text = message.get("content")
    text = text if isinstance(text, str) else ""
    reply.finish = str(choice.get("finish_reason") or "")
    # A server without a reasoning parser leaves the thoughts in the text.
    if not as_written and not text.lstrip().startswith(("{", "```")):
        inside, closed, after = text.partition("</think>")
        if closed:
            thought, text = thought or inside.replace("<think>", ""), after
    if not text.strip() and not may_be_empty:
        cut = choice.get("finish_reason") == "length"
        hint = "; max_tokens was reached while it reasoned" if cut else ""
        raise CallFailed(f"empty reply{hint}", "lasting" if cut else "passing")
    if len(text) > MOST_CHARACTERS:
        raise CallFailed(f"the text of the reply is longer than {MOST_CHARACTERS:,} characters", "lasting")
    reply.text = redact.redact(text if as_written else text.strip(), prose=True)
    reply.thought = redact.redact(str(thought).strip(), prose=True)


def _part(value: Any, key: str | int, kind: type) -> Any:
    """A part of a reply. Raises CallFailed if it is missing, empty or of another type."""
    try:
        part = value[key]
    except (TypeError, KeyError, IndexError):
        part = None
    if not isinstance(part, kind) or not part:
        raise CallFailed("the reply holds no message", "passing")
    return part


def _count(usage: Any, name: str) -> int:
    """A number of tokens. Raises CallFailed if it cannot be one, because the budget depends on it."""
    value = usage.get(name) if isinstance(usage, dict) else usage
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_TOKENS:
        shown = redact.one_line(repr(value)[:1000], 40)
        raise CallFailed(f"the reply's usage cannot be read ({name} is {shown})", "passing")
    return int(value)
