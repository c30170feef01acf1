"""The study of operations: what its rows share, what its controls replace, and every step of it with a tiny model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relisten import tags
from relisten.data.offline import short
from relisten.data.worlds import hard
from relisten.engine.operations import WAYS
from relisten.models import load
from relisten.types import Audio, Segment
from studies.operations import report, study, world
from studies.operations.__main__ import read
from studies.operations.study import ROWS, STAGES, StudyConfig, instead, make_model
from tests.tiny import TINY


def test_the_shipped_settings_can_be_used() -> None:
    config = read(Path(study.__file__).parent / "study.yaml")
    assert (config.seeds, config.output) == (3, Path("out/operations"))


def test_rows_share_questions_and_differ_in_how_they_listen() -> None:
    plain, ways, mixed = (rows(7) for rows in (world.crop_rows, world.way_rows, world.random_rows))
    assert [e.question for e, _ in plain] == [e.question for e, _ in ways] == [e.question for e, _ in mixed]
    assert [e.choices for e, _ in plain] == [e.choices for e, _ in ways]
    for (a, _), (b, _), (c, _) in zip(plain, ways, mixed, strict=True):
        spans = [
            [(s.start, s.end) for s in tags.parse(f"<think>{e.cot}</think>", tags.EVERY).segments] for e in (a, b, c)
        ]
        assert spans[0] == spans[1] == spans[2]
    used = {
        name
        for index in range(30)
        for e, _ in world.way_rows(index)
        for name in tags.EVERY
        if f"</{name}>" in (e.cot or "")
    }
    assert used == {"seg", *world.OPERATIONS}
    for example in world.heldout(20):
        assert example.labels["kind"] in report.KINDS


def test_captions_tell_why_a_sound_is_hard_in_all_rows_alike() -> None:
    # When they did not, a model that was offered operations asked for none: it had not learnt which sounds need one.
    for index in range(6):
        clip, _, _ = world.scene(index)
        rows = (*world.base_rows(index), *world.crop_rows(index), *world.random_rows(index))
        (told,) = {str(e.answer) for e, _ in rows if e.question == "Tell what is heard."}
        manners = [world.MANNERS[str(e.labels["way"])] + " " if "way" in e.labels else "" for e in clip.events]
        assert re.sub(r"[\d.]+ ", "", told) == ", ".join(
            m + short.name(e) for m, e in zip(manners, clip.events, strict=True)
        )


@pytest.mark.parametrize("way", hard.WAYS)
def test_a_hard_sound_is_plain_after_its_operation(way: str) -> None:
    """Its length, its level, or the share of what covers it."""
    time = np.arange(16_000) / 16_000
    own = (0.05 * np.sin(2 * np.pi * (400 if way == "low" else 2500) * time)).astype(np.float32)
    made = hard.harden(np.random.default_rng(0), own, way)
    recording = Audio(np.pad(made, 8000))
    segment = Segment(0.5, 0.5 + len(made) / 16_000)
    plain, heard = (WAYS[name].operation(recording, segment).samples for name in ("seg", way))
    if way == "slow":
        assert len(plain) == len(own) // 2 and len(heard) == len(own)
    elif way == "loud":
        assert np.abs(plain).max() < 0.002 and np.sqrt(np.mean(heard**2)) == pytest.approx(0.1, rel=0.05)
    else:
        cover = made - own
        assert np.linalg.norm(cover) > 5 * np.linalg.norm(own)
        inside = slice(800, -800)
        assert np.linalg.norm((heard - own)[inside]) < 0.1 * np.linalg.norm(own[inside])


def test_controls_replace_what_is_heard() -> None:
    recording, segment = Audio(np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)), Segment(1, 2)
    for name in world.OPERATIONS:
        assert instead("asked", name) is WAYS[name].operation
        assert instead("plain", name) is WAYS["seg"].operation
        assert instead("wrong", name) is not WAYS[name].operation
        drawn = instead("random", name)(recording, segment)
        assert np.array_equal(drawn.samples, instead("random", name)(recording, segment).samples)
    assert instead("random", "seg") is WAYS["seg"].operation


@pytest.mark.slow
def test_every_step_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of training for each stage, two scenes for each row, and the report."""
    monkeypatch.setattr(world, "SIZE", replace(TINY, hop_length=320, n_fft=512))
    few = {"steps": 1, "batch_size": 1, "bf16": False}
    grpo = few | {"mini_batch_size": 1, "group_size": 2, "max_new_tokens": 8}
    config = StudyConfig(tmp_path, seeds=1, num_scenes=2, clips=few, base=few, cold=few, grpo=grpo)
    folder = tmp_path / "seed-0"
    for name in STAGES:
        make_model(name, folder, 0, config)
    assert [*load(str(folder / "models" / "cold-ways" / "model")).prompts.operations] == [*world.OPERATIONS]
    assert not load(str(folder / "models" / "rl-crop" / "model")).prompts.operations
    for key, row in ROWS.items():
        study.read(row, folder, key, config)
    written = report.write(config, [folder], "test")
    text = written[1].read_text(encoding="utf-8")
    assert "offered wrong" in text and "What they listen with" in text and "without a listen" in text
