"""Answers from vLLM servers, token for token as the engine in this process gives them.

The server gets token ids and gives token ids (`POST /inference/v1/generate`), so nothing is tokenised again. It stops
at the closing tag of a segment. What follows is decided by the same `Row` that the local engine uses; then the server
gets the whole sequence again with the new piece of audio. Its prefix cache makes that cost the new tokens alone.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import soundfile

from relisten.data.servers import CallFailed
from relisten.engine.answering import Answering
from relisten.engine.operations import Operation
from relisten.engine.question import BEGIN, Question, check_choices_fit
from relisten.engine.row import AnswerEvent, Row
from relisten.engine.words import Words
from relisten.models.base import AudioLM
from relisten.remote.fleet import TRIES, Fleet, Machine, machines, tokens_of
from relisten.remote.session import Asked, CannotBeAsked, RemoteSession
from relisten.types import Audio, Trace

PIECE = 256
"""The most tokens of one request. An answer that repeats itself is noticed between two requests."""
TEMPERATURES = 0.01, 2.0
"""The lowest temperature above 0 and the highest that vLLM samples at."""
MOST_REMEMBERED = 20_000
"""The most pieces of audio that a server is assumed to have in its cache."""


@dataclass(frozen=True)
class Piece:
    """A piece of audio as it is sent to a server."""

    url: str
    """The samples as a WAV file in a data URL."""
    uuid: str
    """A name that depends only on the samples. The server uses it to find the piece in its cache."""


@dataclass
class _Prepared:
    question: Question
    recording: list[Piece]
    """The recording, or nothing if the prompt leaves it out."""


class VllmEngine(Answering):
    """Generates answers with the model that one or several vLLM servers hold.

    model: the same model, whose weights are not used (`models.load_without_weights`). servers: as `connect` gives them.
    operations: what each tag does, by the tag's name (default: `<seg>` crops the recording). max_rows: how many answers
    are generated side by side. live: whether tokens are passed on one by one as they are sampled, which costs the
    server more.

    Without top_p and top_k, a trace holds the same log-probabilities as one of the local engine, if the server was
    started with `--logprobs-mode processed_logprobs`. Otherwise they are NaN.
    """

    def __init__(
        self,
        model: AudioLM,
        operations: Mapping[str, Operation] | None = None,
        max_rows: int = 32,
        *,
        servers: Sequence[Machine],
        live: bool = False,
    ) -> None:
        super().__init__(model, operations, max_rows)
        self.words = Words(model)
        self.servers, self.live = servers, live
        self._banned = frozenset(model.banned_token_ids.tolist())

    @contextmanager
    def session(self) -> Iterator[RemoteSession]:
        """A running batch that questions may join at any time, as `Engine.session` gives it."""
        fleet = Fleet(self.servers, self.model)

        def converse(asked: Asked, sample: int) -> AsyncIterator[AnswerEvent]:
            return self._converse(fleet, asked, sample)

        session = RemoteSession(converse, self.max_rows)
        self.seconds = session.seconds
        try:
            yield session
        finally:
            session.close(fleet.close())

    async def _converse(self, fleet: Fleet, asked: Asked, sample: int) -> AsyncIterator[AnswerEvent]:
        """The events of one answer."""
        if asked.prepared is None:
            asked.prepared = self._prepare(asked)
        prepared: _Prepared = asked.prepared
        machine = await fleet.pick()
        room = min(machine.context for machine in self.servers if machine.checked)
        question, pieces = prepared.question, list(prepared.recording)
        if len(question.token_ids) >= room:
            raise CannotBeAsked(
                f"{question.id}: {question.duration:.1f} s of audio and the question take {len(question.token_ids)}"
                f" tokens, the server has room for {room}; cut the recording, or shorten the question"
            )
        try:
            check_choices_fit(question, asked.config, room)
        except ValueError as error:
            raise CannotBeAsked(str(error)) from None
        row = Row(self.model, self.words, self.operations, question, sample, asked.config, room)
        whole, tries = False, 0
        while not row.done:
            machine = await fleet.pick(machine)
            try:
                body = self._body(machine, row, pieces, whole)
                length = len(row.trace.token_ids)
                async with aclosing(fleet.generate(machine, body, self.live)) as replies:  # type: ignore[type-var]
                    async for reply in replies:
                        if self._push(machine, row, reply, asked):
                            break
                        for event in _taken(row):
                            yield event
                _remember(machine, pieces)
                pieces += [as_piece(audio) for audio in row.pieces]
                row.pieces, row.chunk = [], []
                whole, tries = False, 0
                for event in _taken(row):
                    yield event
                if len(row.trace.token_ids) == length and not row.done:
                    raise ValueError(f"{machine.url} gives none of the tokens that were asked for; update vLLM there")
            except CallFailed as failed:
                if "Cache miss" in str(failed) and not whole:  # its cache has dropped a piece
                    whole = True
                    continue
                tries += 1
                self._failed(fleet, machine, failed, asked, tries)
        for event in _taken(row):
            yield event

    def _prepare(self, asked: Asked) -> _Prepared:
        config = asked.config
        if config.temperature and not TEMPERATURES[0] <= config.temperature <= TEMPERATURES[1]:
            raise ValueError(
                f"temperature is {config.temperature:g}; vLLM samples at 0 and from {TEMPERATURES[0]:g} to"
                f" {TEMPERATURES[1]:g}"
            )
        try:
            question = Question(
                self.model, asked.example, asked.number, config.format, only_choices=config.only_choices
            )
        except (ValueError, OSError) as error:
            raise CannotBeAsked(str(error)) from None
        return _Prepared(question, [as_piece(question.audio)] if question.listen.num_tokens else [])

    def _body(self, machine: Machine, row: Row, pieces: Sequence[Piece], whole: bool) -> dict[str, Any]:
        """The request for the next tokens of a row. whole: send also the audio that the server may remember."""
        parts = [
            {"type": "audio_url", "uuid": piece.uuid}
            | ({} if piece.uuid in machine.sent and not whole else {"url": piece.url})
            for piece in pieces
        ]
        return {
            "model": machine.model,
            "token_ids": [row.trace.token_ids[index] for index in kept(row.trace)],
            "content_parts": parts,
            "sampling_params": sampling_of(row, self.model, self.operations),
            "return_token_ids": True,
        }

    def _push(self, machine: Machine, row: Row, reply: dict[str, Any], asked: Asked) -> bool:
        """Give the tokens of a reply to the row. Returns True if what follows them was not sampled from its trace."""
        read = reply.get("prompt_token_ids")
        if read is not None and read != row.trace.token_ids:
            raise CannotBeAsked(
                f"{row.question.id}: {machine.url} reads {len(read)} tokens where there are"
                f" {len(row.trace.token_ids)}; it serves another model, or cuts audio at its chunk_length (see"
                " `relisten export vllm --max-seconds`)"
            )
        asked.begun = True
        config = asked.config
        exact = machine.processed and config.top_p == 1 and not config.top_k
        token_ids, logprobs = tokens_of(reply)
        if banned := self._banned & set(token_ids):
            raise ValueError(f"{machine.url} samples the token {min(banned)}, which is banned; is its model damaged?")
        return take(row, token_ids, logprobs if exact else [float("nan")] * len(token_ids))

    def _failed(self, fleet: Fleet, machine: Machine, failed: CallFailed, asked: Asked, tries: int) -> None:
        """Prepare to send a request again. Raises ValueError if it would fail again."""
        if failed.failure == "lasting":
            if asked.begun:
                raise ValueError(f"{machine.url}: {failed}")
            raise CannotBeAsked(f"{asked.example.id}: {machine.url}: {failed}")
        fleet.failed(machine, failed)
        if tries >= TRIES:
            fleet.give_up(failed)


def connect(engine: str, model: AudioLM) -> list[Machine]:
    """The servers of `--engine`, after a check of what they serve. One that does not answer is left out until it does.

    Raises ValueError, in one line, if none answers, or if one serves another model or cannot do what is needed.
    """
    servers = machines(engine)

    async def check() -> None:
        fleet = Fleet(servers, model, timeout=60.0)
        try:
            found = await asyncio.gather(*map(fleet.check, servers), return_exceptions=True)
        finally:
            await fleet.close()
        for machine, failed in zip(servers, found, strict=True):
            if isinstance(failed, CallFailed) and (failed.failure != "passing" or len(servers) == 1):
                hint = "; start the server, or correct --engine" if failed.failure == "passing" else ""
                raise ValueError(f"{machine.url}: no vLLM server that can be used ({failed}){hint}")
            if isinstance(failed, CallFailed):
                fleet.failed(machine, failed)
            elif failed is not None:
                raise failed
        if not any(machine.checked for machine in servers):
            raise ValueError(f"{engine}: none of these servers answers; start them, or correct --engine")

    RemoteSession.alone(check())
    return servers


def _taken(row: Row) -> list[AnswerEvent]:
    events, row.events = row.events, []
    return events


def sampling_of(row: Row, model: AudioLM, tags: Iterable[str]) -> dict[str, Any]:
    """What vLLM's SamplingParams must say for the next tokens of a row. tags: the names of tags that make it pause."""
    config = row.config
    sampling: dict[str, Any] = {
        "temperature": config.temperature,
        "max_tokens": max(1, min(PIECE, row.num_wanted)),
        "logprobs": 0,
        "logit_bias": dict.fromkeys(model.banned_token_ids.tolist(), -100),
        "stop_token_ids": sorted(model.end_token_ids),
    }
    if config.format != "conditioned":
        sampling |= {"stop": [f"</{name}" for name in tags], "include_stop_str_in_output": True}
    if config.only_choices:  # pause before the answer, which is then asked for token by token
        sampling |= {"stop": [*sampling.get("stop", ()), BEGIN[:-1]], "include_stop_str_in_output": True}
    if (allowed := row.allowed) is not None:
        sampling |= {"allowed_token_ids": sorted(allowed), "max_tokens": 1}
    if config.temperature:
        # Drawn from the row's own generator, once for each place, so that an answer depends on its seed, its question
        # and its number, and not on how often a request had to be sent.
        sampling |= {"seed": int(row.draw() * 2**62), "top_p": config.top_p, "top_k": config.top_k or -1}
    return sampling


def take(row: Row, token_ids: Sequence[int], logprobs: Sequence[float]) -> bool:
    """Give sampled tokens to a row. Returns True if something was forced or heard, if the answer is complete, or if a
    token may not follow. The tokens after that are dropped, because they were sampled without it."""
    for token_id, logprob in zip(token_ids, logprobs, strict=True):
        if (allowed := row.allowed) is not None and token_id not in allowed:
            return True
        length = len(row.trace.token_ids)
        row.push(token_id, logprob)
        if row.done or len(row.trace.token_ids) != length + 1:
            return True
    return False


def kept(trace: Trace) -> list[int]:
    """Which tokens of a trace remain if one placeholder stands for each piece of audio, as vLLM reads it: their
    indices."""
    left, done = list[int](), 0
    for listen in trace.listens:
        if listen.num_tokens:
            left += range(done, listen.at + 1)
            done = listen.at + listen.num_tokens
    return left + list(range(done, len(trace.token_ids)))


def as_piece(audio: Audio) -> Piece:
    """A piece of audio at the model's rate, ready to be sent."""
    samples = audio.samples
    # 16 bits are half as much to send, where they hold the same samples.
    short = np.round(samples * 32768)
    exact = bool((np.abs(short) <= 32767).all() and (short.astype(np.float32) / np.float32(32768) == samples).all())
    file = io.BytesIO()
    soundfile.write(file, samples, audio.rate, format="WAV", subtype="PCM_16" if exact else "FLOAT")
    digest = blake2b(samples.tobytes(), digest_size=16, key=str(audio.rate).encode()).hexdigest()
    return Piece("data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode(), digest)


def _remember(machine: Machine, pieces: Sequence[Piece]) -> None:
    if len(machine.sent) > MOST_REMEMBERED:
        machine.sent.clear()
    machine.sent |= {piece.uuid for piece in pieces}
