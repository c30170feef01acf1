"""The one way in which relisten asks a model behind an OpenAI-compatible server: bounded in time and in size.

A request and its whole reply take at most `timeout` seconds and MOST_BYTES bytes after decompression, whatever the
server does. Redirects are not followed, so a prompt goes to the address that was given and to no other. A reply that is
not what it should be is a `CallFailed`, as a refused one is.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from relisten import redact
from relisten.data.store import Failure
from relisten.extras import install_hint

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_BYTES = 8 << 20
"""Of a reply, after decompression: the longest that models write, thoughts included, take a tenth of it."""
MOST_CHARACTERS = 100_000
"""Of the text of a reply, thoughts left out; a question with its chain of thought takes some 2,000."""
MOST_TOKENS = 1 << 40
"""A server that says that one call took more than this is wrong."""
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
    """A call that gave nothing, with the reason in one line."""

    def __init__(self, reason: str, failure: Failure, after: float | None = None) -> None:
        """failure: whether it may pass (as in `Call.failure`). after: seconds to wait, where the server asks for it."""
        super().__init__(reason)
        self.failure, self.after = failure, after


@dataclass
class Reply:
    """What a server said, and what it took. The counts are right even where the reply is of no use."""

    text: str = ""
    thought: str = ""
    """What a reasoning model thought beside its reply."""
    finish: str = ""
    """Why it ended (finish_reason)."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def check_key(name: str) -> None:
    """Raise ValueError where `name` cannot be the name of an environment variable. It may be a key: it is not shown."""
    if name not in os.environ and not _NAME.fullmatch(name):
        raise ValueError(
            "key: names no environment variable that is set. Give the name of the variable that holds the key, such as"
            " OPENAI_API_KEY, and not the key itself (what you gave is not printed, in case it is one)"
        )


def ready(server: Server, who: str) -> str:
    """The key of a server. Raises ValueError, which says that `who` needs it, where something is missing or wrong."""
    if server.url and not server.url.startswith(("http://", "https://")):
        raise ValueError(
            f"url {redact.one_line(server.url)!r}: write a server's address such as http://localhost:8000/v1"
        )
    if find_spec("openai") is None:
        raise ValueError(f"{who} needs the package openai; {install_hint('data')}")
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


def connect(server: Server, who: str) -> AsyncOpenAI:
    """A client for a server, which keeps to this module's bounds. Close it. Raises ValueError as `ready` does."""
    key = ready(server, who)
    import openai

    # Retries are ours, so that every request is counted and a 429 slows all calls, not one.
    return openai.AsyncOpenAI(
        api_key=key, base_url=server.url or None, timeout=server.timeout, max_retries=0,
        http_client=_bounded(openai.DefaultAsyncHttpxClient)(timeout=server.timeout),
    )  # fmt: skip


def _bounded(base: Any) -> Any:
    """A class of HTTP clients that read a reply as a whole, but no more of it than MOST_BYTES, and follow nobody."""

    class Bounded(base):  # type: ignore[misc]
        async def send(self, request: Any, **options: Any) -> Any:
            response = await super().send(request, **options | {"stream": True, "follow_redirects": False})
            try:
                content = await whole_body(response)
            finally:
                await response.aclose()
            left = ("content-encoding", "content-length", "transfer-encoding")
            headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in left]
            return type(response)(response.status_code, headers=headers, content=content, request=request)

    return Bounded


async def whole_body(response: Any) -> bytes:
    """The body of an open response, decompressed. Raises CallFailed if it is too long, or compressed in an odd way."""
    parts, size = [], 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise CallFailed(f"the reply is longer than {MOST_BYTES:,} bytes", "passing")
    raw = b"".join(parts)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return raw
    if encoding not in ("gzip", "deflate"):
        raise CallFailed(f"the reply is compressed in a form that was not asked for ({encoding[:40]})", "passing")
    try:
        unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(raw, MOST_BYTES + 1)
    except zlib.error:
        raise CallFailed(f"the reply is damaged: it is not {encoding}", "passing") from None
    if len(unpacked) > MOST_BYTES:
        raise CallFailed(f"the reply is longer than {MOST_BYTES:,} bytes when it is decompressed", "passing")
    return unpacked


async def models(client: AsyncOpenAI, server: Server) -> list[str]:
    """Names of the models that a server offers. Raises CallFailed."""
    found = await _ask(client.models.with_raw_response.list, server, {})
    listed = found.get("data") if isinstance(found, dict) else None
    return [one["id"] for one in listed or [] if isinstance(one, dict) and isinstance(one.get("id"), str)]


async def complete(
    client: AsyncOpenAI,
    server: Server,
    model: str,
    messages: Any,
    reply: Reply,
    may_be_empty: bool = False,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Ask once, and fill in the reply. Raises CallFailed; tokens that were paid for are in the reply all the same.

    may_be_empty: an empty reply is an answer too; else it is a failure that may pass. more: fields of the request that
    `server` does not say; the text of the reply is then left as it was written, thoughts included.
    """
    messages = redact.each_text(redact.whole, list(messages))
    asked: dict[str, Any] = {"model": model, "messages": messages, "temperature": server.temperature}
    if server.max_tokens:
        asked["max_tokens"] = server.max_tokens
    if server.json_mode:
        asked["response_format"] = {"type": "json_object"}
    asked |= more or {}
    body = await _ask(client.chat.completions.with_raw_response.create, server, asked)
    _read(body, reply, may_be_empty, as_written=more is not None)


async def _ask(ask: Any, server: Server, asked: dict[str, Any]) -> Any:
    """The JSON that a server replies with. Raises CallFailed."""
    import openai

    try:
        async with asyncio.timeout(server.timeout):
            # Compression is not asked for: a reply is small, and one that unpacks without end is not sent by mistake.
            raw = await ask(**asked, extra_headers={"Accept-Encoding": "identity"})
        return json.loads(raw.content)
    except CallFailed:
        raise
    except (TimeoutError, openai.APITimeoutError):
        raise CallFailed(f"timeout: no complete reply within {server.timeout:g} s", "passing") from None
    except openai.APIStatusError as error:
        raise refused(error.status_code, error.response.headers, str(error.message)) from None
    except openai.APIError as error:  # no connection, half a body
        cause = error.__cause__ or error
        if isinstance(cause, CallFailed):
            raise cause from None
        raise CallFailed(f"{type(cause).__name__}: {redact.one_line(str(cause))}", "passing") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise CallFailed(
            f"unreadable reply ({redact.one_line(str(error)) or type(error).__name__})", "passing"
        ) from None


def refused(status: int, headers: Mapping[str, str], message: str) -> CallFailed:
    """What a status other than 200 means."""
    if 300 <= status < 400:
        target = redact.one_line(headers.get("location", "another address"))
        return CallFailed(
            f"{status}: the server points to {target}; redirects are not followed, give that as url", "fatal"
        )
    reason = f"{status}: {redact.one_line(message.removeprefix(f'Error code: {status} - '))}"
    if status in (408, 409, 429) or status >= 500:
        return CallFailed(reason, "passing", retry_after(headers))
    return CallFailed(reason, "fatal" if status in (401, 402, 403, 404) else "lasting")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, given as seconds, milliseconds or a date; None where it does not ask."""
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


def _read(body: Any, reply: Reply, may_be_empty: bool, as_written: bool) -> None:
    """Fill in text, thoughts and counts from a completion. An odd or empty reply may be better next time."""
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
    """A part of a reply. Raises CallFailed where it is missing or of another kind."""
    try:
        part = value[key]
    except (TypeError, KeyError, IndexError):
        part = None
    if not isinstance(part, kind) or not part:
        raise CallFailed("the reply holds no message", "passing")
    return part


def _count(usage: Any, name: str) -> int:
    """A number of tokens. Raises CallFailed where it cannot be one: a budget could not be kept with it."""
    value = usage.get(name) if isinstance(usage, dict) else usage
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_TOKENS:
        shown = redact.one_line(repr(value)[:1000], 40)
        raise CallFailed(f"the reply's usage cannot be read ({name} is {shown})", "passing")
    return int(value)
