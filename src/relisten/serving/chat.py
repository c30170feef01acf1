"""Reading requests in OpenAI's chat form: each is one question about one recording, or is refused with the name of the
parameter that is wrong.

This module reads no file, decodes no recording and opens no connection: a request has its recording as text in base64
or as an address, which other modules handle.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from relisten.engine.generation import GenerationConfig
from relisten.records import is_number
from relisten.types import Segment

MAX_TEXT = 20_000
"""The longest question in characters. A longer one does not fit into the context of a small model anyway."""
MAX_CHOICES = 100
_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.+-]+=[^;,]*)*;base64,", re.IGNORECASE)


class RequestError(Exception):
    """A request that is refused. status: the HTTP status. param: the parameter that is wrong. retry_after: seconds."""

    def __init__(self, status: int, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        # Both may quote half a character (a lone surrogate), which no reply can hold.
        self.message = message.encode(errors="replace").decode()
        self.param = None if param is None else param.encode(errors="replace").decode()


@dataclass(frozen=True)
class Bounds:
    """The limits of a request."""

    model: str
    """The name of the model that answers; a request for another one is refused."""
    defaults: GenerationConfig
    """Used for what a request leaves out. `max_new_tokens` and `max_listens` are also the highest allowed values."""
    max_answers: int
    """The largest `n`."""
    max_bytes: int
    """The largest recording, in bytes."""


@dataclass(frozen=True)
class Sent:
    """A recording as it was sent, in one of two ways."""

    base64: str | None = None
    """Its file in base64."""
    url: str | None = None
    """Its http or https address."""


@dataclass(frozen=True)
class Chat:
    """One question about one recording."""

    sent: Sent
    question: str
    choices: tuple[str, ...]
    config: GenerationConfig
    num_answers: int
    stream: bool
    include_usage: bool
    """Whether the last piece of a stream counts tokens."""
    name: str
    """The client's name for the recording. Sampling depends on it, as it depends on the file name in `relisten ask`."""
    stretch: Segment | None
    """The part of the recording that is asked about, in seconds. The model hears nothing else."""
    trace: bool
    """Whether the reply holds the whole trace: token ids and log-probabilities."""


def read(given: dict[str, Any], bounds: Bounds) -> Chat:
    """The question in a request. Raises RequestError."""
    for name, value in given.items():
        if name not in _HONOURED and value not in _HARMLESS.get(name, (None,)):
            raise RequestError(400, _unsupported(name, value), name)
    model = given.get("model")
    if model != bounds.model:
        raise RequestError(
            404, f"this server answers with {bounds.model!r}, not {model!r}; send that as model", "model"
        )
    own = _own(given.get("relisten"))
    text, sent = _message(given.get("messages"), bounds.max_bytes)
    streaming = _flag(given, "stream")
    usage = given.get("stream_options") or {}
    if not isinstance(usage, dict) or set(usage) - {"include_usage", "include_obfuscation"}:
        raise RequestError(400, "stream_options may hold include_usage alone", "stream_options")
    return Chat(
        sent,
        text,
        _choices(own.get("choices")),
        _config(given, own, bounds),
        _number(given, "n", 1, least=1, most=bounds.max_answers),
        streaming,
        streaming and _flag(usage, "include_usage", "stream_options.include_usage"),
        _name(own.get("name")),
        read_stretch(own.get("stretch")),
        _flag(own, "trace", "relisten.trace"),
    )


def file(encoded: str) -> bytes:
    """The bytes of a recording that was sent in base64. Raises RequestError."""
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, "the recording is not base64; encode the bytes of the whole file", "messages") from None


_HONOURED = frozenset(
    "model messages relisten stream stream_options n seed temperature top_p top_k max_tokens max_completion_tokens"  # noqa: SIM905
    " user metadata safety_identifier prompt_cache_key".split()
)
"""Parameters that are honoured; the last four do not change an answer."""
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "stop": (None, [], ""),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "store": (None, False),
    "service_tier": (None, "auto", "default"),
}
"""Parameters that are not supported, with the values that mean that they are not used."""
_INSTEAD = {
    "stop": "an answer ends at </answer>, and reasoning at its own limits",
    "logprobs": 'send "relisten": {"trace": true} to get the log-probability of every token',
    "top_logprobs": 'send "relisten": {"trace": true} to get the log-probability of every token',
    "response_format": "ask with relisten.choices to get one of several texts as the answer",
    "reasoning_effort": "use max_tokens, or relisten.format and relisten.max_listens",
    "audio": "answers are texts",
    "modalities": "answers are texts",
    "choices": 'send them as "relisten": {"choices": [...]}',
}


def _unsupported(name: str, value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    known = name in _HARMLESS or name in _INSTEAD
    said = f"{name} is {'not supported' if known else 'no known parameter'} ({shown[:60]})"
    return f"{said}; {_INSTEAD.get(name, 'leave it out')}"


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object in the body of a request. Raises RequestError."""

    def constant(name: str) -> float:
        raise ValueError(f"{name} is no number")

    try:
        given = json.loads(body.decode("utf-8"), parse_constant=constant)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise RequestError(400, f"the body is not JSON in UTF-8 ({reason})") from None
    if not isinstance(given, dict):
        raise RequestError(400, "the body must be one JSON object")
    return given


def _own(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    known = ("choices", "format", "max_listens", "min_segment", "name", "only_choices", "stretch", "trace")
    if not isinstance(given, dict):
        raise RequestError(400, "relisten must be an object", "relisten")
    for name in given:
        if name not in known:
            raise RequestError(
                400, f"relisten.{name} is no known parameter; there are {', '.join(known)}", f"relisten.{name}"
            )
    return given


def _message(messages: Any, max_bytes: int) -> tuple[str, Sent]:
    """The question and its recording."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RequestError(400, "messages must be a list of objects", "messages")
    roles = [message.get("role") for message in messages]
    if roles != ["user"]:
        raise RequestError(
            400,
            "send one message with the role user, which holds the question and its recording; the model's instructions"
            f" and earlier turns cannot be replaced (roles: {', '.join(map(str, roles[:5])) or 'none'})",
            "messages",
        )
    content = messages[0].get("content")
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RequestError(400, "content must be a list with a text and an input_audio or audio_url", "messages")
    texts: list[str] = []
    recordings: list[Sent] = []
    for part in content:
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("input_audio", "audio_url"):
            recordings.append(recording(kind, part.get(kind), max_bytes))
        else:
            raise RequestError(
                400, f"a part of the content is of type {kind!r}; send text, input_audio or audio_url", "messages"
            )
    if len(recordings) != 1:
        raise RequestError(400, f"send one recording in a message, not {len(recordings)}", "messages")
    return _text("\n".join(texts), "the question", "messages"), recordings[0]


def too_large(max_bytes: int) -> str:
    """The message for a recording that has too many bytes."""
    return f"the recording is larger than {max_bytes:,} bytes; send a shorter or a compressed one"


def recording(kind: str, given: Any, max_bytes: int) -> Sent:
    """The recording in an `input_audio` or `audio_url`. Raises RequestError."""
    inside = "data" if kind == "input_audio" else "url"
    value = given.get(inside) if isinstance(given, dict) else given if kind == "audio_url" else None
    if not isinstance(value, str) or not value:
        raise RequestError(400, f"{kind} must hold {inside}, a text", "messages")
    head = _DATA_URL.match(value[:200])
    if head or kind == "input_audio":
        encoded = value[head.end() :] if head else value
        if len(encoded) * 3 // 4 > max_bytes + 3:
            raise RequestError(413, too_large(max_bytes), "messages")
        return Sent(base64=encoded)
    if value[:8].lower().startswith(("http://", "https://")):
        return Sent(url=value)
    raise RequestError(400, "audio_url must be a data:…;base64, URL, or an http or https address", "messages")


def _text(text: str, what: str, param: str) -> str:
    if not text.strip():
        raise RequestError(400, f"{what} is empty; write a text", param)
    if len(text) > MAX_TEXT:
        raise RequestError(400, f"{what} has {len(text):,} characters; at most {MAX_TEXT:,} are read", param)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(400, f"{what} contains half a character (a lone surrogate); write it again", param) from None
    return text


def _choices(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    param = "relisten.choices"
    if not isinstance(given, list) or not all(isinstance(choice, str) for choice in given):
        raise RequestError(400, "relisten.choices must be a list of texts", param)
    if len(given) > MAX_CHOICES:
        raise RequestError(400, f"relisten.choices has {len(given)} texts; at most {MAX_CHOICES} are read", param)
    return tuple(_text(choice, "a text in relisten.choices", param) for choice in given)


def _config(given: dict[str, Any], own: dict[str, Any], bounds: Bounds) -> GenerationConfig:
    defaults = bounds.defaults
    limit = "max_completion_tokens" if given.get("max_completion_tokens") is not None else "max_tokens"
    chosen = {
        "temperature": _number(given, "temperature", defaults.temperature, most=100.0, whole=False),
        "top_p": _number(given, "top_p", defaults.top_p, most=1.0, whole=False),
        "top_k": _number(given, "top_k", defaults.top_k, most=1_000_000),
        "seed": _number(given, "seed", defaults.seed, most=2**63 - 1),
        "max_new_tokens": _number(given, limit, defaults.max_new_tokens, least=1, most=defaults.max_new_tokens),
        "format": own.get("format") or defaults.format,
        "max_listens": _number(own, "max_listens", defaults.max_listens, most=defaults.max_listens, prefix="relisten."),
        "min_segment": _number(own, "min_segment", defaults.min_segment, most=600.0, whole=False, prefix="relisten."),
        "only_choices": _flag(own, "only_choices", "relisten.only_choices", defaults.only_choices),
    }
    try:
        return replace(defaults, **chosen)
    except ValueError as error:
        name = str(error).split()[0]
        inside = "relisten." if name in own else ""
        raise RequestError(400, f"{inside}{error}", f"{inside}{name}") from None


def _number(
    given: dict[str, Any],
    name: str,
    default: Any,
    least: float = 0,
    most: float | None = None,
    whole: bool = True,
    prefix: str = "",
) -> Any:
    """A number of the request, or the default where it is left out or null."""
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise RequestError(
            400, f"{prefix}{name} must be a {'whole ' * whole}number, not {json.dumps(value)[:40]}", prefix + name
        )
    if value < least or (most is not None and value > most):
        raise RequestError(400, f"{prefix}{name} is {value}; this server allows {least:g} to {most:g}", prefix + name)
    return value


def _flag(given: dict[str, Any], name: str, shown: str = "", default: bool = False) -> bool:
    """What the request says, or the default where it is left out or null."""
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(400, f"{shown or name} must be true or false", shown or name)
    return value


def _name(given: Any) -> str:
    if given is None:
        return "the recording"
    if not isinstance(given, str):
        raise RequestError(400, "relisten.name must be a text", "relisten.name")
    return _text(given[:200], "relisten.name", "relisten.name")


def read_stretch(given: Any) -> Segment | None:
    """The part of a recording that is asked about. Raises RequestError."""
    return None if given is None else Segment(*_pair(given, "relisten.stretch", "[start, end] in seconds"))


def heard_segment(given: Mapping[str, Any]) -> Segment:
    """The segment of a request for a clip, with its band if it has one. Raises RequestError."""
    start, end = _pair(given.get("segment"), "segment", "[start, end] in seconds")
    band = given.get("band")
    return Segment(start, end, None if band is None else _pair(band, "band", "[low, high] in Hz"))


def _pair(given: Any, param: str, what: str) -> tuple[float, float]:
    numbers = isinstance(given, list) and len(given) == 2 and all(is_number(value) for value in given)
    if not numbers or not 0 <= given[0] < given[1] < 1e9:
        order = what[1:].partition("]")[0].replace(", ", " < ")
        raise RequestError(400, f"{param} must be {what}, with 0 <= {order}", param)
    return float(given[0]), float(given[1])
