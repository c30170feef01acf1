"""A model folder may come from anybody: nothing in it is executed, and a broken one is refused in one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_audio, make_model
from safety import model_folders

import relisten
from relisten import cli
from relisten.audio import save


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as it should be."""
    folder = tmp_path_factory.mktemp("good")
    make_model(layers=2).save(folder)
    return folder


def test_code_in_a_model_folder_never_runs_asked_for_or_not(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The tokenizer was loaded without trust_remote_code=False: transformers asked, and `yes |` answered."""
    folder, trace = tmp_path / "model", tmp_path / "executed"
    shutil.copytree(good, folder)
    evil = f"open({str(trace)!r}, 'w').close()\nclass A: pass\n"
    for name in ("evil.py", "modeling_evil.py", "configuration_evil.py", "custom_generate/generate.py", "__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(evil)
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoFeatureExtractor")
    code = dict.fromkeys(classes, "evil.A") | {"AutoTokenizer": ["evil.A", "evil.A"]}
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"auto_map": code, "trust_remote_code": True}))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    relisten.load(folder, device="cpu")
    save(tmp_path / "a.wav", make_audio(1.0))
    cli.run(["ask", str(tmp_path / "a.wav"), "?", "--model", str(folder), "--max-new-tokens", "4"])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "Evil"}))
    with pytest.raises(ValueError, match=r"tokenizer\.json: cannot be loaded as a tokenizer"):
        relisten.load(folder, device="cpu")
    assert not trace.exists() and "[y/N]" not in "".join(capfd.readouterr())


def test_pickled_weights_are_never_opened(good: Path, tmp_path: Path) -> None:
    folder, trace = tmp_path / "model", tmp_path / "executed"
    shutil.copytree(good, folder)

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(trace),)

    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(pickle.dumps({"lm_head.weight": Evil()}))
    with pytest.raises(ValueError, match=r"pickled weights only.*never read"):
        relisten.load(folder, device="cpu")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("file", "where", "value", "message"),
    [
        # Building a billion layers never ended; the others took 7 GB, hung, or gave a traceback in mid-run.
        ("config.json", ("audio_config", "encoder_layers"), 10**9, "config.json: audio_config.encoder_layers is 10000"),
        ("config.json", ("text_config", "num_hidden_layers"), 1, "but the weights have 2 layers of it"),
        ("config.json", ("text_config", "intermediate_size"), 10**7, "where config.json asks for"),
        ("config.json", ("audio_config", "max_source_positions"), 10**8, "bytes beside the weights"),
        ("config.json", ("text_config", "rope_parameters", "mrope_section"), [1], "cannot be used"),
        ("config.json", ("attn_implementation",), "somebody/kernel", "would be fetched and run"),
        ("config.json", ("quantization_config",), {"quant_method": "fp8"}, "are quantised"),
        ("config.json", ("model_type",), "base", "config.json: model type 'base' is not supported yet"),
        ("preprocessor_config.json", ("hop_length",), -1, "preprocessor_config.json: hop_length is -1"),
        ("preprocessor_config.json", ("n_fft",), 10**9, "preprocessor_config.json: n_fft is 1000000000"),
        ("prompts.json", ("instructions", "grounded"), None, "prompts.json: is not a prompts file .grounded"),
        ("tokenizer.json", ("normalizer",), {"type": "Lowercase"}, "does not give back the text"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_right_are_refused_before_they_cost_anything(
    good: Path, tmp_path: Path, file: str, where: tuple[str, ...], value: object, message: str
) -> None:
    broken = model_folders.Broken("", model_folders.edited(file, where, value))
    outcome = model_folders.tried(good, broken, tmp_path)
    assert outcome.kind == "refused" and message.split(".")[0] in outcome.said, outcome
    with pytest.raises(ValueError, match=message):
        relisten.load(tmp_path / "model", device="cpu")


def test_a_pipe_in_a_model_folder_is_not_waited_for(good: Path, tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json", "model.safetensors"):
        broken = model_folders.Broken("", lambda folder, name=name: pipe(folder / name))
        outcome = model_folders.tried(good, broken, tmp_path)
        assert outcome.kind == "refused" and f"{name}: is not a file" in outcome.said, outcome


def pipe(path: Path) -> None:
    """Put a pipe in the place of a file."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def test_some_of_all_single_changes_of_a_model_folder(good: Path, tmp_path: Path) -> None:
    """A bounded fuzz with a fixed seed; `pytest -m slow tests/safety` tries as many as its time allows."""
    for broken in model_folders.chosen(good, num=25, seed=19):
        outcome = model_folders.tried(good, broken, tmp_path)
        assert outcome.kind != "failed", (broken.name, outcome.said)


def test_saving_a_model_replaces_every_file_whole_and_follows_no_link(tmp_path: Path) -> None:
    """A run's folder that came from somebody else could hold model/config.json as a link to a file of the user's."""
    precious, folder = tmp_path / "precious", tmp_path / "model"
    precious.write_text("keep me")
    model = make_model(layers=1)
    model.save(folder)
    stale = folder / "model-00001-of-00002.safetensors"
    stale.write_bytes(b"of an earlier run that wrote two")
    for name in ("config.json", "prompts.json", "model.safetensors"):
        (folder / name).unlink()
        (folder / name).symlink_to(precious)
    model.save(folder)
    assert precious.read_text() == "keep me" and not stale.exists() and not (folder / ".part").exists()
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert relisten.load(folder, device="cpu").prompts == model.prompts
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ValueError, match="is a link"):
        model.save(tmp_path / "link")


def test_the_unbroken_folder_is_used(good: Path, tmp_path: Path) -> None:
    """Otherwise every trial above would be refused for one and the same reason."""
    outcome = model_folders.tried(good, model_folders.Broken("", lambda folder: None), tmp_path)
    assert outcome.kind == "passed", outcome
    assert torch.isfinite(next(iter(relisten.load(good, device="cpu").module.parameters()))).all()
