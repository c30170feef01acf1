"""Answers from any audio model behind a chat API: segments are heard again by conversation.

There are no tokens, so the prompt explains the tag, and the model is stopped when it closes one. The segment is then
sent as a new piece of audio in the next message, and the model goes on. The same `Row` as for all engines decides what
may be heard and when an answer ends; here its tokens are the words of the text. The finished trace contains only text.

    chat+http://HOST:PORT/v1#NAME                            the model NAME
    chat+https://HOST/v1?key=VARIABLE&price_in=2.5&price_out=10&max_cost=5#NAME

key: the environment variable that holds the key (default OPENAI_API_KEY; the key itself is never written anywhere).
price_in, price_out: prices of a million tokens of prompt and of reply. max_cost: stop when this much is spent.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import torch

from relisten import redact, tags
from relisten.data.budget import Budget, Stopped
from relisten.data.describers import wav
from relisten.data.servers import CallFailed, Server
from relisten.data.store import Call, Spent
from relisten.data.teachers import Remote
from relisten.engine.answering import Answering
from relisten.engine.operations import Operation, phrase
from relisten.engine.question import Question
from relisten.engine.row import AnswerEvent, Finished, Row
from relisten.engine.words import Words
from relisten.models.base import AudioLM, Prompts
from relisten.remote.session import Asked, CannotBeAsked, RemoteSession
from relisten.types import Audio, Format, Listen, Trace

TELL = {
    "conditioned": "",
    "grounded": " Write the timestamps of a segment in seconds as <seg>start, end</seg>, for example"
    " <seg>3.2, 4.8</seg>.",
    "interleaved": " Write the timestamps of a segment in seconds as <seg>start, end</seg>, for example"
    " <seg>3.2, 4.8</seg>, and stop after it: you then hear that segment again, and go on from there.",
}
"""Added to the paper's prompt, because these models were not trained to name segments."""
GO_ON = "Go on where you stopped. Do not repeat what you have written."
LAST = "You may not reason any longer. Write only the answer, without any other word."
REASONS = {
    "unreadable": "its times cannot be read",
    "too short": "it is too short",
    "outside": "it lies outside of the recording",
    "context": "there is no room for it",
}
ANSWER_TOKENS = 1024
"""The most tokens of an answer after a limit. Most of them are thoughts that the API does not show."""
TURNS = 4
"""The most messages for each segment that may be heard. Then a model that only writes unusable tags is stopped."""
RETRIES = 5
"""How often a request is sent again after a temporary failure. The last wait is 8 s."""
PRICES = "price_in", "price_out", "max_cost"
AUDIO_TOKENS, LETTERS, REPLY_TOKENS = 25, 3, 200.0
"""Tokens per second of audio, letters per token, and tokens of a reply, to estimate what a request will cost."""
WORD = re.compile(r"</|[^\S\n]?\w+|\s|.", re.DOTALL)


class ChatModel:
    """Stands for the model behind the API, of which nothing is known: its tokens are words, and it takes 16 kHz."""

    rate = 16_000
    scope = None
    max_seconds = None
    num_begin_tokens = 1
    end_token_id = 0
    end_token_ids = frozenset({0})
    begin_id, audio_id, close_id = 1, 2, 3

    def __init__(self, name: str, prompts: Prompts | None = None) -> None:
        self.name = name
        self.prompts = prompts or Prompts()
        self.banned_token_ids = torch.tensor([self.begin_id, self.audio_id, self.close_id])
        self._words: list[str] = ["", "", "", ""]
        self._ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        """A number for each word. A closing tag is several words, so that it can be completed."""
        for word in WORD.findall(text):
            if word not in self._ids:
                self._ids[word] = len(self._words)
                self._words.append(word)
        return [self._ids[word] for word in WORD.findall(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of these words."""
        return "".join(self._words[token_id] for token_id in token_ids)

    def prompt(
        self, question: str, choices: Sequence[str], format: Format, num_samples: int | None
    ) -> tuple[list[int], int | None]:
        """The text of the first message as words, behind a mark for the recording."""
        told = self.prompts.instructions[format] + TELL[format]
        prompts = replace(self.prompts, instructions={**self.prompts.instructions, format: told})
        text = self.encode(prompts.text(question, choices, format))
        return (text, None) if num_samples is None else (self.audio_tokens(num_samples) + text, 1)

    def num_audio_tokens(self, num_samples: int) -> int:
        """1, or 0 for less than 40 ms."""
        return int(num_samples >= self.rate // 25)

    def audio_tokens(self, num_samples: int) -> list[int]:
        """The tokens that stand for a piece of audio."""
        return [self.begin_id, self.audio_id, self.close_id]


@dataclass(frozen=True)
class ChatName:
    """What the name of a chat engine contains."""

    server: Server
    model: str
    max_cost: float

    @property
    def address(self) -> str:
        """The address without passwords and options, for messages."""
        return redact.redact(self.server.url)


class ChatEngine(Answering):
    """Generates answers with a model behind an OpenAI-compatible chat API that takes audio.

    model: a `ChatModel`. name: the server and its prices. operations, max_rows: as of every engine.
    """

    def __init__(
        self,
        model: AudioLM,
        operations: Mapping[str, Operation] | None = None,
        max_rows: int = 32,
        *,
        name: ChatName,
    ) -> None:
        super().__init__(model, operations, max_rows)
        self.words = Words(model)
        self.name = name
        self._budget = Budget(Spent(), name.max_cost)

    @property
    def used(self) -> str:
        """One line that says how much was requested and what it cost."""
        spent = self._budget.spent
        cost = f", cost {spent.cost:.4g}" if self.name.server.price_in or self.name.server.price_out else ""
        return (
            f"{self.name.model}: {spent.attempts:,} requests, {spent.prompt_tokens:,} tokens of prompts and"
            f" {spent.completion_tokens:,} of replies{cost}"
        )

    @contextmanager
    def session(self) -> Iterator[RemoteSession]:
        """A running batch that questions may join at any time, as `Engine.session` gives it."""
        speaker = Remote(self.name.model, self.name.server, may_be_empty=True)

        def converse(asked: Asked, sample: int) -> AsyncIterator[AnswerEvent]:
            return _Conversation(self, speaker, asked, sample).events()

        session = RemoteSession(converse, self.max_rows)
        self.seconds = session.seconds
        try:
            yield session
        finally:
            session.close(speaker.close())
            if self._budget.spent.calls > self._budget.spent.failed:
                print(self.used, file=sys.stderr)

    async def ask(
        self, speaker: Remote, messages: Sequence[Any], num_tokens: float, more: Mapping[str, Any]
    ) -> tuple[Call, str]:
        """A reply and why it ended. Raises ValueError if no question can be asked any more.

        num_tokens: about how many tokens the messages have.
        """
        server = self.name.server
        try:
            with self._budget.reserve(num_tokens, REPLY_TOKENS, (server.price_in, server.price_out)):
                call, finish = await speaker.ask(messages, more)
        except Stopped as stopped:
            raise ValueError(f"{self.name.model}: {stopped}; raise max_cost, and the same command continues") from None
        self._budget.book(call)
        if self.name.max_cost and not (call.error or call.prompt_tokens or call.completion_tokens):
            raise ValueError(f"{self.name.address} does not say how many tokens a reply takes, so max_cost is no limit")
        if call.failure in ("fatal", "passing"):
            raise ValueError(f"{self.name.address}: {call.error}")
        return call, finish


class _Conversation:
    """One answer, as a conversation with the model."""

    def __init__(self, engine: ChatEngine, speaker: Remote, asked: Asked, sample: int) -> None:
        self.engine, self.speaker, self.asked, self.sample = engine, speaker, asked, sample
        self.config = asked.config
        self.messages: list[dict[str, Any]] = []
        self.num_tokens = 0.0  # of the messages, about
        self.spent = 0  # tokens of replies

    async def events(self) -> AsyncIterator[AnswerEvent]:
        """The events of the answer; see `RemoteSession`."""
        engine = self.engine
        row = self._start()
        last, turns = False, 0
        while not row.done:
            call, finish = await engine.ask(self.speaker, self.messages, self.num_tokens, self._more(row, last))
            self.spent += call.completion_tokens
            turns += 1
            if call.failure:
                raise CannotBeAsked(f"{self.asked.example.id}: {engine.name.address}: {call.error}")
            before = len(row.written)
            refusals = len(row.trace.refusals)
            self._write(row, call.text, finish, last)
            if finish == "length" and not row.done and not row.closed:
                row.close("length")
            elif turns > TURNS * (self.config.max_listens + 1) and not row.closed:
                row.close("listens")
            for event in row.events:
                yield _with_text_alone(event)
            row.events.clear()
            last = row.closed
            self._answer_to(row.written[before:], row, refusals)

    def _start(self) -> Row:
        """The row, and the first message."""
        engine, config = self.engine, self.config
        if config.top_k:
            raise ValueError(f"top_k is {config.top_k}; a chat API has no such option, so leave it out")
        if config.only_choices:
            raise ValueError("only_choices is on; a chat API has no such option, so leave it out")
        try:
            question = Question(engine.model, self.asked.example, self.asked.number, config.format)
        except (ValueError, OSError) as error:
            raise CannotBeAsked(str(error)) from None
        text = engine.model.decode(question.token_ids)
        if question.listen.num_tokens:
            text = f"The recording lasts {question.duration:.1f} s. {text}"
        if engine.model.prompts.system is not None:
            self._add("system", engine.model.prompts.system, engine.model.prompts.system)
        self._say([question.audio] if question.listen.num_tokens else [], text)
        return Row(engine.model, engine.words, engine.operations, question, self.sample, config, room=1 << 30)

    def _more(self, row: Row, last: bool) -> dict[str, Any]:
        """The fields of the next request."""
        left = ANSWER_TOKENS if last else max(16, self.config.max_new_tokens - self.spent)
        more: dict[str, Any] = {"max_tokens": left, "temperature": self.config.temperature}
        if self.config.format == "interleaved" and not last:
            more["stop"] = [f"</{name}>" for name in self.engine.operations]
        if self.config.temperature:
            more |= {"seed": int(row.rng.integers(2**31)), "top_p": self.config.top_p}
        return more

    def _write(self, row: Row, text: str, finish: str, last: bool) -> None:
        """Give a reply to the row, word by word, until audio is to be heard or the answer is complete."""
        if last:  # the tags are written already
            text = tags.parse(text).answer or re.sub(r"</?(think|answer)>", "", text).strip()
        elif row.written and text.lstrip().startswith("<think>"):
            text = text.lstrip().removeprefix("<think>")
        stopped = None
        if self.config.format == "interleaved" and not last and finish != "length":
            stopped = _open_tag(row.written + text, self.engine.operations)
            text += f"</{stopped}>" if stopped else ""
            # Some servers leave the stop string in the text.
            stopped = stopped or next((n for n in self.engine.operations if text.rstrip().endswith(f"</{n}>")), None)
        heard = len(row.trace.listens)
        words = self.engine.model.encode(text)
        while words and not row.done and len(row.trace.listens) == heard and row.closed == last:
            length = len(row.trace.token_ids)
            row.push(words.pop(0), 0.0)
            forced = self.engine.model.decode(row.trace.token_ids[length + 1 :])
            if forced == ">" and words and self.engine.model.decode(words[:1]) == ">":
                words.pop(0)  # the row has completed the tag itself
        ends = last or (finish != "length" and not stopped)
        if ends and not row.done and len(row.trace.listens) == heard and row.closed == last:
            row.push(self.engine.model.end_token_id, 0.0)

    def _answer_to(self, written: str, row: Row, refusals: int) -> None:
        """The messages that follow what the model has written."""
        if row.done:
            return
        self._add("assistant", written or "...", written)
        if row.closed:
            return self._say([], LAST)
        if row.pieces:
            listen = row.trace.listens[-1]
            span = f"{listen.segment.start:g} to {listen.segment.end:g} s"
            way = phrase(listen.operation, listen.segment)
            self._say(row.pieces, f"This is the recording from {span} again{way and f', {way}'}. {GO_ON}")
            row.pieces = []
            return None
        new = row.trace.refusals[refusals:]
        why = f"That segment cannot be heard: {REASONS.get(new[-1].reason, new[-1].reason)}. " if new else ""
        return self._say([], why + GO_ON)

    def _say(self, pieces: Sequence[Audio], text: str) -> None:
        """A message of the user: audio, then text."""
        parts: list[dict[str, Any]] = [
            {"type": "input_audio", "input_audio": {"data": wav(piece), "format": "wav"}} for piece in pieces
        ]
        self.num_tokens += AUDIO_TOKENS * sum(piece.duration for piece in pieces)
        self._add("user", [*parts, {"type": "text", "text": text}], text)

    def _add(self, role: str, content: Any, text: str) -> None:
        self.num_tokens += len(text) / LETTERS
        self.messages.append({"role": role, "content": content})


def connect(engine: str) -> tuple[AudioLM, ChatName]:
    """The model and the server of a name. Raises ValueError, in one line, if it cannot be asked."""
    parts = urlsplit(engine.removeprefix("chat+"))
    options = dict(parse_qsl(parts.query))
    if odd := options.keys() - {"key", "price_in", "price_out", "max_cost"}:
        raise ValueError(f"--engine: {min(odd)[:40]} is no option of a chat engine; there are key, price_in, price_out,"
                         " max_cost")  # fmt: skip
    url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))
    price_in, price_out, max_cost = (_price(name, options.get(name, "0")) for name in PRICES)
    if max_cost and not (price_in or price_out):
        raise ValueError("--engine: max_cost needs price_in and price_out, the prices of a million tokens")
    key = options.get("key", Server.key)
    server = Server(url=url, key=key, retries=RETRIES, price_in=price_in, price_out=price_out)
    model = parts.fragment or RemoteSession.alone(_only_model(server))
    return cast(AudioLM, ChatModel(model)), ChatName(server, model, max_cost)


async def _only_model(server: Server) -> str:
    """The name of the one model that a server offers."""
    speaker = Remote("", server)
    try:
        found = await speaker.models()
    except CallFailed as failed:
        raise ValueError(f"{redact.redact(server.url)}: {failed}; correct --engine") from None
    finally:
        await speaker.close()
    if len(found) != 1:
        listed = redact.one_line(", ".join(found)) or "none"
        raise ValueError(f"--engine: the server has the models {listed}; name one at the end, as in #NAME")
    return found[0]


def _price(name: str, text: str) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        raise ValueError(f"--engine: {name} is {text[:40]!r}; write a number such as 2.5")
    return float(text)


def _open_tag(text: str, names: Mapping[str, Any]) -> str | None:
    """The last tag that a text opens and does not close."""
    opened = [(text.rfind(f"<{name}>"), name) for name in names if text.rfind(f"<{name}>") > text.rfind(f"</{name}")]
    return max(opened)[1] if opened else None


def _with_text_alone(event: AnswerEvent) -> AnswerEvent:
    """The event. The tokens of a finished trace are removed, because they are our words and not the model's tokens."""
    if not isinstance(event, Finished):
        return event
    trace = event.trace
    listens = [Listen(0, 0, listen.segment, listen.operation) for listen in trace.listens]
    return Finished(Trace([], [], [], listens, 0, trace.refusals, trace.finish, trace.text, trace.operations))
