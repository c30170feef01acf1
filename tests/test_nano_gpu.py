"""What runs/gpu_model.py computes for a GPU is what the model computes; and Whisper's encoder is read rightly."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
import gpu_model
import whisper_ear

from relisten.data.worlds.curriculum import sft_rows
from relisten.models import load, nano
from relisten.models.base import AudioLM, pad_features
from relisten.training.batch import Encoded, encode, pack
from relisten.training.trainer import token_logprobs_of
from relisten.types import Audio


def encoded(model: AudioLM, num: int = 3) -> list[list[Encoded]]:
    found = []
    for index in range(num):
        mel: dict[int, tuple[Audio, torch.Tensor]] = {}
        found.append([encode(model, example, format, mel) for example, format in sft_rows(index)])
    return found


@pytest.fixture(scope="module")
def model() -> gpu_model.GpuNano:
    found = load("nano", "float32", "cpu")
    found.module.set_attn_implementation("sdpa")
    for name, parameter in found.module.named_parameters():
        parameter.requires_grad = "visual" not in name and "bos_eos" not in name
    return gpu_model.GpuNano.of(found)


def test_the_log_mel_is_the_extractors(model: gpu_model.GpuNano) -> None:
    audio = Audio(np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * 0.1, 16_000)
    assert torch.equal(model.features(audio), super(gpu_model.GpuNano, model).features(audio))


def test_a_padded_batch_of_audio_is_encoded_as_each_piece_alone(model: gpu_model.GpuNano) -> None:
    rng = np.random.default_rng(1)  # one piece is longer than a block of the tower
    pieces = [Audio(rng.standard_normal(n).astype(np.float32) * 0.1, 16_000) for n in (9_000, 40_000, 170_000)]
    stacked, mask = pad_features([model.features(piece) for piece in pieces])
    tower = gpu_model.parts_of(model.module)[0]
    together = tower.proj(gpu_model.encode_audio(tower, stacked, mask.sum(1)))
    for index, piece in enumerate(pieces):
        found = model.module.get_audio_features(stacked[index : index + 1], mask[index : index + 1])
        alone = getattr(found, "last_hidden_state", found).reshape(-1, together.shape[-1])
        assert len(alone) == model.num_audio_tokens(len(piece.samples))
        torch.testing.assert_close(together[index, : len(alone)], alone, atol=1e-4, rtol=1e-4)


def test_the_lean_forward_gives_the_trainers_loss_and_gradients(model: gpu_model.GpuNano) -> None:
    batch = gpu_model.pack_waves(gpu_model.Waves.of(model), encoded(gpu_model.Waves.of(model)))
    lean = gpu_model.Lean(model, torch.float32)
    functional.cross_entropy(lean.logits(batch), batch["labels"]).backward()
    lean.give()
    lean_gradients = {n: p.grad.clone() for n, p in model.module.named_parameters() if p.grad is not None}
    model.module.zero_grad(set_to_none=True)

    packed = pack(encoded(model))
    inputs = {name: getattr(packed, name) for name in packed.__dataclass_fields__} | {"token_ids": packed.labels}
    logprobs, _ = token_logprobs_of(model, inputs)
    (-logprobs.mean()).backward()
    theirs = {n: p.grad for n, p in model.module.named_parameters() if p.grad is not None}
    model.module.zero_grad(set_to_none=True)
    assert set(theirs) <= set(lean_gradients)
    for name, gradient in theirs.items():  # samples travel in 16 bits, so the two are not equal to the last bit
        assert (gradient - lean_gradients[name]).norm() <= 0.05 * gradient.norm() + 1e-5, name


def test_muon_by_shape_makes_the_steps_of_the_product(model: gpu_model.GpuNano) -> None:
    from relisten.training.optimizer import MuonWithAdamW

    layers = [torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 6)) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    ours, theirs = gpu_model.BatchedMuon(layers[0]), MuonWithAdamW(layers[1], 1e-2)
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for layer in layers:
            layer.zero_grad()
            layer(inputs).square().mean().backward()
        ours.step(1e-2)
        theirs.step()
    for one, other in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


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
    tower = gpu_model.parts_of(nano.create(["a word"], whisper_ear.EAR).module)[0]
    absent = {name for name in tower.state_dict() if "proj." not in name or "self_attn" in name} - set(found)
    assert absent == {"audio_bos_eos_token.weight"}
    assert all(tower.state_dict()[name].shape == value.shape for name, value in found.items())
    (tmp_path / "old.bin").write_bytes(struct.pack("<I", 5))
    with pytest.raises(ValueError, match="version 5"):
        whisper_ear.read_ctranslate2(tmp_path / "old.bin")


def test_the_grafted_model_still_says_what_nano_said() -> None:
    old = load("nano", "float32", "cpu")
    new = whisper_ear.graft(None, old.tokenizer)  # two layers more, which change nothing at first
    audio = Audio(np.random.default_rng(3).standard_normal(32_000).astype(np.float32) * 0.1, 16_000)
    ids, _ = old.prompt("Tell what is heard.", (), "conditioned", len(audio.samples))
    logits = []
    for model in (old, new):
        tokens = torch.tensor([ids])
        with torch.no_grad():
            logits.append(model.forward(tokens, torch.arange(len(ids))[None], [model.features(audio)], None))
    known = len(old.tokenizer)  # beyond it there are no tokens
    torch.testing.assert_close(logits[0][..., :known], logits[1][..., :known], atol=1e-4, rtol=1e-4)
