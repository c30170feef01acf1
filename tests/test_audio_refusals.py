"""What cannot be used as a recording is refused in one line that says what to do; nothing hangs, nothing crashes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from recordings import RATE, encode, refused, tones, write

from relisten import audio


def test_kinds_of_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.wav"))
    (tmp_path / "empty.wav").touch()
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "pipe.wav", "is a pipe")
    refused(tmp_path / "socket.wav", "is a socket")
    listening.close()
    refused(tmp_path, "is a folder")
    refused("", "is a folder")
    refused("/dev/zero", "is a device")
    refused(tmp_path / "empty.wav", r"is empty \(0 bytes\)")
    refused(tmp_path / "gone.wav", "no such file; check the path")
    refused("https://example.org/a.wav", "no such file; download it first")
    refused(tmp_path / "loop", "cannot be opened")
    refused(tmp_path / ("x" * 300), "cannot be opened")
    refused("a\0b", "cannot be opened")
    refused(write(tmp_path / "a.wav", tones()) / "b.wav", "cannot be opened")
    with pytest.raises(ValueError, match="is a pipe"):
        audio.duration(tmp_path / "pipe.wav")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> int:  # root, as whom tests often run, may read everything
        raise PermissionError(13, "Permission denied")

    write(tmp_path / "a.wav", tones())
    monkeypatch.setattr(os, "open", deny)
    refused(tmp_path / "a.wav", "check its permissions")


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"some words\n" * 1000,
        b'{"not": "audio"}\n' * 1000,
        bytes(100_000),
        np.random.default_rng(0).bytes(200_000),
        b"RIFF\x00\x00\x00\x00WAVE",
        b"fLaC",
        b"OggS",
        b"ID3",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n",
        b"<html><body>404</body></html>",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 10,
    ],
    ids=lambda content: repr(content[:12]),
)
@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
def test_what_is_no_recording(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "is no recording|holds no sound")


def test_a_picture(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", width=32, height=32, pix_fmt="rgb24")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    refused(tmp_path / "a.png", "holds no sound, only")


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    """It would let a file that is given to a server read other files there, or call out."""
    encode(tmp_path / "a.m3u8", tones(), "aac", RATE, format="hls")
    assert ".ts" in (tmp_path / "a.m3u8").read_text()
    refused(tmp_path / "a.m3u8", "is no recording")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.ogg", "a.m4a"])
def test_no_samples(tmp_path: Path, name: str) -> None:
    none = tones()[:0]
    if name == "a.m4a":
        with av.open(str(tmp_path / name), "w") as container:
            container.add_stream("aac", rate=RATE, layout="mono")
            container.start_encoding()
    else:
        write(tmp_path / name, none, subtype=None)
    refused(tmp_path / name, "holds no sound|is no recording")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.w64", "a.flac", "a.mp3", "a.ogg"])
@pytest.mark.parametrize("kept", [0.4, 0.9])
def test_cut_short(tmp_path: Path, name: str, kept: float) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE)
    path = write(tmp_path / name, noise, subtype=None)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    refused(path, "breaks off or is damaged|is no recording")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.webm", "libopus"), ("a.mkv", "flac"), ("a.m4a", "aac"), ("a.mov", "alac")]
)
def test_cut_short_in_a_container(tmp_path: Path, name: str, codec: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * 48_000).astype(np.float32)
    path = encode(tmp_path / name, noise, codec, 48_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "breaks off or is damaged|is no recording")


def test_a_header_that_lies_about_its_rate(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.wav", tones()).read_bytes()
    for rate in (1, 999, 768_001, 2**31 - 1):
        (tmp_path / "b.wav").write_bytes(whole[:24] + rate.to_bytes(4, "little") + whole[28:])
        refused(tmp_path / "b.wav", f"sample rate of {rate} Hz")
    for field in (slice(22, 24), slice(24, 28)):  # no channels, no rate
        broken = bytearray(whole)
        broken[field] = bytes(field.stop - field.start)
        (tmp_path / "b.wav").write_bytes(broken)
        refused(tmp_path / "b.wav", "is no recording")


def test_too_many_channels(tmp_path: Path) -> None:
    refused(write(tmp_path / "a.wav", np.zeros((100, 65), np.float32)), "has 65 channels")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers(tmp_path: Path, bad: float) -> None:
    samples = tones(10.0)
    samples[8 * RATE] = bad
    refused(
        write(tmp_path / "a.wav", samples, subtype="FLOAT"), r"not numbers \(NaN or infinity; the first at 8.00 s\)"
    )


def test_the_limit_on_length(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tones())
    assert audio.load(path, max_seconds=2.0).duration == 2.0
    refused(path, "lasts 2.0 s, longer than the limit of 1.5 s; .*--max-seconds", max_seconds=1.5)
    refused(path, "longer than the limit of nan s", max_seconds=float("nan"))
    assert audio.load(path, max_seconds=float("inf")).duration == 2.0
    refused(encode(tmp_path / "a.m4a", tones(), "aac", RATE), "lasts at least .* s", max_seconds=1.5)
    refused(encode(tmp_path / "a.aac", tones(), "aac", RATE), "lasts at least .* s", max_seconds=1.5)


def test_a_long_recording_costs_its_header(tmp_path: Path) -> None:
    """Ten hours that would take 4.6 GB as float32: a sparse file, refused within a small memory."""
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 32_000, 0, "NONE", ""))
        file.setnframes(36_000 * 32_000)
        file.writeframesraw(b"")
    size = 36_000 * 32_000 * 2
    header = path.read_bytes()[:44]
    path.write_bytes(header[:4] + (size + 36).to_bytes(4, "little") + header[8:40] + size.to_bytes(4, "little"))
    os.truncate(path, 44 + size)
    code = (
        "import resource; from relisten import audio\n"
        "limit = 2 << 30; resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        f"try: audio.load({str(path)!r})\nexcept ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lasts 36000.0 s" in done.stdout
    # Nor is a stream decoded further than the limit, where only decoding tells how long it is.
    path.write_bytes(header[:4] + b"\xff" * 4 + header[8:40] + b"\xff" * 4)
    os.truncate(path, 44 + size)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"longer than the limit of 600 s", done.stdout)


def test_damage_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    """Bytes changed at random: nothing but sound or a ValueError comes out."""
    rng = np.random.default_rng(3)
    made = [write(tmp_path / f"a.{name}", tones(0.5), subtype=None) for name in ("wav", "flac", "ogg", "mp3", "aiff")]
    made += [encode(tmp_path / "a.m4a", tones(0.5), "aac", RATE), encode(tmp_path / "a.mkv", tones(0.5), "flac", RATE)]
    for path in made:
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(20):
            damaged = whole.copy()
            where = rng.integers(0, min(len(whole), rng.choice([64, 512, len(whole)])), rng.integers(1, 20))
            damaged[where] = rng.integers(0, 256, len(where))
            path.write_bytes(damaged.tobytes())
            try:
                heard = audio.load(path, max_seconds=60)
            except ValueError:
                continue
            assert np.isfinite(heard.samples).all()
            assert len(heard.samples)
