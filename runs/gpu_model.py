"""nano on a GPU: the log-mel and the audio tower for many pieces of audio at once, and the loss of a packed batch.

The classes here compute what `relisten.models.qwen2_5_omni` computes (tests/test_nano_gpu.py compares them), but
without a loop over pieces of audio: a small model on a fast GPU waits for Python otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training import batch as packing
from relisten.training.batch import Encoded
from relisten.types import Audio

SHORT = 3.0
"""Seconds. Pieces up to this length are encoded together, so that a segment is not padded to a whole recording."""
Tensors = dict[str, Tensor]


class GpuNano(Qwen2_5Omni):
    """The same model with a log-mel that is computed where the model is."""

    @classmethod
    def of(cls, model: Qwen2_5Omni) -> GpuNano:
        """The model, seen as one of this class; both share everything."""
        seen = copy.copy(model)
        seen.__class__ = cls
        assert isinstance(seen, GpuNano)
        return seen

    def features(self, audio: Audio) -> Tensor:
        """Log-mel [mel bins, frames] of one piece of audio, on the model's device."""
        device = self.module.device
        waves = torch.from_numpy(np.ascontiguousarray(audio.samples, np.float32)).to(device)[None]
        return self.log_mel(waves, torch.tensor([waves.shape[1]], device=device))[0]

    def log_mel(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """[N, mel bins, frames] of pieces [N, T] with so many samples [N]; beyond the end of a piece is nonsense."""
        hop, size = int(self.feature_extractor.hop_length), int(self.feature_extractor.n_fft)
        frames = -(-waves.shape[1] // hop)
        padded = F.pad(waves.float(), (0, frames * hop + size - waves.shape[1]))
        with torch.autocast(waves.device.type, enabled=False):
            window, filters = self._mel_parts(waves.device)
            power = torch.stft(padded, size, hop, window=window, return_complex=True)[..., :frames].abs() ** 2
            mel = torch.log10((filters.T @ power).clamp_(min=1e-10))
            inside = torch.arange(frames, device=waves.device) < (-(-lengths // hop))[:, None]
            highest = mel.masked_fill(~inside[:, None], -10.0).amax((1, 2), keepdim=True)
            return (torch.maximum(mel, highest - 8.0) + 4.0) / 4.0

    def _mel_parts(self, device: torch.device) -> tuple[Tensor, Tensor]:
        parts: tuple[Tensor, Tensor] | None = vars(self).get("_mel")
        if parts is None or parts[0].device != device:
            filters = torch.from_numpy(np.asarray(self.feature_extractor.mel_filters, np.float32)).to(device)
            parts = torch.hann_window(int(self.feature_extractor.n_fft), device=device), filters
            self._mel = parts
        return parts


class Waves(Qwen2_5Omni):
    """The model of the processes that prepare data: in place of a log-mel it gives the samples, int16 [T]."""

    @classmethod
    def of(cls, model: Qwen2_5Omni) -> Waves:
        """The model without its weights, for other processes."""
        seen = copy.copy(model)
        seen.__class__ = cls
        assert isinstance(seen, Waves)
        seen.encode = lru_cache(200_000)(seen._listed)  # type: ignore[method-assign]
        return seen

    def _listed(self, text: str) -> list[int]:
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def features(self, audio: Audio) -> Tensor:
        """The samples of one piece of audio, int16 [T]."""
        return torch.from_numpy((audio.samples * 32767).astype(np.int16))


def pack_waves(model: Qwen2_5Omni, rows: Sequence[Sequence[Encoded]]) -> Tensors:
    """A packed batch with samples in place of log-mels, in two groups: short pieces and long ones.

    Of each group: `waves` [N, T], `lengths` [N], `source` (which token of the group, in its padded layout) and
    `target` (where it belongs in the flattened batch).
    """
    packed = packing.pack(rows, mask=lambda parts, parents: torch.stack([parts, parents]))
    extra = -packed.input_ids.shape[1] % 16  # attention on a GPU wants rows of even lengths
    packed.input_ids, packed.position_ids = F.pad(packed.input_ids, (0, extra)), F.pad(packed.position_ids, (0, extra))
    packed.attention_mask = F.pad(packed.attention_mask, (0, extra), value=-1)
    places = (packed.input_ids == model.audio_id).flatten().nonzero().squeeze(1)
    counts = [model.num_audio_tokens(len(piece)) for piece in packed.features]
    begins = np.cumsum([0, *counts])
    tensors = {
        "input_ids": packed.input_ids, "position_ids": packed.position_ids,
        "parts": packed.attention_mask.to(torch.int16), "rows": packed.rows, "columns": packed.columns,
        "labels": packed.labels,
    }  # fmt: skip
    limit = SHORT * model.rate
    for name, own in (
        ("short", [len(f) <= limit for f in packed.features]),
        ("long", [len(f) > limit for f in packed.features]),
    ):
        chosen = [i for i, mine in enumerate(own) if mine]
        if not chosen:
            continue
        lengths = [len(packed.features[i]) for i in chosen]
        waves = torch.zeros(len(chosen), max(lengths), dtype=torch.int16)
        width = model.num_audio_tokens(max(lengths))
        for row, i in enumerate(chosen):
            waves[row, : lengths[row]] = packed.features[i]
        tensors[f"{name}_waves"] = waves
        tensors[f"{name}_lengths"] = torch.tensor(lengths)
        tensors[f"{name}_source"] = torch.cat([torch.arange(counts[i]) + row * width for row, i in enumerate(chosen)])
        tensors[f"{name}_target"] = torch.cat([places[begins[i] : begins[i + 1]] for i in chosen])
    return tensors


def encode_audio(tower: Any, mel: Tensor, frames: Tensor) -> Tensor:
    """[N, tokens, width] of log-mels [N, mel bins, F] with so many frames [N]: the audio tower on a padded batch, up to
    what its projection takes."""
    block = 2 * int(tower.n_window)
    num, blocks, width = len(mel), -(-mel.shape[2] // block), ((mel.shape[2] - 1) // 2 + 1) // 2
    if blocks > 1:
        mel = F.pad(mel, (0, blocks * block - mel.shape[2])).unfold(2, block, block)  # [N, mel, blocks, block]
        mel = mel.permute(0, 2, 1, 3).reshape(num * blocks, -1, block)
        inside = (frames[:, None] - block * torch.arange(blocks, device=frames.device)).clamp(0, block).flatten()
    else:
        inside = frames
    mask = torch.arange(mel.shape[2], device=mel.device) < inside[:, None]
    states = F.gelu(tower.conv1(mel * mask[:, None])) * mask[:, None]
    states = F.gelu(tower.conv2(states)).transpose(1, 2)
    states = states + tower.positional_embedding.positional_embedding[: states.shape[1]].to(states.dtype)
    after = (inside - 1) // 2 + 1
    keys = (torch.arange(states.shape[1], device=mel.device) < after.clamp(min=1)[:, None])[:, None, None]
    for layer in tower.layers:
        states = _encoder_layer(layer, states, keys)
    if blocks > 1:
        states = states.reshape(num, blocks * states.shape[1], -1)
    pairs = states[:, : 2 * width].unflatten(1, (-1, 2)).mean(2)
    normed: Tensor = tower.ln_post(pairs)
    return normed


def _encoder_layer(layer: Any, states: Tensor, keys: Tensor) -> Tensor:
    attention = layer.self_attn
    normed = layer.self_attn_layer_norm(states)
    heads = [
        part(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    ]
    mixed = F.scaled_dot_product_attention(heads[0], heads[1].to(heads[0]), heads[2].to(heads[0]), attn_mask=keys)
    states = states + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    normed = layer.final_layer_norm(states)
    grown: Tensor = layer.fc2(F.gelu(layer.fc1(normed)))
    return states + grown


def parts_of(module: Any) -> tuple[Any, Any]:
    """The audio tower and the text model, which have other places in newer versions of transformers."""
    inner = module.model
    return (module.audio_tower, inner) if hasattr(module, "audio_tower") else (inner.audio_tower, inner.language_model)


class Lean:
    """The text model with as few launches as possible: a launch costs more than the work of so small a model.

    It computes on copies of the weights in `dtype` (fused where they are used together). `read` copies the weights
    there, `give` copies the gradients back.
    """

    def __init__(self, model: GpuNano, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        tower, text = parts_of(model.module)
        config = model.module.config.get_text_config()
        self.heads, self.kv = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.eps, self.width = float(config.rms_norm_eps), int(config.hidden_size) // int(config.num_attention_heads)
        self.theta = float(config.rope_parameters["rope_theta"])
        self.trained_ear = any(p.requires_grad for p in tower.layers.parameters())
        self.tower = copy.deepcopy(tower).to(dtype)
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._leaves: list[tuple[Tensor, list[Tensor]]] = []
        self.embedding = self._leaf([text.embed_tokens.weight])
        self.norm = self._leaf([text.norm.weight])
        for weight, copied in zip(tower.parameters(), self.tower.parameters(), strict=True):
            if weight.requires_grad:
                self._leaves.append((copied, [weight]))
                self._pairs.append((weight, copied.data))
        self.layers = [self._layer(layer) for layer in text.layers]
        self.read()

    def _leaf(self, weights: list[Tensor]) -> Tensor:
        """One tensor that holds these weights one below the other."""
        leaf = torch.cat([w.detach() for w in weights]).to(self.dtype).requires_grad_()
        self._leaves.append((leaf, weights))
        for weight, part in zip(weights, leaf.data.split([len(w) for w in weights]), strict=True):
            self._pairs.append((weight, part))
        return leaf

    def _layer(self, layer: Any) -> dict[str, Tensor]:
        attention, mlp = layer.self_attn, layer.mlp
        heads = [attention.q_proj, attention.k_proj, attention.v_proj]
        return {
            "norm": self._leaf([layer.input_layernorm.weight]),
            "qkv": self._leaf([part.weight for part in heads]),
            "bias": self._leaf([part.bias for part in heads]),
            "out": self._leaf([attention.o_proj.weight]),
            "norm2": self._leaf([layer.post_attention_layernorm.weight]),
            "gate_up": self._leaf([mlp.gate_proj.weight, mlp.up_proj.weight]),
            "down": self._leaf([mlp.down_proj.weight]),
        }

    @torch.no_grad()
    def read(self) -> None:
        """Copy the weights to the fused copies."""
        torch._foreach_copy_([part for _, part in self._pairs], [weight for weight, _ in self._pairs])

    @torch.no_grad()
    def give(self) -> None:
        """Copy the gradients to the weights, and forget them here."""
        given, taken = [], []
        for leaf, weights in self._leaves:
            assert leaf.grad is not None
            for weight, part in zip(weights, leaf.grad.split([len(w) for w in weights]), strict=True):
                if weight.grad is None:
                    weight.grad = torch.empty_like(weight)
                given.append(part)
                taken.append(weight.grad)
            leaf.grad = None
        torch._foreach_copy_(taken, given)

    def logits(self, inputs: Tensors) -> Tensor:
        """Logits [K, V], float32, of the tokens to learn of a batch that `pack_waves` has made."""
        embedded = F.embedding(inputs["input_ids"], self.embedding)
        flat = embedded.flatten(0, 1)
        for name in ("short", "long"):
            if f"{name}_waves" in inputs:
                tokens = self._heard(inputs[f"{name}_waves"], inputs[f"{name}_lengths"], inputs[f"{name}_source"])
                flat = flat.index_copy(0, inputs[f"{name}_target"], tokens)
        states = flat.view_as(embedded)
        parts, parents = inputs["parts"]
        allowed = packing.prefix_mask(parts, parents)
        mask = torch.zeros(allowed.shape, dtype=self.dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))
        cos, sin = self._turns(inputs["position_ids"])
        for layer in self.layers:
            states = self._text_layer(layer, states, mask, cos, sin)
        kept = states[inputs["rows"], inputs["columns"]]
        logits = F.linear(F.rms_norm(kept, kept.shape[-1:], self.norm, self.eps), self.embedding).float()
        return logits.index_fill(-1, self.model.banned_token_ids.to(logits.device), float("-inf"))

    def _heard(self, waves: Tensor, lengths: Tensor, source: Tensor) -> Tensor:
        """[sum of tokens, H] of pieces of audio."""
        with torch.no_grad():
            mel = self.model.log_mel(waves.float() / 32767, lengths)
        frames = -(-lengths // int(self.model.feature_extractor.hop_length))
        with nullcontext() if self.trained_ear else torch.no_grad():
            states = encode_audio(self.tower, mel.to(self.dtype), frames).flatten(0, 1).index_select(0, source)
        heard: Tensor = self.tower.proj(states)
        return heard

    def _turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [B, 1, L, width]; the three rotary axes of the class are equal for audio and text."""
        half = torch.arange(0, self.width, 2, device=positions.device, dtype=torch.float32) / self.width
        angles = positions[:, None, :, None] * self.theta**-half
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def _text_layer(self, layer: Tensors, states: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        size = states.shape[-1:]
        normed = F.rms_norm(states, size, layer["norm"], self.eps)
        mixed = F.linear(normed, layer["qkv"], layer["bias"]).unflatten(-1, (-1, self.width)).transpose(1, 2)
        turned, values = mixed[:, : self.heads + self.kv], mixed[:, self.heads + self.kv :]
        low, high = turned.chunk(2, -1)
        turned = turned * cos + torch.cat([-high, low], -1) * sin
        share = self.heads // self.kv
        keys = turned[:, self.heads :].repeat_interleave(share, 1)
        mixed = F.scaled_dot_product_attention(
            turned[:, : self.heads], keys, values.repeat_interleave(share, 1), attn_mask=mask
        )
        states = states + F.linear(mixed.transpose(1, 2).flatten(2), layer["out"])
        normed = F.rms_norm(states, size, layer["norm2"], self.eps)
        gate, up = F.linear(normed, layer["gate_up"]).chunk(2, -1)
        return states + F.linear(F.silu(gate) * up, layer["down"])


@dataclass(slots=True)
class _Group:
    """Weights of one shape, that make their step together."""

    weights: list[Tensor]
    momentum: Tensor
    share: float
    """Of the learning rate."""


class BatchedMuon:
    """As `relisten.training.optimizer.MuonWithAdamW`, with one product for all matrices of a shape.

    ear: the share of the learning rate for the layers of the audio tower.
    """

    def __init__(self, module: torch.nn.Module, ear: float = 1.0) -> None:
        linear = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)}
        by_kind: dict[tuple[torch.Size, float, bool], list[Tensor]] = {}
        for name, p in module.named_parameters():
            if p.requires_grad:
                share = ear if "audio_tower" in name and ".proj." not in name else 1.0
                is_matrix = name in linear and "head" not in name
                by_kind.setdefault((p.shape if is_matrix else torch.Size(), share, is_matrix), []).append(p)
        self.groups = [
            _Group(ps, torch.zeros(len(ps), *shape, device=ps[0].device), share)
            for (shape, share, is_matrix), ps in by_kind.items()
            if is_matrix
        ]
        rest = [{"params": ps, "share": share} for (_, share, is_matrix), ps in by_kind.items() if not is_matrix]
        on_gpu = rest[0]["params"][0].is_cuda
        self.adam = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=on_gpu)

    @torch.no_grad()
    def step(self, rate: float, momentum: float = 0.95) -> None:
        """One step at a learning rate."""
        for group in self.groups:
            gradient = torch.stack([p.grad for p in group.weights if p.grad is not None])
            group.momentum.lerp_(gradient, 1 - momentum)
            update = _orthogonal(gradient.lerp(group.momentum, momentum))
            size = 0.2 * max(gradient.shape[1:]) ** 0.5 * group.share
            torch._foreach_add_(group.weights, list(update.float().unbind()), alpha=-size * rate)
        for part in self.adam.param_groups:
            part["lr"] = rate * part["share"]
        self.adam.step()


def _orthogonal(matrices: Tensor) -> Tensor:
    """[N, a, b] with singular values near 1."""
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    wide = wide.bfloat16() if wide.is_cuda else wide
    for _ in range(5):
        gram = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide.mT if matrices.shape[1] > matrices.shape[2] else wide
