"""Qwen2-Audio: Whisper's encoder, which reads one window of 30 s, and Qwen's language model of 7B.

The prompt, the tokens of audio and their number are those of transformers' `Qwen2AudioProcessor`; the configuration was
compared with the published one (see docs/bases.md). The processor cuts recordings of more than 30 s without a word;
here they are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
)

from relisten.models import loading, windows
from relisten.models.windows import WindowedAudioLM


class Qwen2Audio(WindowedAudioLM):
    """Qwen2-Audio with its tokenizer and feature extractor; implements `models.base.AudioLM`."""

    PUBLISHED = "Qwen2-Audio"
    AROUND = ("Audio 1: ", "\n")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_seconds = float(self.feature_extractor.chunk_length)

    def _audio_ids(self) -> tuple[int, int | None, int | None]:
        # Only the processor names begin and end; the configuration has the placeholder alone.
        around = self._control_id("<|audio_bos|>"), self._control_id("<|audio_eos|>")
        return int(self.module.config.audio_token_index), *around

    def num_audio_tokens(self, num_samples: int) -> int:
        """Number of audio tokens, 25 a second; at least two, so less than 70 ms cannot be encoded."""
        # With a single placeholder, the class would take its input for one of an older kind and expand it itself.
        found = super().num_audio_tokens(num_samples)
        return found if found > 1 else 0

    def _audio_inputs(self, features: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
        stacked, mask = self.windows(features, device)
        return {"input_features": stacked, "feature_attention_mask": mask}


def _check(path: Path, config: Any) -> None:
    windows.check_parts(path, config, ["qwen2_audio_encoder"], ["qwen2"])
    windows.check_windows(path, config)
    loading.check_token_ids(path, config, [config.audio_token_index])


KIND = loading.Kind(
    published="Qwen2-Audio",
    config=Qwen2AudioConfig,
    module=Qwen2AudioForConditionalGeneration,
    layers=windows.LAYERS,
    check=_check,
)


load = loading.loader(KIND, Qwen2Audio)
