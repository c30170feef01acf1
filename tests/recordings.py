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


class Pipe:
    """What a program writes to that cannot go back and fill in its header."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


def mux(
    path: Path,
    tracks: list[np.ndarray],
    codec: str,
    rate: int,
    *,
    start: float = 0.0,
    gaps: tuple[tuple[float, float], ...] = (),
    picture: bool = False,
    piped: bool = False,
    default: int = 0,
    options: dict[str, str] | None = None,
    bit_rate: int | None = None,
) -> Path:
    """Tracks of sound ([T], or [C, T]), with time stamps that start at `start` and packets missing in `gaps`.

    A picture starts at 0, and makes `start` the time by which the sound is late.
    """
    layouts = {1: "mono", 2: "stereo", 3: "3.0", 6: "5.1", 8: "7.1"}
    pipe, format = Pipe(), _FORMATS.get(path.suffix, path.suffix[1:])
    with av.open(pipe if piped else str(path), "w", format=format, options=options) as out:
        video = None
        if picture:
            kind = "flv" if format == "flv" else "mpeg4"
            video = out.add_stream(kind, rate=10, width=32, height=32, pix_fmt="yuv420p")
        streams = []
        for number, samples in enumerate(tracks):
            stream = out.add_stream(codec, rate=rate, layout=layouts[len(np.atleast_2d(samples))])
            stream.bit_rate = bit_rate or 64_000
            if len(tracks) > 1:
                stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
            streams.append(stream)
        packets = []
        seconds = max(np.atleast_2d(samples).shape[1] for samples in tracks) / rate + start
        for number in range(round(10 * seconds) if video else 0):
            image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number % 250, np.uint8), format="rgb24")
            packets += [(p.pts * p.time_base, p) for p in video.encode(image)]
        for stream, samples in zip(streams, tracks, strict=True):
            for packet in _packets(stream, np.atleast_2d(samples).astype(np.float32), rate):
                time = packet.pts * packet.time_base
                if not any(a <= time < b for a, b in gaps):
                    packet.pts += round(start / packet.time_base)
                    packet.dts = packet.pts
                    packets.append((packet.pts * packet.time_base, packet))
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            out.mux(packet)
    if piped:
        path.write_bytes(pipe.data)
    return path


_FORMATS = {
    ".ts": "mpegts", ".mkv": "matroska", ".mka": "matroska", ".m4a": "mp4", ".aac": "adts", ".opus": "ogg",
    ".mpg": "mpeg",
}  # fmt: skip


def _packets(stream: av.AudioStream, samples: np.ndarray, rate: int) -> list[av.Packet]:
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=stream.layout.name, rate=rate)
    frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="flt", layout=stream.layout.name)
    frame.sample_rate, frame.pts = rate, 0
    return [packet for part in [*resampler.resample(frame), None] for packet in stream.encode(part)]


def clicks(times: list[float], seconds: float, rate: int = RATE) -> np.ndarray:
    """Short tones at these times, over a faint noise: float32 [T]."""
    samples = 0.005 * np.random.default_rng(0).standard_normal(round(seconds * rate)).astype(np.float32)
    tone = 0.9 * np.sin(2 * np.pi * 1000 * np.arange(rate // 50) / rate)
    for time in times:
        at = round(time * rate)
        samples[at : at + len(tone)] += tone[: len(samples) - at]
    return samples


def found(samples: np.ndarray, rate: int = RATE) -> list[float]:
    """When the short tones begin."""
    loud = np.flatnonzero(np.abs(samples) > 0.25)
    first = loud[np.diff(loud, prepend=-rate) > rate // 10]
    return [float(at) / rate for at in first]


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
