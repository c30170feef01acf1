"""Audio Flamingo 3: Whisper's encoder over windows of 30 s, up to ten minutes, and Qwen2.5's language model of 7B.

The prompt and the number of audio tokens are those of transformers' `AudioFlamingo3Processor`. There are placeholders
only, without tokens for the begin and the end of audio. The processor cuts longer recordings; here they are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration

from relisten.models import loading, windows
from relisten.models.folder import read_json
from relisten.models.windows import WindowedAudioLM

PROCESSOR = "processor_config.json"


class AudioFlamingo3(WindowedAudioLM):
    """Audio Flamingo 3 with its tokenizer and feature extractor; implements `models.base.AudioLM`."""

    PUBLISHED = "Audio Flamingo 3"
    max_seconds: float | None = 600.0

    def _audio_ids(self) -> tuple[int, int | None, int | None]:
        return int(self.module.config.audio_token_id), None, None

    def _audio_inputs(self, features: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
        stacked, mask = self.windows(features, device)
        return {"input_features": stacked, "input_features_mask": mask}

    def save(self, folder: Path, dtype: torch.dtype | None = None, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the model as `AudioLM.save` says, with the length of the longest recording."""
        super().save(folder, dtype, weights)
        (folder / PROCESSOR).write_text(json.dumps({"max_audio_len": self.max_seconds}) + "\n", encoding="utf-8")


def _check(path: Path, config: Any) -> None:
    windows.check_parts(path, config, ["audioflamingo3_encoder"], ["qwen2"])
    windows.check_windows(path, config)
    loading.check_token_ids(path, config, [config.audio_token_id])


KIND = loading.Kind(
    published="Audio Flamingo 3",
    config=AudioFlamingo3Config,
    module=AudioFlamingo3ForConditionalGeneration,
    layers=windows.LAYERS,
    check=_check,
)


def longest(folder: Path, otherwise: float | None) -> float | None:
    """Seconds of the longest recording that a folder's processor takes. Raises ValueError where it is not a number."""
    path = folder / PROCESSOR
    value = read_json(path).get("max_audio_len", otherwise) if path.exists() else otherwise
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise ValueError(f"{path}: max_audio_len is {str(value)[:60]}; it must be a number of seconds")
    return float(value)


def _finish(model: AudioFlamingo3, folder: Path) -> None:
    model.max_seconds = longest(folder, model.max_seconds)


load = loading.loader(KIND, AudioFlamingo3, _finish)
