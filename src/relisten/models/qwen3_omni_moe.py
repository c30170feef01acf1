"""Qwen3-Omni's Thinker, a mixture of experts.

Of a released checkpoint, only the Thinker is loaded. Instruct, Thinking and Captioner have the same classes.

Positions are plain counting. For audio without video, the class itself gives each token the position after that of the
token before it, on all three rotary axes; since an audio token stands for 80 ms, positions within a piece of audio are
times in steps of 80 ms. An inserted segment continues the count in the same way.

The class can also compute a loss that spreads tokens evenly over the experts. relisten never adds it, neither in SFT
nor in GRPO: it counts the tokens of prompt, audio and padding, would pull a trained router away from its experts on a
narrow set of recordings, and would give a gradient where all answers of a group earned the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration

from relisten.models import loading
from relisten.models.base import Prompts, pad_features
from relisten.models.causal import CausalAudioLM
from relisten.types import Audio

CHUNK = 100
"""Mel frames, one second, that the audio tower's convolutions read at once."""
CHUNK_TOKENS = 13
"""Audio tokens that they make of them: three strides of two."""


class Qwen3OmniMoe(CausalAudioLM):
    """The Thinker with its tokenizer and feature extractor; implements `models.base.AudioLM`."""

    PUBLISHED = "Qwen3-Omni"
    PROMPTS = Prompts(system=None)
    """The paper's prompt without a system prompt: Qwen's own evaluations set none, and the template adds none. The
    Thinking model writes `<think>` itself, like every model that is trained here."""

    def __init__(self, module: Any, *others: Any, **named: Any) -> None:
        super().__init__(module, *others, **named)
        audio_tower(module).register_forward_pre_hook(whole_chunks, with_kwargs=True)

    def _audio_ids(self) -> tuple[int, int | None, int | None]:
        start, end = self._control_id("<|audio_start|>"), self._control_id("<|audio_end|>")
        return int(self.module.config.audio_token_id), start, end

    def _banned(self) -> set[int]:
        """Also the placeholders of images and video."""
        names = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
        return super()._banned() | {self._vocabulary[name] for name in names if name in self._vocabulary}

    # --- audio --------------------------------------------------------------------------------------------------

    def num_audio_tokens(self, num_samples: int) -> int:
        """Number of audio tokens: 13 a second, and for what is left over, three strides of two over its mel frames."""
        frames = self.num_frames(num_samples)
        if frames < 2:  # shorter than the window of the mel
            return 0
        seconds, rest = divmod(frames, CHUNK)
        return CHUNK_TOKENS * seconds + -(-rest // 8)

    def num_encoder_frames(self, num_samples: int) -> int:
        """Frames that the encoder's layers compute: one for each audio token."""
        return self.num_audio_tokens(num_samples)

    def features(self, audio: Audio) -> Tensor:
        """Log-mel [mel bins, frames] of one piece of audio, filled up with silence to whole frames, as in vLLM.

        The model's own processor gives the same for whole frames. Otherwise it depends on what else is processed: it
        leaves the last frame out, or pads the audio to the length of the longest.
        """
        self.check_rate(audio)
        extractor = self.feature_extractor
        filled = np.zeros(self.num_frames(len(audio.samples)) * extractor.hop_length, dtype=np.float32)
        filled[: len(audio.samples)] = audio.samples
        with torch.autocast("cpu", enabled=False):  # in float32, whatever the precision of the forward
            mel = extractor(filled, sampling_rate=self.rate, padding="do_not_pad", truncation=False)
        return torch.from_numpy(np.asarray(mel["input_features"][0], dtype=np.float32))

    # --- forward ------------------------------------------------------------------------------------------------

    def _audio_inputs(self, features: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
        stacked, mask = pad_features(features)
        return {"input_features": stacked.to(device), "feature_attention_mask": mask.to(device)}

    def _text_inputs(self, position_ids: Tensor, mask: Tensor | None) -> dict[str, Any]:
        positions = position_ids[None].expand(3, -1, -1)
        return {"position_ids": positions, "attention_mask": mask, "output_router_logits": False}


def audio_tower(module: Any) -> nn.Module:
    """The audio tower, wherever this version of transformers has it."""
    tower: nn.Module = getattr(module, "audio_tower", None) or module.model.audio_tower
    return tower


def whole_chunks(tower: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Before each forward of the audio tower: pad the last chunk of every piece of audio to a whole one.

    The class pads chunks to the longest of them all, and its convolutions see this padding. So what it makes of a piece
    that is shorter than a second would depend on the others that are encoded with it. Now it is always what the class
    makes of the last part of a longer recording.
    """
    mel, lengths = args[0] if args else named["input_features"], named["feature_lens"]
    chunks = [chunk for piece in mel.split(lengths.tolist(), dim=1) for chunk in piece.split(CHUNK, dim=1)]
    sizes = torch.tensor([chunk.shape[1] for chunk in chunks], device=mel.device)
    padded = torch.stack([nn.functional.pad(chunk, (0, CHUNK - chunk.shape[1])) for chunk in chunks])
    # The class counts places by the longest chunk, so if all are shorter it would read others than those of a chunk.
    own = torch.arange(CHUNK_TOKENS, device=mel.device)[None] < -(-sizes // 8)[:, None]
    valid = own.flatten().nonzero().squeeze(-1)
    return args, named | {"padded_feature": padded, "chunk_lengths": sizes, "valid_indices": valid}


def _check(path: Path, config: Qwen3OmniMoeThinkerConfig) -> None:
    loading.check_token_ids(path, config, [config.audio_token_id, config.image_token_id, config.video_token_id])
    tower, text = config.audio_config, config.text_config
    if 2 * tower.n_window != CHUNK or tower.n_window_infer < CHUNK:
        raise ValueError(f"{path}: audio_config.n_window is not {CHUNK // 2}, or n_window_infer is less than {CHUNK}")
    if tower.max_source_positions < CHUNK_TOKENS or tower.conv_chunksize < 1:
        raise ValueError(f"{path}: audio_config asks for fewer than {CHUNK_TOKENS} positions or 1 chunk; correct it")
    if not 0 < text.num_experts_per_tok <= text.num_experts:
        raise ValueError(f"{path}: text_config.num_experts_per_tok is not 1 to num_experts; correct it")


KIND = loading.Kind(
    published="Qwen3-Omni",
    config=Qwen3OmniMoeThinkerConfig,
    module=Qwen3OmniMoeThinkerForConditionalGeneration,
    layers=loading.THINKER_LAYERS,
    check=_check,
    own="thinker_config",
)


load = loading.loader(KIND, Qwen3OmniMoe)
