"""Precision: weights are trained in one that learns, and the trained model answers in that of its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY

from relisten.data.worlds.scene_files import write_scenes
from relisten.models import load, nano
from relisten.training import trainer as training
from relisten.training.config import SftConfig
from relisten.training.sft import train_sft


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight questions and a tiny model in bfloat16, as large models come."""
    folder = tmp_path_factory.mktemp("precision")
    write_scenes(folder / "scenes", num=8, questions=1)
    model = nano.create(["user assistant <think></think><answer></answer>"] * 2, TINY)
    model.module.bfloat16()
    model.save(folder / "tiny")
    return folder


def config(work: Path, output: Path, **fields: Any) -> SftConfig:
    own = {"steps": 4, "batch_size": 2, "device_batch_size": 2, "learning_rate": 1e-5, "save_steps": 2, "workers": 0}
    own |= {"bf16": False, "data": str(work / "scenes" / "questions.jsonl"), "model": str(work / "tiny")}
    return SftConfig(**(own | {"output": output} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dtype": "bfloat16"}, "learn almost nothing.* give --dtype float32, or train adapters"),
        ({"dtype": "bfloat16", "lora": 4}, "need forward passes in bfloat16: give --bf16"),
        ({"dtype": "float16"}, "choose auto, float32 or bfloat16"),
    ],
)
def test_weights_that_would_not_learn_are_refused(
    work: Path, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    """200 steps of AdamW at 1e-6 changed 2 % of weights in bfloat16, and nothing was said."""
    with pytest.raises(ValueError, match=said) as caught:
        train_sft(config(work, tmp_path / "run", **fields))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "trained_in"),
    [
        ({}, torch.float32),
        ({"bf16": True}, torch.float32),
        ({"bf16": True, "lora": 4}, torch.bfloat16),  # the base is frozen; its adapters are float32
        ({"lora": 4}, torch.float32),
    ],
)
def test_weights_are_loaded_in_a_precision_that_learns(
    work: Path, tmp_path: Path, fields: dict[str, Any], trained_in: torch.dtype
) -> None:
    module = training.prepare(config(work, tmp_path / "run", **fields)).module
    assert module.get_input_embeddings().weight.dtype == trained_in
    assert {p.dtype for p in module.parameters() if p.requires_grad} == {torch.float32}


def test_a_trained_model_answers_in_the_precision_of_its_base(work: Path, tmp_path: Path) -> None:
    """A model in bfloat16 came back in float32: twice the memory, and far slower answers."""
    model = train_sft(config(work, tmp_path / "run"))
    assert {weight.dtype for weight in load_file(model / "model.safetensors").values()} == {torch.bfloat16}
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-4"
    exact = load_file(checkpoint / "model.safetensors")
    assert {weight.dtype for weight in exact.values()} == {torch.float32}, "a run must go on exactly"
    assert load(model).module.dtype == load(checkpoint).module.dtype == torch.bfloat16
    told = json.loads((checkpoint / "config.json").read_text())
    assert told["dtype"] == told["text_config"]["dtype"] == told["audio_config"]["dtype"] == "bfloat16"
    shutil.copytree(tmp_path / "run", tmp_path / "cut", ignore=shutil.ignore_patterns("checkpoint-4", "model"))
    train_sft(config(work, tmp_path / "cut"))
    again = load_file(tmp_path / "cut" / "checkpoints" / "checkpoint-4" / "model.safetensors")
    for name, value in exact.items():
        torch.testing.assert_close(again[name], value, atol=1e-7, rtol=0, msg=name)


def test_a_precision_that_is_asked_for_is_kept(work: Path, tmp_path: Path) -> None:
    model = train_sft(config(work, tmp_path / "run", dtype="float32", steps=1))
    assert load(model).module.dtype == torch.float32
