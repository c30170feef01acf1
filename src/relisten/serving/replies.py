"""Replies: answers in OpenAI's chat form, whole or as a stream, with one more field for what only relisten has.

A model writes `<think>…</think><answer>…</answer>`. The thinking is sent as `reasoning` and as `reasoning_content`,
because some clients read one name and some the other. The answer is sent as `content`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isnan
from typing import Any

from relisten.engine.answer import Answer
from relisten.engine.engine import Heard, Refused
from relisten.reports.answer_json import as_json, heard
from relisten.types import Trace

Json = dict[str, Any]
_OPENING, _TURN, _CLOSING = "<think>", "<answer>", "</answer>"
_TAGS = (_OPENING, "</think>", _TURN, _CLOSING)


@dataclass
class Splitter:
    """Splits a text that comes in pieces into thinking and answer, without their tags."""

    answering: bool = False
    _held: str = ""  # the end of the text, if it may be the start of a tag
    _blank: str = ""  # blanks that belong to the answer only if more of it follows
    _begun: bool = False  # whether the answer has a character that is no blank
    _over: bool = False

    def feed(self, text: str) -> tuple[str, str]:
        """The new pieces of thinking and of answer."""
        self._held += text
        thinking, answer = "", ""
        while self._held:
            at = self._held.find("<")
            plain, rest = (self._held, "") if at < 0 else (self._held[:at], self._held[at:])
            tags = (_TURN, _CLOSING) if self.answering else _TAGS  # an answer may quote the tags of a thought
            tag = next((tag for tag in tags if rest.startswith(tag)), None)
            if tag is None and rest and not any(tag.startswith(rest) for tag in tags):
                plain, rest = plain + rest[0], rest[1:]
            if self.answering:
                answer += self._answer(plain)
            elif not self._over:
                thinking += plain
            if tag is None and rest == self._held:
                break
            self._held = rest
            if tag is not None:
                self._held = rest[len(tag) :]
                self._turn(tag)
        return thinking, answer

    def _turn(self, tag: str) -> None:
        if tag == _TURN and not self._over:
            self.answering = True
        elif tag == _CLOSING and self.answering:
            self.answering, self._over = False, True

    def _answer(self, plain: str) -> str:
        """A piece of the answer. Blanks at its start and end are left out, as in `tags.parse`."""
        whole = self._blank + plain if self._begun else plain.lstrip()
        kept = whole.rstrip()
        self._blank = whole[len(kept) :]
        self._begun = self._begun or bool(kept)
        return kept


@dataclass(frozen=True)
class Head:
    """The fields that all pieces of one reply share."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answers: Sequence[Answer], warnings: Sequence[str], traces: bool) -> Json:
        """The reply that is not streamed."""
        choices = [
            {
                "index": index,
                "message": _message(answer, warnings, traces),
                "logprobs": None,
                "finish_reason": finish(answer.trace),
            }
            for index, answer in enumerate(answers)
        ]
        traces_ = [answer.trace for answer in answers]
        return self._json("chat.completion", choices) | {"usage": usage(traces_)}

    def chunk(self, index: int, delta: Json, ended: str | None = None) -> Json:
        """A piece of a stream."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": ended}
        return self._json("chat.completion.chunk", [choice])

    def last_chunk(self, traces: Sequence[Trace]) -> Json:
        """The piece after the last answer, which counts tokens."""
        return self._json("chat.completion.chunk", []) | {"usage": usage(traces)}

    def _json(self, kind: str, choices: list[Json]) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def text_delta(thinking: str, answer: str) -> Json:
    """The delta of a piece of text."""
    delta: Json = {}
    if thinking:
        delta |= {"reasoning": thinking, "reasoning_content": thinking}
    if answer:
        delta["content"] = answer
    return delta | {"relisten": {}}


def listening_delta(event: Heard | Refused) -> Json:
    """The delta of a segment that was heard again or refused."""
    if isinstance(event, Refused):
        return {"relisten": {"refusals": [asdict(event.refusal)]}}
    listen = event.listen
    return {"relisten": {"segments": [heard(listen) | {"at": listen.at, "num_tokens": listen.num_tokens}]}}


def whole(answer: Answer, warnings: Sequence[str], trace: bool) -> Json:
    """The field `relisten` of a finished answer. warnings: those from decoding its recording."""
    told = as_json(answer) | {"seconds": {name: round(value, 3) for name, value in answer.seconds.items()}}
    told["warnings"] = list(warnings)
    if trace:
        # Some vLLM servers give no log-probabilities: they are NaN, which JSON does not have.
        known = [None if isnan(logprob) else logprob for logprob in answer.trace.logprobs]
        told["trace"] = asdict(answer.trace) | {"logprobs": known}
        del told["trace"]["sound"]
    return told


def finish(trace: Trace) -> str:
    """OpenAI's finish_reason: "length" wherever a limit ended the reasoning; `relisten.finish` says which."""
    return "stop" if trace.finish == "stop" else "length"


def usage(traces: Sequence[Trace]) -> Json | None:
    """Tokens that the model read (prompt and audio, each prompt once) and wrote (sampled and forced).

    None if the engine does not count tokens.
    """
    if any(trace.text_alone for trace in traces):
        return None
    prompt = traces[0].num_prompt if traces else 0
    audio = traces[0].listens[0].num_tokens if traces and traces[0].listens else 0
    again = sum(listen.num_tokens for trace in traces for listen in trace.listens[1:])
    written = sum(len(trace.token_ids) - trace.num_prompt for trace in traces) - again
    return {
        "prompt_tokens": prompt + again,
        "completion_tokens": written,
        "total_tokens": prompt + again + written,
        "prompt_tokens_details": {"audio_tokens": audio + again, "cached_tokens": 0},
    }


def error(status: int, message: str, param: str | None = None) -> Json:
    """An error in OpenAI's form."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def event(data: Json | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def _message(answer: Answer, warnings: Sequence[str], traces: bool) -> Json:
    thinking = answer.response.think
    return {
        "role": "assistant",
        "content": answer.answer or "",
        "reasoning": thinking,
        "reasoning_content": thinking,
        "refusal": None,
        "relisten": whole(answer, warnings, traces),
    }
