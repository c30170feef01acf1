"""LoRA adapters: trained in float32, saved beside their base, asked, trained further, and merged when asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY

from relisten import cli
from relisten.data.worlds.scene_files import write_scenes
from relisten.models import adapter, load, nano, weight_files
from relisten.models.base import AudioLM
from relisten.models.folder import plain_name
from relisten.training import trainer as training
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.grpo import train_grpo
from relisten.training.plan import planned
from relisten.training.sft import train_sft

REWARD = "def shortness(response, example):\n    return -0.01 * len(response.text) + (response.answer is not None)\n"
SHARED: dict[str, Any] = {"bf16": False, "workers": 0, "lora": 4, "learning_rate": 1e-2, "save_steps": 2}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight questions, a tiny model, the same in bfloat16, and a reward of one's own."""
    folder = tmp_path_factory.mktemp("adapter")
    questions = write_scenes(folder / "scenes", num=8, questions=1)
    texts = [str(json.loads(line).get("cot")) for line in questions.read_text().splitlines()]
    model = nano.create([*texts, "user assistant <think></think><answer></answer>"] * 2, TINY)
    model.save(folder / "tiny")
    model.module.bfloat16()
    model.save(folder / "tiny-bf16")
    (folder / "adapter_rewards.py").write_text(REWARD)
    return folder


@pytest.fixture(autouse=True)
def where_rewards_are(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    """An adapter after four steps of SFT."""
    return train_sft(sft(work, work / "sft"))


def sft(work: Path, output: Path, **fields: Any) -> SftConfig:
    own = {"steps": 4, "batch_size": 2, "device_batch_size": 2, "format": "interleaved", "model": str(work / "tiny")}
    return SftConfig(**({"data": str(work / "scenes" / "questions.jsonl"), "output": output} | SHARED | own | fields))


def grpo(output: Path, **fields: Any) -> GrpoConfig:
    own = {"steps": 3, "batch_size": 4, "mini_batch_size": 4, "group_size": 4, "max_new_tokens": 12, "save_steps": 1}
    own |= {"rewards": ("adapter_rewards:shortness",)}
    return GrpoConfig(**({"data": "scenes/questions.jsonl", "output": output} | SHARED | own | fields))


def logits(model: AudioLM) -> torch.Tensor:
    ids = torch.arange(10, 50)[None]
    with torch.no_grad():
        return model.forward(ids, torch.arange(40)[None], [], None).float()


def figures(folder: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return list({row["step"]: row[name] for row in rows if name in row}.values())


def test_an_adapter_is_saved_beside_its_base_and_answers(work: Path, trained: Path) -> None:
    assert (trained / "adapter_model.safetensors").exists() and not list(trained.glob("model*.safetensors"))
    settings = json.loads((trained / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(work / "tiny")
    model, base = load(trained), load(work / "tiny")
    assert model.name == str(trained) and model.prompts == base.prompts
    assert not torch.allclose(logits(model), logits(base), atol=1e-2)
    stored = load_file(trained / "adapter_model.safetensors")
    assert all(bool(weight.any()) for weight in stored.values()), "every adapter has learnt, the audio tower's too"
    for part in ("q_proj", "out_proj", "fc1", "fc2", "audio_tower.proj", "gate_proj"):
        assert any(f"{part}.lora_B" in name for name in stored), part
    assert {path.parent for path in weight_files(trained)} == {trained, work / "tiny"}


def test_a_killed_run_goes_on_exactly_and_its_checkpoint_can_be_asked(
    work: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(work / "sft", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "model")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "checkpoint-4")
    again = load_file(train_sft(sft(work, tmp_path / "cut")) / "adapter_model.safetensors")
    for name, value in load_file(trained / "adapter_model.safetensors").items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=0, msg=name)
    last, half = (work / "sft" / "checkpoints" / f"checkpoint-{step}" for step in (4, 2))
    assert torch.equal(logits(load(last)), logits(load(trained))) and not torch.equal(
        logits(load(half)), logits(load(trained))
    )
    asked = ["ask", "scenes/questions.jsonl", "--model", str(half), "--max-new-tokens", "4", "--out", f"{tmp_path}/a"]
    assert cli.run(asked) == 0, capsys.readouterr().err
    assert cli.run(["eval", "scenes/questions.jsonl", f"{tmp_path}/e", "--model", str(half)]) == 0


def test_rates_for_adapters_are_larger_and_told(work: Path, tmp_path: Path) -> None:
    """LoRA ran at the rates of full tuning, where 684 steps change a layer's output by 0.16 %."""
    found = [
        (kind(output=tmp_path, data="", lora=lora).peak_rate) for kind in (SftConfig, GrpoConfig) for lora in (0, 8)
    ]
    assert found == [5e-6, 1e-4, 1e-6, 1e-5]
    assert SftConfig(output=tmp_path, data="", lora=8, learning_rate=3e-5).peak_rate == 3e-5
    told = planned(sft(work, tmp_path / "run", learning_rate=None)).lines()
    assert "LoRA adapters of rank 4 are trained at a learning rate of 0.0001." in told
    told = planned(sft(work, tmp_path / "run", learning_rate=5e-6)).lines()
    assert any("hardly changes a LoRA adapter; 0.0001 is usual" in line for line in told)


def test_grpo_goes_on_from_an_adapter_and_stays_near_it(work: Path, trained: Path, tmp_path: Path) -> None:
    """The reference was the base model, the adapter switched off: another policy than the one at the start."""
    model = train_grpo(grpo(tmp_path / "run", model=str(trained)))
    assert json.loads((model / "adapter_config.json").read_text())["base_model_name_or_path"] == str(work / "tiny")
    kl = figures(tmp_path / "run", "kl")
    assert abs(kl[0]) < 1e-6 < kl[1] and len(kl) == 3
    assert max(figures(tmp_path / "run", "logprob_difference")) < 1e-5
    start, end = (load_file(folder / "adapter_model.safetensors") for folder in (trained, model))
    assert start.keys() == end.keys() and any(not torch.equal(start[name], end[name]) for name in start)
    shutil.copytree(tmp_path / "run", tmp_path / "cut", ignore=shutil.ignore_patterns("checkpoint-[23]", "model"))
    again = load_file(train_grpo(grpo(tmp_path / "cut", model=str(trained))) / "adapter_model.safetensors")
    assert figures(tmp_path / "cut", "kl") == pytest.approx(kl, abs=1e-6), "the reference is not the checkpoint"
    for name, value in end.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=0, msg=name)


def test_the_reference_of_a_new_adapter_is_the_base(work: Path, tmp_path: Path) -> None:
    model = training.prepare(grpo(tmp_path / "run", model=str(work / "tiny")))
    assert torch.equal(logits(model), logits(load(work / "tiny"))), "a new adapter changes nothing"
    train_grpo(grpo(tmp_path / "run", model=str(work / "tiny"), steps=2))
    kl = figures(tmp_path / "run", "kl")
    assert abs(kl[0]) < 1e-6 < kl[1]


def test_frozen_parts_of_an_adapter_are_not_trained_further(work: Path, trained: Path, tmp_path: Path) -> None:
    model = training.prepare(sft(work, tmp_path / "run", model=str(trained), freeze=("*audio_tower.*",)))
    names = [name for name, parameter in model.module.named_parameters() if parameter.requires_grad]
    assert names and all(".lora_" in name and "audio_tower" not in name for name in names)


# --- merging --------------------------------------------------------------------------------------------------------


def test_merging_in_float32_changes_no_answer(work: Path, trained: Path, tmp_path: Path) -> None:
    assert cli.run(["merge", str(trained), str(tmp_path / "merged")]) == 0
    merged = load(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(load(trained)), atol=1e-5, rtol=0)
    assert merged.module.state_dict().keys() == load(work / "tiny").module.state_dict().keys()
    assert merged.prompts == load(work / "tiny").prompts


def test_what_merging_into_bfloat16_loses_is_told(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small change of weights in bfloat16 is mostly lost in their rounding, and nothing said so."""
    folder = train_sft(
        sft(work, tmp_path / "run", model=str(work / "tiny-bf16"), bf16=True, learning_rate=1e-4, steps=2)
    )
    assert all(weight.dtype == torch.float32 for weight in load_file(folder / "adapter_model.safetensors").values())
    capsys.readouterr()
    assert cli.run(["merge", str(folder), str(tmp_path / "merged")]) == 0
    assert "in bfloat16. Rounding adds an error of" in " ".join(capsys.readouterr().err.split())
    assert load(tmp_path / "merged").module.dtype == torch.bfloat16
    model, base = load(folder), load(work / "tiny-bf16").module.state_dict()
    adapter.to_float32(model.module, folder)
    lost = adapter.merge(model, torch.bfloat16)
    moved = sum(
        float((v != base[name]).float().mean()) for name, v in model.module.state_dict().items() if "q_proj" in name
    )
    assert lost > 0.3 and moved < 2, "most of the weights have not moved at all"
    assert cli.run(["merge", str(folder), str(tmp_path / "whole"), "--dtype", "float32"]) == 0
    assert "Nothing of its change is lost" in " ".join(capsys.readouterr().err.split())


def test_full_tuning_of_an_adapter_starts_from_the_merged_weights(
    work: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = training.prepare(sft(work, tmp_path / "run", model=str(trained), lora=0))
    assert "its adapter is merged into the weights" in capsys.readouterr().err
    torch.testing.assert_close(logits(model), logits(load(trained)), atol=1e-5, rtol=0)
    assert sum(p.requires_grad for p in model.module.parameters()) > 30 and not adapter.parameters(model.module)


def test_an_adapter_is_merged_whole_where_weights_are_sharded(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharded weights are loaded in bfloat16, into which most of a small adapter would be lost."""
    given = {"model": str(work / "tiny-bf16"), "bf16": True, "learning_rate": 1e-4, "steps": 2}
    folder = train_sft(sft(work, tmp_path / "run", **given))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    model = training.prepare(sft(work, tmp_path / "full", model=str(folder), lora=0, bf16=True))
    assert "Nothing of its change is lost" in capsys.readouterr().err
    assert model.module.dtype == torch.float32 and model.module.config.dtype == torch.bfloat16


# --- what cannot be loaded ------------------------------------------------------------------------------------------


def test_names_of_another_release_of_transformers_are_known(trained: Path, tmp_path: Path) -> None:
    """Releases name the same layers differently; an adapter from a GPU machine did not fit the model on a laptop."""
    shutil.copytree(trained, tmp_path / "other")
    path = tmp_path / "other" / "adapter_model.safetensors"
    stored = load_file(path)
    for text, tower in (("model.", ""), ("model.language_model.", "model."), ("thinker.model.", "thinker.")):
        renamed = {}
        for name, weight in stored.items():
            plain = plain_name(name.removeprefix("base_model.model."))
            renamed[f"base_model.model.{tower if plain.startswith('audio_tower') else text}{plain}"] = weight
        save_file(renamed, path)
        assert torch.equal(logits(load(tmp_path / "other")), logits(load(trained)))


def settings(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file(change(load_file(path)), path)

    return rewrite


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (settings(base_model_name_or_path="/gone/away"), "its base model cannot be found"),
        (settings(base_model_name_or_path=""), "names no base model"),
        (settings(base_model_name_or_path="."), "its base model . is an adapter too"),
        (settings(base_model_name_or_path="wide"), "which wide does not have"),
        (settings(use_dora=True), "use_dora is True; only plain LoRA"),
        (settings(peft_type="IA3"), "peft_type is IA3"),
        (settings(bias="all"), "bias is all"),
        (settings(r=3), "is not an adapter of rank 3"),
        (settings(r="many"), "r is many"),
        (settings(lora_alpha=-1), "lora_alpha -1"),
        (weights(lambda w: dict(list(w.items())[1:])), "is not an adapter of rank 4"),
        (weights(lambda w: w | {"model.lm_head.weight": torch.zeros(2, 2)}), "is not an adapter of rank 4"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "not a whole safetensors file"),
        (lambda folder: void((folder / "adapter_config.json").write_text("{")), "is not JSON"),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_used_is_one_line(
    work: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Path], None],
    said: str,
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(trained, folder)
    break_it(folder)
    monkeypatch.chdir(folder)
    nano.create(["user assistant"] * 2, nano.NanoConfig(**{**vars(TINY), "hidden_size": 48})).save(folder / "wide")
    with pytest.raises(ValueError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def void(_: object) -> None:
    """For a lambda that returns nothing."""


def test_what_cannot_be_adapted_is_said_before_training(
    work: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fields, said in (
        ({"model": str(trained), "lora": 8}, "is an adapter of rank 4; give --lora 4"),
        ({"model": "own:model"}, "an adapter names its base model"),
        ({"optimizer": "muon"}, "lora with muon"),
    ):
        with pytest.raises(ValueError, match=said):
            train_sft(sft(work, tmp_path / "run", **fields))
    assert not (tmp_path / "run").exists()
    assert cli.run(["merge", str(work / "tiny"), str(tmp_path / "out")]) == 2
    assert cli.run(["merge", str(trained), str(work / "tiny")]) == 2
    assert cli.run(["export", "vllm", str(trained), str(tmp_path / "out")]) == 2
    assert "relisten merge" in capsys.readouterr().err
