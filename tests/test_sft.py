"""Supervised fine-tuning: it learns, it goes on after kill -9 as if nothing had happened, it says what is wrong."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import TINY

from relisten import cli
from relisten.data.worlds.scene_files import write_scenes
from relisten.models import load, nano
from relisten.training import hooks
from relisten.training import trainer as training
from relisten.training.checkpoint import latest, prune, staged
from relisten.training.config import SftConfig
from relisten.training.optimizer import Muon, MuonWithAdamW
from relisten.training.plan import planned, sole_run
from relisten.training.sft import SftDataset, train_sft


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight questions and a tiny model."""
    folder = tmp_path_factory.mktemp("sft")
    questions = write_scenes(folder / "scenes", num=8, questions=1)
    texts = [str(json.loads(line).get("cot")) for line in questions.read_text().splitlines()]
    nano.create([*texts, "user assistant <think></think><answer></answer>"] * 2, TINY).save(folder / "tiny")
    return folder


def config(work: Path, output: Path, **fields: object) -> SftConfig:
    settings = {"steps": 6, "batch_size": 2, "device_batch_size": 2, "learning_rate": 1e-3, "save_steps": 2,
                "log_steps": 1, "bf16": False, "format": "interleaved", "workers": 0, "optimizer": "muon"}  # fmt: skip
    return SftConfig(
        data=str(work / "scenes" / "questions.jsonl"), output=output, model=str(work / "tiny"), **(settings | fields)
    )


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.usefixtures("curves")
def test_the_loss_falls_and_the_model_that_is_written_loads(work: Path, tmp_path: Path) -> None:
    folder = train_sft(config(work, tmp_path / "run", steps=12, save_steps=50, learning_rate=1e-2))
    found = losses(tmp_path / "run")
    assert len(found) == 12 and found[-1] < 0.8 * found[0]
    trained, before = load(folder), load(work / "tiny")
    assert trained.prompts == before.prompts
    moved = [
        name for name, p in trained.module.state_dict().items() if not torch.equal(p, before.module.state_dict()[name])
    ]
    assert moved and not any("visual" in name or "audio_bos_eos" in name for name in moved)
    assert {"config.json", "run.json", "metrics.jsonl", "curves.png"} <= {p.name for p in (tmp_path / "run").iterdir()}


def test_kill_9_and_the_same_command_give_the_undisturbed_run(work: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "relisten.cli", "train", "sft"]
    settings = {
        "data": work / "scenes" / "questions.jsonl", "model": work / "tiny", "steps": 20, "batch-size": 2,
        "device-batch-size": 2, "learning-rate": 1e-3, "save-steps": 2, "format": "interleaved", "bf16": "false",
    }  # fmt: skip
    given = [f"--{name}={value}" for name, value in settings.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        [*command, *given, "--output", str(tmp_path / "killed")], env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 900
    while not list((tmp_path / "killed" / "checkpoints").glob("checkpoint-*/trainer_state.json")):
        assert killed.poll() is None and time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists(), "it had finished: nothing was resumed"
    for folder in ("killed", "whole"):
        assert cli.run([*command[3:], *given, "--output", str(tmp_path / folder)]) == 0
    resumed, whole = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "whole"))
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=0, msg=name)


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    for step, state in ((2, "{}"), (10, "{}"), (12, '{"cut'), (14, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert latest(tmp_path) == str(tmp_path / "checkpoint-10")


def test_gradients_gathered_over_parts_are_those_of_the_whole_batch(work: Path, tmp_path: Path) -> None:
    for name, size in (("whole", 4), ("parts", 1)):
        train_sft(config(work, tmp_path / name, steps=2, batch_size=4, device_batch_size=size, optimizer="adamw"))
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "parts"), abs=2e-4)


def test_muon_steps_as_torchs_does_but_for_the_rounding_of_bfloat16() -> None:
    torch.manual_seed(0)
    tall, wide = torch.randn(12, 4), torch.randn(5, 9)
    ours, theirs = ([tall.clone().requires_grad_(), wide.clone().requires_grad_()] for _ in range(2))
    options = {"lr": 1e-2, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = Muon(ours, **options), torch.optim.Muon(theirs, **options)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=5e-4, rtol=1e-3)


def test_muon_takes_the_matrices_and_restores_its_memory() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 3))
    copy = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 3))
    copy.load_state_dict(module.state_dict())
    one, two = MuonWithAdamW(module, 1e-2), MuonWithAdamW(copy, 1e-2)
    data = torch.randn(5, 4)

    def step(net: torch.nn.Module, optimizer: MuonWithAdamW) -> None:
        optimizer.zero_grad()
        net(data).square().mean().backward()
        optimizer.step()

    step(module, one)
    step(copy, two)
    fresh = MuonWithAdamW(copy, 1e-2)
    fresh.load_state_dict(two.state_dict())
    step(module, one)
    step(copy, fresh)
    for a, b in zip(module.parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert [len(g["params"]) for g in one.param_groups] == [2, 4]
    fresh.param_groups[0]["lr"] = 0.0
    before = copy[0].weight.clone()
    step(copy, fresh)
    assert torch.equal(copy[0].weight, before), "a schedule that sets lr here must reach Muon"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"data": "relisten.data.worlds.curriculum:base_rows", "steps": -1}, "give the number of steps"),
        ({"data": "relisten.data.worlds.curriculum:nothing"}, "nothing"),
        ({"model": "nowhere/at/all"}, "no such folder"),
        ({"optimizer": "sgd"}, "optimizer"),
    ],
)
def test_wrong_settings_are_said_in_one_line(
    work: Path, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    settings = replace(config(work, tmp_path / "run"), **fields)
    with pytest.raises(ValueError, match=message) as caught:
        train_sft(settings)
    assert "\n" not in str(caught.value)


def test_other_settings_in_the_same_folder_are_refused(work: Path, tmp_path: Path) -> None:
    train_sft(config(work, tmp_path / "run", steps=1))
    with pytest.raises(ValueError, match="learning_rate"):
        train_sft(config(work, tmp_path / "run", steps=1, learning_rate=0.5))


def test_what_workers_are_given_can_be_pickled(work: Path, tmp_path: Path) -> None:
    """Where processes are not forked, the rows of a file are sent to them."""
    plan = planned(config(work, tmp_path / "run"))
    rows, num = plan.rows, plan.num_rows
    assert [pickle.loads(pickle.dumps(rows))(i)[0].id for i in range(num)] == [rows(i)[0].id for i in range(num)]


def test_processes_that_prepare_data_get_no_weights(work: Path, tmp_path: Path) -> None:
    """Where processes are spawned, each was sent the whole model: 18 to 36 GB of a 7B."""
    plan, model = planned(config(work, tmp_path / "run")), load(work / "tiny")
    dataset = SftDataset(model, plan.rows, plan.num_rows, "interleaved")
    sent = pickle.dumps(dataset)
    assert len(sent) < len(pickle.dumps(model)) / 2 and hasattr(model, "module")
    for mine, theirs in zip(dataset[0], pickle.loads(sent)[0], strict=True):
        assert mine.trace == theirs.trace
        assert all(torch.equal(*pair) for pair in zip(mine.features, theirs.features, strict=True))


def test_a_full_disk_is_said_in_one_line_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    with staged(tmp_path, "checkpoint-2") as part:
        (part / "checkpoint-2").mkdir(parents=True)
        (part / "checkpoint-2" / "trainer_state.json").write_text("{}")

    def fill(failure: Exception) -> None:
        with staged(tmp_path, "checkpoint-4") as part:
            (part / "checkpoint-4").mkdir(parents=True)
            raise failure

    for failure in (OSError(28, "No space left on device"), RuntimeError("enforce fail at inline_container.cc")):
        with pytest.raises(OSError, match="make room on the disk"):
            fill(failure)
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"] and latest(tmp_path)


def test_old_checkpoints_are_deleted_by_number(tmp_path: Path) -> None:
    for step in (2, 10, 8):
        (tmp_path / f"checkpoint-{step}").mkdir()
    prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-8"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_goes_on_exactly_and_makes_no_step_too_many(work: Path, tmp_path: Path, optimizer: str) -> None:
    fields = {"optimizer": optimizer, "steps": 3, "save_steps": 1, "schedule": "constant"}  # within an epoch of four
    ends = []
    for kept in (3, 1):  # checkpoints that are left: the last, as when a run is killed while it writes its model
        folder = tmp_path / "whole" if kept == 3 else tmp_path / "cut"
        if kept == 1:
            shutil.copytree(tmp_path / "whole", folder)
            for step in (2, 3):
                shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step}")
        for _ in range(2):
            model = train_sft(config(work, folder, keep_checkpoints=3, **fields))
            ends.append(load_file(model / "model.safetensors"))
        assert {path.name for path in (folder / "checkpoints").glob("c*")} == {f"checkpoint-{n}" for n in (1, 2, 3)}
    for again in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(again[name], value, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("short", "long"),
    [({"steps": 3}, {"steps": 6}), ({"steps": -1, "epochs": 0.75}, {"steps": -1, "epochs": 1.5})],
)
def test_a_finished_run_goes_on_with_more_steps(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], short: dict[str, Any], long: dict[str, Any]
) -> None:
    """It was refused as another run; and where the schedule had ended, the next step would have had the rate 0."""
    fields = {"optimizer": "adamw", "save_steps": 1, "schedule": "constant"}
    train_sft(config(work, tmp_path / "run", **fields, **short))
    model = load_file(train_sft(config(work, tmp_path / "run", **fields, **long)) / "model.safetensors")
    whole = load_file(train_sft(config(work, tmp_path / "whole", **fields, **long)) / "model.safetensors")
    for name, value in whole.items():
        torch.testing.assert_close(model[name], value, atol=1e-6, rtol=0, msg=name)
    assert len(losses(tmp_path / "run")) == 6 and "is longer than when" not in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"{next(reversed(short))} is"):
        train_sft(config(work, tmp_path / "run", **fields, **short))


def test_a_longer_run_has_a_longer_schedule(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"optimizer": "muon", "save_steps": 1, "schedule": "linear", "warmup": 0.0}
    train_sft(config(work, tmp_path / "run", steps=2, **fields))
    train_sft(config(work, tmp_path / "run", steps=4, **fields))
    told = "linear schedule with it: it goes on at a learning rate of 0.0005, where it stopped at 0."
    assert told in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert rates == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4])


def test_several_gpus_ask_for_several_processes(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 2"):
        train_sft(config(work, tmp_path / "run"))


def test_a_missing_recording_is_told_before_a_model_is_loaded(work: Path, tmp_path: Path) -> None:
    row = json.loads((work / "scenes" / "questions.jsonl").read_text().splitlines()[0])
    (tmp_path / "q.jsonl").write_text(json.dumps(row | {"audio_path": "gone.wav"}) + "\n")
    with pytest.raises(ValueError, match="the recordings of 1 examples do not exist"):
        planned(SftConfig(data=str(tmp_path / "q.jsonl"), output=tmp_path / "run"))


def test_what_fails_in_a_process_that_prepares_data_is_one_line(work: Path, tmp_path: Path) -> None:
    row = json.loads((work / "scenes" / "questions.jsonl").read_text().splitlines()[0])
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps(row | {"id": str(n), "audio_path": "bad.wav"}) + "\n" for n in range(2))
    )
    broken = replace(config(work, tmp_path / "run", workers=1), data=str(tmp_path / "q.jsonl"))
    with pytest.raises(ValueError, match=r"bad\.wav") as caught:
        train_sft(broken)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"freeze": ("*",)}, {"freeze": ("*audio_towr*",)}, {"schedule": "wobbly"}, {"schedule": "warmup_stable_decay"},
        {"save_steps": 0}, {"steps": 0}, {"warmup": 1.0}, {"warmup": -1.0}, {"weight_decay": -1.0},
        {"keep_checkpoints": 0}, {"report_to": ("none",)},
        {"lora_modules": ("foo",), "lora": 4, "optimizer": "adamw"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_begin_no_run(work: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        train_sft(config(work, tmp_path / "run", **wrong))
    assert not (tmp_path / "run").exists()


def test_what_never_gets_a_gradient_is_frozen_whatever_is_asked(work: Path, tmp_path: Path) -> None:
    """A process group would wait for it for ever."""
    module = training.prepare(config(work, tmp_path / "run", freeze=())).module
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in module.named_parameters() if "visual" in n or "audio_bos_eos_token" in n} != set()


@pytest.mark.parametrize("name", ["sft nano_clips", "sft paper_sft", "grpo nano_grpo", "grpo paper_grpo"])
def test_the_settings_in_runs_are_read_whole(name: str) -> None:
    """Once a command called `data` hid the key of that name."""
    kind, file = name.split()
    path = Path(__file__).parent.parent / "runs" / f"{file}.yaml"
    _, bound, _ = cli.app.parse_args(["train", kind, str(path)], exit_on_error=False, print_error=False)
    given = yaml.safe_load(path.read_text())
    read = vars(bound.arguments["config"])
    for key, value in given.items():
        as_read = tuple(value) if isinstance(value, list) else type(read[key])(value)
        assert read[key] == as_read, key


# --- what a run says ------------------------------------------------------------------------------------------------


def test_few_examples_are_fitted_and_the_user_is_told_what_to_do(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the defaults, 32 rows made one step and nothing was said."""
    train_sft(
        SftConfig(data=str(work / "scenes" / "questions.jsonl"), output=tmp_path / "run", model=str(work / "tiny"),
                  bf16=False, workers=0)
    )  # fmt: skip
    said = capsys.readouterr().err
    assert ": 1 step of 8 examples" in said and ", 1 epoch:" in said
    assert "batch_size is 64, but there are only 8 examples: each step takes 8." in said
    assert "--batch-size 8 --epochs 40" in said and "--learning-rate" in said
    assert f"relisten ask RECORDING 'QUESTION' --model {tmp_path / 'run' / 'model'} --format grounded" in said
    assert f"relisten compare {tmp_path / 'run'}/eval-before {tmp_path / 'run'}/eval-after" in said
    assert "loss: " in said, "a short run logs every step"


def test_the_time_is_told_and_what_has_changed(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_sft(config(work, tmp_path / "run"))
    said, found = capsys.readouterr().err, losses(tmp_path / "run")
    assert re.search(r"A step takes about \d+\.\d s, so the other 3 take about ", said)
    assert f"loss: {found[0]:.3f} at step 1, {found[-1]:.3f} at step 6" in said


def test_two_processes_do_not_train_in_one_folder(work: Path, tmp_path: Path) -> None:
    """They wrote each other's metrics, and one of them died with `make room on the disk`."""
    first = planned(config(work, tmp_path / "run"))
    with sole_run(first.config), pytest.raises(ValueError, match="another process is writing it"):
        train_sft(config(work, tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
    train_sft(config(work, tmp_path / "run"))


def test_help_and_mistakes_of_train_need_no_torch(work: Path, tmp_path: Path) -> None:
    """They took many seconds, which were spent on importing it."""
    (tmp_path / "own.py").write_text("def broken(response, example):\n    return response.nothing\n")
    data = work / "scenes" / "questions.jsonl"
    lines = (
        "import sys; from relisten import cli\n"
        f"given = ['--data', {str(data)!r}, '--output', 'run', '--model', 'nano']\n"
        "for kind in ('sft', 'grpo'):\n"
        "    assert cli.run(['train', kind, '--help']) == 0\n"
        "    for wrong in (['--warmup', '3'], ['--steps', '0'], ['--data', 'gone.jsonl'], ['--model', 'no/such/one'],\n"
        "                  ['--report-to', 'nowhere']):\n"
        "        assert cli.run(['train', kind, *given, *wrong]) == 2, (kind, wrong)\n"
        "assert cli.run(['train', 'grpo', *given, '--rewards', 'own:broken']) == 2\n"
        "print([name for name in ('torch', 'transformers', 'accelerate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"
    told = [line for line in done.stderr.splitlines() if line.startswith("relisten: ")]
    assert len(told) == 11 and "Traceback" not in done.stderr
    assert "reward 'broken' failed for question" in told[-1] and "AttributeError" in told[-1]
    assert not (tmp_path / "run").exists()


# --- private names --------------------------------------------------------------------------------------------------


def test_every_private_name_that_the_trainers_override_is_there() -> None:
    """If this fails after an upgrade: read the new Trainer, mend training/hooks.py, and raise CHECKED and the bound."""
    assert hooks.missing() == []
    source = "".join(path.read_text() for path in (Path(hooks.__file__).parent).rglob("*.py"))
    called = set(re.findall(r"super\(\)\.(_[a-z]\w+)\(", source)) - {"_"}
    assert called <= hooks.PRIVATE.keys(), "put a new private name into training/hooks.py"
    assert len(hooks.PRIVATE) <= 5, "they were eleven; find a public way"
    minor = int(hooks.CHECKED.rpartition(".")[2])
    assert f"transformers>=5.16.1,<5.{minor + 1}" in (Path(__file__).parent.parent / "pyproject.toml").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is a dependency of the tests only on Linux")
def test_the_private_name_of_deepspeed_is_there() -> None:
    offload = importlib.import_module("deepspeed.runtime.zero.parameter_offload").DeepSpeedZeRoOffload
    assert hasattr(offload, "_register_deepspeed_module"), "sharding/zero.py puts the hooks back with it"


def test_a_private_name_that_is_gone_stops_the_run(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("transformers.Trainer._save_checkpoint")
    with pytest.raises(ValueError, match=r"has no Trainer\._save_checkpoint as relisten needs it; install a version"):
        train_sft(config(work, tmp_path / "run"))
