"""Two processes train as one does: the same weights in both, the same loss as one process with the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY

from relisten.data.scene_files import write_scenes
from relisten.grpo import GrpoConfig, train_grpo
from relisten.models import nano
from relisten.sft import SftConfig, train_sft

SHARED = {
    "steps": 2, "batch_size": 4, "device_batch_size": 2, "learning_rate": 1e-3, "bf16": False, "workers": 0,
    "save_steps": 2, "log_steps": 1, "data": "scenes/questions.jsonl", "model": "tiny",
}  # fmt: skip
GRPO = {"mini_batch_size": 4, "group_size": 4, "max_new_tokens": 8, "rewards": ("own_rewards:shortness",)}
# As torchrun starts two processes, but split after the imports, which are most of the time.
SCRIPT = f"""
import os
import sys
from pathlib import Path
import torch
from relisten import training
from relisten.grpo import GrpoConfig, train_grpo
from relisten.sft import SftConfig, train_sft

child = os.fork()
rank = "1" if child == 0 else "0"
os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
whole = training.train
def watched(trainer):
    folder = whole(trainer)
    mine = torch.cat([p.detach().flatten() for p in trainer.audio_lm.module.parameters()])
    torch.save(mine, f"{{trainer.config.output.name}}-{{trainer.args.process_index}}.pt")
    return folder
training.train = watched
train_sft(SftConfig(output=Path("two-sft"), format="interleaved", **{SHARED!r}))
train_grpo(GrpoConfig(output=Path("two-grpo"), **{SHARED!r}, **{GRPO!r}))
torch.distributed.destroy_process_group()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
OWN = "def shortness(response, example):\n    return -0.01 * len(response.text)\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have trained."""
    folder = tmp_path_factory.mktemp("two")
    questions = write_scenes(folder / "scenes", num=8, questions=1)
    texts = [str(json.loads(line).get("cot")) for line in questions.read_text().splitlines()]
    nano.create([*texts, "user assistant <think></think><answer></answer>"] * 2, TINY).save(folder / "tiny")
    (folder / "own_rewards.py").write_text(OWN)
    (folder / "train.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": port}
    done = subprocess.run([sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def figures(folder: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_two_processes_train_as_one(work: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(work)
    output = Path(f"one-{name}")
    if name == "sft":
        train_sft(SftConfig(output=output, format="interleaved", **SHARED))  # type: ignore[arg-type]
    else:
        train_grpo(GrpoConfig(output=output, **SHARED, **GRPO))  # type: ignore[arg-type]
    ranks = [torch.load(work / f"two-{name}-{rank}.pt") for rank in (0, 1)]
    assert torch.equal(*ranks), "the processes have drifted apart"
    two = work / f"two-{name}"
    assert figures(two, "loss") == pytest.approx(figures(output, "loss"), abs=1e-5)
    if name == "grpo":
        assert figures(two, "reward") == pytest.approx(figures(output, "reward"), abs=1e-6)
        assert figures(two, "kl") == pytest.approx(figures(output, "kl"), abs=1e-5)
    assert figures(two, "grad_norm") == pytest.approx(figures(output, "grad_norm"), rel=1e-3)
    one, other = (load_file(work / f / "model" / "model.safetensors") for f in (f"one-{name}", f"two-{name}"))
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, atol=2e-4, rtol=0, msg=key)
    assert (two / "checkpoints" / "checkpoint-2" / "rng_state_1.pth").exists()
