"""`relisten export vllm`: the whole model's layout around the Thinker, with the same weights and the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from relisten import cli, models
from relisten.models.folder import read_json
from relisten.remote.export import CONTROL, export_vllm


def test_the_exported_model_is_the_same_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "served"
    assert cli.run(["export", "vllm", "nano", str(out)]) == 0
    assert "--enable-scale-out" in capsys.readouterr().out
    config = read_json(out / "config.json")
    assert config["architectures"] == ["Qwen2_5OmniModel"]
    assert config["thinker_config"]["audio_token_id"] == config["thinker_config"]["audio_token_index"]
    assert set(read_json(out / "tokenizer_config.json")["extra_special_tokens"]) == set(CONTROL)
    assert config["thinker_config"]["text_config"]["tie_word_embeddings"] is False
    ours, theirs = models.load("nano"), models.load(out)
    for name, tensor in ours.module.state_dict().items():
        assert torch.equal(tensor, theirs.module.state_dict()[name]), name
    assert theirs.encode("<think>A dog</think>") == ours.encode("<think>A dog</think>")


def test_the_longest_piece_of_audio_can_be_set(tmp_path: Path) -> None:
    export_vllm("nano", tmp_path / "served", max_seconds=45)
    settings, own = (
        read_json(folder / "preprocessor_config.json") for folder in (tmp_path / "served", models.find("nano"))
    )
    assert settings["chunk_length"] == 45 and settings["n_samples"] == 45 * own["sampling_rate"]
    assert settings["feature_size"] == own["feature_size"]


def test_several_files_of_weights_stay_several(tmp_path: Path) -> None:
    model = models.load("nano")
    model.save(tmp_path / "model")
    whole = tmp_path / "model" / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, whole.parent / file, metadata={"format": "pt"})
    whole.unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (whole.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    out = export_vllm(str(tmp_path / "model"), tmp_path / "served")
    assert sorted(path.name for path in out.glob("*.safetensors")) == sorted(parts)
    theirs = models.load(out).module.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.module.state_dict().items())


def test_what_cannot_be_exported_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export_vllm("nano", tmp_path / "served")
    for model, to, said in (
        (out, tmp_path / "again", "it is whole already"),
        (tmp_path / "nothing", tmp_path / "x", "no such folder"),
        (tmp_path, tmp_path / "x", "config.json: is missing"),
    ):
        assert cli.run(["export", "vllm", str(model), str(to)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert cli.run(["export", "vllm", str(models.find("nano")), str(models.find("nano"))]) == 2
    assert "its own folder" in capsys.readouterr().err.replace("the model's own folder", "its own folder")
