"""Recordings: load any file, cut, save. Where a file cannot be used, one ValueError line says why.

`relisten.decoding` reads a file block by block; here the blocks become one mono waveform, within a bounded memory:
a ten-hour recording is refused as soon as the limit is passed.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from relisten import containers, records
from relisten.decoding import Block, File, Recording, Samples, open_file, parts, read_uncompressed, shown, uncompressed
from relisten.types import MAX_SECONDS as MAX_SECONDS
from relisten.types import Audio, Segment

RATE = 16_000
"""Samples a second (Hz) that the models take."""

_MAX_OFFSET = 0.01
"""A mean beyond 1 % of full scale is a fault of the sound card and is removed; below it, samples stay untouched."""
_MAX_PEAK = 2.0
"""No decoder or resampler overshoots by 6 dB: floats beyond it are on another scale (say 16-bit integers)."""
_CANCELLED = 0.1
"""The mean of channels has this much less power (10 dB) than that of unrelated channels would: they cancel."""
_WINDOW = 0.05
"""Seconds in which it is decided whether channels cancel."""


def load(path: str | os.PathLike[str], rate: int = RATE, max_seconds: float = MAX_SECONDS) -> Audio:
    """A recording as mono samples at `rate` (Hz); ValueError in one line where the file cannot be used."""
    path = _expanded(path)
    empty = np.zeros(0, np.float32)
    with _opened(path) as recording:
        _check_length(path, recording.seconds or 0.0, max_seconds)
        samples = np.concatenate([empty, *_resampled(path, _limited(path, recording.blocks, max_seconds), rate)])
    if not len(samples):
        raise ValueError(f"{shown(path)}: holds no sound (a header and zero samples); record or copy it again")
    return Audio(_levelled(samples), rate)


def duration(path: str | os.PathLike[str]) -> float:
    """Seconds that `load` gives, in constant memory; ValueError in one line where the file cannot be used.

    Samples or packets are counted; only formats whose packets do not say how long they last are decoded.
    """
    with _opened(_expanded(path), count_only=True) as recording:
        return float(sum(block.samples.shape[1] / block.rate for block in recording.blocks))


def sample_at(seconds: float, rate: int, num_samples: int) -> int:
    """The index that a time stands for: nearest sample, halves up, clamped to 0 .. num_samples.

    It depends on the time alone, so segments that meet share neither a sample nor a gap.
    """
    # max() comes first: it turns a NaN into 0.
    return math.floor(min(max(0.0, seconds * rate), float(num_samples)) + 0.5)


def crop(audio: Audio, segment: Segment) -> Audio:
    """The stretch that the segment names, exact to the sample; outside the recording there is nothing, no error."""
    start, end = (sample_at(seconds, audio.rate, len(audio.samples)) for seconds in (segment.start, segment.end))
    return Audio(audio.samples[start : max(start, end)], audio.rate)


def save(path: str | os.PathLike[str], audio: Audio) -> None:
    """Write .wav or .flac, 16 bits; samples beyond -1 .. 1 are clipped. The file appears whole or not at all."""
    path = _expanded(path)
    format = path.suffix.lower().removeprefix(".")
    if format not in ("wav", "flac"):
        raise ValueError(f"{shown(path)}: recordings are saved as .wav or .flac; end the name in one of them")
    if not np.isfinite(audio.samples).all():
        raise ValueError(f"{shown(path)}: not saved, the recording holds samples that are not numbers")
    # 32768, as libsndfile reads: a 16-bit file that is loaded and saved keeps every sample.
    pcm = np.clip(np.rint(audio.samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    records.write_atomic(path, encoded(pcm, audio.rate, format.upper()))


def encoded(samples: NDArray[Any], rate: int, format: str) -> bytes:
    """A file of 16 bits in memory. samples: [T], floats in -1 .. 1 or int16; rate: in Hz; format: WAV or FLAC.

    libsndfile gets a descriptor, not a BytesIO: that is written through callbacks, and a Ctrl-C during a callback is
    lost, so that the command goes on. Raises OSError if there is no room for it.
    """
    with os.fdopen(os.memfd_create("sound"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile() as file:
        try:
            with soundfile.SoundFile(file.fileno(), "w", rate, 1, "PCM_16", format=format, closefd=False) as sound:
                sound.write(samples)
        except soundfile.LibsndfileError as error:  # no memory or no room for the file
            raise OSError(f"a recording of {len(samples) / rate:.1f} s cannot be written: {error}") from None
        file.seek(0)
        return file.read()


def _expanded(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{shown(Path(path))}: no such user; write the path in full") from None


@contextmanager
def _opened(path: Path, count_only: bool = False) -> Iterator[Recording]:
    """Whatever decodes the file; if its blocks are only counted, most of them need no decoding."""
    with open_file(path) as file:
        if len(files := parts(file)) > 1:
            yield Recording(None, _in_turn(path, files, count_only))
        else:
            with _decoded(path, file, count_only) as recording:
                yield recording


@contextmanager
def _decoded(path: Path, file: File, count_only: bool) -> Iterator[Recording]:
    sound = uncompressed(file)
    if sound is not None:
        with sound:
            yield read_uncompressed(path, sound, count_only)
    else:
        with containers.opened(path, file) as container:
            yield containers.read(path, container, file, count_only)


def _in_turn(path: Path, files: list[File], count_only: bool) -> Iterator[Block]:
    for file in files:
        with file, _decoded(path, file, count_only) as recording:
            yield from recording.blocks


def _check_length(path: Path, seconds: float, max_seconds: float, at_least: str = "") -> None:
    if not seconds <= max_seconds:  # a limit of NaN is none that anything keeps
        raise ValueError(
            f"{shown(path)}: lasts {at_least}{seconds:.1f} s, longer than the limit of {max_seconds:g} s;"
            " cut it, or raise the limit with --max-seconds"
        )


def _limited(path: Path, blocks: Iterator[Block], max_seconds: float) -> Iterator[Block]:
    seconds = 0.0
    for block in blocks:
        seconds += block.samples.shape[1] / block.rate
        _check_length(path, seconds, max_seconds, "at least ")
        yield block


def _resampled(path: Path, blocks: Iterator[Block], rate: int) -> Iterator[Samples]:
    """Mono pieces at the new rate; each run of blocks with the same rate and channels goes through one resampler."""
    seconds = 0.0
    for (given, _), group in itertools.groupby(blocks, lambda block: (block.rate, len(block.samples))):
        resampler = soxr.ResampleStream(given, rate, 1, dtype="float32", quality="HQ")
        for samples in _mono((block.samples for block in group), given):
            if not np.isfinite(samples).all():
                at = seconds + int(np.isfinite(samples).argmin()) / given
                raise ValueError(
                    f"{shown(path)}: holds samples that are not numbers (NaN or infinity; the first at {at:.2f} s);"
                    " write it again from its source"
                )
            seconds += len(samples) / given
            yield samples if given == rate else resampler.resample_chunk(samples)
        if given != rate:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _mono(blocks: Iterator[Samples], rate: int) -> Iterator[Samples]:
    """The mean of the channels, or where they cancel the loudest of them: pieces [channels, frames] -> [frames].

    Two channels in antiphase (a microphone wired the wrong way round) sound normal in a room and have a silent mean.
    Each window is decided for itself; one mix fades into the other in the windows beside those that cancel.
    """
    size = max(1, round(_WINDOW * rate))
    held, before = None, _MEAN
    for block in blocks:
        if len(block) == 1:
            yield np.ascontiguousarray(block[0])
            continue
        held = block if held is None else np.concatenate([held, block], axis=1)
        num = (held.shape[1] // size - 1) * size  # of the last whole window, the next one is not known yet
        if num > 0:
            mixed, before = _mixed(held[:, : num + size], size, before)
            yield mixed[:num]
            held = held[:, num:]
    if held is not None:
        num = held.shape[1]
        yield _mixed(np.pad(held, ((0, 0), (0, -num % size + size))), size, before)[0][:num]


_MEAN = -1
"""In place of a channel's index: all of them."""


def _mixed(samples: Samples, size: int, before: int) -> tuple[Samples, int]:
    """The mix of all windows [channels, windows * size], and the choice of the last but one: it comes `before` next."""
    num_channels = len(samples)
    windows = samples.reshape(num_channels, -1, size)
    mean: Samples = windows.mean(axis=0, dtype=np.float32)
    power = _power(windows)
    cancelled = _power(mean) < _CANCELLED * power.sum(axis=0) / num_channels**2
    if before == _MEAN and not cancelled.any():
        return mean.ravel(), _MEAN
    choices, channel = [before], before
    for window, is_cancelled in enumerate(cancelled):
        loudest = int(power[:, window].argmax())
        if is_cancelled and (channel == _MEAN or power[channel, window] < power[loudest, window] / 2):
            channel = loudest  # not at every small difference: a change of channel in antiphase is heard
        choices.append(channel if is_cancelled else _MEAN)
    weights = np.vstack([np.eye(num_channels), np.full(num_channels, 1 / num_channels)]).astype(np.float32)
    # Between two windows [windows + 1, channels]: so that a window that cancels has one channel throughout.
    between = weights[[b if b != _MEAN else a for a, b in itertools.pairwise([*choices, _MEAN])]]
    fade = np.arange(size, dtype=np.float32) / size
    mixed = np.einsum("cws,wc,s->ws", windows, between[:-1], 1 - fade)
    mixed += np.einsum("cws,wc,s->ws", windows, between[1:], fade)
    return mixed.ravel(), choices[-2]


def _power(samples: Samples) -> NDArray[np.float64]:
    """Variance along the last axis (a constant offset is not sound), without a copy."""
    offset = samples.mean(axis=-1, dtype=np.float64)
    power = np.einsum("...t,...t->...", samples, samples, dtype=np.float64) / samples.shape[-1]
    return np.asarray(power - offset**2)


def _levelled(samples: Samples) -> Samples:
    """Without a sound card's offset, and back on the scale of -1 .. 1 where a file's floats are on another."""
    offset = float(samples.mean(dtype=np.float64))
    peak = float(np.abs(samples).max(initial=0))
    if peak > _MAX_PEAK:
        samples, offset = samples / np.float32(peak), offset / peak
    return samples - np.float32(offset) if abs(offset) > _MAX_OFFSET else samples
