"""Sound that is loaded is what lies in the file, at the time it has there, whatever its container says of itself."""

from __future__ import annotations

import logging
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from recordings import RATE, clicks, found, mux, refused, tones, write

from relisten import audio
from relisten.commands.data_files import _duration
from relisten.data.sources import Recordings
from relisten.decoding import open_file, parts

AT = [0.5, 2.5, 4.0]


def read(path: Path, seconds: float, at: list[float] | None = None, near: float = 0.06) -> np.ndarray:
    """The samples; they last so long, the tones begin at these times, and everything tells the same length."""
    heard = audio.load(path)
    assert heard.duration == pytest.approx(seconds, abs=0.12)
    if at is not None:
        times = found(heard.samples)
        assert len(times) == len(at) and times == pytest.approx(at, abs=near)
    assert audio.duration(path) == pytest.approx(heard.duration, abs=0.001)
    _duration.cache_clear()
    assert _duration(path) == audio.duration(path)  # of `data validate`
    opened = Recordings(path.parent, lambda *_: None).opened("a", path)
    assert opened == (path, audio.duration(path))
    return heard.samples


# headers that lie, or say nothing


def test_an_mp3_without_a_count(tmp_path: Path) -> None:
    """A podcast comes through a pipe, which leaves no count of frames; its first bit rate tells nothing of the rest."""
    for options in ({"write_xing": "0"}, {"write_xing": "0", "id3v2_version": "0"}, None):
        for rate in (16_000, 22_050, 44_100):
            samples = clicks(AT, 5.0, rate)
            samples[rate:] += 0.05 * np.random.default_rng(0).standard_normal(4 * rate).astype(np.float32)
            made = mux(tmp_path / "a.mp3", [samples], "libmp3lame", rate, options=options, piped=True)
            read(made, 5.0, AT, near=0.08)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.flac", "flac", RATE), ("a.wav", "libmp3lame", 44_100), ("a.wav", "pcm_s16le", RATE),
        ("a.mp2", "mp2", 48_000),
        ("a.aac", "aac", 44_100), ("a.webm", "libopus", 48_000), ("a.mkv", "aac", 44_100), ("a.ts", "aac", 48_000),
        ("a.flv", "aac", 44_100), ("a.ogg", "libopus", 48_000), ("a.ogg", "flac", RATE), ("a.ac3", "ac3", 48_000),
        ("a.nut", "pcm_s16le", RATE), ("a.wav", "adpcm_ima_wav", RATE), ("a.asf", "wmav2", 44_100),
    ],
)  # fmt: skip
def test_what_came_through_a_pipe(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    read(mux(tmp_path / name, [clicks(AT, 5.0, rate)], codec, rate, piped=True), 5.0, AT)


def test_a_fragmented_mp4(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    read(mux(tmp_path / "a.mp4", [clicks(AT, 5.0, 48_000)], "aac", 48_000, options=options, piped=True), 5.0, AT)


def test_sizes_that_stand_for_unknown(tmp_path: Path) -> None:
    """sox puts 0x7FFFF000 (wav) and 0x7F000008 (aiff) where a pipe lets it not say the size; others have their own."""
    whole = write(tmp_path / "a.wav", clicks(AT, 5.0)).read_bytes()
    for unknown in (0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0):
        size = unknown.to_bytes(4, "little")
        (tmp_path / "b.wav").write_bytes(whole[:4] + size + whole[8:40] + size + whole[44:])
        read(tmp_path / "b.wav", 5.0, AT, near=0.001)
    whole = write(tmp_path / "a.aiff", clicks(AT, 5.0)).read_bytes()
    form, common, sound = 4, whole.index(b"COMM") + 10, whole.index(b"SSND") + 4
    for size, frames in ((0x7F000008, 0x3F800000), (0, 0), (0xFFFFFFFF, 0xFFFFFFFF)):
        lying = bytearray(whole)
        for at, value in ((form, size), (common, frames), (sound, size)):
            lying[at : at + 4] = value.to_bytes(4, "big")
        (tmp_path / "b.aiff").write_bytes(lying)
        read(tmp_path / "b.aiff", 5.0, AT, near=0.001)


def copied(source: Path, path: Path, start: float, end: float = np.inf) -> Path:
    """Packets of a stretch, as `ffmpeg -ss -to -c copy` takes them: a flac keeps the header of the whole."""
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux(given.streams.audio[0]):
            if packet.size and start <= packet.pts * packet.time_base < end:
                packet.stream = stream
                out.mux(packet)
    return path


def test_a_stretch_of_a_flac(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its header promises the whole, and its frames are numbered as in the whole: libsndfile heard parts twice."""
    whole = write(tmp_path / "a.flac", clicks(AT, 5.0), subtype="PCM_16")
    for start, at in ((2.0, [2.5, 4.0]), (3.0, [4.0])):
        first = np.ceil(start / 0.256) * 0.256
        read(copied(whole, tmp_path / "b.flac", start), 5.0 - first, [time - first for time in at], near=0.001)
    read(copied(whole, tmp_path / "c.flac", 0.0, 3.0), 3.072, [0.5, 2.5], near=0.001)
    told = [record.message for record in caplog.records if "c.flac" in record.message]
    assert len(told) == 1 and "promises 5.0 s, 3.1 s are there" in told[0]


def test_a_long_flac_keeps_its_samples_whatever_its_header_says(tmp_path: Path) -> None:
    """Block by block, libsndfile sought to a wrong place in a stretch of a flac of several blocks."""
    samples = tones(20.0)
    whole = write(tmp_path / "a.flac", samples, subtype="PCM_16")
    heard = read(copied(whole, tmp_path / "b.flac", 10.0), 9.76)
    assert np.array_equal(heard, audio.load(whole).samples[-len(heard) :])


ROOT = Path(__file__).parents[1]
SHIPPED = [*(ROOT / "examples").glob("*.flac"), *(ROOT / "src/relisten/assets").rglob("*.flac")]


def test_flac_to_the_bit(tmp_path: Path) -> None:
    """As libsndfile, another decoder, reads it: what is shipped, and other widths and channels."""
    assert len(SHIPPED) > 6
    rng = np.random.default_rng(0)
    for subtype in ("PCM_S8", "PCM_16", "PCM_24"):
        for num in (1, 2):
            write(tmp_path / f"{subtype}{num}.flac", rng.uniform(-1, 1, (RATE, num)), subtype=subtype)
    for path in (*SHIPPED, *tmp_path.glob("*.flac")):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        expected = samples[:, 0] if samples.shape[1] == 1 else samples.T.mean(axis=0, dtype=np.float32)
        assert np.array_equal(audio.load(path, rate=rate).samples, expected), path


# several files in one, and files that are not whole


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.mp3", "libmp3lame", 44_100), ("a.mp3", "libmp3lame", RATE), ("a.opus", "libopus", 48_000),
        ("a.ogg", "flac", RATE), ("a.flac", "flac", RATE), ("a.aac", "aac", 44_100), ("a.ac3", "ac3", 48_000),
        ("a.ts", "aac", 48_000), ("a.mpg", "mp2", 44_100), ("a.webm", "libopus", 48_000), ("a.mkv", "flac", RATE),
        ("a.nut", "flac", RATE), ("a.nut", "pcm_s16le", RATE), ("a.flv", "aac", 44_100), ("a.asf", "wmav2", 44_100),
        ("a.mp4", "aac", 44_100), ("a.mov", "alac", RATE), ("a.avi", "pcm_s16le", RATE), ("a.wav", "pcm_s16le", RATE),
        ("a.wav", "adpcm_ima_wav", 44_100), ("a.aiff", "pcm_s16be", RATE), ("a.caf", "alac", RATE),
        ("a.caf", "pcm_s16be", RATE), ("a.tta", "tta", RATE), ("a.au", "pcm_s16be", RATE), ("a.w64", "pcm_s16le", RATE),
    ],
)  # fmt: skip
def test_two_files_in_one(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    """`cat` joins them: both are heard, one after the other."""
    first = mux(tmp_path / name, [clicks(AT, 5.0, rate)], codec, rate).read_bytes()
    second = mux(tmp_path / name, [clicks([1.0], 3.0, rate)], codec, rate).read_bytes()
    (tmp_path / name).write_bytes(first + second)
    read(tmp_path / name, 8.0, [*AT, 6.0], near=0.1)


def test_the_start_of_a_second_file_is_found_wherever_it_lies(tmp_path: Path) -> None:
    """The bytes are searched a mebibyte at a time."""
    head = b"nut/multimedia container\0"
    for at in (30, (1 << 20) - 10, 1 << 20, (1 << 20) + 1, (1 << 21) + 1):
        (tmp_path / "a.nut").write_bytes(head + bytes(at - len(head)) + head + bytes(100))
        with open_file(tmp_path / "a.nut") as file:
            first, second = parts(file)
            assert (first.size, second.size, second.read()) == (at, len(head) + 100, head + bytes(100))


def test_joined_wav_from_pipes(tmp_path: Path) -> None:
    """Their headers do not tell where the first ends; the header of the second is no sound."""
    whole = mux(tmp_path / "a.wav", [clicks(AT, 5.0)], "pcm_s16le", RATE, piped=True).read_bytes()
    (tmp_path / "a.wav").write_bytes(whole * 2)
    heard = read(tmp_path / "a.wav", 10.0, [*AT, *(time + 5.0 for time in AT)], near=0.001)
    assert np.array_equal(heard[: 5 * RATE], heard[5 * RATE :])


def test_joined_wav_of_which_the_second_is_cut(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.wav", clicks(AT, 5.0)).read_bytes()
    (tmp_path / "a.wav").write_bytes(whole + whole[:-1000])
    refused(tmp_path / "a.wav", "its header promises")


def test_joined_mp3_of_two_rates(tmp_path: Path) -> None:
    first = mux(tmp_path / "a.mp3", [clicks(AT, 5.0, 44_100)], "libmp3lame", 44_100).read_bytes()
    stereo = np.stack([clicks([1.0], 3.0)] * 2)
    second = mux(tmp_path / "a.mp3", [stereo], "libmp3lame", 16_000).read_bytes()
    (tmp_path / "a.mp3").write_bytes(first + second)
    read(tmp_path / "a.mp3", 8.0, [*AT, 6.0], near=0.1)


@pytest.mark.parametrize("name", ["a.opus", "a.ogg"])
def test_a_cut_ogg(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """In the middle of a page it is refused; between two pages, the mark of its end is missing, and that is told."""
    codec, rate = ("libopus", 48_000) if name == "a.opus" else ("flac", RATE)
    whole = mux(tmp_path / name, [clicks(AT, 5.0, rate)], codec, rate).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 7 // 10])
    refused(tmp_path / name, "its last Ogg page is cut")
    with pytest.raises(ValueError, match="its last Ogg page is cut"):
        audio.duration(tmp_path / name)
    (tmp_path / f"b{name}").write_bytes(whole[: whole.rindex(b"OggS")])
    audio.load(tmp_path / f"b{name}")
    assert "no end mark" in caplog.text


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "flac"), ("a.asf", "wmav2"), ("a.avi", "pcm_s16le"), ("a.flv", "aac"), ("a.ts", "mp2")],
)
def test_a_cut_video(tmp_path: Path, name: str, codec: str, caplog: pytest.LogCaptureFixture) -> None:
    """Many headers give the size of the file; flv's is often wrong, and in ts only a cut packet shows."""
    path = mux(tmp_path / name, [clicks(AT, 5.0, 44_100)], codec, 44_100, picture=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 7 // 10])
    if name in ("a.flv", "a.ts"):
        read(path, 3.5)
        assert "the end of the recording may be missing" in caplog.text
    else:
        refused(path, "its header promises .* bytes")


@pytest.mark.parametrize("codec", ["pcm_s16be", "pcm_s24be"])
def test_a_cut_caf(tmp_path: Path, codec: str) -> None:
    path = mux(tmp_path / "a.caf", [clicks(AT, 5.0)], codec, RATE)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "its header promises .* bytes")


def test_joined_mkv_without_a_length(tmp_path: Path) -> None:
    """FFmpeg estimates it from the last time stamp and the size of the file: that promises nothing."""
    path = mux(tmp_path / "a.mkv", [clicks(AT, 5.0, 48_000)], "ac3", 48_000, gaps=((1.5, 3.5),), piped=True)
    path.write_bytes(path.read_bytes() * 2)
    read(path, 10.0)


def test_damage_is_silent_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = bytearray(mux(tmp_path / "a.flac", [clicks(AT, 5.0)], "flac", RATE).read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 3] = b"abc"
    (tmp_path / "a.flac").write_bytes(whole)
    for _ in range(2):
        read(tmp_path / "a.flac", 5.0)
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1 and "a.flac: has 1 gaps (the first at " in told[0].message
    assert capfd.readouterr() == ("", "")


def test_nothing_but_our_words_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libmpg123 printed up to 16 lines for a sound mp3 of 22 kHz."""
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * 22_050)
    path = write(tmp_path / "a.mp3", noise, 22_050, subtype=None)
    read(path, 5.0)
    path.write_bytes(path.read_bytes()[:3000] + bytes(500) + path.read_bytes()[3500:])
    audio.load(path)
    assert capfd.readouterr() == ("", "")


# time


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.ts", "aac", 48_000), ("a.ts", "mp2", 48_000), ("a.flv", "aac", 44_100), ("a.asf", "wmav2", 44_100),
        ("a.nut", "flac", RATE), ("a.mkv", "aac", 44_100), ("a.webm", "libopus", 48_000), ("a.mp4", "aac", 44_100),
        ("a.mov", "alac", 44_100), ("a.mpg", "mp2", 44_100), ("a.flac", "flac", RATE),
    ],
)  # fmt: skip
def test_a_missing_piece_is_silence(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    path = mux(tmp_path / name, [clicks(AT, 5.0, rate)], codec, rate, gaps=((1.5, 3.5),))
    heard = read(path, 5.0, [0.5, 4.0])
    assert not heard[round(1.8 * RATE) : round(3.2 * RATE)].any()


def test_a_hole_in_the_bytes_of_a_transport_stream(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.ts", [clicks(AT, 5.0, 48_000)], "mp2", 48_000)
    whole = path.read_bytes()
    a, b = (round(len(whole) * part / 188) * 188 for part in (0.3, 0.7))
    path.write_bytes(whole[:a] + whole[b:])
    read(path, 5.0, [0.5, 4.0])


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.mp4", "aac", 44_100), ("a.mov", "alac", 44_100), ("a.ts", "mp2", 48_000), ("a.flv", "aac", 44_100),
        ("a.mkv", "flac", 44_100), ("a.mkv", "libopus", 48_000), ("a.nut", "flac", RATE), ("a.asf", "wmav2", 44_100),
    ],
)  # fmt: skip
def test_sound_that_begins_after_the_picture(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    path = mux(tmp_path / name, [clicks(AT, 5.0, rate)], codec, rate, start=1.5, picture=True)
    read(path, 6.5, [time + 1.5 for time in AT])


def test_avi_that_says_that_its_sound_begins_late(tmp_path: Path) -> None:
    """FFmpeg's own muxer leaves the field at 0."""
    path = mux(tmp_path / "a.avi", [clicks(AT, 5.0)], "pcm_s16le", RATE, picture=True)
    content = bytearray(path.read_bytes())
    at = content.index(b"auds") + 28
    content[at : at + 4] = round(1.5 * RATE).to_bytes(4, "little")
    path.write_bytes(content)
    read(path, 6.5, [time + 1.5 for time in AT])


@pytest.mark.parametrize("start", [30.0, 5000.0])
@pytest.mark.parametrize(
    ("name", "codec"), [("a.webm", "libopus"), ("a.mkv", "flac"), ("a.ts", "mp2"), ("a.mp4", "aac")]
)
def test_time_stamps_that_all_start_late(tmp_path: Path, name: str, codec: str, start: float) -> None:
    read(mux(tmp_path / name, [clicks(AT, 5.0, 48_000)], codec, 48_000, start=start), 5.0, AT)


def test_time_stamps_that_jump_by_hours_are_another_recording(tmp_path: Path) -> None:
    first = mux(tmp_path / "a.ts", [clicks(AT, 5.0, 48_000)], "mp2", 48_000).read_bytes()
    second = mux(tmp_path / "a.ts", [clicks([1.0], 3.0, 48_000)], "mp2", 48_000, start=20_000.0).read_bytes()
    (tmp_path / "a.ts").write_bytes(first + second)
    read(tmp_path / "a.ts", 8.0, [*AT, 6.0], near=0.1)


def test_an_mp4_ends_where_it_says(tmp_path: Path) -> None:
    """Its last packet is filled up by the encoder, and its first holds what the encoder needs to start."""
    heard = read(mux(tmp_path / "a.m4a", [clicks(AT, 5.0, 44_100)], "aac", 44_100), 5.0, AT, near=0.002)
    assert len(heard) == 5 * RATE


def test_alac_in_caf_keeps_its_end(tmp_path: Path) -> None:
    """FFmpeg 8 takes off twice what the last packet lacks of a whole one."""
    assert len(read(mux(tmp_path / "a.caf", [clicks(AT, 5.0)], "alac", RATE), 5.0, AT, near=0.001)) == 5 * RATE


# tracks and channels


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "flac"), ("a.mp4", "aac")])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_track_is_read_and_told(
    tmp_path: Path, name: str, codec: str, default: int, caplog: pytest.LogCaptureFixture
) -> None:
    tracks = [clicks([0.5], 3.0, 44_100), clicks([2.0], 3.0, 44_100)]
    path = mux(tmp_path / name, tracks, codec, 44_100, default=default)
    read(path, 3.0, [[0.5], [2.0]][default])
    assert f"{path}: has 2 audio tracks; track {default + 1} is read" in caplog.text


@pytest.mark.parametrize("antiphase", [(0.0, 2.5), (2.5, 5.0), (1.0, 1.6)])
def test_channels_that_cancel_for_a_while(tmp_path: Path, antiphase: tuple[float, float]) -> None:
    """All is heard, without a click where it changes."""
    x = tones(5.0)
    a, b = (round(time * RATE) for time in antiphase)
    y = x.copy()
    y[a:b] *= -1
    heard = read(write(tmp_path / "a.wav", np.stack([x, y], 1), subtype="FLOAT"), 5.0)
    windows = slice(RATE // 20, -RATE // 20)
    level = lambda s: np.sqrt(np.convolve(s**2, np.ones(800) / 800, "same")[windows])  # noqa: E731
    assert (level(heard) > 0.6 * level(x)).all()
    assert np.abs(np.diff(heard)).max() < 1.05 * np.abs(np.diff(x)).max()
    inside = slice(a + 800, b - 800)
    assert np.abs(heard[inside]) == pytest.approx(np.abs(x[inside]), abs=1e-5)


def test_channels_apart_are_still_averaged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.1, (2, 5 * RATE)).astype(np.float32)
    heard = read(write(tmp_path / "a.wav", np.stack([x, y], 1), subtype="FLOAT"), 5.0)
    assert np.allclose(heard, (x + y) / 2, atol=1e-6)


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.opus", "libopus"), ("a.mka", "pcm_s16le")])
@pytest.mark.parametrize("num", [2, 6, 8])
def test_many_channels(tmp_path: Path, name: str, codec: str, num: int) -> None:
    """PyAV itself crashes when it is asked for eight planes."""
    read(
        mux(tmp_path / name, [np.stack([clicks(AT, 5.0, 48_000)] * num)], codec, 48_000, bit_rate=64_000 * num), 5.0, AT
    )


# what is bounded


def test_a_gap_of_hours_costs_nothing(tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mkv", [np.zeros(RATE, np.float32)], "flac", RATE)
    with av.open(str(tmp_path / "b.mkv"), "w") as out, av.open(str(path)) as given:
        stream = out.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux(given.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                if packet.pts * packet.time_base > 0.5:
                    packet.pts += round(3000 / packet.time_base)
                    packet.dts = packet.pts
                out.mux(packet)
    refused(tmp_path / "b.mkv", "lasts at least .* s, longer than the limit of 600 s")


def test_a_long_mp3_is_decoded_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = mux(tmp_path / "a.mp3", [clicks(AT, 5.0)], "libmp3lame", RATE, options={"write_xing": "0"}).read_bytes()
    (tmp_path / "a.mp3").write_bytes(part * 720)  # an hour
    refused(tmp_path / "a.mp3", "lasts at least 1[0-9].[0-9] s", max_seconds=10.0)
    refused(mux(tmp_path / "a.m4a", [clicks(AT, 5.0, 48_000)], "aac", 48_000), "lasts at least 4.1 s", max_seconds=4.0)
