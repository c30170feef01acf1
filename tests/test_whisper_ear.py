"""Whisper's encoder is read rightly, and fits nano's class."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
import whisper_ear

from relisten.models import nano
from relisten.types import Audio


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
    save_file({name: value.half().contiguous() for name, value in found.items()}, tmp_path / "ear.safetensors")
    teacher = whisper_ear.whisper(tmp_path / "ear.safetensors")
    assert whisper_ear.ear_states(teacher, Audio(np.zeros(16_000, np.float32), 16_000)).shape == (25, width)
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors: is not the encoder"):
        whisper_ear.whisper(tmp_path / "other.safetensors")
    (tmp_path / "old.bin").write_bytes(struct.pack("<I", 5))
    with pytest.raises(ValueError, match="version 5"):
        whisper_ear.read_ctranslate2(tmp_path / "old.bin")
