"""What a dry run reckons from shapes is what a real step takes; nothing is loaded, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bases import BASES, qwen3_omni_moe
from tiny import TINY

from benchmarks.training import peak_bytes
from relisten.cli import run
from relisten.data.worlds.scene_files import write_scenes
from relisten.models import adapter, nano
from relisten.training import dry_run, memory
from relisten.training import trainer as training
from relisten.training.batch import encode, model_inputs, pack
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.plan import planned
from relisten.training.trainer import token_logprobs_of
from relisten.types import Audio, Example

TEXT = "user assistant <think>a dog barks, then a bell rings, then a door</think><answer></answer>"
WIDE = replace(TINY, hidden_size=128, num_layers=3, num_heads=4, intermediate_size=384, audio_width=64, audio_layers=3,
               audio_intermediate_size=256)  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight questions, and a model's folder without its weights."""
    folder = tmp_path_factory.mktemp("dry")
    write_scenes(folder / "scenes", num=8, questions=1)
    nano.create([TEXT] * 2, TINY).save(folder / "tiny")
    (folder / "tiny" / "model.safetensors").unlink()
    return folder


def config(**fields: Any) -> SftConfig:
    return SftConfig(**({"data": "none", "output": Path("none"), "bf16": False} | fields))


def examples(num: int) -> list[Example]:
    rng = np.random.default_rng(0)
    samples = [rng.normal(0, 0.1, 48_000).astype(np.float32) for _ in range(num)]
    return [Example(str(n), Audio(s), "What is it?", (), "bell", "a dog barks " * 40) for n, s in enumerate(samples)]


def peak_of_a_step(model: Any, num: int) -> tuple[float, memory.Forward]:
    """The most bytes that a real forward and backward pass of `num` rows held, without gradients of weights."""
    model.module.set_attn_implementation("sdpa")
    asked = examples(num)
    batch = pack([[encode(model, example, "grounded")] for example in asked])
    for parameter in model.module.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    model.module.train()
    found: dict[str, float] = {}
    with peak_bytes(found):
        token_logprobs_of(model, model_inputs(batch))[0].sum().backward()
    frames = sum(model.num_encoder_frames(len(one.audio.samples)) for one in asked if isinstance(one.audio, Audio))
    return found["peak"], memory.Forward(*batch.input_ids.shape, frames)


def shape(model: Any) -> memory.Shape:
    return memory.Shape(type(model.module), model.module.config, 4)


def as_it_is(model: Any) -> None:
    """Train the weights."""


def with_adapters(model: Any) -> None:
    training.set_trained(model, config(lora=4, model="tiny"))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("prepare", [as_it_is, with_adapters])
def test_activations_are_those_of_a_real_step(recompute: bool, prepare: Callable[[Any], None]) -> None:
    model = nano.create([TEXT] * 2, WIDE)
    prepare(model)
    if recompute:
        model.module.gradient_checkpointing_enable()
    real, forward = peak_of_a_step(model, 4)
    rank = 4 if prepare is with_adapters else 0
    plain = shape(nano.create([TEXT] * 2, WIDE))
    reckoned = memory.activations(plain, forward, torch.float32, config(lora=rank), recompute, rank)
    assert reckoned == pytest.approx(real, rel=0.25)


@pytest.mark.parametrize("make", [*BASES.values(), qwen3_omni_moe], ids=lambda make: make.__name__)
def test_every_base_is_reckoned_from_its_folder(make: Callable[[], Any], tmp_path: Path) -> None:
    """Once, only Qwen2.5-Omni was."""
    model = make()
    model.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    plain, counting, notes = dry_run.shape_of(str(tmp_path))
    assert (plain.module, plain.own_bytes, notes) == (type(model.module), 4, [])
    assert counting.text(TEXT) == len(model.encode(TEXT)) and counting.audio(48_000) == len(model.audio_tokens(48_000))
    n = memory.counts(plain, config(lora=4))
    assert n.total == sum(parameter.numel() for parameter in model.module.parameters())
    real, forward = peak_of_a_step(model, 4)
    assert memory.activations(plain, forward, torch.float32, config(), False) == pytest.approx(real, rel=0.25)
    with_adapters(model)
    assert n.adapters == sum(parameter.numel() for parameter in adapter.parameters(model.module).values())


def test_the_counts_are_those_of_the_real_model() -> None:
    n = memory.counts(dry_run.seven(), config(lora=64))
    assert n.total == 8_931_813_888  # as the index of its weights says, without the Talker
    assert 8.2e9 < n.trained < 8.3e9 and 1.9e8 < n.adapters < 2.3e8
    model = nano.create([TEXT] * 2, TINY)
    training.set_trained(model, config(lora=4, model="tiny"))
    added = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
    plain = nano.create([TEXT] * 2, TINY).module
    n = memory.counts(memory.Shape(type(plain), plain.config, 4), config(lora=4))
    assert n.adapters == added and n.total == sum(p.numel() for p in plain.parameters())
    assert n.layer < n.total and n.root < n.total


def test_what_stays_in_memory_is_what_a_gpu_held() -> None:
    """docs/gpu.md: after two steps of GRPO with LoRA of rank 64, an H200 held 17.48 GiB. That model had no vision
    tower, and its audio tower had fewer adapters than today."""
    text_and_attention = ("*.[qkvo]_proj", "*.gate_proj", "*.up_proj", "*.down_proj")
    settings = config(lora=64, lora_modules=text_and_attention)
    seven = dry_run.seven()
    n = memory.counts(seven, settings)
    with torch.device("meta"):
        module = seven.module(seven.config)
    vision = sum(p.numel() for name, p in module.named_parameters() if "visual" in name)
    held = 2 * (n.total - vision) + (memory.MASTER + memory.ADAM) * n.adapters
    assert held / 2**30 == pytest.approx(17.48, rel=0.02)


def test_more_gpus_need_less_each_and_settings_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "activations", lambda _1, _2, _3, _4, recompute, _5: 2.0 if recompute else 7.0)
    tiny, forward = replace(shape(nano.create([TEXT] * 2, TINY)), own_bytes=2), memory.Forward(2, 200, 200)
    settings = GrpoConfig(data="none", output=Path("none"), bf16=True)
    two, four = ({need.way: need for need in memory.needs(settings, tiny, forward, n)} for n in (2, 4))
    for way in ("FSDP2", "ZeRO-3"):
        half, quarter = two[f"full, {way} on 2"], four[f"full, {way} on 4"]
        for part in ("weights", "gradients", "optimizer", "reference"):
            assert getattr(half, part) == 2 * getattr(quarter, part) > 0
        assert half.whole == quarter.whole and (half.activations, half.other_activations) == (7.0, 2.0)
    assert two["full, DDP"].gradients == four["full, DDP"].gradients
    [lora, full] = memory.needs(replace(settings, kl=0.0, lora=8), tiny, forward, 1)
    assert (lora.way, full.way) == ("LoRA, rank 8", "full, one GPU")
    assert lora.reference == full.reference == 0 and lora.optimizer < full.optimizer
    assert lora.rollout < lora.update and lora.weights < full.weights


def test_a_dry_run_needs_no_weights_and_writes_nothing(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    given = ["--data", str(work / "scenes" / "questions.jsonl"), "--output", "run", "--model", str(work / "tiny")]
    for kind, columns in (("sft", 9), ("grpo", 11)):
        assert run(["train", kind, *given, "--dry-run", "--gpus", "2", "--gpu-memory", "24"]) == 0
        said = capsys.readouterr().out
        for way in ("LoRA, rank 64", "full, DDP", "full, FSDP2 on 2", "full, ZeRO-3 on 2"):
            [row] = [line for line in said.splitlines() if way in line]
            assert " yes " in row and len(row.replace(way, "").split()) >= columns, row
        assert "tokens (median of 8; the longest" in said and "fits in 24" in said
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_told(work: Path, tmp_path: Path) -> None:
    settings = SftConfig(data=str(work / "scenes" / "questions.jsonl"), output=tmp_path, model=str(work / "tiny"))
    small = dry_run.reckoned(planned(settings, weights=False), 2, 1.5)
    large = replace(small, memory=8e9)
    assert len(small.needs) == 4 and not any(map(small.fits, small.needs)) and all(map(large.fits, large.needs))


def test_tokens_are_counted_as_they_are_trained(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's figure for its examples is that of the traces that are really made of them."""
    monkeypatch.setattr(dry_run, "needs", lambda *_: [])  # the memory, which takes longest, is another question
    shutil.copytree(work, tmp_path / "here")
    model = nano.create([TEXT] * 2, TINY)
    model.save(tmp_path / "here" / "tiny")
    data = tmp_path / "here" / "scenes" / "questions.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for format_ in ("grounded", "interleaved"):
        plan = planned(SftConfig(data=str(data), output=tmp_path / "run", model=str(tmp_path / "here" / "tiny"),
                                 format=format_))  # fmt: skip
        real = [len(encode(model, plan.rows(n)[0], format_).trace.token_ids) for n in range(len(rows))]
        [line] = [line for line in dry_run.reckoned(plan, 1, 8.0).lines if "the longest" in line]
        told = int(line.partition("the longest ")[2].partition(")")[0].replace(",", ""))
        assert told == pytest.approx(max(real), rel=0.15)


@pytest.mark.parametrize(
    ("fields", "message"),
    [(["--gpus", "0"], "gpus is 0"), (["--model", "relisten.models:load"], "reads the shape of a model from a folder")],
)
def test_mistakes_are_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: list[str], message: str
) -> None:
    data, output = str(work / "scenes" / "questions.jsonl"), str(tmp_path / "run")
    given = ["--data", data, "--output", output, "--model", str(work / "tiny"), "--dry-run"]
    if "--model" in fields:
        given = [*given[:4], "--dry-run"]
    assert run(["train", "sft", *given, *fields]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
