"""Any recording a user has is read the same whatever holds it; cutting, saving and drawing it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from recordings import RATE, difference, encode, refused, tones, write

from relisten import audio
from relisten.types import Audio, Segment

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
    """Oggs may be strung together (libsndfile reads the first alone); an aac stream may change its rate on the way."""
    first = write(tmp_path / "a.ogg", tones(2.0), subtype=None)
    second = write(tmp_path / "b.ogg", tones(1.0), subtype=None)
    (tmp_path / "c.ogg").write_bytes(first.read_bytes() + second.read_bytes())
    assert audio.load(tmp_path / "c.ogg").duration == pytest.approx(3.0, abs=0.05)
    first = encode(tmp_path / "a.aac", tones(2.0, 44_100), "aac", 44_100)
    second = encode(tmp_path / "b.aac", tones(1.0, 22_050), "aac", 22_050)
    (tmp_path / "c.aac").write_bytes(first.read_bytes() + second.read_bytes())
    assert audio.load(tmp_path / "c.aac").duration == pytest.approx(3.0, abs=0.15)


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


def test_importing_is_light() -> None:
    code = "import sys, relisten.audio, relisten.tags, relisten.records, relisten.run; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


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


def test_a_crop_copies_nothing() -> None:
    """Release 9: the whole waveform was copied at every turn."""
    whole = Audio(np.zeros(3 * RATE, dtype=np.float32), RATE)
    assert np.shares_memory(audio.crop(whole, Segment(1.0, 2.5)).samples, whole.samples)


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


@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "a.mp4"])
@pytest.mark.parametrize(("start", "gap"), [(0.0, 0.0), (2.0, 0.0), (0.0, 5.0), (1.0, 0.5)])
def test_sound_lies_where_its_time_stamps_say(tmp_path: Path, name: str, start: float, gap: float) -> None:
    """A call recorder leaves pauses out; time stamps that all start late say nothing. Players show these times."""
    rate, at = 48_000, (0.5, 1.5)
    samples = np.zeros(2 * rate, np.float32)
    for second in at:
        samples[round(second * rate) :][:4800] = 0.9 * np.sin(2 * np.pi * 1000 * np.arange(4800) / rate)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libopus" if name == "a.webm" else "aac", rate=rate, layout="mono")
        for first in range(0, len(samples), 960):
            piece, late = samples[None, first : first + 960], gap if first >= rate else 0.0
            frame = av.AudioFrame.from_ndarray(piece.copy(), format="flt", layout="mono")
            frame.sample_rate, frame.pts = rate, first + round((start + late) * rate)
            [frame] = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate).resample(frame)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    loud = np.flatnonzero(np.abs(audio.load(tmp_path / name).samples) > 0.3) / RATE
    assert loud[0] == pytest.approx(at[0], abs=0.06)
    assert loud[-1] == pytest.approx(gap + at[1] + 0.1, abs=0.06)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_saving_gives_libsndfile_no_python_callbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """A Ctrl-C in a callback of a BytesIO was lost with a traceback, and `relisten scenes` mixed the rest."""

    def callbacks(*_: object) -> None:
        raise AssertionError("libsndfile would call Python")

    monkeypatch.setattr(soundfile.SoundFile, "_init_virtual_io", callbacks)
    samples = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)
    audio.save(tmp_path / f"a{suffix}", Audio(samples, 16_000))
    assert soundfile.info(str(tmp_path / f"a{suffix}")).frames == 1600
    read, rate = soundfile.read(str(tmp_path / f"a{suffix}"))
    assert rate == 16_000
    assert np.abs(read - samples).max() < 1 / 32768


def test_a_recording_without_room_for_it_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under `relisten scenes` was a traceback of libsndfile."""

    def full(*_: object) -> None:
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    with pytest.raises(OSError, match=r"a recording of 1\.0 s cannot be written: "):
        audio.encoded(np.zeros(16_000, np.float32), 16_000, "WAV")
