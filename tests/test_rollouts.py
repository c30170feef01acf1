"""GRPO's rollouts on a vLLM server: the server gets the trainer's weights before each rollout, and its caches go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_example
from vllm_server import VllmServer, serving

from relisten import cli, models, records
from relisten.audio import save
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.remote import fleet as fleets
from relisten.remote.rollouts import CACHES, connect_rollouts
from relisten.training.config import GrpoConfig
from relisten.training.grpo import run_grpo
from relisten.training.plan import planned
from relisten.types import Audio


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmServer]:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(fleets, "FIRST_WAIT", 0.01)
    with serving(models.load("nano")) as server:
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for index in range(2):
        example = make_example(3.0, seed=index)
        assert isinstance(example.audio, Audio)
        save(tmp_path / f"{index}.wav", example.audio)
        line = {"id": str(index), "audio_path": f"{index}.wav", "question": "which word is spoken first?"}
        records.append(tmp_path / "questions.jsonl", line | {"choices": ["two", "nine"], "answer": "two"})
    return tmp_path / "questions.jsonl"


def config(data: Path, engine: str, **more: Any) -> GrpoConfig:
    return GrpoConfig(
        data=str(data), output=data.parent / "run", model="nano", steps=2, batch_size=2, mini_batch_size=2,
        group_size=2, device_batch_size=2, max_new_tokens=24, kl=0.0, bf16=False, learning_rate=1e-3, engine=engine,
        rewards=("confidence",), **more,
    )  # fmt: skip


def test_the_server_s_weights_follow_the_trainer_s(data: Path, following: VllmServer) -> None:
    """Rollout and trainer agree on every token's log-probability at each step, so the server had the new weights."""
    run_grpo(planned(config(data, following.url)), connect_rollouts)
    told = [json.loads(line) for line in (data.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in told if "logprob_difference" in line]
    assert len(steps) == 2 and max(line["logprob_difference"] for line in steps) < 1e-4
    commands = [path for path in following.paths if path in ("/collective_rpc", *CACHES, "/update_weight_version")]
    assert commands == ["/collective_rpc", *CACHES, "/update_weight_version"] * 2
    first, trained = (models.load(folder).module.state_dict() for folder in ("nano", following.weights))
    assert any((first[name] != trained[name]).any() for name in first)


def test_old_weights_are_found_out(data: Path, following: VllmServer, nano: Qwen2_5Omni) -> None:
    engine = connect_rollouts(following.url, nano, 4, data.parent / "weights")
    engine.new_weights()
    assert len(engine.generate([make_example(2.0)])) == 1
    following.version_of_weights = "default"  # it was restarted
    with pytest.raises(ValueError, match="answers with other weights than the trainer's"):
        engine.generate([make_example(2.0)])


@pytest.fixture
def nano() -> Qwen2_5Omni:
    return models.load("nano")  # type: ignore[return-value]


def test_servers_that_cannot_be_used_are_told_in_one_line(
    data: Path, nano: Qwen2_5Omni, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(engine: str, *more: str) -> str:
        given = [
            "--data",
            str(data),
            "--output",
            str(data.parent / f"{len(list(data.parent.iterdir()))}"),
            "--model",
            "nano",
            "--no-bf16",
            *more,
        ]
        assert cli.run(["train", "grpo", *given, "--steps", "1", "--batch-size", "2", "--engine", engine]) == 2
        return capsys.readouterr().err

    with serving(nano, processed=False) as server:
        assert "--logprobs-mode processed_logprobs" in refused(server.url)
    with serving(nano) as server:
        server.developer = False
        assert "start it with VLLM_SERVER_DEV_MODE=1" in refused(server.url)
        assert "without lora" in refused(server.url, "--lora", "4")
    assert "start the server, or correct --engine" in refused("http://127.0.0.1:1")
