"""Decoding with FFmpeg (through PyAV): mp3, flac, ogg, mp4, webm, ts, video ...

Audio is placed according to the container's timestamps. Gaps are filled with silence. If the timestamps start anew, a
second recording was appended, and it is placed after the first. Damaged packets become silence, with one warning.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Discard, Disposition

from relisten import decoding
from relisten.decoding import BLOCK, Block, File, Samples, broken, reason, shown, silence, tell

_MIN_GAP = 0.05
"""Seconds that timestamps may run ahead of the samples. A longer gap is filled with silence. Many containers round
their timestamps, and those of a live stream jitter."""
_RESTART = 0.5
"""Seconds that timestamps may go back. If they go back further, a second recording was appended."""
_MAX_GAP = 3600.0
"""Seconds. A longer jump is not a gap, but the start of a recording made at another time."""
_SLACK = 0.3
"""Seconds by which the length in a header may exceed the decoded length. If it exceeds it by more, the file is cut."""
_INEXACT = {"mov", "flv"}
"""Formats whose headers round the length, or include what the encoder adds, so that up to `_SLACK` is normal."""

_AV_ERRORS = (av.FFmpegError, OSError, ValueError, OverflowError)
"""FFmpeg's own errors, and those that arise when a damaged header names places outside of the file."""
_PROMISING = {"mov", "flac", "wv", "tta", "ape"}
"""Formats whose headers give the exact length, not an estimate."""
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
"""How the tags begin that may lie between joined mp3 files. They are not damaged packets."""


@contextmanager
def opened(path: Path, file: File) -> Iterator[av.container.InputContainer]:
    """The file, opened by FFmpeg. Raises ValueError in one line if that fails."""
    try:
        # No protocol at all: a playlist or a session description opens no other file and no network port.
        container = av.open(file, container_options={"protocol_whitelist": "none"}, metadata_errors="replace")
    except _AV_ERRORS as error:
        raise _unreadable(path, error) from None
    with container:
        decoding.check_whole(path, file)
        yield container


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{shown(path)}: is no recording, or an incomplete one ({reason(error)}); name an audio or video file,"
        " or copy it again"
    )


@dataclass
class _Track:
    """The track that is read, and what was found in it. All times are seconds on the container's clock."""

    stream: av.AudioStream
    container: av.container.InputContainer
    kind: str
    """The container's format as FFmpeg calls it: mov, matroska, mp3 ..."""
    tick: float  # seconds; the unit of the stream's time stamps
    num_good: int = 0
    """Frames that were decoded."""
    damaged: list[float] = field(default_factory=list)
    """The time of each packet that could not be decoded."""
    gaps: list[float] = field(default_factory=list)
    """The time at which each gap in the timestamps begins."""
    ends_damaged: bool = False
    """Whether the last packet could not be decoded."""
    first_byte: int = 0
    """Offset of the first packet in the file, in bytes."""
    first: float = 0.0
    """When the first piece starts."""
    start: float = 0.0
    """When the recording starts."""
    end: float = 0.0  # the latest time that was reached
    last: float = 0.0
    """How long the last piece lasts."""
    last_packet: av.Packet | None = None

    def packets(self) -> Iterator[av.Packet]:
        """All packets of the track. The last one is empty and flushes the decoder."""
        for packet in self.container.demux(self.stream):
            if packet.size:
                self.first_byte = self.first_byte or packet.pos or 0
                self.ends_damaged = False
                self.last_packet = packet
                if self.kind == "caf" and self.stream.name == "alac" and packet.has_sidedata("skip_samples"):
                    skip = packet.get_sidedata("skip_samples")  # FFmpeg 8 takes off what the packet does not hold
                    skip.update(bytes(10))
                    packet.set_sidedata(skip)
            yield packet

    def seconds(self, ticks: int | None) -> float | None:
        """A timestamp in seconds."""
        return None if ticks is None else ticks * self.tick

    def damage(self, time: float | None) -> None:
        """Note a packet that cannot be decoded."""
        self.damaged.append(self.end if time is None else time)
        self.ends_damaged = True


class _Piece(NamedTuple):
    """A stretch of sound, as decoded from a packet."""

    time: float | None  # seconds on the container's clock; None if it follows the piece before
    num_frames: int
    num_channels: int
    rate: int
    frame: av.AudioFrame | None = None  # None stands for silence


def read(path: Path, container: av.container.InputContainer, file: File) -> Iterator[Block]:
    """The recording, block by block."""
    stream = _stream(path, container)
    track = _Track(stream, container, container.format.name.split(",")[0], float(stream.time_base))
    pieces = (piece for packet in track.packets() for piece in _pieces(track, packet))
    try:
        yield from _merged(_in_time(path, track, pieces))
    except _AV_ERRORS as error:
        if type(error) is ValueError:
            raise
        if not track.num_good:
            raise _unreadable(path, error) from None
        raise broken(path, f"reading stops at {track.end - track.start:.1f} s: {reason(error)}") from None
    _check_end(path, track, _promised(track, file))


def _stream(path: Path, container: av.container.InputContainer) -> av.AudioStream:
    """The audio track that is marked as default, or else the first. The others, and the picture, are not read."""
    every = container.streams.audio
    usable = [stream for stream in every if stream.codec_context is not None]
    if not usable:
        what = "no sound that FFmpeg can decode" if every else "no sound"
        raise ValueError(f"{shown(path)}: holds {what}, only {container.format.long_name}; name a recording")
    default = [stream for stream in usable if stream.disposition & Disposition.default]
    chosen = (default or usable)[0]
    if len(every) > 1:
        language = f" ({chosen.language})" if chosen.language not in (None, "und") else ""
        why = "the one marked as default" if default else "as none is marked as default"
        tell(path, f"has {len(every)} audio tracks; track {every.index(chosen) + 1}{language} is read, {why}")
    for stream in container.streams:
        stream.discard = Discard.default if stream is chosen else Discard.all
    return chosen


def _pieces(track: _Track, packet: av.Packet) -> Iterator[_Piece]:
    """The frames of a packet, or silence if it cannot be decoded."""
    try:
        frames = packet.decode()
    except av.FFmpegError:
        if packet.size and not bytes(packet).startswith(_TAGS):
            track.damage(track.seconds(packet.pts))
            yield from _silent(track, packet)
        return
    for frame in frames:
        track.num_good += 1
        if frame.is_corrupt:
            track.damage(frame.time)
        yield _Piece(frame.time, frame.samples, frame.layout.nb_channels, frame.sample_rate, frame)


def _silent(track: _Track, packet: av.Packet) -> Iterator[_Piece]:
    """Silence for as long as a damaged packet says that it lasts."""
    rate = track.stream.rate
    if packet.duration and rate:
        num_frames = round(packet.duration * track.tick * rate)
        yield _Piece(track.seconds(packet.pts), num_frames, track.stream.channels, rate)


def _start(track: _Track) -> float:
    """When the recording starts: at its first picture or sound, whichever comes first."""
    own = track.kind == "mov"  # says itself when a track starts; of others, the first frame tells more
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in (*track.container.streams.video, *track.container.streams.audio)
        if stream.start_time is not None and not stream.disposition & Disposition.attached_pic
        and (own or stream is not track.stream)
    ]  # fmt: skip
    return min(starts) if own and starts else min([*starts, track.first])


class _Clock:
    """Places pieces in the recording according to the timestamps of its container."""

    def __init__(self, start: float, first: float) -> None:
        self.shift = -start
        """Seconds that are added to each timestamp."""
        self.expected = first
        """The timestamp of the next piece, if nothing is missing."""
        self.given = 0.0
        """Seconds of the recording that were produced so far."""
        self.is_first = True

    def missing(self, time: float | None, seconds: float) -> float:
        """Seconds of silence before a piece. It is negative if the piece begins before the recording."""
        time = self.expected if time is None else time
        if not -_RESTART < time - self.expected < _MAX_GAP:
            self.shift = self.given - time  # a second recording, with a clock of its own, was appended
        self.expected = time + seconds
        missing = time + self.shift - self.given
        if not (self.is_first or missing > _MIN_GAP):
            missing = 0.0
        self.is_first = self.given + missing + seconds <= 0
        self.given = max(0.0, self.given + missing + seconds)
        return missing


_HELD = 4  # pieces that are held back, because a recording may end before its last packets do
_Raw = tuple[av.AudioFrame | Samples, int]  # a frame, or samples [channels, frames]; their rate (Hz)


def _in_time(path: Path, track: _Track, pieces: Iterator[_Piece]) -> Iterator[_Raw]:
    """Samples in order. Gaps are filled with silence, and what lies outside the recording is cut off."""
    clock: _Clock | None = None
    held = deque[_Raw]()
    for piece in pieces:
        decoding.check_setup(path, piece.rate, piece.num_channels)
        if clock is None:
            track.first = piece.time or 0.0
            track.start = _start(track)
            clock = _Clock(track.start, track.first)
        track.last = piece.num_frames / piece.rate
        missing = round(clock.missing(piece.time, track.last) * piece.rate)
        if missing > 0 and track.end:
            track.gaps.append(track.end)
        track.end = max(track.end, clock.expected)
        num_silent = missing + (0 if piece.frame else piece.num_frames)
        held.extend((block.samples, block.rate) for block in silence(num_silent, piece.num_channels, piece.rate))
        if piece.frame:
            held.append((piece.frame if missing >= 0 else _floats(piece.frame)[:, -missing:], piece.rate))
        while len(held) > _HELD:
            yield held.popleft()
    if clock is not None:
        yield from _shortened(held, clock.expected - _last_end(track, clock.expected))


def _shortened(pieces: deque[_Raw], seconds: float) -> deque[_Raw]:
    """The pieces without their last `seconds`. They stay as they are if nothing would be left of them."""
    if not 0 < seconds < sum(_num_frames(samples) / rate for samples, rate in pieces):
        return pieces
    while seconds > 0:
        samples, rate = pieces.pop()
        kept = _num_frames(samples) - round(seconds * rate)
        seconds -= _num_frames(samples) / rate
        if kept > 0:
            pieces.append(((_floats(samples) if isinstance(samples, av.AudioFrame) else samples)[:, :kept], rate))
            break
    return pieces


def _num_frames(samples: av.AudioFrame | Samples) -> int:
    return int(samples.samples if isinstance(samples, av.AudioFrame) else samples.shape[1])


def _merged(pieces: Iterator[_Raw]) -> Iterator[Block]:
    """Join small pieces to blocks."""
    fifo, rate = av.AudioFifo(), 0
    for samples, new_rate in pieces:
        if fifo.samples and (new_rate != rate or isinstance(samples, np.ndarray) or fifo.samples >= BLOCK):
            yield Block(_floats(fifo.read()), rate)
        if isinstance(samples, np.ndarray):
            yield Block(samples, new_rate)
            continue
        rate = new_rate
        samples.pts = None
        try:
            fifo.write(samples)
        except ValueError:  # other channels, or another type of sample, than before
            if fifo.samples:
                yield Block(_floats(fifo.read()), rate)
            fifo = av.AudioFifo()
            fifo.write(samples)
    if fifo.samples:
        yield Block(_floats(fifo.read()), rate)


_SCALES = {"flt": 1.0, "s16": 2.0**-15, "s32": 2.0**-31}


def _floats(frame: av.AudioFrame) -> Samples:
    """The samples [channels, frames] of a frame of any sample format. FFmpeg converts what numpy cannot, but slowly."""
    num_channels, scale = frame.layout.nb_channels, _SCALES.get(frame.format.name.removesuffix("p"))
    frames = [frame]
    if scale is None or (frame.format.is_planar and num_channels >= 8):  # PyAV crashes on eight planes or more
        frames, scale = av.AudioResampler(format="flt").resample(frame), 1.0
    samples = np.concatenate([part.to_ndarray() for part in frames], axis=1).astype(np.float32, copy=False)
    if not frames[0].format.is_planar:
        samples = np.ascontiguousarray(samples.reshape(-1, num_channels).T)
    return samples if scale == 1 else samples * np.float32(scale)


def _last_end(track: _Track, end: float) -> float:
    """When the sound ends. It may end within the last packet, which FFmpeg decodes as a whole."""
    if track.kind == "ogg" and track.stream.duration:
        return min(end, track.first + float(track.stream.duration) * track.tick)
    packet = track.last_packet
    if track.kind == "mov" and packet is not None and packet.pts is not None and packet.duration:
        end = min(end, float((packet.pts + packet.duration) * track.tick), _header_end(track) or end)
    return end


def _header_end(track: _Track) -> float | None:
    stream = track.stream
    return track.seconds((stream.start_time or 0) + stream.duration) if stream.duration else None


def _promised(track: _Track, file: File) -> float | None:
    """When the sound ends according to the header. None if that is an estimate, or may be the end of the picture."""
    if track.kind in _PROMISING:
        return _header_end(track)
    if track.kind == "mp3":  # without a count in its Xing header, which precedes the first packet, FFmpeg estimates
        before = file.part(max(0, track.first_byte - 2000), min(2000, track.first_byte))
        found = re.search(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})", before, re.DOTALL)
        num_packets = int.from_bytes(found[1], "big") if found else 0
        return num_packets * track.stream.frame_size / track.stream.rate if num_packets else None
    container = track.container
    alone = track.kind == "flv" and len(container.streams) == 1
    return container.duration / av.time_base if alone and container.duration is not None else None


def _check_end(path: Path, track: _Track, promised: float | None) -> None:
    """Raise ValueError if the sound breaks off, and warn of what is missing."""
    if not track.num_good:
        raise ValueError(f"{shown(path)}: is no recording, or holds no sound; record or copy it again")
    if len(track.damaged) > track.num_good:
        raise broken(path, f"{len(track.damaged)} packets of sound cannot be decoded, {track.num_good} can")
    end = track.end - track.last if track.ends_damaged else track.end
    short = 0.0 if promised is None else promised - end
    if short > (_SLACK if track.kind in _INEXACT else _MIN_GAP):
        lengths = f"its header promises {end + short - track.start:.1f} s, {end - track.start:.1f} s are there"
        # Tools that copy a stretch of a flac leave the header of the whole, but do not cut within a packet.
        if track.ends_damaged or (short > _SLACK and track.kind != "flac"):
            raise broken(path, lengths)
        tell(path, f"{lengths}; the rest was cut off or is lost")
    kinds = (("damaged packets", track.damaged), ("gaps", track.gaps))
    missing = [f"{len(times)} {name} (the first at {times[0] - track.start:.1f} s)" for name, times in kinds if times]
    if missing:
        tell(path, f"has {' and '.join(missing)}; silence stands in their place")
