"""From rows of training to tensors: an example becomes a trace, and traces about one recording share its prefix.

A packed row is one recording followed by every response about it. A response sees the recording and itself, never its
neighbours, and its positions go on from the recording, so it is trained exactly as if it stood alone, while the
recording is encoded and read once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from relisten import tags
from relisten.audio import crop, load
from relisten.engine.listener import Hear, Listener, Refuse
from relisten.engine.operations import Operation
from relisten.engine.row import audible
from relisten.models.base import AudioLM
from relisten.types import Audio, Example, Format, Listen, Segment, Trace


@dataclass(slots=True)
class Encoded:
    """A trace and the log-mels of what it hears, in order."""

    trace: Trace
    features: list[Tensor]
    """One [mel bins, frames] for each of the trace's listens."""
    recording: int
    """The same number for traces about one recording."""
    shared: int
    """How many leading tokens such traces have in common: up to the end of the recording, or the whole prompt."""


@dataclass(slots=True)
class Batch:
    """Packed rows: B recordings, L tokens each at most, K tokens to learn."""

    input_ids: Tensor
    """int64 [B, L], padded at the right."""
    position_ids: Tensor
    """int64 [B, L]."""
    attention_mask: Tensor
    """bool [B, 1, L, L], True where a token may look."""
    features: list[Tensor]
    """Log-mels in the order of the placeholders, row by row."""
    rows: Tensor
    """int64 [K], row of each position whose next token is learnt."""
    columns: Tensor
    """int64 [K], its column."""
    labels: Tensor
    """int64 [K], the tokens to learn."""


def response_text(example: Example) -> str:
    """What the model should write: the chain, if there is one, and the answer. Raises ValueError without an answer."""
    if example.answer is None:
        raise ValueError(f"{example.id}: no answer to learn from")
    return f"<answer>{example.answer}</answer>" if example.cot is None else tags.write(example.cot, example.answer)


def encode(
    model: AudioLM, example: Example, format: Format, mel: dict[int, tuple[Audio, Tensor]] | None = None
) -> Encoded:
    """The trace that the engine would have made of this response; for `interleaved`, with the audio it hears.

    mel: recordings in memory and their log-mels by `id(audio)`, filled here: one recording is transformed once, and its
    id stays its own while rows that share it are made.
    """
    given = example.audio if isinstance(example.audio, Audio) else load(example.audio, rate=model.rate)
    audio = audible(model, given)
    prompt, at = model.prompt(example.question, example.choices, format, len(audio.samples))
    assert at is not None
    whole = Segment(0.0, given.duration)
    num_tokens = model.num_audio_tokens(len(audio.samples))
    trace = Trace([*prompt], [False] * len(prompt), [0.0] * len(prompt), [Listen(at, num_tokens, whole)], len(prompt))
    mel = {} if mel is None else mel
    if id(given) not in mel:
        mel[id(given)] = given, model.features(audio)
    features = [mel[id(given)][1]]
    trace.text = response_text(example)
    listener = Listener(given.duration, format)
    pieces = trace.text.split("</seg>")
    for piece in pieces[:-1]:
        tokens = model.encode_response(piece + "</seg>")
        _append(trace, tokens, sampled=True)
        if model.decode(tokens[-1:]) == ">":
            trace.sampled[-1] = False  # the engine forces it, for a clean boundary
        for action in listener.feed(piece + "</seg>"):
            if isinstance(action, Hear):
                part = crop(audio, action.segment)
                heard = model.audio_tokens(len(part.samples))
                trace.listens.append(Listen(len(trace.token_ids) + 1, len(heard) - 2, action.segment))
                _append(trace, heard, sampled=False)
                features.append(model.features(part))
            elif isinstance(action, Refuse):
                trace.refusals.append(action.refusal)
    _append(trace, model.encode_response(pieces[-1]), sampled=True)
    _append(trace, [model.end_token_id], sampled=True)
    return Encoded(trace, features, id(given), at + num_tokens + 1)


def replay(model: AudioLM, audio: Audio, traces: Sequence[Trace], operations: Mapping[str, Operation]) -> list[Encoded]:
    """Traces that the engine made about one question, ready to be packed; they share the whole prompt.

    audio: the question's recording. Nothing is tokenised anew; each segment's log-mel is made as the engine made it.
    """
    heard = audible(model, audio)
    whole = model.features(heard)
    return [
        Encoded(
            trace,
            [whole, *(model.features(operations[x.operation](heard, x.segment)) for x in trace.listens[1:])],
            id(audio),
            trace.num_prompt,
        )
        for trace in traces
    ]


def _append(trace: Trace, token_ids: Sequence[int], sampled: bool) -> None:
    trace.token_ids += token_ids
    trace.sampled += [sampled] * len(token_ids)
    trace.logprobs += [0.0] * len(token_ids)


def pack(rows: Sequence[Sequence[Encoded]], pad_id: int = 0) -> Batch:
    """Each inner sequence becomes one row of the batch; in it, traces about one recording share that recording."""
    packed = [_pack_row(row) for row in rows]
    size = (len(packed), max(len(p.token_ids) for p in packed))
    input_ids, position_ids = torch.full(size, pad_id), torch.zeros(size, dtype=torch.long)
    parts, parents = torch.full(size, -1), torch.full(size, -1)
    for index, row in enumerate(packed):
        length = len(row.token_ids)
        input_ids[index, :length] = torch.tensor(row.token_ids)
        position_ids[index, :length] = torch.tensor(row.positions)
        parts[index, :length] = torch.tensor(row.parts)
        parents[index, :length] = torch.tensor(row.parents)
    return Batch(
        input_ids,
        position_ids,
        prefix_mask(parts, parents),
        [feature for row in packed for feature in row.features],
        torch.tensor([index for index, row in enumerate(packed) for _ in row.learnt], dtype=torch.long),
        torch.tensor([column for row in packed for column in row.sources], dtype=torch.long),
        torch.tensor([row.token_ids[column] for row in packed for column in row.learnt], dtype=torch.long),
    )


@dataclass(slots=True)
class _Row:
    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    """A number for each recording and each response."""
    parents: list[int] = field(default_factory=list)
    """The part that a token sees beside its own: its recording's."""
    features: list[Tensor] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)
    """Columns of the tokens to learn."""
    sources: list[int] = field(default_factory=list)
    """Columns of the positions that predict them."""


def _pack_row(encoded: Sequence[Encoded]) -> _Row:
    row, part = _Row(), 0
    by_recording: dict[int, list[Encoded]] = {}
    for one in encoded:
        by_recording.setdefault(one.recording, []).append(one)
    for group in by_recording.values():
        shared, recording = group[0].shared, part
        prefix, last = group[0].trace.token_ids[:shared], len(row.token_ids) + shared - 1
        _extend(row, prefix, 0, recording, recording)
        row.features.append(group[0].features[0])
        for one in group:
            assert one.trace.token_ids[:shared] == prefix, "traces about one recording begin with it"
            part += 1
            offset = len(row.token_ids) - shared
            learnt = [i for i, sampled in enumerate(one.trace.sampled) if sampled]
            row.learnt += [offset + i for i in learnt]
            # Before the first token that is not shared stands the prefix, not the response packed before this one.
            row.sources += [last if i == shared else offset + i - 1 for i in learnt]
            _extend(row, one.trace.token_ids[shared:], shared, part, recording)
            row.features += one.features[1:]
        part += 1
    return row


def _extend(row: _Row, token_ids: Sequence[int], position: int, part: int, parent: int) -> None:
    row.token_ids += token_ids
    row.positions += range(position, position + len(token_ids))
    row.parts += [part] * len(token_ids)
    row.parents += [parent] * len(token_ids)


def prefix_mask(parts: Tensor, parents: Tensor) -> Tensor:
    """bool [B, 1, L, L]: a token sees what stands before it in its own part and in its recording's.

    Padding (part -1) sees padding, which keeps its softmax finite.
    """
    length = parts.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    own = parts[:, :, None] == parts[:, None, :]
    recording = parents[:, :, None] == parts[:, None, :]
    return (causal & (own | recording))[:, None]
