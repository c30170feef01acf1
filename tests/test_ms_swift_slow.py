"""ms-swift itself with our plug-in and nano, on a CPU: `pytest -m slow tests/test_ms_swift_slow.py`.

RELISTEN_SWIFT_ENV names the environment that has ms-swift, made by `runs/swift_cpu.sh ENV`. If vLLM's CPU build is in
it, ms-swift's own vLLM engine generates answers too.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relisten import audio, cli, models, records
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.models.base import AudioLM
from relisten.training import rewards
from relisten.training.batch import encode
from relisten.types import Example, Trace

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
HOP = 320
"""Samples in a mel frame of nano."""
GOOD = "<think>a word <seg>0.5, 0.9</seg>, a flute <seg>4.2, 5.0</seg>.</think><answer>nine</answer>"
BAD = "<think>a <seg>3, 2</seg>, <seg>0.1, 0.7</seg>, <seg>7, 8</seg> two.</think><answer>two</answer>"
LONG = "<think>" + "a word <seg>0.5, 0.9</seg>. " * 2 + "<seg>4.2, 5.0</seg>"
COTS = (
    "a word <seg>0.5, 0.9</seg>, a flute <seg>4.2, 5.0</seg>.",
    "a <seg>3, 2</seg>, <seg>0.1, 0.7</seg> two.",
    "two.",
)
SCRIPTED = [{"max_turns": turns, "max_tokens": 200, "temperature": 0.0} for turns in (9, 9, 3)]
FREE = [{"max_turns": 9, "max_tokens": tokens, "temperature": 0.0} for tokens in (200, 12)]


def questions(cot: str | None = None) -> Example:
    path = ROOT / "src" / "relisten" / "assets" / "example.flac"
    choices = ("two", "five", "nine")
    return Example("word", path, "which word is spoken right after the flute?", choices, "nine", cot)


@pytest.fixture(scope="module")
def nano() -> AudioLM:
    return models.load("nano")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ms-swift made of our files."""
    environment = os.environ.get("RELISTEN_SWIFT_ENV")
    assert environment, "set RELISTEN_SWIFT_ENV to the environment that runs/swift_cpu.sh made"
    folder = tmp_path_factory.mktemp("swift")
    assert cli.run(["export", "vllm", "nano", str(folder / "model")]) == 0
    for name, examples in (("sft", [questions(cot) for cot in COTS]), ("rl", [questions()])):
        lines = [records.record_from_example(one, folder) | {"id": str(n)} for n, one in enumerate(examples)]
        (folder / f"{name}.set").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        made = folder / f"{name}-set.jsonl"
        (folder / f"{name}.set").rename(made)
        assert cli.run(["export", "ms-swift", str(made), str(folder / f"{name}.jsonl"), "--model", "nano"]) == 0
    asked = {"says": [GOOD, BAD, LONG], "scripted": SCRIPTED, "free": FREE}
    (folder / "asked.json").write_text(json.dumps(asked))
    told = os.environ | {
        "PYTHONPATH": f"{ROOT / 'src'}", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1",
        "MODELSCOPE_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf"),
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        command = [f"{environment}/bin/python", ROOT / "tests" / "swift_run.py", folder]
        done = subprocess.run(command, cwd=folder, env=told, stdout=log, stderr=log, timeout=1800)
    assert done.returncode == 0, (folder / "log").read_text()[-3000:]
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


def same(theirs: dict[str, Any], trace: Trace, model: AudioLM) -> None:
    """The trainer reads our tokens, learns what we learn, and hears what we hear."""
    assert theirs["input_ids"] == trace.token_ids
    assert theirs["learnt"] == trace.sampled
    counts = [model.num_audio_tokens(frames * HOP) for frames in theirs["frames"]]
    assert counts == [listen.num_tokens for listen in trace.listens]


def test_the_fakes_of_the_default_tests_are_as_the_real_classes(found: dict[str, Any]) -> None:
    assert found["missing"] == [] and found["template"] == "RelistenTemplate"


def test_the_options_of_the_page_exist(found: dict[str, Any]) -> None:
    assert found["unknown options"] == []


def test_our_template_is_still_needed(found: dict[str, Any]) -> None:
    """If ms-swift comes to read audio inside of a response, most of `RelistenTemplate` can go."""
    assert found["without us"] != found["rollouts"][0]["input_ids"]


def test_the_loader_keeps_what_rewards_need(found: dict[str, Any]) -> None:
    [row] = found["rows"]
    example = questions()
    assert (row["solution"], row["choices"], row["question"]) == ("nine", list(example.choices), example.question)


def test_sft_reads_what_our_training_reads(found: dict[str, Any], nano: AudioLM) -> None:
    assert len(found["sft"]) == len(COTS)
    for theirs, cot in zip(found["sft"], COTS, strict=True):
        same(theirs, encode(nano, questions(cot), "interleaved").trace, nano)


def ours(model: AudioLM) -> list[tuple[Trace, GenerationConfig]]:
    """The same rollouts by our own engine."""
    traces = []
    for text, one in zip((GOOD, BAD, LONG), SCRIPTED, strict=True):
        told = script(model, *((text, END) if text.endswith("</answer>") else (text,)))
        config = GenerationConfig(max_new_tokens=one["max_tokens"], max_listens=one["max_turns"] - 1)
        traces.append((ScriptedEngine(model, lambda index, sample, told=told: told).generate([questions()], config)[0][0], config))  # noqa: E501  # fmt: skip
    for one in FREE:
        config = GenerationConfig(max_new_tokens=one["max_tokens"], max_listens=one["max_turns"] - 1)
        traces.append((Engine(model).generate([questions()], config)[0][0], config))
    return traces


def test_grpo_reads_our_rollouts_token_for_token(found: dict[str, Any], nano: AudioLM) -> None:
    """Three scripts, and where vLLM is installed two free answers, one of which a limit closes."""
    assert len(found["rollouts"]) in (3, 5)
    for theirs, (trace, config) in zip(found["rollouts"], ours(nano), strict=False):
        same(theirs, trace, nano)
        assert theirs["aligned"] and theirs["num_learnt"] == sum(trace.sampled) == len(theirs["rollout_logprobs"])
        # On-policy: a forward over the trainer's batch gives the log-probabilities of the rollout, so the ratio is 1.
        # The trainer's own softmax includes the banned placeholders as well.
        np.testing.assert_allclose(theirs["logprobs without placeholders"], theirs["rollout_logprobs"], atol=1e-3)
        np.testing.assert_allclose(theirs["logprobs"], theirs["rollout_logprobs"], atol=0.02)
        own = [p for p, sampled in zip(trace.logprobs, trace.sampled, strict=True) if sampled]
        np.testing.assert_allclose(theirs["rollout_logprobs"], own, atol=1e-3)
        assert theirs["truncated"] == (trace.finish in ("length", "context"))
        assert theirs["text"] == trace.text and theirs["num_audios"] == len(trace.listens)
        assert theirs["rewards"]["brief"] == pytest.approx(0.1 if len(trace.text) < 500 else 0.0)
        response = rewards.traced(nano, trace, config)
        functions = {name: one for name, one in rewards.KNOWN.items() if name != "located"}
        expected = rewards.score(functions, response, questions())
        assert {name: theirs["rewards"][f"relisten_{name}"] for name in expected} == pytest.approx(expected, abs=1e-3)


def test_the_recording_is_the_one_that_was_given(found: dict[str, Any]) -> None:
    frames = -(-round(audio.duration(questions().audio) * 16_000) // HOP)  # type: ignore[arg-type]
    assert all(theirs["frames"][0] == frames for theirs in [*found["rollouts"], *found["sft"]])
