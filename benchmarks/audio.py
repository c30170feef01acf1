"""How fast recordings are read: hours of sound a second, beside soundfile and the ffmpeg program, in one run.

    python benchmarks/audio.py examples/scene-1.flac

The recording is repeated to two minutes and written as stereo of 44.1 kHz (opus: 48 kHz) in each format. All three make
mono float32 samples of 16 kHz of it, on one core, in turn; the median of `--repeats` rounds counts (processor time of
this process and its children, so that other work on the machine matters less).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import av
import numpy as np
import soundfile
import soxr

from relisten import audio

SECONDS = 120
FORMATS = {
    "wav": ("pcm_s16le", 44_100),
    "flac": ("flac", 44_100),
    "mp3": ("libmp3lame", 44_100),
    "opus": ("libopus", 48_000),
}


def encode(path: Path, samples: np.ndarray, codec: str, rate: int) -> Path:
    """Stereo, at 128 kbit/s where the codec is lossy: samples [T] at the models' rate."""
    mono = soxr.resample(samples, audio.RATE, rate).astype(np.float32)
    with av.open(str(path), "w", format="ogg" if path.suffix == ".opus" else path.suffix[1:]) as out:
        stream = out.add_stream(codec, rate=rate, layout="stereo")
        stream.bit_rate = 128_000
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="stereo", rate=rate)
        for start in range(0, len(mono), rate):
            frame = av.AudioFrame.from_ndarray(
                np.stack([mono[start : start + rate]] * 2), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.pts = rate, start
            for part in resampler.resample(frame):
                out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path


def with_relisten(path: Path) -> None:
    """As `relisten ask` reads it."""
    audio.load(path, max_seconds=SECONDS + 1)


def with_soundfile(path: Path) -> None:
    """Block by block, the mean of the channels, and the same resampler."""
    with soundfile.SoundFile(path) as file:
        resampler = soxr.ResampleStream(file.samplerate, audio.RATE, 1, dtype="float32")
        while len(block := file.read(1 << 16, dtype="float32", always_2d=True)):
            resampler.resample_chunk(block.mean(axis=1))


def with_ffmpeg(path: Path) -> None:
    """The program, to a raw file that is thrown away."""
    made = ["-ac", "1", "-ar", str(audio.RATE), "-f", "f32le", "-y", os.devnull]
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-i", str(path), *made], check=True)


def processor_seconds(function: Callable[[Path], object], path: Path) -> float:
    """Of this process and its children."""
    before = os.times()
    function(path)
    return sum(after - then for after, then in zip(os.times()[:4], before[:4], strict=True))


def main() -> None:
    """Print one row a format: hours a second of each reader, and the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    readers: dict[str, Callable[[Path], object]] = {"relisten": with_relisten, "length only": audio.duration}
    readers["soundfile"] = with_soundfile
    if shutil.which("ffmpeg"):
        readers["ffmpeg"] = with_ffmpeg
    samples = np.resize(audio.load(options.recording).samples, SECONDS * audio.RATE)
    print(f"hours of stereo sound read in a second of processor time, median of {options.repeats}")
    print("format", *(f"{name:>12}" for name in readers))
    with tempfile.TemporaryDirectory() as folder:
        for suffix, (codec, rate) in FORMATS.items():
            path = encode(Path(folder) / f"a.{suffix}", samples, codec, rate)
            taken: dict[str, list[float]] = {name: [] for name in readers}
            for _ in range(options.repeats):
                for name, reader in readers.items():
                    taken[name].append(processor_seconds(reader, path))
            hours = {name: SECONDS / 3600 / max(median(times), 1e-3) for name, times in taken.items()}
            others = [name for name in ("soundfile", "ffmpeg") if name in readers]
            ratios = [f"{hours['relisten'] / hours[name]:.2f} x {name}" for name in others]
            print(f"{suffix:<6}", *(f"{value:12.2f}" for value in hours.values()), "  ", ", ".join(ratios), flush=True)


if __name__ == "__main__":
    main()
