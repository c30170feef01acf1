"""The naive loop: one answer at a time, and at every pause all audio is encoded and the whole sequence is read again.

This is what sending the sequence to a generation API again at every pause would do. It shares no code with the loop,
the cache or the listener of the engine. The tests compare the engine's output with it token for token, and
`python -m benchmarks.engine` compares their speed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache

from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import offered
from relisten.engine.question import audible
from relisten.engine.sampling import choose, token_logprobs
from relisten.models.base import AudioLM
from relisten.tags import parse_segment
from relisten.types import Audio, Example, Listen, Segment, Trace

_TAG = r"<({names})>((?:(?!</?\1).)*)</\1(>?)\Z"
"""A tag at the end of the text. Its last character may still have to be forced, if it is a token of its own."""

RECENT = 60
"""How many of the latest tokens are searched for a tag."""

Script = Callable[[int], int | None]
"""Given how many tokens were sampled so far: the token to take next, or None to let the model choose."""


@torch.no_grad()
def naive(
    model: AudioLM,
    example: Example,
    config: GenerationConfig,
    features: Callable[[Audio], Tensor] | None = None,
    script: Script | None = None,
) -> Trace:
    """One greedy answer about a recording in memory. At a limit, no answer is forced: at
    `max_new_tokens` it stops, and after `max_listens` it goes on without hearing.

    features: computes the log-mel of a piece of audio (default: the model's own function). script: what is written.
    """
    assert isinstance(example.audio, Audio)
    operations = offered(model.prompts.operations)
    pattern = re.compile(_TAG.replace("{names}", "|".join(operations)), re.DOTALL)
    audio, mel = audible(model, example.audio), features or model.features
    ids, at = model.prompt(example.question, example.choices, config.format, len(audio.samples))
    assert at is not None
    whole = Listen(at, model.num_audio_tokens(len(audio.samples)), Segment(0.0, example.audio.duration))
    trace = Trace(ids, [False] * len(ids), [0.0] * len(ids), [whole], len(ids), operations=tuple(operations))
    pieces, cache, unread = [audio], DynamicCache(), list(ids)
    spoken: list[int] = []
    while True:
        logits = _read(model, unread, len(trace.token_ids), [mel(p) for p in pieces] if len(unread) > 1 else [], cache)
        token_id, logprob = _next(model, logits, sum(trace.sampled), script)
        trace.extend([token_id], True, logprob)
        unread = [token_id]
        spoken.append(token_id)
        written = model.decode(spoken[-RECENT:])
        if token_id in model.end_token_ids or sum(trace.sampled) >= config.max_new_tokens:
            trace.text = model.decode(spoken)
            return trace
        tag = pattern.search(written) if config.format != "conditioned" else None
        if tag is None:
            continue
        if not tag[3]:
            trace.extend(model.encode(">"), False)
            spoken += model.encode(">")
        segment = parse_segment(tag[2], tag[1])
        heard = _heard(segment, example.audio.duration, config, len(trace.listens) - 1)
        if heard is not None and config.format == "interleaved":
            pieces.append(operations[tag[1]](audio, heard))
            num_tokens = model.num_audio_tokens(len(pieces[-1].samples))
            start = len(trace.token_ids) + model.num_begin_tokens
            trace.listens.append(Listen(start, num_tokens, heard, tag[1]))
            trace.extend(model.audio_tokens(len(pieces[-1].samples)), False)
        cache, unread = DynamicCache(), list(trace.token_ids)


def _heard(segment: Segment | None, duration: float, config: GenerationConfig, num_heard: int) -> Segment | None:
    if segment is None or num_heard >= config.max_listens:
        return None
    clamped = Segment(segment.start, min(segment.end, duration), segment.band)
    return clamped if clamped.duration > config.min_segment - 1e-6 else None


def _read(model: AudioLM, unread: list[int], length: int, features: list[Tensor], cache: DynamicCache) -> Tensor:
    device = model.module.device
    positions = torch.arange(length - len(unread), length, device=device)[None]
    keep = (torch.zeros(1, dtype=torch.long, device=device), torch.full((1,), len(unread) - 1, device=device))
    return model.forward(torch.tensor([unread], device=device), positions, features, None, cache, keep)


def _next(model: AudioLM, logits: Tensor, num_sampled: int, script: Script | None) -> tuple[int, float]:
    scripted = script(num_sampled) if script else None
    if scripted is None:
        token_ids, logprobs = choose(logits, model.banned_token_ids, [], temperature=0.0)
        return token_ids[0], logprobs[0]
    wanted = torch.tensor([scripted], device=logits.device)
    return scripted, float(token_logprobs(logits, wanted, model.banned_token_ids)[0])
