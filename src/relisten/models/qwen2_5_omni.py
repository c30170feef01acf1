"""Qwen2.5-Omni's Thinker, the paper's base model.

The processor of transformers is not used, because it needs torchvision and pads every piece of audio to 300 s. All it
does for audio is to expand the placeholder and to compute the mel.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from relisten.models import loading
from relisten.models.base import pad_features
from relisten.models.causal import CausalAudioLM
from relisten.types import Audio


class Qwen2_5Omni(CausalAudioLM):  # noqa: N801 (named after the model)
    """The Thinker with its tokenizer and feature extractor; implements `models.base.AudioLM`."""

    PUBLISHED = "Qwen2.5-Omni"

    def _audio_ids(self) -> tuple[int, int | None, int | None]:
        config = self.module.config
        return _config_id(config, "audio_token"), int(config.audio_start_token_id), int(config.audio_end_token_id)

    def _banned(self) -> set[int]:
        """Also the placeholders of images and video."""
        media = (self._vocabulary.get(text) for text in ("<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>"))
        named = {_config_id(self.module.config, name) for name in ("image_token", "video_token")}
        return super()._banned() | named | {int(i) for i in media if i is not None}

    # --- audio --------------------------------------------------------------------------------------------------

    def num_audio_tokens(self, num_samples: int) -> int:
        """Number of audio tokens: two strides of two over the mel frames (25 a second at a hop of 160 samples)."""
        after_conv = (self.num_frames(num_samples) - 1) // 2 + 1
        return max(0, (after_conv - 2) // 2 + 1)

    def features(self, audio: Audio) -> Tensor:
        """Log-mel [mel bins, frames] of one piece of audio.

        It is equal, bit by bit, to what the extractor computes when it pads to 30 s and the result is cut.
        """
        self.check_rate(audio)
        extractor, num_samples = self.feature_extractor, len(audio.samples)
        frames = self.num_frames(num_samples)
        padded = np.zeros(frames * extractor.hop_length + extractor.n_fft, dtype=np.float32)
        padded[:num_samples] = audio.samples
        with torch.autocast("cpu", enabled=False):  # in float32, whatever the precision of the forward
            mel = extractor(padded, sampling_rate=self.rate, padding="do_not_pad", truncation=False)
        return torch.from_numpy(np.asarray(mel["input_features"][0], dtype=np.float32)[:, :frames])

    # --- forward ------------------------------------------------------------------------------------------------

    def _audio_inputs(self, features: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
        stacked, mask = pad_features(features)
        return {"input_features": stacked.to(device), "feature_attention_mask": mask.to(device)}

    def _text_inputs(self, position_ids: Tensor, mask: Tensor | None) -> dict[str, Any]:
        """Audio and text alone: the three rotary axes are equal, so positions are plain counting."""
        # A mapping is taken as it is; a bare tensor would be remade by transformers' own mask code.
        return {"position_ids": position_ids[None].expand(3, -1, -1), "attention_mask": {"full_attention": mask}}


def _config_id(config: Any, name: str) -> int:
    """transformers renamed `audio_token_index` to `audio_token_id`; both releases are supported."""
    return int(getattr(config, f"{name}_id", None) or getattr(config, f"{name}_index"))


def _check(path: Path, config: Any) -> None:
    ids = [_config_id(config, f"{name}_token") for name in ("audio", "image", "video")]
    loading.check_token_ids(path, config, [*ids, int(config.audio_start_token_id), int(config.audio_end_token_id)])
    if config.audio_config.max_source_positions < config.audio_config.n_window or config.audio_config.n_window < 1:
        raise ValueError(f"{path}: audio_config.n_window is not 1 to max_source_positions; correct it")


KIND = loading.Kind(
    published="Qwen2.5-Omni",
    config=Qwen2_5OmniThinkerConfig,
    module=Qwen2_5OmniThinkerForConditionalGeneration,
    layers=loading.THINKER_LAYERS,
    check=_check,
    own="thinker_config",
)


load = loading.loader(KIND, Qwen2_5Omni)


logging.getLogger("transformers.modeling_rope_utils").setLevel(logging.ERROR)  # mrope keys it does not know: harmless
