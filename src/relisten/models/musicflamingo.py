"""Music Flamingo and Audio Flamingo Next: Audio Flamingo 3 with tokens around audio and rotary time embeddings.

Both are checkpoints of transformers' class `MusicFlamingoForConditionalGeneration`. It gives every audio token the time
within its own piece of audio. So the times of an inserted segment begin at 0, as those of any recording that the model
was trained on; they do not say where in the recording the segment lies, which the model has just written itself.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import MusicFlamingoConfig, MusicFlamingoForConditionalGeneration

from relisten.models import loading, windows
from relisten.models.audioflamingo3 import AudioFlamingo3, longest


class MusicFlamingo(AudioFlamingo3):
    """Music Flamingo or Audio Flamingo Next; implements `models.base.AudioLM`."""

    PUBLISHED = "Music Flamingo"
    max_seconds: float | None = 1200.0

    def _audio_ids(self) -> tuple[int, int | None, int | None]:
        config = self.module.config
        return int(config.audio_token_id), int(config.audio_bos_token_id), int(config.audio_eos_token_id)


def _check(path: Path, config: Any) -> None:
    windows.check_parts(path, config, ["audioflamingo3_encoder"], ["qwen2"])
    windows.check_windows(path, config)
    ids = [config.audio_token_id, config.audio_bos_token_id, config.audio_eos_token_id]
    loading.check_token_ids(path, config, ids)
    if config.audio_config.max_source_positions // 2 > config.max_position_embeddings:
        raise ValueError(f"{path}: rope_parameters.rope_theta is less than the audio tokens of a window; correct it")


KIND = loading.Kind(
    published="Music Flamingo",
    config=MusicFlamingoConfig,
    module=MusicFlamingoForConditionalGeneration,
    layers=windows.LAYERS,
    check=_check,
)


def published_system(folder: Path) -> str | None:
    """The system prompt that a folder's chat template writes if none is given: the two models have different ones.

    The template is only searched, never run.
    """
    path = folder / "chat_template.jinja"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.search(r"<\|im_start\|>system(?:\n|\\n)([^<{}]{1,2000})<\|im_end\|>", text)
    return found[1] if found else None


def _finish(model: MusicFlamingo, folder: Path) -> None:
    model.max_seconds = longest(folder, model.max_seconds)
    if not (folder / "prompts.json").exists() and (system := published_system(folder)):
        model.prompts = replace(model.prompts, system=system)


load = loading.loader(KIND, MusicFlamingo, _finish)
