"""The plug-in for ms-swift makes the answers of our own engine and earns our own rewards; ms-swift itself is faked."""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import swift_fakes
from conftest import make_audio

from relisten import audio as audio_files
from relisten import cli, models, records
from relisten.engine.generation import GenerationConfig
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.engine.words import Words
from relisten.models.base import AudioLM
from relisten.training import rewards
from relisten.training.batch import encode
from relisten.types import Example, Trace

GOOD = "<think>A siren <seg>0.5, 1.5</seg>, then <seg>1.0, 9.0</seg> two knocks.</think><answer>two knocks</answer>"
BAD = "<think>Wrong <seg>3, 2</seg> way. <seg>0.1, 0.7</seg> A dog <seg>7, 8</seg> ends.</think><answer>a dog</answer>"
LONG = "<think>" + "It is <seg>0.5, 1.5</seg> heard again. " * 3 + "It is <seg>0.5, 1.5</seg>"
ENDLESS = "<think>" + " two knocks, a dog".join(map(str, range(40)))
SCRIPTS = {"good": GOOD, "bad": BAD, "long": LONG, "endless": ENDLESS}
"""What the model writes. After the last two, which a limit closes, it chooses itself."""
BUDGET = 120


@pytest.fixture(scope="module")
def plugin() -> Iterator[ModuleType]:
    with swift_fakes.installed():
        yield importlib.import_module("relisten.plugins.ms_swift")


@pytest.fixture(autouse=True)
def tiny(plugin: ModuleType, model: AudioLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "loaded", lambda folder: (model, Words(model)))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("swift") / "noise.wav"
    audio_files.save(path, make_audio(4.0))
    return path


def example(recording: Path, **more: Any) -> Example:
    choices = ("a dog", "two knocks")
    return Example("noise", recording, "What is heard after the siren?", choices, "two knocks", **more)


class Template:
    """Encodes a request as the template of ms-swift does in the mode vllm: with one placeholder for the recording."""

    def __init__(self, model: AudioLM, format: str = "interleaved") -> None:
        self.model, self.format = model, format
        self.template_meta = SimpleNamespace(template_type="qwen2_5_omni")

    def encode(self, request: Any) -> dict[str, Any]:
        assert request.messages[-1]["role"] == "user"
        asked = example(Path())
        ids, at = self.model.prompt(asked.question, asked.choices, self.format, 16_000)  # type: ignore[arg-type]
        assert at is not None
        num_tokens = self.model.num_audio_tokens(16_000)
        return {"input_ids": ids[: at + 1] + ids[at + num_tokens :]}


def rollout(
    plugin: ModuleType, model: AudioLM, recording: str, text: str, max_turns: int | None = None, **options: Any
) -> tuple[swift_fakes.RolloutOutput, swift_fakes.ScriptedEngine]:
    """What the scheduler returns if the model writes `text`."""

    def says(written: str) -> str | None:
        ends = text.endswith("</answer>")
        return text[len(written) :] if text.startswith(written) and (ends or written != text) else None

    engine = swift_fakes.ScriptedEngine(model, "folder", Template(model), says, swift_fakes)
    scheduler = plugin.RelistenScheduler(engine, max_turns)
    messages = [{"role": "user", "content": "<audio>..."}, {"role": "assistant", "content": "from the set"}]
    request = swift_fakes.RolloutInferRequest(messages, [recording], "one")
    settings = {"temperature": 0.0, "max_tokens": BUDGET} | options
    return asyncio.run(scheduler.run(request, swift_fakes.RequestConfig(**settings))), engine


def answered(model: AudioLM, recording: Path, text: str, config: GenerationConfig) -> Trace:
    """What our own engine returns if the model writes `text`."""
    told = script(model, *((text, END) if text.endswith("</answer>") else (text,)))

    def says(num_sampled: int) -> int | None:
        return told(num_sampled) if num_sampled < BUDGET else None

    return ScriptedEngine(model, lambda index, sample: says).generate([example(recording)], config)[0][0]


def samples(url: str) -> Any:
    return soundfile.read(io.BytesIO(base64.b64decode(url.partition("base64,")[2])), dtype="float32")[0]


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_answer_is_that_of_our_engine(plugin: ModuleType, model: AudioLM, recording: Path, name: str) -> None:
    """Good and refused tags, more segments than allowed, and a budget that ends: every token and every mask."""
    config = GenerationConfig(max_new_tokens=BUDGET, max_listens=3)
    trace = answered(model, recording, SCRIPTS[name], config)
    output, engine = rollout(plugin, model, str(recording), SCRIPTS[name], max_turns=4)
    token_ids, mask = output.response_token_ids[0], output.response_loss_mask[0]
    placeholder = model.audio_tokens(16_000)[1]
    spread, learnt, listens = list[int](), list[bool](), iter(trace.listens[1:])
    for token_id, own in zip(token_ids, mask, strict=True):
        times = next(listens).num_tokens if token_id == placeholder else 1
        spread += [token_id] * times
        learnt += [bool(own)] * times
    assert spread == trace.token_ids[trace.num_prompt :]
    assert learnt == trace.sampled[trace.num_prompt :]
    assert next(listens, None) is None
    own_logprobs = [p for p, own in zip(trace.logprobs, trace.sampled, strict=True) if own]
    np.testing.assert_allclose(output.rollout_logprobs[0], own_logprobs, atol=1e-4)
    assert output.messages is not None and output.messages[-1] == {"role": "assistant", "content": trace.text}
    assert [m["role"] for m in output.messages] == ["user", "assistant"]
    info = output.rollout_infos["relisten"]
    assert info["finish"] == trace.finish and info["refusals"] == [[r.text, r.reason] for r in trace.refusals]
    assert output.response.choices[0].finish_reason == ("length" if name == "endless" else "stop")
    assert dict.fromkeys([name], trace.finish) == {name: {"endless": "length", "long": "listens"}.get(name, "stop")}
    heard = [samples(url) for url in output.rollout_infos["audios"]]
    whole = audio_files.load(recording)
    expected = [whole.samples, *(audio_files.crop(whole, x.segment).samples for x in trace.listens[1:])]
    assert [len(one) for one in heard] == [len(one) for one in expected]
    assert all((a == b).all() for a, b in zip(heard, expected, strict=True))
    json.dumps(output.rollout_infos, allow_nan=False)  # the server sends it so
    last = engine.requests[-1]
    assert last["inputs"]["input_ids"].count(placeholder) == len(last["inputs"]["audios"])
    assert set(vars(last["generation_config"])["logit_bias"]) == set(model.banned_token_ids.tolist())


@pytest.mark.parametrize("name", ["good", "bad"])
def test_rewards_are_ours(plugin: ModuleType, model: AudioLM, recording: Path, name: str) -> None:
    config = GenerationConfig(max_new_tokens=BUDGET)
    asked = example(recording, labels={"segments": [[0.4, 1.5]]})
    trace = answered(model, recording, SCRIPTS[name], config)
    ours = rewards.score(rewards.KNOWN, rewards.traced(model, trace, config), asked)
    output, _ = rollout(plugin, model, str(recording), SCRIPTS[name])
    columns = {
        "id": [asked.id], "question": [asked.question], "choices": [list(asked.choices)], "solution": [asked.answer],
        "segments": [[[0.4, 1.5]]], "rollout_infos": [json.loads(json.dumps(output.rollout_infos))], "messages": [[]],
    }  # fmt: skip
    found = {key: swift_fakes.MODULES["rewards.orm"]["orms"][f"relisten_{key}"]() for key in ours}
    theirs = {key: one([SCRIPTS[name]], **columns)[0] for key, one in found.items()}
    assert theirs == pytest.approx(ours, abs=1e-4)
    assert (ours["accuracy"] > 0) == (name == "good")


def test_what_cannot_work_is_said_in_one_line(
    plugin: ModuleType, model: AudioLM, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="cannot sample with repetition_penalty"):
        rollout(plugin, model, str(recording), GOOD, repetition_penalty=1.1)
    with pytest.raises(ValueError, match="cannot sample with stop"):
        rollout(plugin, model, str(recording), GOOD, stop=["."])
    engine = SimpleNamespace(model_dir="nano", max_model_len=4096, template=Template(model))
    request = swift_fakes.RolloutInferRequest([{"role": "user", "content": "?"}], [], "none")
    with pytest.raises(ValueError, match="0 recordings"):
        asyncio.run(plugin.RelistenScheduler(engine).run(request, swift_fakes.RequestConfig(max_tokens=9)))
    with pytest.raises(ValueError, match="vllm_mode server"):
        asyncio.run(plugin.RelistenScheduler(engine).on_trajectory_start([request]))
    engine.max_model_len = 90
    engine.template.template_meta.template_type = "qwen2_audio"
    with pytest.raises(ValueError, match="the plug-in is for qwen2_5_omni"):
        asyncio.run(plugin.RelistenScheduler(engine).run(request, swift_fakes.RequestConfig(max_tokens=9)))
    engine.template.template_meta.template_type = "qwen2_5_omni"
    request = swift_fakes.RolloutInferRequest([{"role": "user", "content": "?"}], [str(recording)], "long")
    with pytest.raises(ValueError, match="does not fit: the server has room for 90"):
        asyncio.run(plugin.RelistenScheduler(engine).run(request, swift_fakes.RequestConfig(max_tokens=9)))
    with pytest.raises(ValueError, match="start `swift rollout`"):
        plugin.reward("format", rewards.format)()(["<think>"], rollout_infos=[{"num_turns": 1}])
    monkeypatch.setenv("RELISTEN_FORMAT", "aloud")
    with pytest.raises(ValueError, match="RELISTEN_FORMAT is 'aloud'"):
        rollout(plugin, model, str(recording), GOOD)


def test_a_recording_may_come_as_base64(
    plugin: ModuleType, model: AudioLM, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "load_file", lambda text: io.BytesIO(base64.b64decode(text.partition("base64,")[2])))
    text = "data:audio/wav;base64," + base64.b64encode(recording.read_bytes()).decode()
    first, second = (rollout(plugin, model, given, GOOD)[0] for given in (str(recording), text))
    pairs = zip(first.rollout_infos["audios"], second.rollout_infos["audios"], strict=True)
    assert all((samples(a) == samples(b)).all() for a, b in pairs)


@pytest.mark.parametrize("format", ["interleaved", "grounded"])
def test_a_response_for_sft_is_written_as_our_training_writes_it(
    plugin: ModuleType, model: AudioLM, recording: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELISTEN_FORMAT", format)
    cot = BAD.partition("</think>")[0].removeprefix("<think>")
    said = f"<think>{cot}</think><answer>two knocks</answer>"
    inputs = SimpleNamespace(messages=[{"content": "?"}, {"content": said}], audios=[str(recording)], extra_kwargs={})
    plugin.written(model, inputs, said, 64_000)
    trace = encode(model, example(recording, cot=cot), format).trace  # type: ignore[arg-type]
    content = inputs.messages[-1]["content"]
    assert content["token_ids"] == plugin.shortened(trace)[0]
    assert sum(content["loss_scale"]) == sum(trace.sampled) < len(content["loss_scale"])
    assert len(inputs.audios) == (2 if format == "interleaved" else 1)
    assert inputs.extra_kwargs == {"add_eos": False}
    inputs.audios = [str(recording)]
    with pytest.raises(ValueError, match="lasts 4"):
        plugin.written(model, inputs, said, 63_999)
    with pytest.raises(ValueError, match="a response must be <think>"):
        plugin.written(model, inputs, "It is <seg>0, 1</seg> there.", 64_000)


def test_a_set_is_exported_with_the_model_s_own_prompt(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"id": "a", "audio_path": recording.name, "question": "What?", "choices": ["a dog", "a cat"]}
    line |= {"answer": "a dog", "cot": "Heard <seg>0.5, 1.5</seg> there."}
    prompts = models.load_without_weights("nano").prompts
    made = recording.parent / "sft.jsonl"
    made.write_text(json.dumps(line) + "\n", encoding="utf-8")
    out = tmp_path / "swift.jsonl"
    assert cli.run(["export", "ms-swift", str(made), str(out), "--model", "nano"]) == 0
    [row] = records.read(out)
    assert row["audios"] == [str(recording)] and row["solution"] == "a dog" and row["segments"] == [[0.5, 1.5]]
    assert [m["content"] for m in row["messages"]] == [
        prompts.system or "",
        "<audio>" + prompts.text("What?", ("a dog", "a cat"), "interleaved"),
        "<think>Heard <seg>0.5, 1.5</seg> there.</think><answer>a dog</answer>",
    ]
    for bad, reason in (({"answer": None}, "no answer"), ({"question": "An <image>?"}, "says <image>")):
        made.write_text(json.dumps(line | bad) + "\n", encoding="utf-8")
        assert cli.run(["export", "ms-swift", str(made), str(out), "--model", "nano"]) == 2
        assert reason in capsys.readouterr().err


def test_a_set_that_is_not_there_is_named_before_a_model_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["export", "ms-swift", str(tmp_path / "no.jsonl"), str(tmp_path / "out.jsonl")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "no.jsonl" in line and "hub" not in line
