"""Recordings: load any file, cut, save, draw. Where a file cannot be used, one ValueError line says why.

libsndfile reads wav, flac, ogg, mp3 ...; what it refuses goes to FFmpeg's libraries (PyAV): m4a, mp4, webm, mkv, video.
Both are given an open file instead of its name, so that neither a name's encoding, its ending, nor a protocol that
FFmpeg would read into it ("concat:...") matters. Decoding goes block by block: a ten-hour file costs its header.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from relisten import records
from relisten.types import Audio, Segment

RATE = 16_000
"""Samples a second (Hz) that the models take."""
MAX_SECONDS = 600.0
"""The longest recording read by default: Qwen2.5-Omni was trained on up to ten minutes."""
MIN_RATE, MAX_RATE = 1_000, 768_000
"""Hz; a header outside these is damaged, or not a recording of sound."""
MAX_CHANNELS = 64

_BLOCK = 1 << 16
"""Frames decoded at a time."""
_UNKNOWN = 1 << 62
"""libsndfile gives SF_COUNT_MAX (2**63 - 1) frames where a stream's header does not say."""
_MAX_OFFSET = 0.01
"""A mean beyond 1 % of full scale is a fault of the sound card and is removed; below it, samples stay untouched."""
_MAX_PEAK = 2.0
"""No decoder or resampler overshoots by 6 dB: floats beyond it are on another scale (say 16-bit integers)."""
_MIN_GAP = 0.05
"""Seconds between two frames that are filled with silence; time stamps are rounded to milliseconds."""
_SLACK = 0.5
"""Seconds by which the length in an mp4's or webm's header may pass the decoded sound (encoder delay, rounding)."""
_CANCELLED = 0.1
"""The mean of channels has this much less power (10 dB) than that of unrelated channels would: they cancel."""

Samples = NDArray[np.float32]


def load(path: str | os.PathLike[str], rate: int = RATE, max_seconds: float = MAX_SECONDS) -> Audio:
    """A recording as mono samples at `rate` (Hz); ValueError in one line where the file cannot be used."""
    path = _expanded(path)
    with _opened(path) as source:
        _check_length(path, source.seconds or 0.0, max_seconds)
        samples = _mono(_resampled(path, source, rate, max_seconds))
    return Audio(_levelled(samples), rate)


def duration(path: str | os.PathLike[str]) -> float:
    """Seconds, from the header where it says so; else everything is decoded, in constant memory."""
    path = _expanded(path)
    with _opened(path) as source:
        return sum(map(len, source.blocks)) / source.rate if source.seconds is None else source.seconds


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
        raise ValueError(f"{_name(path)}: recordings are saved as .wav or .flac; end the name in one of them")
    if not np.isfinite(audio.samples).all():
        raise ValueError(f"{_name(path)}: not saved, the recording holds samples that are not numbers")
    # 32768, as libsndfile reads: a 16-bit file that is loaded and saved keeps every sample.
    pcm = np.clip(np.rint(audio.samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
    buffer = BytesIO()
    soundfile.write(buffer, pcm, audio.rate, format=format.upper(), subtype="PCM_16")
    records.write_atomic(path, buffer.getvalue())


@dataclass
class _Source:
    rate: int
    num_channels: int
    seconds: float | None
    """As the header says; None where it does not."""
    blocks: Iterator[Samples]
    """Each [frames, channels]."""


def _name(path: Path) -> str:
    """The path as one printable line, whatever bytes it has."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _expanded(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{_name(Path(path))}: no such user; write the path in full") from None


_KINDS = (
    (stat.S_ISDIR, "is a folder; name a file in it"),
    (stat.S_ISFIFO, "is a pipe, which cannot be read twice; save the recording to a file first"),
    (stat.S_ISSOCK, "is a socket; save the recording to a file first"),
    (stat.S_ISCHR, "is a device; save the recording to a file first"),
    (stat.S_ISBLK, "is a device; save the recording to a file first"),
)


def _check_kind(path: Path) -> None:
    """Look before opening: libsndfile and FFmpeg wait for ever on a pipe."""
    try:
        status = path.stat()
    except FileNotFoundError:
        hint = "download it first" if "://" in str(path) or ":/" in str(path) else "check the path"
        raise ValueError(f"{_name(path)}: no such file; {hint}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{_name(path)}: cannot be opened ({reason}); check the path") from None
    for is_kind, text in _KINDS:
        if is_kind(status.st_mode):
            raise ValueError(f"{_name(path)}: {text}")
    if status.st_size == 0:
        raise ValueError(f"{_name(path)}: is empty (0 bytes); record or copy it again")


class _File(FileIO):
    """A damaged header may send FFmpeg before the start: it takes -1 as an answer; an exception PyAV would print."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


@contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    """The file, checked and ready to be decoded, by whichever library can."""
    _check_kind(path)
    try:
        # A file opened by number has no name, so no library can guess a format from it.
        file = _File(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
    except OSError as error:
        raise ValueError(f"{_name(path)}: cannot be opened ({_reason(error)}); check its permissions") from None
    with file:
        try:
            sound = soundfile.SoundFile(file.fileno(), closefd=False)
        except soundfile.LibsndfileError:
            sound = None
        if sound is not None and _reads_all(sound):
            with sound:
                yield _checked(path, _from_soundfile(path, sound))
        else:
            file.seek(0)
            with _av_container(path, file) as container:
                yield _checked(path, _from_av(path, container))


def _checked(path: Path, source: _Source) -> _Source:
    if not MIN_RATE <= source.rate <= MAX_RATE:
        raise ValueError(
            f"{_name(path)}: its header gives a sample rate of {source.rate} Hz, outside {MIN_RATE} to {MAX_RATE};"
            " correct the header or record it again"
        )
    if source.num_channels > MAX_CHANNELS:
        raise ValueError(f"{_name(path)}: has {source.num_channels} channels, more than {MAX_CHANNELS}; mix it down")
    return source


def _check_length(path: Path, seconds: float, max_seconds: float, at_least: str = "") -> None:
    if not seconds <= max_seconds:  # a limit of NaN is none that anything keeps
        raise ValueError(
            f"{_name(path)}: lasts {at_least}{seconds:.1f} s, longer than the limit of {max_seconds:g} s;"
            " cut it, or raise the limit with --max-seconds"
        )


def _broken(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{_name(path)}: breaks off or is damaged ({reason}); copy it again, or keep what is left of it with"
        " `ffmpeg -i FILE repaired.wav`"
    )


# libsndfile cuts the length to what is there and tells its log, the only place where the promise can still be read.
# What is cut in an mp3 without a Xing header, between two pages of an ogg, or in a caf, nothing tells: it is read.
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_CUT_PAGE = ("Ogg: Last page lacks an end-of-stream bit.", "Ogg: Junk after the last page.")
_STREAMED = 0x7FFF_FF00
"""Programs that write to a pipe put sizes from here up to 0xFFFFFFFF in a wav's header: no promise at all."""


def _reads_all(sound: soundfile.SoundFile) -> bool:
    """False where FFmpeg reads further: a wav of length 0 (a recorder was killed), several oggs in one file."""
    end, after = (line in sound.extra_info for line in _CUT_PAGE)
    return sound.frames > 0 and not (after and not end)


def _from_soundfile(path: Path, sound: soundfile.SoundFile) -> _Source:
    log = sound.extra_info
    for size, found in _SHORT_CHUNK.findall(log):
        if int(found) < int(size) < _STREAMED:
            raise _broken(path, f"its header promises {size} bytes, {found} are there")
    if all(line in log for line in _CUT_PAGE):
        raise _broken(path, "its last page is cut")
    promised = sound.frames / sound.samplerate if sound.frames < _UNKNOWN else None

    def blocks() -> Iterator[Samples]:
        num_read = 0
        try:
            while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
                num_read += len(block)
                yield block
        except soundfile.LibsndfileError:
            raise _broken(path, f"decoding stops after {num_read / sound.samplerate:.1f} s") from None
        if promised is not None and num_read < sound.frames:
            found = num_read / sound.samplerate
            raise _broken(path, f"its header promises {promised:.1f} s, {found:.1f} s are there")

    return _Source(sound.samplerate, sound.channels, promised, blocks())


_AV_ERRORS = (av.FFmpegError, OSError, ValueError, OverflowError)
"""FFmpeg's own errors; the others where a damaged header sends it to places that the file does not have."""


@contextmanager
def _av_container(path: Path, file: BinaryIO) -> Iterator[av.container.InputContainer]:
    try:
        # No protocol at all: a playlist or a session description opens no other file and no network port.
        container = av.open(file, container_options={"protocol_whitelist": "none"}, metadata_errors="replace")
    except _AV_ERRORS as error:
        raise _unreadable(path, error) from None
    with container:
        if not container.streams.audio:
            raise ValueError(f"{_name(path)}: holds no sound, only {container.format.long_name}; name a recording")
        yield container


def _from_av(path: Path, container: av.container.InputContainer) -> _Source:
    stream = container.streams.audio[0]
    frames = _av_frames(path, container, stream)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{_name(path)}: holds no sound; record or copy it again")
    blocks = _av_blocks(path, itertools.chain([first], frames), _timed(container))
    return _Source(first.sample_rate, first.layout.nb_channels, _promised(container, stream), blocks)


def _av_frames(path: Path, container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded frames; ValueError where decoding stops early."""
    seconds = end = 0.0
    try:
        for frame in container.decode(stream):
            seconds += frame.samples / frame.sample_rate
            end = max(seconds, (frame.time or 0.0) + frame.samples / frame.sample_rate)
            yield frame
    except _AV_ERRORS as error:
        if not seconds:
            raise _unreadable(path, error) from None
        raise _broken(path, f"decoding stops after {seconds:.1f} s: {_reason(error)}") from None
    promised = _promised(container, stream)
    if promised is not None and end < promised - _SLACK:
        raise _broken(path, f"its header promises {promised:.1f} s, {end:.1f} s are there")


def _timed(container: av.container.InputContainer) -> bool:
    """Whether the container says of every frame when it sounds; FFmpeg counts frames of the others."""
    return any(name in container.format.name for name in ("mp4", "matroska"))


def _promised(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    """Seconds of sound by the header; None where FFmpeg merely guesses them, or where a picture may last longer."""
    if not _timed(container):
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / av.time_base if alone else None


def _av_blocks(path: Path, frames: Iterator[av.AudioFrame], timed: bool) -> Iterator[Samples]:
    """Frames of any sample type as float32 [frames, channels], each when it sounds: what is missing is silence."""
    setup, num_given = None, 0
    for frame in frames:
        previous, setup = setup, (frame.sample_rate, frame.layout.nb_channels)
        if setup != (previous or setup):
            raise ValueError(
                f"{_name(path)}: changes its sample rate or channels on the way; make it even with"
                " `ffmpeg -i FILE even.wav`"
            )
        missing = round((frame.time or 0.0) * frame.sample_rate) - num_given if timed else 0
        if missing > _MIN_GAP * frame.sample_rate:  # a call's pause, or sound that begins after the picture
            silence = np.zeros((_BLOCK, frame.layout.nb_channels), np.float32)
            yield from (silence[: missing - done] for done in range(0, missing, _BLOCK))
            num_given += missing
        num_given += frame.samples
        block = frame.to_ndarray()
        block = block.T if frame.format.is_planar else block.reshape(-1, frame.layout.nb_channels)
        if block.dtype.kind == "f":
            yield block.astype(np.float32)
        elif block.dtype == np.uint8:
            yield (block.astype(np.float32) - 128) / 128
        else:
            yield block.astype(np.float32) / -float(np.iinfo(block.dtype).min)


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{_name(path)}: is no recording, or an incomplete one ({_reason(error)}); name an audio or video file,"
        " or copy it again"
    )


def _reason(error: Exception) -> str:
    """FFmpeg's own words, on one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def _resampled(path: Path, source: _Source, rate: int, max_seconds: float) -> Samples:
    """Everything at the new rate, float32 [frames, channels]; stops as soon as the limit is passed."""
    resampler = soxr.ResampleStream(source.rate, rate, source.num_channels, dtype="float32", quality="HQ")
    empty = np.zeros((0, source.num_channels), np.float32)
    pieces, num_read = [empty], 0
    for block in source.blocks:
        num_read += len(block)
        _check_length(path, num_read / source.rate, max_seconds, at_least="at least ")
        if not np.isfinite(block).all():
            seconds = (num_read - len(block) + int(np.isfinite(block).all(axis=1).argmin())) / source.rate
            raise ValueError(
                f"{_name(path)}: holds samples that are not numbers (NaN or infinity; the first at {seconds:.2f} s);"
                " write it again from its source"
            )
        pieces.append(block if source.rate == rate else resampler.resample_chunk(block))
    if source.rate != rate:
        pieces.append(resampler.resample_chunk(empty, last=True))
    if not num_read:
        raise ValueError(f"{_name(path)}: holds no sound (a header and zero samples); record or copy it again")
    return np.concatenate(pieces)


def _mono(samples: Samples) -> Samples:
    """The mean of the channels, or the loudest channel where they cancel: [frames, channels] -> [frames].

    Two channels in antiphase (a microphone wired the wrong way round) sound normal in a room and have a silent mean.
    """
    num_channels = samples.shape[1]
    if num_channels == 1:
        return np.ascontiguousarray(samples[:, 0])
    mean: Samples = samples.mean(axis=1, dtype=np.float32)
    power = _power(samples)
    if _power(mean[:, None])[0] < _CANCELLED * power.sum() / num_channels**2:
        return np.ascontiguousarray(samples[:, int(power.argmax())])
    return mean


def _power(samples: Samples) -> NDArray[np.float64]:
    """Variance of each channel (a constant offset is not sound), without a copy: [frames, channels] -> [channels]."""
    offset = samples.mean(axis=0, dtype=np.float64)
    power: NDArray[np.float64] = np.einsum("tc,tc->c", samples, samples, dtype=np.float64) / len(samples) - offset**2
    return power


def _levelled(samples: Samples) -> Samples:
    """Without a sound card's offset, and back on the scale of -1 .. 1 where a file's floats are on another."""
    offset = float(samples.mean(dtype=np.float64))
    peak = float(np.abs(samples).max(initial=0))
    if peak > _MAX_PEAK:
        samples, offset = samples / np.float32(peak), offset / peak
    return samples - np.float32(offset) if abs(offset) > _MAX_OFFSET else samples
