"""Any recording a user has: read the same whatever holds it, or refused in one line that says what to do."""

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
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from relisten import audio
from relisten.types import Audio, Segment

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


def refused(path: Path | str, match: str, **options: float) -> None:
    """Loading raises ValueError with one line that matches."""
    with pytest.raises(ValueError, match=match) as caught:
        audio.load(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.isprintable()
    assert ";" in message  # what is wrong; what to do


def difference(a: np.ndarray, b: np.ndarray, shift: int = 0) -> float:
    """Root mean square of a - b relative to b's, `shift` samples of the ends left out."""
    length = min(len(a), len(b))
    a, b = a[shift : length - shift or None], b[shift : length - shift or None]
    return float(np.sqrt(np.mean((a[: len(b)] - b) ** 2) / np.mean(b**2)))


# what is accepted, and gives what the clean file gives


def test_sixteen_bits_at_the_model_s_rate_are_exact(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32767, 40_000).astype(np.int16)
    heard = audio.load(write(tmp_path / "a.wav", pcm))
    assert heard.rate == RATE
    assert heard.samples.dtype == np.float32
    assert np.array_equal(heard.samples, pcm.astype(np.float32) / 32768)
    assert heard.duration == 2.5


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_U8", 0.02),
        ("a.wav", "PCM_24", 1e-4),
        ("a.wav", "PCM_32", 1e-4),
        ("a.wav", "FLOAT", 1e-4),
        ("a.wav", "DOUBLE", 1e-4),
        ("a.wav", "ULAW", 0.05),
        ("a.flac", "PCM_24", 1e-4),
        ("a.aiff", "PCM_16", 1e-4),
        ("a.au", "PCM_16", 1e-4),
        ("a.caf", "PCM_16", 1e-4),
        ("a.w64", "PCM_16", 1e-4),
        ("a.ogg", "VORBIS", 0.15),
        ("a.mp3", "MPEG_LAYER_III", 0.15),
    ],
)
def test_formats_of_libsndfile(tmp_path: Path, name: str, subtype: str, tolerance: float) -> None:
    heard = audio.load(write(tmp_path / name, tones(), subtype=subtype)).samples
    if name.endswith("mp3"):
        heard = heard[: len(tones())]
    assert len(heard) == len(tones())
    assert difference(heard, tones()) < tolerance
    assert audio.duration(tmp_path / name) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.m4a", "aac", 44_100),
        ("a.mp4", "aac", 48_000),
        ("a.m4a", "alac", 44_100),
        ("a.webm", "libopus", 48_000),
        ("a.mkv", "libopus", 48_000),
        ("a.opus", "libopus", 48_000),
        ("a.mka", "flac", 48_000),
        ("a.aac", "aac", 44_100),
        ("a.ac3", "ac3", 48_000),
        ("a.avi", "pcm_s16le", 22_050),
        ("a.mov", "pcm_s24le", 48_000),
        ("a.ts", "aac", 48_000),
    ],
)
def test_formats_of_ffmpeg(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    path = encode(tmp_path / name, tones(2.0, rate), codec, rate)
    heard = audio.load(path).samples
    assert len(heard) / RATE == pytest.approx(2.0, abs=0.1)
    spectra = [np.abs(np.fft.rfft(samples[4000:28000])) for samples in (heard, tones())]
    assert np.corrcoef(*spectra)[0, 1] > 0.98  # by spectrum: an encoder may shift the start by its delay
    assert audio.duration(path) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_other_rates(tmp_path: Path, rate: int) -> None:
    heard = audio.load(write(tmp_path / "a.wav", tones(2.0, rate), rate)).samples
    assert len(heard) == len(tones())
    assert difference(heard, tones(), shift=500) < 0.01


def test_blocks_leave_no_seams(tmp_path: Path) -> None:
    """Resampling block by block gives what resampling at once gives."""
    import soxr

    samples = tones(9.0, 44_100)
    heard = audio.load(write(tmp_path / "a.wav", samples, 44_100, "FLOAT")).samples
    assert np.allclose(heard, soxr.resample(samples, 44_100, RATE, "HQ"), atol=1e-5)


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.raw", "a.txt", "a", "a.wav.part"])
@pytest.mark.parametrize("holds", ["wav", "flac", "m4a"])
def test_a_wrong_ending_does_not_matter(tmp_path: Path, name: str, holds: str) -> None:
    made = tmp_path / f"made.{holds}"
    write(made, tones()) if holds != "m4a" else encode(made, tones(), "aac", RATE)
    path = made.rename(tmp_path / name)
    assert audio.load(path).duration == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    "name", ["wörter 说话 🎧.wav", "a\nb.wav", "-i.wav", "concat:a|b.wav", "%d.wav", "a'\"$(b).wav"]
)
@pytest.mark.parametrize("holds", ["wav", "m4a"])
def test_names(tmp_path: Path, name: str, holds: str) -> None:
    made = tmp_path / f"made.{holds}"
    write(made, tones()) if holds == "wav" else encode(made, tones(), "aac", RATE)
    assert audio.load(made.rename(tmp_path / name)).duration == pytest.approx(2.0, abs=0.1)


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write(tmp_path / "a.wav", tones()).rename(path)
    assert audio.load(path).duration == 2.0
    assert audio.load(str(path)).duration == 2.0
    path.write_bytes(b"no sound")
    refused(path, "caf\N{REPLACEMENT CHARACTER}.wav: is no recording")


def test_home_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", tones())
    (tmp_path / "link").symlink_to("a.wav")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert audio.load("~/a.wav").duration == audio.load(tmp_path / "link").duration == 2.0
    refused("~nobody-of-that-name/a.wav", "no such user")


def test_silence(tmp_path: Path) -> None:
    heard = audio.load(write(tmp_path / "a.wav", np.zeros((8000, 2), np.float32)))
    assert np.array_equal(heard.samples, np.zeros(8000, np.float32))


def test_floats_beyond_one_stay_where_a_decoder_may_overshoot(tmp_path: Path) -> None:
    loud = tones() * 3  # peak 1.5
    assert np.allclose(audio.load(write(tmp_path / "a.wav", loud, subtype="FLOAT")).samples, loud)


@pytest.mark.parametrize("scale", [4.0, 32768.0, 1e30])
def test_floats_on_another_scale_are_brought_back(tmp_path: Path, scale: float) -> None:
    heard = audio.load(write(tmp_path / "a.wav", tones() * np.float32(scale * 2), subtype="FLOAT")).samples
    assert np.abs(heard).max() == pytest.approx(1)
    assert difference(heard, tones() / np.abs(tones()).max()) < 1e-3


def test_a_constant_offset_is_removed(tmp_path: Path) -> None:
    heard = audio.load(write(tmp_path / "a.wav", tones() + 0.3)).samples
    assert difference(heard, tones() - tones().mean()) < 1e-3


def test_a_tiny_offset_is_left_alone(tmp_path: Path) -> None:
    pcm = (tones() * 32767).astype(np.int16) + np.int16(20)
    assert np.array_equal(audio.load(write(tmp_path / "a.wav", pcm)).samples, pcm.astype(np.float32) / 32768)


def test_channels_are_averaged(tmp_path: Path) -> None:
    x, y = tones(), tones()[::-1]
    assert np.allclose(audio.load(write(tmp_path / "a.wav", np.stack([x, y], 1))).samples, (x + y) / 2, atol=1e-4)
    six = np.stack([x] * 6, 1)
    assert np.allclose(audio.load(write(tmp_path / "b.wav", six)).samples, x, atol=1e-4)
    one_of_six = np.stack([x, *[np.zeros_like(x)] * 5], 1)
    assert np.allclose(audio.load(write(tmp_path / "c.wav", one_of_six)).samples, x / 6, atol=1e-4)


def test_channels_that_cancel_give_the_loudest(tmp_path: Path) -> None:
    """Antiphase: the mean would be silence, though one hears the recording well."""
    x = tones()
    for other in (-x, -0.9 * x, -x - 0.2):
        heard = audio.load(write(tmp_path / "a.wav", np.stack([x, other], 1))).samples
        assert min(difference(heard, x), difference(heard, -x)) < 0.02


def test_opposite_offsets_are_not_antiphase(tmp_path: Path) -> None:
    x, y = tones(), tones()[::-1]
    heard = audio.load(write(tmp_path / "a.wav", np.stack([x + 0.4, y - 0.4], 1))).samples
    assert difference(heard, (x + y) / 2) < 1e-2


def test_a_stream_that_promises_no_length(tmp_path: Path) -> None:
    """Programs that write a wav to a pipe cannot know its length; a recorder that is killed leaves zero."""
    whole = write(tmp_path / "a.wav", tones()).read_bytes()
    for unknown in (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"):
        (tmp_path / "b.wav").write_bytes(whole[:4] + unknown + whole[8:40] + unknown + whole[44:])
        assert audio.load(tmp_path / "b.wav").duration == 2.0
        assert audio.duration(tmp_path / "b.wav") == 2.0


def test_two_files_in_one(tmp_path: Path) -> None:
    """Oggs may be strung together (libsndfile reads the first alone); an aac stream may change its rate."""
    first = write(tmp_path / "a.ogg", tones(2.0), subtype=None)
    second = write(tmp_path / "b.ogg", tones(1.0), subtype=None)
    (tmp_path / "c.ogg").write_bytes(first.read_bytes() + second.read_bytes())
    assert audio.load(tmp_path / "c.ogg").duration == pytest.approx(3.0, abs=0.05)
    first = encode(tmp_path / "a.aac", tones(2.0, 44_100), "aac", 44_100)
    second = encode(tmp_path / "b.aac", tones(1.0, 22_050), "aac", 22_050)
    (tmp_path / "c.aac").write_bytes(first.read_bytes() + second.read_bytes())
    refused(tmp_path / "c.aac", "changes its sample rate")


def test_what_follows_the_sound_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tones())
    path.write_bytes(path.read_bytes() + b"LIST junk" * 100)
    assert audio.load(path).duration == 2.0


def test_the_sound_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        for n in range(40):  # four seconds of picture, two of sound
            image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), n, np.uint8), format="rgb24")
            container.mux(video.encode(image))
        frame = av.AudioFrame.from_ndarray(tones()[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for stream, part in ((sound, frame), (sound, None), (video, None)):
            container.mux(stream.encode(part))
    assert audio.load(path).duration == pytest.approx(2.0, abs=0.1)


# what is refused


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
    refused(encode(tmp_path / "a.m4a", tones(), "aac", RATE), "lasts 2.0 s", max_seconds=1.5)
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


def test_importing_is_light() -> None:
    code = "import sys, relisten.audio, relisten.tags, relisten.records, relisten.run; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


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
            except ValueError as error:
                assert str(error).isprintable(), error
            else:
                assert np.isfinite(heard.samples).all()
                assert len(heard.samples)


# cutting, saving, drawing


@given(st.lists(st.floats(-1, 12, width=32), min_size=3, max_size=3).map(sorted))
def test_crops_that_meet_make_the_whole(times: list[float]) -> None:
    whole = Audio(np.arange(10 * RATE, dtype=np.float32), RATE)
    a, b, c = times
    left, right, both = (audio.crop(whole, Segment(*ends)).samples for ends in ((a, b), (b, c), (a, c)))
    assert np.array_equal(np.concatenate([left, right]), both)


def test_a_crop_is_exact() -> None:
    whole = Audio(np.arange(3 * RATE, dtype=np.float32), RATE)
    cut = audio.crop(whole, Segment(1.0, 2.5))
    assert (cut.samples[0], cut.samples[-1], len(cut.samples), cut.rate) == (RATE, 2.5 * RATE - 1, 1.5 * RATE, RATE)
    assert len(audio.crop(whole, Segment(0.1, 0.3)).samples) == 3200  # 0.3 * 16000 is 4799.999... in floating point
    assert len(audio.crop(whole, Segment(-5, 99)).samples) == 3 * RATE
    assert len(audio.crop(whole, Segment(-np.inf, np.inf)).samples) == 3 * RATE
    for nothing in (Segment(2, 1), Segment(5, 6), Segment(-2, -1), Segment(1, 1), Segment(1, np.nan)):
        assert len(audio.crop(whole, nothing).samples) == 0


@pytest.mark.parametrize("name", ["a.wav", "a.FLAC", "new folder/a.wav"])
def test_what_is_saved_is_loaded(tmp_path: Path, name: str) -> None:
    pcm = np.random.default_rng(1).integers(-32768, 32768, 5000).astype(np.float32) / 32768
    audio.save(tmp_path / name, Audio(pcm, RATE))
    assert np.array_equal(audio.load(tmp_path / name).samples, pcm)


def test_saving_clips_and_refuses(tmp_path: Path) -> None:
    audio.save(tmp_path / "a.wav", Audio(np.array([-3, -1, 0, 1, 3], np.float32), RATE))
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [-32768, -32768, 0, 32767, 32767]
    with pytest.raises(ValueError, match=r"saved as .wav or .flac"):
        audio.save(tmp_path / "a.mp3", Audio(tones(), RATE))
    with pytest.raises(ValueError, match="not numbers"):
        audio.save(tmp_path / "b.wav", Audio(np.array([np.nan], np.float32), RATE))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav"]


@pytest.mark.parametrize(("num_samples", "num_bins"), [(1000, 10), (1003, 10), (10, 10), (3, 10), (1, 7), (0, 4)])
def test_an_envelope_covers_every_sample(num_samples: int, num_bins: int) -> None:
    samples = np.random.default_rng(2).normal(size=num_samples).astype(np.float32)
    drawn = audio.envelope(Audio(samples, RATE), num_bins)
    assert (drawn.shape, drawn.dtype) == ((num_bins, 2), np.float32)
    assert (drawn[:, 0] <= drawn[:, 1]).all()
    if num_samples:
        assert (drawn[:, 0].min(), drawn[:, 1].max()) == (samples.min(), samples.max())
        assert set(drawn.ravel()) <= set(samples)
    else:
        assert not drawn.any()
