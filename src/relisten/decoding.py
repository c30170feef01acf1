"""Opening an audio file, and reading uncompressed samples (wav, aiff, au, caf, w64 ...) with libsndfile.

`relisten.containers` reads everything else with FFmpeg. Both get an open file instead of its name, so that neither the
name's encoding nor its ending matters. The lengths in a header are checked against the file.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

MIN_RATE, MAX_RATE = 1_000, 768_000
"""Hz. If a header gives a rate outside of these, it is damaged, or the file is not a recording."""
MAX_CHANNELS = 64
_STREAMED = 0x7F00_0000
"""Programs that write to a pipe cannot know the size: they put 0, 0x7F000008, 0x7FFFF000, 0xFFFFFFFF or the like into
the header. Such a size is ignored."""

BLOCK = 1 << 16
"""About how many frames a block has."""

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """A stretch of a recording. The rate and the number of channels may change from one block to the next."""

    samples: Samples
    """[channels, frames], nominally within -1 .. 1."""
    rate: int
    """Hz."""


def shown(path: Path) -> str:
    """The path as one printable line, also if it is not valid text."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@lru_cache(maxsize=4096)
def tell(path: Path, text: str) -> None:
    """Warn about a recording. The same warning is given only once, because a recording may be opened many times."""
    logging.getLogger("relisten").warning("%s: %s", shown(path), text)


def reason(error: Exception) -> str:
    """The message of the library or the system, on one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def broken(path: Path, why: str) -> ValueError:
    """The error for a file that is cut or damaged."""
    return ValueError(
        f"{shown(path)}: breaks off or is damaged ({why}); copy it again, or keep what is left of it with"
        " `ffmpeg -i FILE repaired.wav`"
    )


def check_setup(path: Path, rate: int, num_channels: int) -> None:
    """Raises ValueError for a rate (Hz) or a number of channels that no recording has."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(
            f"{shown(path)}: its header gives a sample rate of {rate} Hz, outside {MIN_RATE} to {MAX_RATE};"
            " correct the header or record it again"
        )
    if num_channels > MAX_CHANNELS:
        raise ValueError(f"{shown(path)}: has {num_channels} channels, more than {MAX_CHANNELS}; mix it down")


_SILENCE = np.broadcast_to(np.float32(0), (MAX_CHANNELS, BLOCK))


def silence(num_frames: int, num_channels: int, rate: int) -> Iterator[Block]:
    """Blocks of zeros that take no memory. They are made one by one, so that a limit on the length can stop them."""
    for done in range(0, num_frames, BLOCK):
        yield Block(_SILENCE[:num_channels, : min(BLOCK, num_frames - done)], rate)


# Opening a file

_KINDS = (
    (stat.S_ISDIR, "is a folder; name a file in it"),
    (stat.S_ISFIFO, "is a pipe, which cannot be read twice; save the recording to a file first"),
    (stat.S_ISSOCK, "is a socket; save the recording to a file first"),
    (stat.S_ISCHR, "is a device; save the recording to a file first"),
    (stat.S_ISBLK, "is a device; save the recording to a file first"),
)


class File(FileIO):
    """A file without a name, so that no library can guess a format from it."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Returns -1 if there is no such place. Damaged headers send FFmpeg there, and PyAV would print the error."""
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1

    @property
    def size(self) -> int:
        """Size in bytes."""
        return os.fstat(self.fileno()).st_size

    def part(self, start: int, length: int) -> bytes:
        """Up to `length` bytes from `start` on. The current position stays."""
        here = self.tell()
        self.seek(start)
        found = self.read(length)
        self.seek(here)
        return found


def open_file(path: Path) -> File:
    """Open a file. Raises ValueError in one line if it does not exist or cannot be read twice."""
    # It is examined before it is opened, because opening a pipe waits for ever.
    try:
        status = path.stat()
    except FileNotFoundError:
        hint = "download it first" if "://" in str(path) or ":/" in str(path) else "check the path"
        raise ValueError(f"{shown(path)}: no such file; {hint}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{shown(path)}: cannot be opened ({reason(error)}); check the path") from None
    for is_kind, text in _KINDS:
        if is_kind(status.st_mode):
            raise ValueError(f"{shown(path)}: {text}")
    if status.st_size == 0:
        raise ValueError(f"{shown(path)}: is empty (0 bytes); record or copy it again")
    try:
        return File(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
    except OSError as error:
        raise ValueError(f"{shown(path)}: cannot be opened ({reason(error)}); check its permissions") from None


class _Part(File):
    """One of several recordings that were joined to one file. Only its own bytes can be read."""

    def __init__(self, whole: File, start: int, end: int) -> None:
        super().__init__(os.dup(whole.fileno()))
        self._start, self._end = start, end
        self.seek(0)

    @property
    def size(self) -> int:
        return self._end - self._start

    def seek(self, offset: int, whence: int = 0) -> int:
        offset += {0: self._start, 1: super().tell(), 2: self._end}[whence]
        return -1 if offset < self._start else super().seek(offset) - self._start

    def tell(self) -> int:
        return super().tell() - self._start

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._end - super().tell())
        return super().read(left if size is None or size < 0 else min(size, left))

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        found = self.read(len(view))
        view[: len(found)] = found
        return len(found)


_HEADS = (
    re.compile(rb"FLV\x01[\0-\x05]\0\0\0\x09\0\0\0\0"),
    re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"),  # asf and wma
    re.compile(rb"nut/multimedia container\0"),
    re.compile(rb"TTA[12]\x01\0"),
    re.compile(rb"caff\0\x01\0\0desc"),
    re.compile(rb"\.snd\0\0\0.{5}\0\0\0[\x01-\x1b]", re.DOTALL),  # au
    re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"),  # w64
)
"""How files begin of whose joined copies FFmpeg reads only the first, or (nut) takes the second header for sound."""


def parts(file: File) -> list[File]:
    """The recordings that were joined to this file by `cat`, for formats of which a reader sees only the first."""
    head, starts = file.part(0, 32), [0]
    pattern = next((pattern for pattern in _HEADS if pattern.match(head)), None)
    if (head[:4], head[8:12]) in ((b"RIFF", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC")):
        order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
        if int.from_bytes(head[4:8], order) < _STREAMED:
            starts = _starts_of_wav(file, head[:4], order)
        elif file.size < _STREAMED:
            pattern = re.compile(re.escape(head[:12]))
    elif head[4:8] in (b"ftyp", b"moov", b"mdat"):
        starts = _starts_of_mp4(file)
    if pattern is not None:
        starts = [0, *_found(file, pattern)]
    if len(starts) == 1:
        return [file]
    return [_Part(file, start, end) for start, end in itertools.pairwise([*starts, file.size])]


def _found(file: File, pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Where a pattern of at most 32 bytes is found, except at the start of the file."""
    step = 1 << 20
    for at in range(1, file.size, step):
        yield from (at + found.start() for found in pattern.finditer(file.part(at, step + 31)) if found.start() < step)


def _starts_of_mp4(file: File) -> list[int]:
    """Where each mp4 begins: with its type (ftyp), after the description of the one before (moov)."""
    starts, at, described = [0], 0, False
    while len(head := file.part(at, 16)) >= 8:
        if head[4:8] == b"ftyp" and described:
            starts.append(at)
        described = head[4:8] == b"moov" or (described and head[4:8] != b"ftyp")
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8:  # 0 stands for all that follows
            break
        at += length
    return starts


def _starts_of_wav(file: File, name: bytes, order: Literal["little", "big"]) -> list[int]:
    """Where each wav or aiff begins: where the one before ends according to its header."""
    starts, at = [], 0
    while file.part(at, 4) == name:
        starts.append(at)
        length = int.from_bytes(file.part(at + 4, 4), order)
        at += 8 + length + length % 2
    return starts


def _promised_size(head: bytes) -> int:
    """The size in bytes that the header gives; 0 if it gives none."""
    if head[:4] == b"RIFF":  # avi, wav
        size = int.from_bytes(head[4:8], "little") + 8
        return size if size < _STREAMED else 0
    if (found := re.match(rb"\x1a\x45\xdf\xa3.*?\x18\x53\x80\x67(?=[^\0])", head, re.DOTALL)) is not None:  # mkv
        at = found.end()
        num = 9 - head[at].bit_length()  # bytes of the size; the bits before it tell how many
        size = int.from_bytes(head[at : at + num], "big") - (1 << 7 * num)
        return at + num + size if size < (1 << 7 * num) - 1 else 0
    if (found := re.match(rb"caff.*?data([\0-\x7f].{7})", head, re.DOTALL)) is not None:
        return found.end() + int.from_bytes(found[1], "big")
    properties = rb"\x30\x26\xb2\x75.*?\xa1\xdc\xab\x8c\x47\xa9\xcf\x11.{32}(.{8}).{40}(.{4})"
    found = re.match(properties, head, re.DOTALL)  # asf; of a broadcast, the size is not known
    return int.from_bytes(found[1], "little") if found is not None and not found[2][0] & 1 else 0


def check_whole(path: Path, file: File) -> None:
    """Raise ValueError or warn if a file is cut, because FFmpeg silently drops an incomplete page or chunk."""
    head, size = file.part(0, 1 << 14), file.size
    if size < _promised_size(head):
        raise broken(path, f"its header promises {_promised_size(head)} bytes, {size} are there")
    found = re.match(rb"FLV.*?\0\x08filesize\0(.{8})", head, re.DOTALL)
    if found is not None and size < (promised := struct.unpack(">d", found[1])[0]):
        tell(
            path, f"its header promises {promised:.0f} bytes, {size} are there; the end of the recording may be missing"
        )
    if head[::188][:3] == b"GGG" and size % 188:
        tell(path, "its last packet is cut; the end of the recording may be missing")
    if head[:4] != b"OggS":
        return
    tail = file.part(max(0, size - (1 << 17)), 1 << 17)
    page = tail[tail.rfind(b"OggS") :] if b"OggS" in tail else b""
    lacing = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if not lacing or len(page) != 27 + len(lacing) + sum(lacing):
        raise broken(path, "its last Ogg page is cut, or something else follows it")
    if not page[5] & 4:
        tell(path, "its last Ogg page has no end mark; the end of the recording may be missing")


# Uncompressed samples, read with libsndfile

_COMPRESSED = re.compile(rb"ID3|OggS|fLaC|\xff[\xe0-\xff]")
"""How mp3, ogg and flac begin. libsndfile knows them, but stops at the first of several joined files, believes their
headers, and its mp3 decoder prints to the terminal."""
_SUBTYPES = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
# libsndfile corrects the length to what is there. Only its log still contains the length that the header gave.
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)


def uncompressed(file: File) -> soundfile.SoundFile | None:
    """The file, opened by libsndfile, if it holds uncompressed samples; else None."""
    if _COMPRESSED.match(file.part(0, 4)):
        return None
    try:
        sound = soundfile.SoundFile(file if isinstance(file, _Part) else file.fileno(), closefd=False)
    except soundfile.LibsndfileError:
        sound = None
    # FFmpeg reads on where a recorder that was killed left a length of 0.
    if sound is not None and sound.subtype in _SUBTYPES and sound.frames > 0:
        return sound
    file.seek(0)
    return None


def length(path: Path, sound: soundfile.SoundFile) -> float:
    """Seconds that an uncompressed file lasts. Raises ValueError if its header cannot be true."""
    check_setup(path, sound.samplerate, sound.channels)
    for size, found in _SHORT_CHUNK.findall(sound.extra_info):
        if int(found) < int(size) < _STREAMED:
            raise broken(path, f"its header promises {size} bytes, {found} are there")
    return float(sound.frames / sound.samplerate)


def read(path: Path, sound: soundfile.SoundFile) -> Iterator[Block]:
    """An uncompressed file, block by block."""
    num_read = 0
    try:
        while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
            num_read += len(block)
            yield Block(np.ascontiguousarray(block.T), sound.samplerate)
    except soundfile.LibsndfileError:
        raise broken(path, f"decoding stops after {num_read / sound.samplerate:.1f} s") from None
    if num_read < sound.frames:
        seconds, found = sound.frames / sound.samplerate, num_read / sound.samplerate
        raise broken(path, f"its header promises {seconds:.1f} s, {found:.1f} s are there")
