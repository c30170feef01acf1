"""Recordings that tests make for themselves."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from relisten import audio

RATE = 16_000


def tones(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    """A melody below 4 kHz: float32 [T], peak 0.5."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.25 * np.sin(2 * np.pi * 440 * t) + 0.25 * np.sin(2 * np.pi * 1500 * t * (1 + t / 9))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str | None = "PCM_16", **options: str) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype, **options)
    return path


def encode(path: Path, samples: np.ndarray, codec: str, rate: int, format: str | None = None) -> Path:
    """Through FFmpeg's encoders, for what libsndfile does not write."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for part in [*av.AudioResampler(format=stream.codec_context.format, layout="mono").resample(frame), None]:
            container.mux(stream.encode(part))
    return path


def difference(a: np.ndarray, b: np.ndarray, shift: int = 0) -> float:
    """Root mean square of a - b relative to b's, `shift` samples of the ends left out."""
    length = min(len(a), len(b))
    a, b = a[shift : length - shift or None], b[shift : length - shift or None]
    return float(np.sqrt(np.mean((a[: len(b)] - b) ** 2) / np.mean(b**2)))


def refused(path: Path | str, match: str, **options: float) -> None:
    """Loading raises ValueError with one line that matches."""
    with pytest.raises(ValueError, match=match) as caught:
        audio.load(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.isprintable()
    assert ";" in message  # what is wrong; what to do
