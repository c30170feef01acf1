"""From examples to tensors: an example becomes a trace, and traces about one recording share the recording.

A packed row is one recording followed by all responses about it. A response attends to the recording and to itself, but
not to the other responses, and its positions continue from the recording. So it is trained exactly as if it were alone,
while the recording is encoded and read only once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from relisten import tags
from relisten.audio import load
from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import Operation, offered
from relisten.engine.question import Question, audible
from relisten.engine.row import Row
from relisten.engine.words import Words
from relisten.models.base import AudioLM
from relisten.types import Audio, Example, Format, Trace

NO_LIMIT = 1 << 30
"""Tokens. The data that is trained on has no limit of length, but the model's context."""


@dataclass(slots=True)
class Encoded:
    """A trace and the log-mels of the audio that it hears, in order."""

    trace: Trace
    features: list[Tensor]
    """One [mel bins, frames] for each of the trace's listens."""
    recording: int
    """A number that traces about the same recording share."""
    shared: int
    """How many leading tokens these traces have in common: up to the end of the recording, or the whole prompt."""
    name: str = ""
    """The id of the example."""


@dataclass(slots=True)
class Batch:
    """Packed rows: B recordings, L tokens each at most, K tokens to learn."""

    input_ids: Tensor
    """int64 [B, L], padded at the right."""
    position_ids: Tensor
    """int64 [B, L]."""
    attention_mask: Tensor
    """bool [B, 1, L, L], True where a token may attend."""
    features: list[Tensor]
    """Log-mels in the order of the placeholders, row by row."""
    rows: Tensor
    """int64 [K], the row of each position whose next token is learnt."""
    columns: Tensor
    """int64 [K], the column of each such position."""
    labels: Tensor
    """int64 [K], the tokens to learn."""


def response_text(example: Example) -> str:
    """The text that the model should write: the chain of thought, if there is one, and the answer.

    Raises ValueError if the example has no answer.
    """
    if example.answer is None:
        raise ValueError(f"{example.id}: it has no answer to learn from; give it one")
    return f"<answer>{example.answer}</answer>" if example.cot is None else tags.write(example.cot, example.answer)


def encode(
    model: AudioLM, example: Example, format: Format, mel: dict[int, tuple[Audio, Tensor]] | None = None
) -> Encoded:
    """The trace that the engine makes if the model samples this response. In `interleaved` it has the audio that is
    heard.

    The tokens go through the engine's own `Row`. So if the response asks for more segments than may be heard, its
    reasoning is closed there, and the answer follows: in use, the model could never write the reasoning after it.

    mel: a cache of recordings and their log-mels by `id(audio)`, filled here, so that a recording is transformed once.
    """
    given = example.audio if isinstance(example.audio, Audio) else load(example.audio, rate=model.rate)
    operations = offered(model.prompts.operations)
    _check_tags(example, operations)
    try:
        question = Question(model, replace(example, audio=given), 0, format)
    except ValueError as error:
        raise ValueError(f"{example.id}: {error}") from None
    config = GenerationConfig(format=format, max_new_tokens=NO_LIMIT)
    row = Row(model, Words(model), operations, question, 0, config, NO_LIMIT)
    rest = _write(model, row, model.encode_response(response_text(example)))
    if row.closed:
        in_answer = not row.written.endswith("<answer>")
        _write(model, row, rest if in_answer else model.encode_response(f"{example.answer}</answer>"))
    if not row.done:
        row.push(model.end_token_id, 0.0)
    mel = {} if mel is None else mel
    if id(given) not in mel:
        mel[id(given)] = given, model.features(question.audio)
    features = [mel[id(given)][1], *map(model.features, row.pieces)]
    num_audio = len(model.audio_tokens(len(question.audio.samples)))
    shared = question.listen.at - model.num_begin_tokens + num_audio
    return Encoded(row.trace, features, id(given), shared, example.id)


def _write(model: AudioLM, row: Row, token_ids: Sequence[int]) -> list[int]:
    """Give tokens to a row as if they were sampled, until a limit closes its reasoning. Returns those that are left."""
    left, closed = deque(token_ids), row.closed
    while left and not row.done and row.closed == closed:
        length = len(row.trace.token_ids)
        row.push(left.popleft(), 0.0)
        # The row completes a tag itself, so that the audio starts on a token boundary.
        if left and model.decode(row.trace.token_ids[length + 1 :]) == ">" == model.decode([left[0]]):
            left.popleft()
    return [*left]


def _check_tags(example: Example, operations: Collection[str]) -> None:
    """Raise ValueError for a chain with the tag of an operation that is not offered, which would be plain text."""
    unknown = [name for name in tags.OPERATIONS if name not in operations and f"</{name}>" in (example.cot or "")]
    if unknown:
        raise ValueError(
            f"{example.id}: its chain of thought uses <{unknown[0]}>, which the model is not offered; train with"
            f" --operations {','.join(unknown)}"
        )


def replay(model: AudioLM, audio: Audio, traces: Sequence[Trace], operations: Mapping[str, Operation]) -> list[Encoded]:
    """Prepare traces that the engine made about one question to be packed. They share the whole prompt.

    audio: the recording of the question. Nothing is tokenised again; the log-mel of each segment is computed as in the
    engine.
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


def pack(
    rows: Sequence[Sequence[Encoded]], pad_id: int = 0, mask: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Batch:
    """Make each inner sequence one row of the batch. In a row, traces about the same recording share it.

    mask: what makes the attention mask of `parts` and `parents` (None: `prefix_mask`).
    """
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
        (mask or prefix_mask)(parts, parents),
        [feature for row in packed for feature in row.features],
        torch.tensor([index for index, row in enumerate(packed) for _ in row.learnt], dtype=torch.long),
        torch.tensor([column for row in packed for column in row.sources], dtype=torch.long),
        torch.tensor([row.token_ids[column] for row in packed for column in row.learnt], dtype=torch.long),
    )


def model_inputs(batch: Batch) -> dict[str, Any]:
    """A packed batch by name, as `token_logprobs_of` takes it."""
    inputs = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    inputs["token_ids"] = inputs.pop("labels")
    return inputs


@dataclass(slots=True)
class _PackedRow:
    """One row of a batch while it is put together."""

    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    """For each token, the number of the recording or the response that it belongs to."""
    parents: list[int] = field(default_factory=list)
    """For each token, the number of its recording, to which it also attends."""
    features: list[Tensor] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)
    """Columns of the tokens to learn."""
    sources: list[int] = field(default_factory=list)
    """Columns of the positions that predict them."""


def _pack_row(encoded: Sequence[Encoded]) -> _PackedRow:
    row, part = _PackedRow(), 0
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
            # The first token that is not shared follows the prefix, not the response that was packed before this one.
            row.sources += [last if i == shared else offset + i - 1 for i in learnt]
            _extend(row, one.trace.token_ids[shared:], shared, part, recording)
            row.features += one.features[1:]
        part += 1
    return row


def _extend(row: _PackedRow, token_ids: Sequence[int], position: int, part: int, parent: int) -> None:
    row.token_ids += token_ids
    row.positions += range(position, position + len(token_ids))
    row.parts += [part] * len(token_ids)
    row.parents += [parent] * len(token_ids)


def prefix_mask(parts: Tensor, parents: Tensor) -> Tensor:
    """bool [B, 1, L, L]: a token attends to earlier tokens of its own part and of its recording.

    Padding (part -1) attends to padding, which keeps its softmax finite.
    """
    length = parts.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    own = parts[:, :, None] == parts[:, None, :]
    recording = parents[:, :, None] == parts[:, None, :]
    return (causal & (own | recording))[:, None]
