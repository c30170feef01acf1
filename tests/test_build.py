"""Every kind of describer with every kind of source, through the whole pipeline on tiny data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_describe import needs_ears, serving

from relisten import cli
from relisten.audio import load
from relisten.data.build import build
from relisten.data.build_config import BuildConfig
from relisten.data.export import read_set
from relisten.data.worlds.scene_files import write_scenes
from relisten.types import Clip, Event

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Two real recordings without metadata, one that is silent and one that is none."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("scene-1", "scene-2"):
        audio = load(EXAMPLES / f"{name}.flac")
        soundfile.write(folder / f"{name}.wav", audio.samples, audio.rate)
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    (folder / "broken.wav").write_bytes(b"RIFF....WAVE")
    return folder


def finds(clip: Clip) -> Clip:
    """A describer that finds two events anywhere."""
    events = (Event("dog", 0.5, 1.0), Event("bell", 2.0, 2.5), Event("horn", 3.5, 4.0))
    return Clip(clip.id, clip.audio, clip.duration, events, {"sound": "A dog, a bell and a horn."})


def built(tmp_path: Path, source: str, root: Path, **more: Any) -> dict[str, Any]:
    return build(BuildConfig(**{"source": source, "root": root, "out": tmp_path / "out", "questions": 2} | more))


def rejected(tmp_path: Path) -> dict[str, str]:
    lines = (tmp_path / "out/rejected.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["stage"] for row in map(json.loads, lines)}


@needs_ears
def test_plain_recordings_become_a_set_by_ear(tmp_path: Path, plain: Path) -> None:
    made = built(tmp_path, "folder", plain, describer="ears")
    assert made["counts"]["clips"] == 3
    assert made["files"]["sft.jsonl"] > 0
    for example in read_set(tmp_path / "out/sft.jsonl"):
        assert example.cot is not None and "<seg>" in example.cot
    out = rejected(tmp_path)
    assert out["broken"] == "source"
    assert out["silent-0"] == "compose"  # described, but there is nothing to ask


def test_a_describer_of_ones_own_gives_events_to_a_folder(tmp_path: Path, plain: Path) -> None:
    made = built(tmp_path, "folder", plain, describer="test_build:finds")
    assert made["counts"]["described"] == 3
    assert made["files"]["sft.jsonl"] > 0


def test_a_folder_and_nobody_to_describe_it(tmp_path: Path, plain: Path) -> None:
    made = built(tmp_path, "folder", plain)
    assert made["files"]["sft.jsonl"] == 0
    assert set(rejected(tmp_path).values()) == {"source", "describe"}


@pytest.mark.parametrize("describer", ["", pytest.param("ears", marks=needs_ears)])
def test_scenes_keep_their_exact_events(tmp_path: Path, describer: str) -> None:
    write_scenes(tmp_path / "scenes", num=2, seed=7, questions=0)
    made = built(tmp_path, "scenes", tmp_path / "scenes", describer=describer)
    assert made["files"]["sft.jsonl"] > 0
    events = [json.loads(line) for line in (tmp_path / "scenes/events.jsonl").read_text("utf-8").splitlines()]
    exact = {tuple(e["label"] for e in sorted(row["events"], key=lambda e: e["start"])) for row in events}
    with (tmp_path / "out/sft.jsonl").open(encoding="utf-8") as file:
        assert {tuple(e["label"] for e in json.loads(line)["events"]) for line in file} <= exact


def test_ones_own_events_and_a_server_that_describes(tmp_path: Path) -> None:
    events = [{"label": label, "start": 1.0 + n, "end": 1.6 + n} for n, label in enumerate(("Dog", "Bell", "Horn"))]
    (tmp_path / "mine").mkdir()
    row = {"id": "yard", "audio_path": str(EXAMPLES / "scene-1.flac"), "events": events}
    (tmp_path / "mine/clips.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with serving() as (url, asked):
        made = built(tmp_path, "generic", tmp_path / "mine", describer=url)
    assert len(asked) == 3
    books = made["calls"]["describe"]
    assert (books["calls"], books["attempts"], books["prompt_tokens"], books["completion_tokens"]) == (1, 3, 900, 60)
    assert made["files"]["sft.jsonl"] > 0
    described = built(tmp_path, "generic", tmp_path / "mine", describer=url)  # the server is gone: nothing is asked
    assert described["calls"]["describe"]["calls"] == 1


def test_a_describing_server_that_fails_is_asked_again_another_day(tmp_path: Path, plain: Path) -> None:
    with serving(status=503) as (url, _):
        made = built(tmp_path, "folder", plain, describer=f"{url}#tiny", retries=0)
        assert made["files"]["sft.jsonl"] == 0
        assert "503" in (tmp_path / "out/rejected.jsonl").read_text(encoding="utf-8")
        again = built(tmp_path, "folder", plain, describer=f"{url}#tiny", retries=0)
    assert again["calls"]["describe"]["failed"] == 2 * made["calls"]["describe"]["failed"] == 8  # one of the survey


def test_what_describing_takes_counts_in_the_budget(tmp_path: Path, plain: Path) -> None:
    price = {"describer_price_in": 1000.0, "describer_price_out": 1000.0}
    with serving() as (url, asked):
        made = built(tmp_path, "folder", plain, describer=url, max_total_tokens=1500, **price)
        spent = made["calls"]["describe"]
        assert "budget of 1,500 tokens" in made["stopped"] and 960 <= spent["prompt_tokens"] + 60 <= 1500
        assert spent["cost"] == pytest.approx(0.96) and len(asked) == 3
        dearer = built(tmp_path, "folder", plain, describer=url, max_cost=2.5, **price)
        assert "budget of 2.5 " in dearer["stopped"] and dearer["calls"]["describe"]["cost"] <= 2.5
        assert len(asked) == 6


def test_requests_that_are_sent_again_are_counted(tmp_path: Path, plain: Path) -> None:
    with serving(status=503) as (url, _):
        made = built(tmp_path, "folder", plain, describer=f"{url}#tiny", retries=1)
    assert made["calls"]["describe"]["attempts"] == 2 * made["calls"]["describe"]["failed"]


def test_a_describing_server_with_a_wrong_key_stops_the_run(tmp_path: Path, plain: Path) -> None:
    with serving(status=401) as (url, _), pytest.raises(ValueError, match="cannot be asked at all"):
        built(tmp_path, "folder", plain, describer=f"{url}#tiny")


def test_a_table_of_wrong_paths_is_told_with_reasons_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [{"label": label, "start": 1.0 + n, "end": 1.6 + n} for n, label in enumerate(("Dog", "Bell", "Horn"))]
    rows = [{"id": f"clip {n}", "audio_path": f"gone/{n}.wav", "events": events} for n in range(50)]
    (tmp_path / "broken.wav").write_bytes(b"RIFF....WAVE")
    rows.append({"id": "odd", "audio_path": "broken.wav", "events": events})
    table = tmp_path / "clips.jsonl"
    command = ["data", "build", "--source", "generic", "--root", str(tmp_path), "--out", str(tmp_path / "out")]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.run(command) == 2
    told = capsys.readouterr().err
    assert "50 left out: no recording (clip 0, clip 1, clip 2, ...)" in told and "1 left out: unreadable" in told
    rows.append({"id": "yard", "audio_path": str(EXAMPLES / "scene-1.flac"), "events": events})
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.run([*command, "--questions", "3"]) == 0
    told = capsys.readouterr().out
    assert "left out: no recording" in told and "50" in told and "left out: unreadable" in told


def test_a_recording_whose_name_is_not_utf_8_is_used_like_any_other(tmp_path: Path) -> None:
    """In `--source folder` a Latin-1 file name ended the store's writer, and the build waited for ever."""
    (tmp_path / "plain").mkdir()
    for name in (b"caf\xe9.wav", b"caf\xe8.wav"):
        with open(os.fsencode(tmp_path / "plain") + b"/" + name, "wb") as file:  # noqa: PTH123
            soundfile.write(file, load(EXAMPLES / "scene-1.flac").samples, 16_000, format="WAV")
    (tmp_path / "plain" / os.fsdecode(b"none\xff.wav")).write_bytes(b"RIFF....WAVE")
    made = built(tmp_path, "folder", tmp_path / "plain", describer="test_build:finds")
    assert made["counts"]["clips"] == 2 and made["files"]["sft.jsonl"] > 0
    examples = list(read_set(tmp_path / "out/sft.jsonl"))
    assert {load(example.audio).rate for example in examples} == {16_000}
    assert {example.id[:10] for example in examples} <= {"caf\\udce9-", "caf\\udce8-"}
    assert "none" in (tmp_path / "out/rejected.jsonl").read_text(encoding="utf-8")
