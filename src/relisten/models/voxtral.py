"""Voxtral: Whisper's encoder over any number of windows of 30 s, and a language model of Mistral's.

The prompt is that of mistral-common (`InstructTokenizerV7`, `AudioEncoder`): `<s>[INST][BEGIN_AUDIO][AUDIO]...text`
`[/INST]`, with a system prompt between `[SYSTEM_PROMPT]` and `[/SYSTEM_PROMPT]` before it if there is one.
Every piece of audio is padded to whole windows, and every window takes as many tokens: 375 for 30 s, however short the
audio is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
)

from relisten.models import loading, windows
from relisten.models.base import Prompts
from relisten.models.windows import WindowedAudioLM
from relisten.types import Format


class Voxtral(WindowedAudioLM):
    """Voxtral with its tokenizer and feature extractor; implements `models.base.AudioLM`."""

    PUBLISHED = "Voxtral"
    TURNS = ("<s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "</s>")
    ENDS = ()
    PROMPTS = Prompts(system=None)
    """mistral-common refuses a system prompt beside audio for the tokenizers of Voxtral."""
    SCALED_TOGETHER = True

    def __init__(self, module: Any, *others: Any, **named: Any) -> None:
        super().__init__(module, *others, **named)
        audio = module.config.audio_config
        self._window_tokens = int(audio.max_source_positions) * int(audio.hidden_size) // int(audio.intermediate_size)

    def _audio_ids(self) -> tuple[int, int | None, int | None]:
        return int(self.module.config.audio_token_id), self._control_id("[BEGIN_AUDIO]"), None

    def _banned(self) -> set[int]:
        """Also the marks of tools, images and transcription: all control tokens but the end."""
        special = {int(i) for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return super()._banned() | (special - {self.end_token_id})

    def num_audio_tokens(self, num_samples: int) -> int:
        """Number of audio tokens: the same for every window that is begun (375 for 30 s)."""
        return self.num_windows(num_samples) * self._window_tokens

    def prompt(
        self, question: str, choices: Sequence[str], format: Format, num_samples: int | None
    ) -> tuple[list[int], int | None]:
        """The prompt as mistral-common writes it, and the index of its first audio token; see `AudioLM.prompt`."""
        turn = self._turn_ids
        ids = [turn["<s>"]]
        if self.prompts.system is not None:
            ids += [turn["[SYSTEM_PROMPT]"], *self.encode(self.prompts.system), turn["[/SYSTEM_PROMPT]"]]
        ids.append(turn["[INST]"])
        user, at = self._user_turn("", self.prompts.text(question, choices, format), num_samples)
        return [*ids, *user, turn["[/INST]"]], None if at is None else len(ids) + at

    def _audio_inputs(self, features: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
        return {"input_features": self.windows(features, device)[0]}


def _check(path: Path, config: Any) -> None:
    windows.check_parts(path, config, ["voxtral_encoder"], ["llama", "mistral"])
    windows.check_windows(path, config)
    loading.check_token_ids(path, config, [config.audio_token_id])
    audio = config.audio_config
    if audio.max_source_positions * audio.hidden_size % audio.intermediate_size:
        raise ValueError(f"{path}: audio_config.intermediate_size does not divide a window's numbers; correct it")


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """From tekken.json, as Mistral publishes it, or from tokenizer.json.

    `AutoTokenizer` would give mistral-common's own where that is installed, which cannot spell out control tokens.
    """
    found: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return found


KIND = loading.Kind(
    published="Voxtral",
    config=VoxtralConfig,
    module=VoxtralForConditionalGeneration,
    layers=windows.LAYERS,
    check=_check,
    tokenizer=_tokenizer,
)


load = loading.loader(KIND, Voxtral)
