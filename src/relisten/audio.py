"""Recordings: load any file, cut a segment, save. If a file cannot be used, a ValueError says why in one line.

`relisten.decoding` reads a file block by block. Here the blocks become one mono waveform. A recording that is too long
is refused as soon as the limit is passed, so memory stays bounded.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from relisten import containers, records
from relisten.decoding import Block, File, Samples, length, open_file, parts, read, shown, uncompressed
from relisten.types import MAX_SECONDS as MAX_SECONDS
from relisten.types import Audio, Segment

RATE = 16_000
"""Samples a second (Hz) that the models take."""

_MAX_OFFSET = 0.01
"""A mean beyond 1 % of full scale comes from a faulty sound card and is removed. A smaller mean is left alone."""
_MAX_PEAK = 2.0
"""Decoders and resamplers do not overshoot by 6 dB. Larger floats have another scale, such as 16-bit integers."""
_CANCELLED = 0.1
"""Channels cancel if their mean has less than this share (-10 dB) of the power that unrelated channels would give."""
_WINDOW = 0.05
"""Seconds. For each window of this length it is decided whether channels cancel."""


def load(path: str | os.PathLike[str], rate: int = RATE, max_seconds: float = MAX_SECONDS) -> Audio:
    """Read a recording as mono samples at `rate` (Hz). Raises ValueError in one line if the file cannot be used.

    max_seconds: the longest recording that is accepted.
    """
    path = _expanded(path)
    empty = np.zeros(0, np.float32)
    with open_file(path) as file:
        blocks = _limited(path, _blocks(path, parts(file), max_seconds), max_seconds)
        samples = np.concatenate([empty, *_resampled(path, blocks, rate)])
    if not len(samples):
        raise ValueError(f"{shown(path)}: holds no sound (a header and zero samples); record or copy it again")
    return Audio(_levelled(samples), rate)


def duration(path: str | os.PathLike[str]) -> float:
    """Seconds that `load` gives, in constant memory. Raises ValueError in one line if the file cannot be used.

    The header of an uncompressed file is enough; everything else is decoded.
    """
    path = _expanded(path)
    with open_file(path) as file:
        files = parts(file)
        if len(files) == 1 and (sound := uncompressed(file)) is not None:
            with sound:
                return length(path, sound)
        return float(sum(block.samples.shape[1] / block.rate for block in _blocks(path, files, math.inf)))


def sample_at(seconds: float, rate: int, num_samples: int) -> int:
    """The index of the sample nearest to a time, clamped to 0 .. num_samples. Halves are rounded up.

    It depends on the time alone, so two segments that meet neither overlap nor leave a gap.
    """
    # max() comes first: it turns a NaN into 0.
    return math.floor(min(max(0.0, seconds * rate), float(num_samples)) + 0.5)


def crop(audio: Audio, segment: Segment) -> Audio:
    """The samples of a segment. A part outside of the recording is left out; this is not an error."""
    start, end = (sample_at(seconds, audio.rate, len(audio.samples)) for seconds in (segment.start, segment.end))
    return Audio(audio.samples[start : max(start, end)], audio.rate)


def save(path: str | os.PathLike[str], audio: Audio) -> None:
    """Write a .wav or .flac file of 16 bits. Samples beyond -1 .. 1 are clipped. The file is complete or absent."""
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


def _blocks(path: Path, files: list[File], max_seconds: float) -> Iterator[Block]:
    """The recordings in these parts of a file, one after the other."""
    for part in files:
        with part:
            sound = uncompressed(part)
            if sound is None:
                with containers.opened(path, part) as container:
                    yield from containers.read(path, container, part)
                continue
            with sound:
                _check_length(path, length(path, sound), max_seconds)
                yield from read(path, sound)


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
    """Mono pieces at the new rate. Successive blocks of the same rate and channels go through one resampler."""
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
    """Mix blocks [channels, frames] to pieces [frames]: the mean of the channels, or the loudest one if they cancel.

    Two channels in antiphase (a microphone that is wired the wrong way round) sound normal in a room, but their mean is
    silent. This is decided for each window, and one mix fades into the other in the windows beside those that cancel.
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
"""Stands for the mean of all channels, in place of the index of one."""


def _mixed(samples: Samples, size: int, before: int) -> tuple[Samples, int]:
    """The mix of all windows [channels, windows * size], and the channel of the last but one, the next `before`."""
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
    # [windows + 1, channels], the weights at the edges of windows; a window that cancels has one channel throughout.
    between = weights[[b if b != _MEAN else a for a, b in itertools.pairwise([*choices, _MEAN])]]
    fade = np.arange(size, dtype=np.float32) / size
    mixed = np.einsum("cws,wc,s->ws", windows, between[:-1], 1 - fade)
    mixed += np.einsum("cws,wc,s->ws", windows, between[1:], fade)
    return mixed.ravel(), choices[-2]


def _power(samples: Samples) -> NDArray[np.float64]:
    """Variance along the last axis, computed without a copy. A constant offset does not count."""
    offset = samples.mean(axis=-1, dtype=np.float64)
    power = np.einsum("...t,...t->...", samples, samples, dtype=np.float64) / samples.shape[-1]
    return np.asarray(power - offset**2)


def _levelled(samples: Samples) -> Samples:
    """The samples without a sound card's offset, and scaled to -1 .. 1 if a file's floats have another scale."""
    offset = float(samples.mean(dtype=np.float64))
    peak = float(np.abs(samples).max(initial=0))
    if peak > _MAX_PEAK:
        samples, offset = samples / np.float32(peak), offset / peak
    return samples - np.float32(offset) if abs(offset) > _MAX_OFFSET else samples
