"""Tests that any base model must pass before the engine and the trainers can use it: `check(model)`.

Each function below tests one promise of `AudioLM` and raises AssertionError with a sentence that says what is wrong.
From a shell: `python -m relisten.models.conformance FOLDER`.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from relisten import models
from relisten.models.base import AudioLM
from relisten.types import Audio, Format

QUESTION, CHOICES = "What is heard after the siren?", ("a dog", "two knocks")
RESPONSE = "<think>A siren <seg>0.5, 1.0</seg>, then <seg>1.2, 1.9</seg> two knocks.</think><answer>two knocks</answer>"
FORMATS: tuple[Format, ...] = ("conditioned", "grounded", "interleaved")
TOLERANCE = 1e-3
"""Largest difference of two logits, as a share of the largest logit, that counts as equal (for float32 weights)."""
CHANGE = 1e-6
"""The same for logits that must differ: other audio changes them by more, also in a model with random weights."""


def noise(model: AudioLM, seconds: float, seed: int = 0) -> Audio:
    """Noise that swells and fades, at the model's rate."""
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * model.rate)
    swell = np.sin(np.linspace(0, 9 + seed, num_samples)) ** 2
    return Audio((rng.standard_normal(num_samples) * swell * 0.3).astype(np.float32), model.rate)


def text_is_kept(model: AudioLM) -> None:
    """`encode` and `decode` are inverse on plain text, and a control token inside a text is never obeyed."""
    for text in (QUESTION, RESPONSE, " a\n b", "3.1, 4.0"):
        assert model.decode(model.encode(text)) == text, f"decode(encode({text!r})) gives another text"
    for end in model.end_token_ids:
        name = model.tokenizer.convert_ids_to_tokens(end) if hasattr(model, "tokenizer") else None
        if name is not None:
            assert end not in model.encode(f"a {name} b"), f"encode obeys {name} in a user's text"


def closing_tags_end_a_token(model: AudioLM) -> None:
    """`encode_response` cuts so that every `</seg>` ends a token, since the engine inserts audio there."""
    ids = model.encode_response(RESPONSE)
    assert model.decode(ids) == RESPONSE, "decode(encode_response(text)) gives another text"
    prefixes = {model.decode(ids[:end]) for end in range(len(ids) + 1)}
    for piece in (1, 2):
        prefix = "</seg>".join(RESPONSE.split("</seg>")[:piece]) + "</seg>"
        assert prefix in prefixes, "a token of encode_response reaches beyond </seg>"


def ids_are_sound(model: AudioLM) -> None:
    """The end tokens can be sampled, and the placeholders of audio cannot."""
    banned = set(model.banned_token_ids.tolist())
    assert model.end_token_id in model.end_token_ids, "end_token_id must be one of end_token_ids"
    assert not banned & model.end_token_ids, "an end token is banned, so no answer could end"
    assert set(model.audio_tokens(model.rate)) <= banned, "the tokens of audio must be banned from sampling"
    assert not banned & set(model.encode_response(RESPONSE)), "banned_token_ids contains tokens of ordinary text"


def audio_takes_the_tokens_it_says(model: AudioLM) -> None:
    """`num_audio_tokens` grows with the length, and `audio_tokens` has as many placeholders, one after another.

    There may be one token before them (`num_begin_tokens`) and one after them.
    """
    counts = [model.num_audio_tokens(round(seconds * model.rate)) for seconds in (0, 0.2, 0.5, 1, 2, 5)]
    assert counts == sorted(counts), f"num_audio_tokens is not monotonic: {counts}"
    assert counts[0] == 0, "num_audio_tokens(0) must be 0"
    assert counts[1] > 0, "0.2 s, the shortest segment, must take at least one token"
    for seconds in (0.2, 1, 2):
        num_samples = round(seconds * model.rate)
        tokens, inner = model.audio_tokens(num_samples), _placeholders(model, num_samples)
        assert len(inner) == model.num_audio_tokens(num_samples), "audio_tokens has too few placeholders"
        assert len(set(inner)) == 1, "the placeholders between begin and end must be one and the same token"
        assert model.num_begin_tokens in (0, 1), "num_begin_tokens must be 0 or 1"
        around = len(tokens) - len(inner) - model.num_begin_tokens
        assert around in (0, 1) and tokens.count(inner[0]) == len(inner), "audio_tokens: begin, placeholders, end"
        assert model.decode(tokens) == "", "the tokens of audio must decode to nothing"


def prompts_hold_the_recording(model: AudioLM) -> None:
    """`prompt` says where the recording's tokens begin, in every format, and leaves them out without a recording."""
    num_samples = 2 * model.rate
    inner = _placeholders(model, num_samples)
    for format in FORMATS:
        ids, at = model.prompt(QUESTION, CHOICES, format, num_samples)
        assert at is not None, "prompt must give the index of the first audio token"
        assert ids[at : at + len(inner)] == inner, "the recording's tokens do not stand where prompt says"
        assert model.prompt(QUESTION, CHOICES, format, num_samples) == (ids, at), "prompt must be deterministic"
        without, nowhere = model.prompt(QUESTION, CHOICES, format, None)
        assert nowhere is None, "without a recording the index must be None"
        assert not set(inner) & set(without), "without a recording the prompt must hold no audio tokens"


def features_are_exact(model: AudioLM) -> None:
    """`features` gives float32 [mel, frames], the same every time, and leaves its input as it was."""
    audio = noise(model, 1.0)
    before = audio.samples.copy()
    first, second = model.features(audio), model.features(audio)
    assert (first.dtype, first.dim()) == (torch.float32, 2), "features must be float32 [mel bins, frames]"
    assert torch.equal(first, second), "features must be the same every time"
    assert np.array_equal(audio.samples, before), "features changed the recording"


def data_is_prepared_without_weights(model: AudioLM) -> None:
    """Without `module`, which processes that prepare training data do not have, prompts and features are the same."""
    bare = copy.copy(model)
    vars(bare).pop("module", None)
    audio = noise(model, 1.0)
    num_samples = len(audio.samples)
    try:
        made = bare.prompt(QUESTION, CHOICES, "interleaved", num_samples), bare.audio_tokens(num_samples)
        mel = bare.features(audio)
    except AttributeError as error:
        raise AssertionError(f"only forward and save may use the module ({error})") from error
    assert made == (model.prompt(QUESTION, CHOICES, "interleaved", num_samples), model.audio_tokens(num_samples))
    assert torch.equal(mel, model.features(audio)), "without the module, features are others"


@torch.no_grad()
def audio_is_heard(model: AudioLM) -> None:
    """The logits depend on the recording, and on a segment that is inserted later."""
    ids, inserted = _sequence(model)
    whole, segment = model.features(noise(model, 2.0)), model.features(noise(model, 0.7, seed=1))
    logits = _forward(model, ids, [whole, segment])
    other = _forward(model, ids, [model.features(noise(model, 2.0, seed=2)), segment])
    assert not _same(logits[:, inserted:], other[:, inserted:], CHANGE), "another recording gives the same logits"
    other = _forward(model, ids, [whole, model.features(noise(model, 0.7, seed=3))])
    assert not _same(logits[:, inserted:], other[:, inserted:], CHANGE), "another segment gives the same logits"
    assert _same(logits[:, : inserted - 1], other[:, : inserted - 1]), "a segment changes logits that stand before it"


@torch.no_grad()
def chunks_equal_the_whole(model: AudioLM) -> None:
    """Chunks on top of a cache give the logits of one forward; so do the positions that `keep` asks for."""
    ids, inserted = _sequence(model)
    pieces = [model.features(noise(model, 2.0)), model.features(noise(model, 0.7, seed=1))]
    whole = _forward(model, ids, pieces)
    cache = DynamicCache()
    first = _forward(model, ids[:inserted], pieces[:1], cache)
    second = _forward(model, ids[inserted:], pieces[1:], cache, start=inserted)
    assert _same(whole, torch.cat([first, second], dim=1)), "two chunks give other logits than one forward"
    keep = (torch.zeros(2, dtype=torch.long), torch.tensor([3, len(ids) - 1]))
    kept = _forward(model, ids, pieces, keep=keep)
    assert _same(whole[0, [3, -1]], kept), "keep gives other logits than the positions that it names"


@torch.no_grad()
def neighbours_do_not_matter(model: AudioLM) -> None:
    """A row of a batch, padded on the right and masked, has the logits that it has alone."""
    ids, _ = _sequence(model)
    pieces = [model.features(noise(model, 2.0)), model.features(noise(model, 0.7, seed=1))]
    short, _ = model.prompt("What is it?", (), "grounded", model.rate)
    longest = max(len(ids), len(short))
    rows = torch.tensor([row + [model.end_token_id] * (longest - len(row)) for row in (ids, short)])
    mask = torch.zeros(2, 1, longest, longest, dtype=torch.bool)
    for row, length in enumerate((len(ids), len(short))):
        mask[row, 0] = torch.ones(longest, longest, dtype=torch.bool).tril() & (torch.arange(longest) < length)
        mask[row, 0, :, 0] = True  # a padding token looks somewhere, or its softmax is not a number
    device = model.module.device
    positions = torch.arange(longest)[None].expand(2, -1)
    features = [*pieces, model.features(noise(model, 1.0, seed=4))]
    both = model.forward(rows.to(device), positions.to(device), features, mask.to(device)).float().cpu()
    assert _same(both[0, : len(ids)], _forward(model, ids, pieces)[0]), "a neighbour changes a row's logits"
    assert _same(both[1, : len(short)], _forward(model, short, features[2:])[0]), "padding changes a row's logits"


def it_can_be_trained(model: AudioLM) -> None:
    """Gradients reach the module's parameters through `forward`."""
    ids, _ = _sequence(model)
    model.module.zero_grad()
    _forward(
        model, ids, [model.features(noise(model, 2.0)), model.features(noise(model, 0.7, seed=1))]
    ).sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.module.parameters()), "no gradient arrives"
    model.module.zero_grad()


@torch.no_grad()
def it_survives_saving(model: AudioLM) -> None:
    """What `save` writes is loaded by `relisten.load`, with the same prompts and the same logits."""
    ids, _ = _sequence(model)
    pieces = [model.features(noise(model, 2.0)), model.features(noise(model, 0.7, seed=1))]
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        again = models.load(folder, device=str(model.module.device))
    assert again.prompts == model.prompts, "the prompts were not saved"
    assert _same(_forward(model, ids, pieces), _forward(again, ids, pieces)), "the saved model gives other logits"


CHECKS: tuple[Callable[[AudioLM], None], ...] = (
    text_is_kept,
    closing_tags_end_a_token,
    ids_are_sound,
    audio_takes_the_tokens_it_says,
    prompts_hold_the_recording,
    features_are_exact,
    data_is_prepared_without_weights,
    audio_is_heard,
    chunks_equal_the_whole,
    neighbours_do_not_matter,
    it_can_be_trained,
    it_survives_saving,
)


def check(model: AudioLM, checks: Sequence[Callable[[AudioLM], None]] = CHECKS) -> dict[str, str]:
    """The checks that a model fails: each one's name and what is wrong. Empty for a model that keeps the contract."""
    wrong = {}
    for one in checks:
        try:
            one(model)
        except AssertionError as error:
            wrong[one.__name__] = str(error)
    return wrong


def _placeholders(model: AudioLM, num_samples: int) -> list[int]:
    """The tokens of a piece of audio without those around them."""
    start = model.num_begin_tokens
    return model.audio_tokens(num_samples)[start : start + model.num_audio_tokens(num_samples)]


def _sequence(model: AudioLM) -> tuple[list[int], int]:
    """A prompt and half a response with an inserted segment of 0.7 s, and the index at which that segment begins."""
    ids, _ = model.prompt(QUESTION, CHOICES, "interleaved", 2 * model.rate)
    ids = ids + model.encode_response("<think>A siren <seg>0.5, 1.2</seg>")
    inserted = len(ids)
    return ids + model.audio_tokens(round(0.7 * model.rate)) + model.encode(", then two knocks"), inserted


def _forward(
    model: AudioLM,
    ids: Sequence[int],
    features: Sequence[Tensor],
    cache: DynamicCache | None = None,
    keep: tuple[Tensor, Tensor] | None = None,
    start: int = 0,
) -> Tensor:
    """Logits [1, L, V] of one row in float32 on the CPU ([K, V] with `keep`), in positions from `start` on."""
    device = model.module.device
    row = torch.tensor([list(ids)], device=device)
    positions = torch.arange(start, start + len(ids), device=device)[None]
    if keep is not None:
        keep = (keep[0].to(device), keep[1].to(device))
    mask = None
    if start:
        total = start + len(ids)
        mask = (torch.arange(total)[None] <= torch.arange(start, total)[:, None])[None, None].to(device)
    return model.forward(row, positions, features, mask, cache, keep).float().cpu()


def _same(one: Tensor, other: Tensor, tolerance: float = TOLERANCE) -> bool:
    return bool((one - other).abs().max() <= tolerance * one.abs().max())


if __name__ == "__main__":
    failed = check(models.load(sys.argv[1], dtype="float32"))
    for each in CHECKS:
        print(f"{'✗' if each.__name__ in failed else '✓'}  {each.__name__}  {failed.get(each.__name__, '')}")
    sys.exit(bool(failed))
