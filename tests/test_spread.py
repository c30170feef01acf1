"""Several machines: shards, with Ray and without, end in the sets that one process alone makes."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from teacher_server import serving
from test_pipeline import config, remote, sets

from relisten.commands.data_build import shard
from relisten.data import shards
from relisten.data.build import build
from relisten.data.build_config import BuildConfig
from relisten.data.store import Call, Store

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not here: pip install 'relisten[ray]'"
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


def alone(tmp_path: Path, num: int, **more: Any) -> dict[str, str]:
    """The sets of a plain run over the same recordings, written elsewhere."""
    settings = replace(config(tmp_path, num, **more), out=tmp_path / "alone")
    build(settings)
    return sets(settings.out)


def test_shards_one_after_another_then_a_build_are_as_one_process_alone(tmp_path: Path) -> None:
    settings = config(tmp_path, 30)
    for n in range(3):
        told = shard(build(replace(settings, shard=f"{n}/3")))
        assert f"shard {n}/3 is done" in told and "without --shard" in told
        assert not (tmp_path / "out/sft.jsonl").exists()
    made = build(settings)
    assert sets(settings.out) == alone(tmp_path, 30)
    assert made["counts"]["clips"] == 30
    assert not list((tmp_path / "out/shards").iterdir())


def test_shards_pay_once_even_when_their_number_changes_and_share_the_budget(tmp_path: Path) -> None:
    with serving() as server:
        settings = config(tmp_path, 12, **remote(server, in_flight=4))
        build(replace(settings, shard="0/2"))
        paid = server.num
        assert paid > 5
        build(settings)  # the other half, by a build without a shard
        whole = server.num
        build(replace(settings, shard="2/3"))
        made = build(settings)
        assert server.num == whole == made["calls"]["all"]["attempts"]
        assert max(server.asked.values()) == 1
        half = replace(settings, out=tmp_path / "half", max_total_tokens=4000)
        stopped = build(replace(half, shard="0/2"))
    assert "2,000 tokens is spent" in stopped["stopped"]
    assert sets(settings.out) == alone(tmp_path, 12)


def test_a_shard_that_was_taken_over_before_a_crash_is_not_doubled(tmp_path: Path) -> None:
    part = shards.place(tmp_path, (0, 2))
    with Store(part) as store:
        store.keep_call(b"k", "compose", "c", Call("fine", prompt_tokens=7))
        store.keep_outcome(b"1" * 16, "c", {"n": 1})
    copy = tmp_path / "copy"
    shutil.copy(part, copy)
    with shards.open_store(tmp_path, shards.WHOLE) as store:
        assert store.spent().calls == 1
    shutil.copy(copy, part)  # as if the process had died before the shard's file was gone
    with shards.open_store(tmp_path, shards.WHOLE) as store:
        assert store.spent().calls == 1 and store.meet([(b"1" * 16, "c")]) == ["done"]
    with shards.open_store(tmp_path, (1, 2)) as store:  # a later shard finds what is known of the whole
        found = store.call(b"k")
        assert found is not None and found.text == "fine" and store.meet([(b"1" * 16, "c")]) == ["done"]


def test_two_builds_in_one_folder_are_refused(tmp_path: Path) -> None:
    settings = config(tmp_path, 4)
    with shards.open_store(settings.out, shards.WHOLE), pytest.raises(ValueError, match="another process is writing"):
        build(settings)
    with shards.open_store(settings.out, (0, 2)), pytest.raises(ValueError, match="another process is writing"):
        build(settings)  # it would take away a shard that is being written
    build(settings)


@pytest.mark.parametrize("name", ["2/2", "1", "a/b", "-1/2"])
def test_a_shard_that_cannot_be_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="counted from 0"):
        build(config(tmp_path, 4, shard=name))


def test_a_shard_with_a_describer_needs_the_survey_of_the_whole(tmp_path: Path) -> None:
    settings = config(tmp_path, 6, describer="test_pipeline:loud")
    with pytest.raises(ValueError, match="--dry-run"):
        build(replace(settings, shard="0/2"))
    build(settings, sample=2)
    for n in range(2):
        build(replace(settings, shard=f"{n}/2"))
    build(settings)
    assert sets(settings.out) == alone(tmp_path, 6, describer="test_pipeline:loud")


@pytest.mark.slow
@needs_ray
def test_ray_with_two_workers_makes_the_same_sets(tmp_path: Path) -> None:
    with serving() as server:
        settings: BuildConfig = config(tmp_path, 30, **remote(server))
        made = build(replace(settings, workers=2))
        assert server.num == made["calls"]["all"]["attempts"] == len(server.asked)
        assert made["stopped"] == "" and made["counts"]["clips"] == 30
        assert sets(settings.out) == alone(tmp_path, 30)
        # A server that refuses is told of in a line, from the worker to the caller.
        server.fault = lambda *_: "401"
        with pytest.raises(ValueError, match="401"):
            build(replace(settings, out=tmp_path / "refused", workers=2))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["config"]["workers"] == 2
