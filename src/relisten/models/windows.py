"""Bases with Whisper's encoder, which reads windows of 30 s: shorter audio is padded with silence, longer is divided.

The log-mel is equal to what the processor of transformers computes from audio that is padded to whole windows. The
padding itself is not computed: all frames of silence are the same, so one of them is kept and repeated in the forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relisten.models import loading
from relisten.models.causal import CausalAudioLM
from relisten.types import Audio

LAYERS = {
    "text_config": ("num_hidden_layers", r"layers\.(\d+)\."),
    "audio_config": ("encoder_layers", r"audio_tower\.layers\.(\d+)\."),
}
"""For `loading.Kind`. Newer configurations know `encoder_layers` too, as another name of `num_hidden_layers`."""


class WindowedAudioLM(CausalAudioLM):
    """What the bases with Whisper's encoder share. `features` gives the frames of a piece of audio and `edge` more."""

    SCALED_TOGETHER: ClassVar[bool] = False
    """The log-mel is cut off at 8 below its maximum: that of the whole piece of audio, or that of each window."""

    @property
    def window(self) -> int:
        """Mel frames of a window."""
        return int(self.feature_extractor.nb_max_frames)

    @property
    def edge(self) -> int:
        """Mel frames after those of the audio that `features` has too: some see its end, and the last is silence."""
        return int(self.feature_extractor.n_fft) // 2 // int(self.feature_extractor.hop_length) + 2

    def num_windows(self, num_samples: int) -> int:
        """How many windows a piece of audio takes."""
        return -(-num_samples // int(self.feature_extractor.n_samples))

    def num_audio_tokens(self, num_samples: int) -> int:
        """Number of audio tokens: two strides of two over the mel frames (25 a second at a hop of 160 samples)."""
        after_conv = (self.num_frames(num_samples) - 1) // 2 + 1
        return max(0, (after_conv - 2) // 2 + 1)

    def num_encoder_frames(self, num_samples: int) -> int:
        """Frames that the encoder's layers compute: always whole windows."""
        return self.num_windows(num_samples) * int(self.module.config.audio_config.max_source_positions)

    def features(self, audio: Audio) -> Tensor:
        """Log-mel [mel bins, frames + edge] of one piece of audio; see `AudioLM.features`."""
        self.check_rate(audio)
        self.check_length(len(audio.samples))
        samples, size = audio.samples, int(self.feature_extractor.n_samples)
        if self.SCALED_TOGETHER:
            return torch.from_numpy(self._mel(samples, size * self.num_windows(len(samples))))
        pieces = [samples[start : start + size] for start in range(0, len(samples), size)]
        if len(pieces) > 1 and not self.num_audio_tokens(len(pieces[-1])):
            pieces.pop()  # no token hears the rest, which is shorter than 20 ms
        mels = [self._mel(piece, size) for piece in pieces]
        return torch.from_numpy(np.concatenate([mel[:, : self.window] for mel in mels[:-1]] + mels[-1:], axis=1))

    def _mel(self, samples: NDArray[np.float32], most: int) -> NDArray[np.float32]:
        """Log-mel [mel bins, frames + edge] as if the audio were padded with silence to `most` samples."""
        frames = self.num_frames(len(samples)) + self.edge
        padded = np.zeros(min(frames * int(self.feature_extractor.hop_length), most), dtype=np.float32)
        padded[: len(samples)] = samples
        with torch.autocast("cpu", enabled=False):  # in float32, whatever the precision of the forward
            mel = self.feature_extractor(padded, sampling_rate=self.rate, padding="do_not_pad", truncation=False)
        found = np.asarray(mel["input_features"][0], dtype=np.float32)
        # Frames beyond the last window are never read. They are there so that the number of frames can be told.
        return np.pad(found, ((0, 0), (0, frames - found.shape[1])), mode="edge")

    def windows(self, features: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """All windows of some pieces of audio, and a mask of the frames that are not padding, int64 [N, window].

        The windows [N, mel bins, window] have the type of the module's weights.
        """
        found: list[Tensor] = []
        lengths: list[int] = []
        for feature in features:
            frames = feature.shape[1] - self.edge
            for start in range(0, frames, self.window):
                part = feature[:, start : start + self.window]
                silence = feature[:, -1:].expand(-1, self.window - part.shape[1])
                found.append(torch.cat([part, silence], dim=1))
                lengths.append(min(self.window, frames - start))
        mask = torch.arange(self.window)[None] < torch.tensor(lengths)[:, None]
        return torch.stack(found).to(device, self.module.dtype), mask.long().to(device)


def check_windows(path: Path, config: Any) -> None:
    """Raise ValueError where the encoder does not read as many frames as a window has."""
    settings, written = loading.mel_settings(path.parent)
    rate, hop, seconds = (
        int(written.get(name, loading.MEL_DEFAULTS[name])) for name in ("sampling_rate", "hop_length", "chunk_length")
    )
    if seconds * rate != 2 * hop * config.audio_config.max_source_positions:
        raise ValueError(
            f"{settings}: chunk_length is {seconds} s, which is not what the encoder reads"
            f" (max_source_positions in config.json); correct one of them"
        )


def check_parts(path: Path, config: Any, audio: Sequence[str], text: Sequence[str]) -> None:
    """Raise ValueError where the encoder or the language model is of another kind than those that were tested."""
    for part, known in (("audio_config", audio), ("text_config", text)):
        found = str(getattr(config, part).model_type)
        if found not in known:
            raise ValueError(f"{path}: {part}.model_type is {found[:60]!r}, not {' or '.join(known)}; correct it")
