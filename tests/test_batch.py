"""Traces for training: the same tokens as the engine makes, packed without changing what any of them is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relisten.audio import save
from relisten.engine.operations import crop
from relisten.engine.sampling import token_logprobs
from relisten.models import nano
from relisten.models.base import pad_features
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training.batch import Encoded, encode, pack, replay, response_text
from relisten.training.losses import sft_loss
from relisten.types import Audio, Example

COT = "The bell is at <seg>0.5, 1.2</seg>, a bell. Then <seg>1.4, 2.0</seg> with a cow."
SMALL = nano.NanoConfig(hidden_size=64, num_layers=2, num_heads=2, num_key_value_heads=1, intermediate_size=96,
                        audio_width=48, audio_layers=1, audio_heads=2, audio_intermediate_size=64)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Qwen2_5Omni:
    return nano.create([COT, "What is it?", "<think></think><answer>cow</answer>"] * 4, SMALL)


def example(seconds: float = 2.5, seed: int = 0, **fields: object) -> Example:
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16_000)).astype(np.float32)
    return replace(Example("a", Audio(samples), "What is it?", ("cow", "bell"), "cow", COT), **fields)


def plain_logprobs(model: Qwen2_5Omni, one: Encoded) -> torch.Tensor:
    """Of the sampled tokens, by the module's own forward on this trace alone, with nothing of ours around it."""
    ids = torch.tensor([one.trace.token_ids])
    features, mask = pad_features(one.features)
    positions = torch.arange(ids.shape[1])[None, None].expand(3, 1, -1)
    with torch.no_grad():
        logits = model.module(
            input_ids=ids, position_ids=positions, input_features=features, feature_attention_mask=mask
        ).logits[0]
    learnt = torch.tensor([i for i, sampled in enumerate(one.trace.sampled) if sampled])
    return token_logprobs(logits[learnt - 1], ids[0, learnt], model.banned_token_ids)


def test_packing_changes_no_log_probability(model: Qwen2_5Omni) -> None:
    first, second = example(), example(seconds=1.7, seed=1)
    rows = [
        [encode(model, first, "interleaved"), encode(model, replace(first, cot=None), "conditioned"),
         encode(model, second, "grounded")],
        [encode(model, first, "grounded"), encode(model, first, "interleaved")],
    ]  # fmt: skip
    batch = pack(rows)
    with torch.no_grad():
        logits = model.forward(
            batch.input_ids, batch.position_ids, batch.features, batch.attention_mask, keep=(batch.rows, batch.columns)
        )
    packed = token_logprobs(logits, batch.labels, model.banned_token_ids)
    alone = torch.cat([plain_logprobs(model, one) for row in rows for one in row])
    assert packed.shape == alone.shape
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=0)


def test_one_recording_stands_once_in_a_packed_row(model: Qwen2_5Omni) -> None:
    mel: dict[int, tuple[Audio, torch.Tensor]] = {}
    one = [encode(model, example_, "grounded", mel) for example_ in [example()] * 1]
    same = example()
    several = [encode(model, same, "grounded", mel) for _ in range(4)]
    length = len(one[0].trace.token_ids)
    assert pack([several]).input_ids.shape[1] == 4 * length - 3 * several[0].shared
    assert len(pack([several]).features) == 1


def test_interleaved_traces_hold_each_segments_audio_out_of_the_loss(model: Qwen2_5Omni) -> None:
    one = encode(model, example(), "interleaved")
    trace = one.trace
    assert [(x.segment.start, x.segment.end) for x in trace.listens[1:]] == [(0.5, 1.2), (1.4, 2.0)]
    assert len(one.features) == len(trace.listens) == 3
    for listen in trace.listens:
        span = trace.token_ids[listen.at - 1 : listen.at + listen.num_tokens + 1]
        assert span == [model.audio_begin_id, *[model.audio_id] * listen.num_tokens, model.audio_end_id]
        assert not any(trace.sampled[listen.at - 1 : listen.at + listen.num_tokens + 1])
    written = [i for i, sampled in zip(trace.token_ids, trace.sampled, strict=True) if sampled]
    assert model.decode(written) == response_text(example()) and written[-1] == model.end_token_id


def test_grounded_and_interleaved_chains_have_the_same_sampled_tokens(model: Qwen2_5Omni) -> None:
    chosen = [
        [i for i, sampled in zip(t.token_ids, t.sampled, strict=True) if sampled]
        for t in (encode(model, example(), form).trace for form in ("grounded", "interleaved"))
    ]
    assert chosen[0] == chosen[1]


def test_a_segment_that_policy_refuses_is_not_inserted(model: Qwen2_5Omni) -> None:
    cot = "At <seg>0.5, 0.6</seg>, <seg>9.0, 9.5</seg> and <seg>2.0, 9.9</seg>."
    trace = encode(model, example(cot=cot), "interleaved").trace
    assert [(x.segment.start, x.segment.end) for x in trace.listens[1:]] == [(2.0, 2.5)]
    assert [r.reason for r in trace.refusals] == ["too short", "outside"]


def test_recordings_from_files_keep_their_own_sound(model: Qwen2_5Omni, tmp_path: Path) -> None:
    """A recording that was freed once lent its identity, and with it its spectrum, to the next."""
    mel: dict[int, tuple[Audio, torch.Tensor]] = {}
    rows = []
    for n in range(4):
        save(tmp_path / f"{n}.wav", example(seconds=1.0, seed=n).audio)
        rows.append(encode(model, example(audio=tmp_path / f"{n}.wav"), "conditioned", mel))
    assert len({row.recording for row in rows}) == 4
    assert len({float(row.features[0].sum()) for row in rows}) == 4


def test_sft_without_pauses_is_the_models_own_cross_entropy(model: Qwen2_5Omni) -> None:
    one = encode(model, example(), "grounded")
    ids = torch.tensor([one.trace.token_ids])
    labels = torch.where(torch.tensor([one.trace.sampled]), ids, -100)
    features, mask = pad_features(one.features)
    positions = torch.arange(ids.shape[1])[None, None].expand(3, 1, -1)
    own = model.module(
        input_ids=ids, position_ids=positions, input_features=features, feature_attention_mask=mask, labels=labels
    )
    batch = pack([[one]])
    logits = model.forward(
        batch.input_ids, batch.position_ids, batch.features, batch.attention_mask, keep=(batch.rows, batch.columns)
    )
    nothing_banned = torch.tensor([], dtype=torch.long)
    torch.testing.assert_close(
        sft_loss(token_logprobs(logits, batch.labels, nothing_banned)), own.loss, atol=1e-5, rtol=0
    )


def test_the_tower_learns_from_what_is_heard_again(model: Qwen2_5Omni) -> None:
    batch = pack([[encode(model, example(), "interleaved")]])
    batch.features[0] = batch.features[0].clone().requires_grad_()
    batch.features[1] = batch.features[1].clone().requires_grad_()
    logits = model.forward(
        batch.input_ids, batch.position_ids, batch.features, batch.attention_mask, keep=(batch.rows, batch.columns)
    )
    sft_loss(token_logprobs(logits, batch.labels, model.banned_token_ids)).backward()
    assert model.module.model.audio_tower.proj.weight.grad.abs().sum() > 0
    model.module.zero_grad()


def test_banned_tokens_take_no_probability() -> None:
    logits, banned = torch.tensor([[1.0, 2.0, 30.0]]), torch.tensor([2])
    expected = torch.log_softmax(torch.tensor([1.0, 2.0]), 0)
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([1]), banned)[0], expected[1])


def test_an_example_without_an_answer_cannot_be_learnt(model: Qwen2_5Omni) -> None:
    with pytest.raises(ValueError, match="no answer"):
        encode(model, example(answer=None), "grounded")


def test_traces_that_share_a_whole_prompt_begin_after_the_prompt(model: Qwen2_5Omni) -> None:
    """Once the second answer's first token was scored from the end of the first, which stands before it in the row."""
    traces = [encode(model, example(cot=cot), "interleaved").trace for cot in (COT, "It is a cow.", COT[:24] + ".")]
    shared = replay(model, example().audio, traces, {"seg": crop})
    assert {one.shared for one in shared} == {traces[0].num_prompt}
    batch = pack([shared])
    with torch.no_grad():
        logits = model.forward(
            batch.input_ids, batch.position_ids, batch.features, batch.attention_mask, keep=(batch.rows, batch.columns)
        )
    packed = token_logprobs(logits, batch.labels, model.banned_token_ids)
    alone = torch.cat([plain_logprobs(model, one) for one in shared])
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=0)
