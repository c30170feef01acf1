"""A forward pass has no more tokens than are allowed, and what the model cannot take is left out and named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY

from relisten import audio, records
from relisten.data.worlds.scene_files import write_scenes
from relisten.models import load, nano
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training import packing
from relisten.training import trainer as training
from relisten.training.batch import Encoded, encode, pack
from relisten.training.config import SftConfig
from relisten.training.plan import planned
from relisten.training.sft import SftTrainer, _trainer, train_sft
from relisten.types import Format

TEXT = ["user assistant <think></think><answer></answer>"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight questions and a tiny model, and the same model with a short context."""
    folder = tmp_path_factory.mktemp("packing")
    questions = write_scenes(folder / "scenes", num=8, questions=1)
    texts = [str(json.loads(line).get("cot")) for line in questions.read_text().splitlines()]
    for name, context in (("tiny", 4096), ("short", 200), ("shortest", 100)):
        nano.create([*texts, *TEXT] * 2, replace(TINY, context=context)).save(folder / name)
    return folder


def config(work: Path, output: Path, **fields: object) -> SftConfig:
    settings = {"steps": 2, "batch_size": 8, "learning_rate": 1e-3, "log_steps": 1, "bf16": False, "workers": 0,
                "format": "interleaved", "model": str(work / "tiny")}  # fmt: skip
    return SftConfig(data=str(work / "scenes" / "questions.jsonl"), output=output, **(settings | fields))  # type: ignore[arg-type]


def lines(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def rows(work: Path) -> tuple[Qwen2_5Omni, list[list[Encoded]]]:
    model = load(work / "tiny")
    examples = records.read_examples(work / "scenes" / "questions.jsonl")
    mel: dict[int, Any] = {}  # it keeps every recording, so that no two have one identity
    return model, [[encode(model, example, "interleaved", mel)] for example in examples]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120), st.integers(0, 4))
def test_forwards_hold_every_row_once_and_no_more_than_is_allowed(
    lengths: list[int], most_tokens: int, most_rows: int
) -> None:
    found = packing.forwards(lengths, most_tokens, most_rows)
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    for batch in found:
        padded = len(batch) * max(lengths[place] for place in batch)
        assert padded <= most_tokens or len(batch) == 1
        assert len(batch) <= (most_rows or len(lengths))


def test_short_rows_share_a_forward_and_a_long_one_goes_alone() -> None:
    assert packing.forwards([900, 40, 50, 45, 1000, 30], 1000) == [[5, 1, 3, 2], [0], [4]]
    assert packing.forwards([30, 5000, 40], 100) == [[0, 2], [1]]


def test_tokens_of_a_row_are_those_that_it_is_packed_into(work: Path) -> None:
    model, [[one], [other], *_] = rows(work)
    example = records.read_examples(work / "scenes" / "questions.jsonl")[0]
    assert isinstance(example.audio, Path)
    recording = replace(example, audio=audio.load(example.audio, model.rate))
    formats: tuple[Format, ...] = ("interleaved", "grounded", "conditioned")
    same = [encode(model, recording, form) for form in formats]
    for row in ([one], [one, other], same, [*same, other]):
        assert packing.num_tokens(row) == pack([row]).input_ids.shape[1]
    length = packing.num_tokens(same)
    assert packing.divided(same, length) == [same] and len(packing.divided(same, length - 1)) == 2
    assert packing.divided(same, 1) == [[one] for one in same] and packing.divided([], 9) == []


def test_how_rows_are_put_into_forwards_changes_no_step(work: Path, tmp_path: Path) -> None:
    for name, fields in (("whole", {}), ("some", {"device_tokens": 450}), ("single", {"device_batch_size": 1})):
        train_sft(config(work, tmp_path / name, **fields))
    whole, some, single = (lines(tmp_path / name) for name in ("whole", "some", "single"))
    for one, other, last in zip(whole, some, single, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=2e-5) == pytest.approx(last["loss"], abs=2e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert last["forward_tokens"] < other["forward_tokens"] <= 450 < one["forward_tokens"] <= 8192


def test_what_exceeds_the_context_is_left_out_and_named(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model with a context of 4,096 tokens was trained on rows of 14,800 without a word."""
    _, encoded = rows(work)
    lengths = {one.name: len(one.trace.token_ids) for [one] in encoded}
    long = {name for name, length in lengths.items() if length > 200}
    assert 0 < len(long) < 8
    train_sft(config(work, tmp_path / "run", model=str(work / "short"), steps=3))
    said = capsys.readouterr().err
    for name in long:
        assert said.count(f"{name} is left out: {lengths[name]} tokens, the model's context has 200") == 1
    assert [line["left_out"] for line in lines(tmp_path / "run")] == [len(long)] * 3
    train_sft(config(work, tmp_path / "whole"))
    assert [line["left_out"] for line in lines(tmp_path / "whole")] == [0, 0]
    assert lines(tmp_path / "run")[0]["loss"] != pytest.approx(lines(tmp_path / "whole")[0]["loss"], abs=1e-6)


def test_data_of_which_nothing_fits_is_one_line(work: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no example of the first step fits into the model's context") as caught:
        train_sft(config(work, tmp_path / "run", model=str(work / "shortest")))
    assert "\n" not in str(caught.value)


def test_a_process_without_a_row_keeps_step(work: Path, tmp_path: Path) -> None:
    """Where weights are split, every process must make as many forwards as the others, and they add nothing."""

    def gradients(extra: int) -> dict[str, object]:
        plan = planned(config(work, tmp_path / str(extra)))
        assert isinstance(plan.config, SftConfig)
        made: SftTrainer = _trainer(training.prepare(plan.config), plan.config, plan)
        made.num_forwards = lambda own: own + extra  # type: ignore[method-assign]
        loss = made.training_step(made.model, {"items": [made.train_dataset[i] for i in range(3)]})
        grads = {name: p.grad for name, p in made.model.named_parameters() if p.grad is not None}
        return grads | {"loss": loss}

    alone, beside = gradients(0), gradients(2)
    assert alone.keys() == beside.keys()
    for name, value in alone.items():
        assert (value - beside[name]).abs().max() < 1e-6, name  # type: ignore[operator, attr-defined]
