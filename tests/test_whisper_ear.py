"""Whisper's encoder is read rightly, and a frozen ear that is computed apart trains the same model."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
import whisper_ear

from relisten.data.worlds.curriculum import sft_rows
from relisten.models import load, nano
from relisten.training.batch import encode, model_inputs, pack
from relisten.training.trainer import token_logprobs_of
from relisten.types import Audio, Example


def test_a_frozen_ear_trains_the_same_model(tmp_path: Path) -> None:
    model = load("nano", "float32", "cpu")
    rows, mel = sft_rows(3), dict[int, tuple[Audio, torch.Tensor]]()
    losses, gradients = [], []
    whole = pack([[encode(model, example, format, mel) for example, format in rows]])
    frozen = whisper_ear.FrozenEar.of(load("nano", "float32", "cpu"))
    apart = pack([[encode(frozen, example, format) for example, format in rows]])
    for one, batch in ((model, whole), (frozen, apart)):
        names = [n for n, _ in one.module.named_parameters() if "audio_tower.proj" in n or "layers.0.mlp" in n]
        logprobs, _ = token_logprobs_of(one, model_inputs(batch))
        (-logprobs.mean()).backward()
        losses.append(-logprobs.mean().item())
        gradients.append([one.module.get_parameter(name).grad for name in names])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)  # states are kept in 16 bits
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=2e-2)
    frozen.save(tmp_path / "saved")  # whole, with the ear in its place
    again, samples = load(str(tmp_path / "saved"), "float32", "cpu"), rows[0][0].audio
    assert torch.equal(again.features(samples), model.features(samples))
    weights = again.module.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.module.state_dict().items())


def ctranslate2(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A file as CTranslate2 writes it."""
    codes = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.float16): 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        data += text(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        data += struct.pack("<BI", codes[array.dtype], array.nbytes) + array.tobytes()
    path.write_bytes(data + struct.pack("<I", 0))
    return path


def test_an_encoder_of_ctranslate2_is_read_with_its_fused_heads(tmp_path: Path) -> None:
    width, rng = whisper_ear.EAR.audio_width, np.random.default_rng(2)
    inner = whisper_ear.EAR.audio_intermediate_size

    def half(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float16)

    arrays = {"encoder/conv1/weight": half(width, 80, 3), "encoder/conv2/weight": half(width, width, 3)}
    arrays |= {f"encoder/conv{n}/bias": half(width) for n in (1, 2)}
    arrays |= {f"encoder/layer_norm/{part}": half(width) for part in ("gamma", "beta")}
    for layer in range(whisper_ear.EAR.audio_layers):
        at = f"encoder/layer_{layer}"
        for name, rows, columns in (
            ("self_attention/linear_0", 3 * width, width), ("self_attention/linear_1", width, width),
            ("ffn/linear_0", inner, width), ("ffn/linear_1", width, inner),
        ):  # fmt: skip
            arrays |= {f"{at}/{name}/weight": half(rows, columns), f"{at}/{name}/bias": half(rows)}
        arrays |= {
            f"{at}/{p}/layer_norm/{g}": half(width) for p in ("self_attention", "ffn") for g in ("gamma", "beta")
        }
    found = whisper_ear.encoder(whisper_ear.read_ctranslate2(ctranslate2(tmp_path / "model.bin", arrays)))
    fused = torch.from_numpy(arrays["encoder/layer_1/self_attention/linear_0/weight"].astype(np.float32))
    for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
        assert torch.equal(found[f"layers.1.self_attn.{name}.weight"], fused[part * width : (part + 1) * width])
    assert "layers.1.self_attn.k_proj.bias" not in found
    tower = whisper_ear.tower_of(nano.create(["a word"], whisper_ear.EAR))
    absent = {name for name in tower.state_dict() if "proj." not in name or "self_attn" in name} - set(found)
    assert absent == {"audio_bos_eos_token.weight"}
    assert all(tower.state_dict()[name].shape == value.shape for name, value in found.items())
    (tmp_path / "old.bin").write_bytes(struct.pack("<I", 5))
    with pytest.raises(ValueError, match="version 5"):
        whisper_ear.read_ctranslate2(tmp_path / "old.bin")


def test_the_grafted_model_still_says_what_nano_said() -> None:
    old = load("nano", "float32", "cpu")
    new = whisper_ear.graft(None, old.tokenizer)
    audio = Audio(np.random.default_rng(3).standard_normal(32_000).astype(np.float32) * 0.1, 16_000)
    ids, _ = old.prompt("Tell what is heard.", (), "conditioned", len(audio.samples))
    logits = []
    for model in (old, new):
        tokens = torch.tensor([ids])
        with torch.no_grad():
            logits.append(model.forward(tokens, torch.arange(len(ids))[None], [model.features(audio)], None))
    known = len(old.tokenizer)  # beyond it there are no tokens
    torch.testing.assert_close(logits[0][..., :known], logits[1][..., :known], atol=1e-4, rtol=1e-4)


def test_the_projection_begins_as_a_classifier_whose_classes_are_names() -> None:
    old = load("nano", "float32", "cpu")
    words = ["five", "two", "garden", "banana"]  # two that nano knows, two that are new
    new = whisper_ear.graft(None, nano.tokenizer([f" {word}" for word in words] * 9 + ["a voice saying"] * 9))
    rng = np.random.default_rng(4)

    def noisy(tone: np.ndarray) -> Audio:
        return Audio((tone + 0.02 * rng.standard_normal(len(tone))).astype(np.float32), 16_000)

    tones = {word: 0.3 * np.sin(np.arange(16_000) * f) for word, f in zip(words, (0.05, 0.2, 0.5, 0.9), strict=True)}
    clips = [
        Example(
            word, Audio((tone + 0.02 * rng.standard_normal(16_000)).astype(np.float32), 16_000), "?", (), f"a {word}"
        )
        for word, tone in tones.items()
        for _ in range(4)
    ]
    known = {word: new.module.get_input_embeddings().weight[new.encode(" " + word)[0]].clone() for word in words}
    whisper_ear.align(new, clips, True, steps=60)
    names = torch.stack([new.module.get_input_embeddings().weight[new.encode(" " + word)[0]] for word in words])
    heard = whisper_ear.FrozenEar.of(new)
    for clip in clips:
        with torch.no_grad():
            projected = whisper_ear.tower_of(new).proj(heard.features(clip.audio).mean(1))
        scores = torch.nn.functional.cosine_similarity(projected[None], names)
        assert words[int(scores.argmax())] == clip.id
    kept = [word for word in words if " " + word in {old.tokenizer.decode([i]) for i in range(len(old.tokenizer))}]
    assert kept == ["five", "two"]
    for word in words:
        now = new.module.get_input_embeddings().weight[new.encode(" " + word)[0]]
        assert torch.allclose(known[word], now, atol=1e-6) == (word in kept)
