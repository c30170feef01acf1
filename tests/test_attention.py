"""Shares of attention are those of the model's own maps, found without holding one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_example

from relisten import records
from relisten.audio import save
from relisten.engine.engine import GenerationConfig
from relisten.evals import attention
from relisten.evals.analysis import PARTS
from relisten.evals.attention import attention_of_run, attention_shares, parts
from relisten.evals.runner import evaluate
from relisten.evals.runs import Run
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training.batch import Encoded, encode
from relisten.types import Audio, Example

COT = "A siren <seg>0.5, 1.5</seg>, then a dog <seg>2.0, 3.1</seg>, yes"


def encoded(model: Qwen2_5Omni) -> Encoded:
    return encode(model, replace(make_example(), cot=COT), "interleaved")


def own_maps(model: Qwen2_5Omni, e: Encoded) -> np.ndarray:
    """[sampled, parts]: mean over heads and layers of the maps that the model itself gives, with eager attention."""
    kinds = torch.nn.functional.one_hot(torch.from_numpy(parts(e.trace)), len(PARTS)).float()
    maps: list[torch.Tensor] = []
    layers = [part for part in model.module.modules() if type(part).__name__ == "Qwen2_5OmniAttention"]
    hooks = [layer.register_forward_hook(lambda module, given, out: maps.append(out[1][0])) for layer in layers]
    model.module.set_attn_implementation("eager")
    length = len(e.trace.token_ids)
    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        model.forward(torch.tensor([e.trace.token_ids]), torch.arange(length)[None], e.features, mask)
    model.module.set_attn_implementation("sdpa")
    for hook in hooks:
        hook.remove()
    assert len(maps) == len(layers) > 0
    rows = [i - 1 for i, sampled in enumerate(e.trace.sampled) if sampled]
    return (torch.stack(maps).mean((0, 1))[rows] @ kinds).numpy()


def test_shares_equal_those_of_full_eager_maps(
    build_model: Callable[..., Qwen2_5Omni], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(layers=2)
    e = encoded(model)
    expected = own_maps(model, e)
    before = model.module.config.get_text_config()._attn_implementation
    shares = attention_shares(model, e.trace, e.features)
    assert shares.shape == (sum(e.trace.sampled), len(PARTS))
    assert np.abs(shares - expected).max() < 1e-5
    assert np.allclose(shares.sum(1), 1)
    assert model.module.config.get_text_config()._attn_implementation == before  # left as it was found
    monkeypatch.setattr(attention, "NUM_ROWS", 7)
    assert np.allclose(attention_shares(model, e.trace, e.features), shares, atol=1e-6)  # rows at a time do not matter


def test_nothing_is_heard_again_before_the_first_segment(model: Qwen2_5Omni) -> None:
    e = encoded(model)
    shares = attention_shares(model, e.trace, e.features)
    first = sum(e.trace.sampled[: e.trace.listens[1].at])
    assert (shares[:first, PARTS.index("heard again")] == 0).all()
    assert (shares[first + 1 :, PARTS.index("heard again")] > 0).all()


def test_parts_cover_each_audio_token_and_no_delimiter(model: Qwen2_5Omni) -> None:
    e = encoded(model)
    kinds = parts(e.trace)
    counts = [int((kinds == n).sum()) for n in range(4)]
    num_audio = [listen.num_tokens for listen in e.trace.listens]
    assert counts[0] == num_audio[0] and counts[1] == sum(num_audio[1:])
    assert counts[0] + counts[2] == e.trace.num_prompt


@pytest.mark.parametrize("format", ["interleaved", "grounded"])
def test_a_run_is_made_again_and_watched(model: Qwen2_5Omni, tmp_path: Path, format: str) -> None:
    rows = []
    for n in range(2):
        example = make_example(1.5, n)
        assert isinstance(example.audio, Audio)
        save(tmp_path / f"{n}.wav", example.audio)
        on_disk = Example(example.id, tmp_path / f"{n}.wav", example.question, example.choices, example.answer)
        rows.append(records.record_from_example(on_disk, tmp_path))
    for line in rows:
        records.append(tmp_path / "questions.jsonl", line)
    config = GenerationConfig(format=format, max_new_tokens=12)  # type: ignore[arg-type]
    answers = evaluate(model, records.read_examples(tmp_path / "questions.jsonl"), tmp_path / "answers.jsonl", config)
    settings = {"questions": str(tmp_path / "questions.jsonl"), "format": format, "max_new_tokens": 12}
    curve = attention_of_run(model, Run("own", tmp_path, answers, settings), 5)
    assert curve.differing == 0
    assert curve.num[0] == 2 and len(curve.num) == max(r["num_tokens"]["sampled"] for r in answers)
    assert np.allclose(curve.shares.sum(1), 1, atol=1e-5)
