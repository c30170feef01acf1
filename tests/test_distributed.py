"""Two processes train as one does, each with the whole model (DDP) or with half of it (FSDP2, DeepSpeed's ZeRO-3): the
same weights in both, the same loss as one process with the whole batch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import TINY

from relisten.data.worlds.scene_files import write_scenes
from relisten.models import nano
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.grpo import train_grpo
from relisten.training.sft import train_sft
from relisten.training.sharding.zero import Zero3

# With 420 tokens in a forward, one process makes two forwards for its two rows where the other makes one.
SHARED = {
    "steps": 2, "batch_size": 4, "device_tokens": 420, "learning_rate": 1e-3, "bf16": False, "workers": 0,
    "save_steps": 1, "log_steps": 1, "data": "scenes/questions.jsonl", "model": "tiny",
}  # fmt: skip
SFT = {"format": "interleaved"}
UNASKED = {
    "mini_batch_size": 4, "group_size": 4, "max_new_tokens": 8, "rewards": ("processes_rewards:shortness",),
}  # fmt: skip
GRPO = UNASKED | {"eval_data": "scenes/questions.jsonl", "eval_steps": 1}
LORA = {"lora": 4, "learning_rate": 1e-2}
RUNS = Path(__file__).parent.parent / "runs"
HOW = ["two", "fsdp", *["zero"][: sys.platform == "linux"]]  # where the tests' own extras bring DeepSpeed


def zero() -> dict[str, str]:
    """What `accelerate launch` makes of the ZeRO-3 file in runs/ for the processes that it starts."""
    config = yaml.safe_load((RUNS / "accelerate_zero3.yaml").read_text())
    assert config["distributed_type"] == "DEEPSPEED"
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_MIXED_PRECISION": config["mixed_precision"],
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(RUNS.parent / config["deepspeed_config"]["deepspeed_config_file"]),
        "DS_ACCELERATOR": "cpu",
    }


def sharded() -> dict[str, str]:
    """What it makes of the FSDP2 file."""
    config = yaml.safe_load((RUNS / "accelerate_fsdp2.yaml").read_text())
    assert config["distributed_type"] == "FSDP"
    own = {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": config["mixed_precision"]}
    return own | {
        name.upper().replace("_LAYER", ""): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in config["fsdp_config"].items()
    }


# As torchrun starts two processes, but split after the imports, which are most of the time.
SCRIPT = f"""
import os
import shutil
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
import torch
from accelerate import Accelerator, DistributedType, PartialState
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, training_args
from relisten.training import grpo, losses, plots, progress, trainer as training
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.grpo import train_grpo
from relisten.training.sft import train_sft
if "zero" in {HOW!r}:
    import deepspeed  # accelerate imports it where it is installed

def started():  # both ranks of DDP, and when they are done those of FSDP2 and ZeRO-3; in each of them its name
    for name, port, more in zip({HOW!r}, sys.argv[1:], ({{}}, {sharded()!r}, {zero()!r})):
        ranks = []
        for rank in "01":
            ranks.append(os.fork())
            if not ranks[-1]:
                os.environ.update(more, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                                  MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
                return name
        if any([os.waitpid(rank, 0)[1] for rank in ranks]):
            sys.exit(1)
    sys.exit()
name = started()
made = PartialState.__init__
def as_on_gpus(self, *arguments, **more):
    made(self, *arguments, **more)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU
if name == "fsdp":  # which accelerate has for GPUs alone: it is told that these processes are on some
    PartialState.__init__ = as_on_gpus
if name == "zero":  # the same for DeepSpeed, which itself trains on CPUs as well
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    training_args.is_torch_bf16_gpu_available = lambda: True
    from deepspeed.runtime.zero import GatheredParameters
    backend = import_module("deepspeed.comm.torch")  # `from deepspeed.comm import torch` is torch itself
    assert backend.build_shm_op
    backend.build_shm_op = lambda: None  # a faster exchange, which it would compile for half a minute
whole = training.train
def watched(trainer, *more):
    folder = whole(trainer, *more)
    parameters = list(trainer.audio_lm.module.parameters())
    assert any(isinstance(p, DTensor) for p in parameters) == (name == "fsdp")
    assert any(p.numel() < getattr(p, "ds_numel", 0) for p in parameters) == (name == "zero")
    with GatheredParameters(parameters) if name == "zero" else nullcontext():
        mine = torch.cat([(p.full_tensor() if isinstance(p, DTensor) else p).detach().flatten() for p in parameters])
    torch.save(mine, f"{{trainer.config.output.name}}-{{trainer.args.process_index}}.pt")
    return folder
training.train = watched
plots.training_curves = lambda *_: None  # they take longer than the training
write = training.PackedTrainer.write
def in_its_precision(self, folder, dtype, weights):
    assert dtype is None or not weights or {{weight.dtype for weight in weights.values()}} == {{dtype}}, "cast at once"
    write(self, folder, dtype, weights)
training.PackedTrainer.write = in_its_precision
losses.CHUNK = 4096  # log-probabilities in several chunks
class Stopped(Exception): pass
def stop(self, arguments, state, control, **_):
    if state.global_step == 1:
        progress.TrainingProgress.on_step_begin = TrainerCallback.on_step_begin
        raise Stopped
def stopped_once(train, config):
    progress.TrainingProgress.on_step_begin = stop
    try:
        train(config)
    except Stopped:
        train(config)
held = []
backward = Accelerator.backward
def measured(self, loss, **more):
    backward(self, loss, **more)
    if name == "fsdp":
        trained = [p for p in self._models[0].parameters() if p.requires_grad]
        parts = sum(p.grad.to_local().nbytes for p in trained if p.grad is not None)
        held.append(parts / sum(p.numel() for p in trained))
Accelerator.backward = measured
stopped_once(train_sft, SftConfig(output=Path(name + "-sft"), **{SHARED | SFT!r}))
scored = grpo.token_logprobs_of
def in_full(*arguments, **more):
    scores = scored(*arguments, **more)
    assert all(score.dtype == torch.float32 for score in scores)
    return scores
grpo.token_logprobs_of = in_full
stopped_once(train_grpo, GrpoConfig(output=Path(name + "-grpo"), **{SHARED!r}, **{GRPO!r}))
torch.save(held, name + "-held.pt")
if name != "two":
    begun = {{"fsdp": "two", "zero": "fsdp"}}[name]
    if os.environ["RANK"] == "0":
        shutil.copytree(begun + "-sft", begun + "-" + name + "-sft",
                        ignore=shutil.ignore_patterns("checkpoint-2", "model"))
    torch.distributed.barrier()
    train_sft(SftConfig(output=Path(begun + "-" + name + "-sft"), **{SHARED | SFT!r}))
    half = {SHARED | SFT | {"bf16": True, "model": "half"}!r}
    stopped_once(train_sft, SftConfig(output=Path(name + "-half"), **half))
    train_grpo(GrpoConfig(output=Path(name + "-bf16"), **{SHARED | UNASKED | {"bf16": True, "steps": 1}!r}))
if name == "two":  # adapters train in whole models alone
    first, then = {SHARED | SFT | LORA!r}, {SHARED | UNASKED | LORA | {"model": "two-lora-sft/model"}!r}
    train_sft(SftConfig(output=Path("two-lora-sft"), **first))
    stopped_once(train_grpo, GrpoConfig(output=Path("two-lora-grpo"), **then))
if name != "fsdp":  # which makes its steps as DDP does; DeepSpeed makes them within the backward pass
    minis = {SHARED | UNASKED | {"steps": 3, "mini_batch_size": 2}!r}
    train_grpo(GrpoConfig(output=Path(name + "-minis"), **minis))
torch.distributed.destroy_process_group()
"""
OWN = "def shortness(response, example):\n    return -0.01 * len(response.text)\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have trained: with DDP, with FSDP2, with ZeRO-3."""
    folder = tmp_path_factory.mktemp("two")
    questions = write_scenes(folder / "scenes", num=8, questions=1)
    texts = [str(json.loads(line).get("cot")) for line in questions.read_text().splitlines()]
    model = nano.create([*texts, "user assistant <think></think><answer></answer>"] * 2, TINY)
    model.save(folder / "tiny")
    model.module.bfloat16()
    model.save(folder / "half")
    (folder / "processes_rewards.py").write_text(OWN)
    (folder / "train.py").write_text(SCRIPT)
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in HOW]
        for one in free:
            one.bind(("127.0.0.1", 0))
        ports = [str(one.getsockname()[1]) for one in free]
    command = [sys.executable, "train.py", *ports]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def train_once(name: str, output: Path | None = None) -> None:
    """One process trains, in the folder it is in, to the end."""
    output = output or Path(f"one-{name}")
    if (output / "model").exists():
        return
    if name == "sft":
        train_sft(SftConfig(output=output, **(SHARED | SFT)))  # type: ignore[arg-type]
    else:
        train_grpo(GrpoConfig(output=output, **SHARED, **GRPO))  # type: ignore[arg-type]


def figures(folder: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("how", HOW)
def test_two_processes_train_as_one(work: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(work)
    for name in ("sft", "grpo"):
        train_once(name)
        output, two = work / f"one-{name}", work / f"{how}-{name}"
        ranks = [torch.load(work / f"{how}-{name}-{rank}.pt") for rank in (0, 1)]
        assert torch.equal(*ranks), "the processes have drifted apart"
        assert figures(two, "loss") == pytest.approx(figures(output, "loss"), abs=1e-5)
        if name == "grpo":
            assert figures(two, "reward") == pytest.approx(figures(output, "reward"), abs=1e-6)
            assert figures(two, "kl") == pytest.approx(figures(output, "kl"), abs=1e-5)
            assert max(figures(two, "logprob_difference")) < 1e-5
            for figure in ("equal_groups", "ratio_max", "eval_accuracy", "eval_questions", "eval_well_formed"):
                # of both processes, not of the first
                assert figures(two, figure) == pytest.approx(figures(output, figure), abs=1e-4)
        assert figures(two, "grad_norm") == pytest.approx(figures(output, "grad_norm"), rel=1e-3)
        one, other = (load_file(folder / "model" / "model.safetensors") for folder in (output, two))
        assert set(one) == set(other)
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, atol=1e-5, rtol=0, msg=f"{name}: {key}")
        assert (two / "checkpoints" / "checkpoint-2" / "rng_state_1.pth").exists()
    if how != "two":
        assert max(figures(work / f"{how}-bf16", "logprob_difference")) < 0.1
        full, rounded = (figures(work / name, "entropy")[0] for name in (f"{how}-grpo", f"{how}-bf16"))
        assert 0 < abs(full - rounded) < 0.1, "bfloat16 has rounded something, and not much"


def test_adapters_train_in_several_processes_and_further_from_where_they_were(work: Path) -> None:
    for run in ("two-lora-sft", "two-lora-grpo"):
        assert torch.equal(*(torch.load(work / f"{run}-{rank}.pt") for rank in (0, 1))), "the processes have drifted"
    first, last = figures(work / "two-lora-grpo", "kl")
    assert abs(first) < 1e-6 < last, "the reference is the adapter at the start"
    assert max(figures(work / "two-lora-grpo", "logprob_difference")) < 1e-5


def test_sharded_gradients_are_never_whole(work: Path) -> None:
    """Until the last forward of a batch, FSDP2 held them whole: 4 bytes a parameter, 33 GB for 7B on each GPU."""
    held = torch.load(work / "fsdp-held.pt")
    assert len(held) > 4, "none of the four steps had several forwards"
    assert held == pytest.approx([2.0] * len(held), rel=0.1), "4 bytes, over two processes"


def test_sharded_optimisers_are_written_in_parts(work: Path) -> None:
    """They went through the first process, which needed 107 GB for 7B."""
    checkpoint = work / "fsdp-sft" / "checkpoints" / "checkpoint-2"
    weights = sum(value.nbytes for value in load_file(checkpoint / "model.safetensors").values())
    sizes = [path.stat().st_size for path in (checkpoint / "optimizer").glob("*.safetensors")]
    assert len(sizes) == 2 and max(sizes) < 1.3 * weights, "AdamW's two moments, over two processes"
    assert not (checkpoint / "optimizer.pt").exists()


@pytest.mark.parametrize("how", HOW[1:])
def test_a_model_in_bfloat16_is_trained_in_float32_and_saved_as_it_came(work: Path, how: str) -> None:
    folder = work / f"{how}-half"
    exact = load_file(folder / "checkpoints" / "checkpoint-2" / "model.safetensors")
    saved, before = (load_file(path / "model.safetensors") for path in (folder / "model", work / "half"))
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert json.loads((folder / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    trained = [name for name in exact if "visual" not in name and not torch.equal(saved[name], before[name])]
    assert len(trained) > 30 and all(exact[name].dtype == torch.float32 for name in trained)


@pytest.mark.skipif("zero" not in HOW, reason="the tests' extras bring DeepSpeed on Linux alone")
def test_zero_makes_every_step_of_a_rollout(work: Path) -> None:
    runs = [work / "two-minis", work / "zero-minis"]
    for figure in ("loss", "ratio_max", "kl", "grad_norm", "learning_rate"):
        two, zero = (figures(run, figure) for run in runs)
        assert zero == pytest.approx(two, rel=1e-3, abs=1e-5), figure
    assert max(figures(runs[0], "ratio_max")) > 1.001, "the second step of a rollout is not made"
    two, zero = (load_file(run / "model" / "model.safetensors") for run in runs)
    for key, value in two.items():
        torch.testing.assert_close(zero[key], value, atol=1e-5, rtol=0, msg=key)


RESUMED = [f"{how}-{kind}" for how in HOW for kind in ("sft", "grpo")]


@pytest.mark.parametrize("name", [*RESUMED, "two-fsdp-sft", *["fsdp-zero-sft"][: "zero" in HOW]])
def test_a_run_goes_on_in_other_processes_than_it_began_in(
    work: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(work)
    kind = name.rpartition("-")[2]
    train_once(kind)
    moved = Path(name)
    if name in RESUMED:  # else it went on in the script, sharded
        moved = Path(f"{name}-one")
        shutil.copytree(name, moved, ignore=shutil.ignore_patterns("checkpoint-2", "model"))
        train_once(kind, moved)
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (Path(f"one-{kind}"), moved))
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, atol=1e-5, rtol=0, msg=f"{name}: {key}")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"FSDP_VERSION": "1"}, "fsdp_version to 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "gradient_checkpointing"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "fsdp_cpu_ram_efficient_loading"),
        ({"optimizer": "muon"}, "adamw"),
        ({"lora": 4}, "torchrun"),
        ({}, "only on GPUs"),  # accelerate would train without sharding, and say nothing
        (zero(), "only on GPUs"),
        (zero() | {"optimizer": "muon"}, "deepspeed splits"),
    ],
)
def test_what_does_not_work_sharded_is_said_in_one_line(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(work)
    for name, value in (sharded() | more).items():
        if name.isupper():
            monkeypatch.setenv(name, value)
    settings = SHARED | {name: value for name, value in more.items() if name.islower()}
    with pytest.raises(ValueError, match=said) as caught:
        train_sft(SftConfig(output=tmp_path / "run", **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"zero_optimization": {"stage": 2}}, "set it to 3"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}, "offload_param is not supported"),
        ({"zero_optimization": {"stage": 3}, "scheduler": {"type": "WarmupLR"}}, "scheduler in the DeepSpeed file"),
    ],
)
def test_what_a_deepspeed_file_may_not_say(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config=settings))
    with pytest.raises(ValueError, match=said):
        Zero3(SimpleNamespace(state=state))
