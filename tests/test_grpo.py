"""GRPO end to end on a tiny model: what is trained and what never is, resuming, options, what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY

from relisten.data.worlds.scene_files import write_scenes
from relisten.engine.engine import Engine
from relisten.engine.scripted import ScriptedEngine
from relisten.models import adapter, load, nano
from relisten.models.base import AudioLM
from relisten.training import trainer as training
from relisten.training.config import GrpoConfig
from relisten.training.grpo import Forward, GrpoTrainer, QuestionDataset, train_grpo
from relisten.training.plan import planned
from relisten.training.progress import TrainingProgress
from relisten.training.rollout import Rollout
from relisten.training.trainer import token_logprobs_of

REWARD = "def shortness(response, example):\n    return -0.01 * len(response.text) + (response.answer is not None)\n"
TEXTS = ["<think>it is <seg>0.5, 1.5</seg>, so <seg>2.0, 2.6</seg> then</think><answer>bell</answer>user assistant"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight questions, a tiny model, and a reward of one's own."""
    folder = tmp_path_factory.mktemp("grpo")
    write_scenes(folder / "scenes", num=8, questions=1)
    nano.create(TEXTS * 4, TINY).save(folder / "tiny")
    (folder / "own_rewards.py").write_text(REWARD)
    return folder


@pytest.fixture(autouse=True)
def where_rewards_are(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


SETTINGS: dict[str, Any] = {
    "steps": 4, "batch_size": 4, "mini_batch_size": 2, "group_size": 4, "device_batch_size": 8, "max_new_tokens": 12,
    "learning_rate": 1e-3, "save_steps": 1, "bf16": False, "workers": 0, "rewards": ("own_rewards:shortness",),
}  # fmt: skip


def config(work: Path, output: Path, **fields: Any) -> GrpoConfig:
    data = str(work / "scenes" / "questions.jsonl")
    return GrpoConfig(**({"data": data, "output": output, "model": str(work / "tiny")} | SETTINGS | fields))


def lines(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def scripted(model: AudioLM) -> Callable[[int, int], Callable[[int], int | None]]:
    """Every answer hears one segment or two, at places of its own, in words of its own."""

    def script(index: int, sample: int) -> Callable[[int], int | None]:
        words = [" so", " is", " it", " then"]
        tags = ["<seg>0.5, 1.5</seg>", "<seg>2.0, 2.6</seg>"][: 1 + (index + sample) % 2]
        heard = "".join(f"{tag}, so{words[(index + sample + i) % 4]}" for i, tag in enumerate(tags))
        answer = "bell" if sample else "so"
        text = f"<think>{words[index % 4] * (1 + sample)}{heard}</think><answer>{answer}</answer>"
        return dict(enumerate([*model.encode(text), model.end_token_id])).get

    return script


def trainer(work: Path, output: Path, **fields: Any) -> GrpoTrainer:
    """A trainer whose rollouts hear segments, by a script."""
    fields = {"max_new_tokens": 60, "rewards": ("own_rewards:shortness", "segment", "format")} | fields
    plan = planned(config(work, output, **fields))
    settings = plan.config
    assert isinstance(settings, GrpoConfig)
    model = training.prepare(settings)
    arguments = training.arguments(
        settings, model, per_device_train_batch_size=settings.batch_size, dataloader_drop_last=True
    )
    made = GrpoTrainer(
        model, settings, args=arguments, train_dataset=QuestionDataset(model.rate, plan.rows, plan.num_rows),
        callbacks=[TrainingProgress(settings.output, shown="reward")],
    )  # fmt: skip
    made.engine = ScriptedEngine(model, scripted(model))
    return made


def rolled(made: GrpoTrainer, num: int = 3) -> list[list[Rollout]]:
    examples = [made.train_dataset[i] for i in range(num)]
    return made._roll_out(examples, 0, {})


def gradients(made: GrpoTrainer, batch: list[Forward]) -> dict[str, torch.Tensor]:
    made.model.train()
    made.model.zero_grad()
    made._backward(made.model, batch, compare=True)
    return {name: p.grad.clone() for name, p in made.model.named_parameters() if p.grad is not None}


def test_replay_gives_ratio_one_and_no_kl_at_the_first_step(work: Path, tmp_path: Path) -> None:
    """Release 1 to 3: here segments are heard, side by side, and the sampled tokens are what is trained."""
    made = trainer(work, tmp_path / "run")
    groups = rolled(made)
    assert all(len(one.response.heard) in (1, 2) for group in groups for one in group)
    batch = made._forwards(groups)
    made.model.train()
    figures = made._backward(made.model, batch, compare=True)
    assert figures["logprob_difference"] < 1e-5
    assert figures["ratio_max"] == 1.0 and figures["kl"] == 0.0 and figures["clipped"] == 0.0
    assert 0 < figures["entropy"] < 8
    grads = {name: p.grad for name, p in made.model.named_parameters() if p.grad is not None}
    assert any("audio_tower" in name and float(g.abs().sum()) > 0 for name, g in grads.items())
    assert not any("visual" in name or "audio_bos_eos" in name for name in grads)


def test_the_ratio_is_taken_at_the_temperature_of_the_rollout(work: Path, tmp_path: Path) -> None:
    """At another temperature than 1, the policy that sampled is another distribution than the one that was trained."""
    made = trainer(work, tmp_path / "run", temperature=0.5, old_logprobs="rollout")
    batch = made._forwards(rolled(made))
    made.model.train()
    figures = made._backward(made.model, batch, compare=True)
    assert figures["logprob_difference"] < 1e-5 and figures["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    forward = batch[0]
    cool, _ = token_logprobs_of(made.audio_lm, forward.inputs, temperature=0.5)
    plain, _ = token_logprobs_of(made.audio_lm, forward.inputs)
    torch.testing.assert_close(cool, forward.sampled, atol=1e-5, rtol=0)
    assert (plain - forward.sampled).abs().max() > 1e-3
    made.engine = Engine(made.audio_lm)  # as it really samples
    [group] = rolled(made, 1)
    [forward] = made._forwards([group])
    cool, _ = token_logprobs_of(made.audio_lm, forward.inputs, temperature=0.5)
    torch.testing.assert_close(cool, forward.sampled, atol=1e-5, rtol=0)


def test_only_sampled_tokens_are_in_any_term_and_the_end_is_one(work: Path, tmp_path: Path) -> None:
    """Release 7 and 11: the end was never trained, and KL and denominators took inserted audio in."""
    made = trainer(work, tmp_path / "run")
    model, groups = made.audio_lm, rolled(made)
    for forward in made._forwards(groups):
        inputs, at = forward.inputs, 0
        targets = inputs["token_ids"]
        assert not torch.isin(targets, model.banned_token_ids).any()
        assert len(forward.sampled) == len(targets) == int(forward.lengths.sum())
        for one, length in zip(forward.rollouts, forward.lengths.tolist(), strict=True):
            own = [i for i, sampled in zip(one.trace.token_ids, one.trace.sampled, strict=True) if sampled]
            assert inputs["token_ids"][at : at + length].tolist() == own and own[-1] == model.end_token_id
            at += length


def test_what_stands_at_inserted_positions_changes_no_bit_of_the_gradient(work: Path, tmp_path: Path) -> None:
    """Another id as target, NaN as old log-probability: neither is looked at. What the model is shown is kept."""
    made = trainer(work, tmp_path / "run")
    groups = rolled(made)
    first = made._forwards(groups)
    before = gradients(made, first)
    for group in groups:
        for one in group:
            own = one.trace.sampled
            one.trace.logprobs = [p if s else float("nan") for p, s in zip(one.trace.logprobs, own, strict=True)]
            ids = zip(one.trace.token_ids, own, strict=True)
            one.trace.token_ids = [t if s or i < one.trace.num_prompt else 7 for i, (t, s) in enumerate(ids)]
    again = made._forwards(groups)
    for forward, other in zip(again, first, strict=True):
        assert not torch.equal(forward.inputs["input_ids"], other.inputs["input_ids"])
        forward.inputs["input_ids"] = other.inputs["input_ids"]
    after = gradients(made, again)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_equal_rewards_move_nothing_and_are_counted(work: Path, tmp_path: Path) -> None:
    made = trainer(work, tmp_path / "run", rewards=("accuracy",), steps=1, batch_size=4, mini_batch_size=4)
    made.train()
    [line] = lines(tmp_path / "run")
    assert line["equal_groups"] == 1.0 and line["loss"] == 0.0 and line["grad_norm"] == 0.0


def test_answers_to_one_question_share_its_prompt_unless_they_are_too_long(work: Path, tmp_path: Path) -> None:
    """device_batch_size 4 once cut each group of 8, and each half read the prompt and its recording again."""
    made = trainer(work, tmp_path / "run", device_batch_size=1)
    groups = rolled(made)
    assert [len(forward.rollouts) for forward in made._forwards(groups)] == [4, 4, 4]
    length = max(forward.inputs["input_ids"].shape[1] for forward in made._forwards(groups))
    small = trainer(work, tmp_path / "small", device_tokens=length - 1)
    assert [len(forward.rollouts) for forward in small._forwards(groups)].count(4) < 3
    assert max(forward.inputs["input_ids"].numel() for forward in small._forwards(groups)) < length
    together = trainer(work, tmp_path / "together", device_batch_size=0)._forwards(groups)
    assert [len(forward.rollouts) for forward in together] == [12]


def test_a_forward_that_keeps_step_counts_for_nothing(work: Path, tmp_path: Path) -> None:
    made = trainer(work, tmp_path / "run", device_batch_size=1)
    groups = rolled(made)
    before = gradients(made, made._forwards(groups))
    made.num_forwards = lambda own: own + 2
    forwards = made._forwards(groups)
    assert [forward.idle for forward in forwards] == [True, True, False, False, False]
    after = gradients(made, forwards)
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, atol=1e-7, rtol=1e-5, msg=name)


@pytest.mark.parametrize("fields", [{"device_batch_size": 1}, {"device_tokens": 150}, {"gradient_checkpointing": 1}])
def test_how_answers_are_put_into_forwards_changes_no_gradient(
    work: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    one, other = trainer(work, tmp_path / "one"), trainer(work, tmp_path / "other", **fields)
    if fields.get("gradient_checkpointing"):
        other.model.gradient_checkpointing_enable()
    groups = rolled(one)
    whole, parts = gradients(one, one._forwards(groups)), gradients(other, other._forwards(groups))
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_an_answer_cut_short_can_be_left_out(work: Path, tmp_path: Path) -> None:
    made = trainer(work, tmp_path / "run", mask_over_limit=True, loss_mean="token", kl=0.0)
    groups = rolled(made)
    forwards = made._forwards(groups)
    everything = gradients(made, forwards)
    cut = groups[0][0]
    cut.response = type(cut.response)(
        **{n: getattr(cut.response, n) for n in cut.response.__dataclass_fields__} | {"complete": False}
    )
    without = gradients(made, made._forwards(groups))
    assert any(not torch.equal(everything[name], without[name]) for name in everything)
    cut.trace.logprobs = [-9.0] * len(cut.trace.logprobs)
    cut.advantage = 99.0
    again = gradients(made, made._forwards(groups))
    assert all(torch.equal(without[name], again[name]) for name in without), "it has no part in anything"


@pytest.mark.usefixtures("curves")
def test_a_run_explains_itself(work: Path, tmp_path: Path) -> None:
    made = trainer(work, tmp_path / "run", steps=3, sample_steps=2, report_to=("tensorboard",))
    training.train(made)
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [1, 2, 3]
    for line in found:
        assert line["logprob_difference"] < 1e-4, "rollout and trainer must agree at every step"
        assert line["heard_once"] == 1.0 and 1 <= line["segments"] <= 2 and line["segment_seconds"] > 0.5
        names = (
            "reward reward_shortness reward_segment well_formed heard_twice segment_overlap tokens kl entropy clipped"
        )
        assert {*names.split(), "equal_groups", "grad_norm", "traces_per_minute"} <= line.keys()
        assert 0.9 < sum(line[f"share_{name}"] for name in ("rollout", "reward", "update")) <= 1.001
    assert found[0]["ratio_max"] > 1.0, "the second mini-batch is scored by a model that has moved"
    assert found[1]["kl"] > 0
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"config.json", "run.json", "metrics.jsonl", "curves.png", "samples", "model"} <= files
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == ["step-000000.md", "step-000002.md"]
    assert "heard 0.5-1.5" in (tmp_path / "run" / "samples" / "step-000000.md").read_text()
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["checkpoint-2", "checkpoint-3", "runs"]
    [events] = (tmp_path / "run" / "checkpoints" / "runs").rglob("events.out.tfevents.*")
    assert b"reward_segment" in events.read_bytes(), "TensorBoard is told what metrics.jsonl is"
    load(tmp_path / "run" / "model")


def test_rollouts_under_gradient_checkpointing_are_the_trainers(work: Path, tmp_path: Path) -> None:
    """In training mode it drops the cache without a word: a token would be sampled from itself alone."""
    training.train(trainer(work, tmp_path / "run", steps=1, gradient_checkpointing=True))
    assert lines(tmp_path / "run")[0]["logprob_difference"] < 1e-5


@pytest.mark.parametrize(
    "fields",
    [
        {"lora": 4, "gradient_checkpointing": True},
        {"kl": 0.0, "clip_high": 0.28, "normalise": False, "leave_one_out": True, "old_logprobs": "rollout"},
        {"format": "grounded", "bf16": True, "freeze": ("*audio_tower*",), "optimizer": "muon"},
    ],
)
def test_options_train_and_give_a_model_that_loads(work: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    training.train(trainer(work, tmp_path / "run", steps=2, learning_rate=1e-2, **fields))
    found = lines(tmp_path / "run")
    assert ("kl" in found[0]) == (fields.get("kl") != 0.0)
    if "kl" in found[0] and not fields.get("bf16"):
        assert found[0]["kl"] < found[1]["kl"] < 5
    trained, before = load(tmp_path / "run" / "model"), load(work / "tiny")
    start = before.module.state_dict()
    if "lora" in fields:
        adapter.merge(trained, torch.float32)
    moved = [name for name, p in trained.module.state_dict().items() if not torch.equal(p, start[name])]
    assert moved and trained.module.state_dict().keys() == start.keys()
    if "freeze" in fields:
        assert not any("audio_tower" in name for name in moved)
    if "lora" in fields:
        assert not any("norm" in name or "embed" in name for name in moved)


def test_kill_9_and_the_same_command_give_the_undisturbed_run(work: Path, tmp_path: Path) -> None:
    fields = {"steps": 6}
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in (SETTINGS | fields).items() if k != "rewards"]
    flags += ["--rewards=own_rewards:shortness", f"--data={work / 'scenes' / 'questions.jsonl'}"]
    flags += [f"--model={work / 'tiny'}", f"--output={tmp_path / 'killed'}"]
    command = [sys.executable, "-m", "relisten.cli", "train", "grpo", *[f.replace("=False", "=false") for f in flags]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=work)
    deadline = time.monotonic() + 900
    while not (tmp_path / "killed" / "checkpoints" / "checkpoint-2").exists():
        assert killed.poll() is None and time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists(), "it had finished: nothing was resumed"
    resumed_lines = len(lines(tmp_path / "killed"))
    train_grpo(config(work, tmp_path / "killed", **fields))
    train_grpo(config(work, tmp_path / "whole", **fields))
    resumed, whole = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "whole"))
    assert resumed.keys() == whole.keys() and resumed_lines < 6
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=0, msg=name)
    last = [{line["step"]: line["reward"] for line in lines(tmp_path / name)} for name in ("killed", "whole")]
    assert last[0] == last[1], "the same questions, the same answers"


def test_nan_stops_the_run_before_it_is_written(work: Path, tmp_path: Path) -> None:
    made = trainer(work, tmp_path / "run", steps=2, kl=0.0)
    script = made._loss

    def broken(forward: Forward, *given: Any) -> Any:
        loss, metrics = script(forward, *given)
        return loss * float("nan"), metrics

    made._loss = broken  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="step 0 the loss is not a finite number"):
        made.train()
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_a_question_that_cannot_be_asked_does_not_end_a_run(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(work / "scenes", tmp_path / "scenes")
    questions = [json.loads(line) for line in (tmp_path / "scenes" / "questions.jsonl").read_text().splitlines()]
    (tmp_path / "scenes" / questions[1]["audio_path"]).write_bytes(b"no sound")
    questions[2]["question"] = "word " * 5000  # longer than the context
    data = tmp_path / "scenes" / "questions.jsonl"
    data.write_text("".join(json.dumps(q) + "\n" for q in questions))
    train_grpo(config(work, tmp_path / "run", data=str(data)))
    assert [row["failed_questions"] for row in lines(tmp_path / "run")][-1] == 2
    said = capsys.readouterr().err
    assert said.count(" is left out: ") == 2 and said.count("has room for") == 1
    assert load(str(tmp_path / "run" / "model")).rate


def test_a_rollout_without_a_question_that_can_be_asked_is_one_line(work: Path, tmp_path: Path) -> None:
    made = trainer(work, tmp_path / "run")
    example = replace(made.train_dataset[0], question="word " * 5000)
    with pytest.raises(ValueError, match=r"none of a rollout's 2 questions can be asked; .* has room for"):
        made._roll_out([example, replace(example, id="other")], 0, {})


def test_a_question_asked_in_anothers_place_is_answered_anew(work: Path, tmp_path: Path) -> None:
    made = trainer(work, tmp_path / "run")
    made.engine = Engine(made.audio_lm)
    able = made.train_dataset[0]
    [first, second] = made._roll_out([able, replace(able, id="long", question="word " * 5000)], 0, {})
    assert second[0].example.id == f"{able.id}#1" and len(second) == made.config.group_size
    assert [one.trace.token_ids for one in first] != [one.trace.token_ids for one in second]


def test_a_collapse_is_said_once(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trainer(work, tmp_path / "run")
    for step, segments in enumerate((1.9, 1.5, 0.1, 0.0)):
        made._notice(step, {"well_formed": 0.9, "segments": segments})
    said = capsys.readouterr().err
    assert said.count(": collapse: ") == 1 and "0.10 segments an answer, after 1.90" in said


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mini_batch_size": 3}, "multiple of mini_batch_size"),
        ({"batch_size": 16, "mini_batch_size": 5}, "multiple of mini_batch_size"),
        ({"batch_size": 15, "mini_batch_size": 5}, "give --batch-size and --mini-batch-size"),
        ({"group_size": 1}, "group_size"),
        ({"temperature": 0.0}, "greedy"),
        ({"rewards": ("nothing",)}, "there are format"),
        ({"data": "relisten.data.worlds.curriculum:rl_rows", "steps": -1}, "give the number of steps"),
        ({"loss_mean": "sum"}, "loss_mean"),
        ({"lora": 4, "lora_modules": ("*.nothing",)}, "no layer"),
        ({"report_to": ("nowhere_at_all",)}, "choose from tensorboard, wandb, trackio"),
    ],
)
def test_wrong_settings_are_said_in_one_line(work: Path, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        train_grpo(config(work, tmp_path / "run", **fields))
    assert "\n" not in str(caught.value)


def test_the_head_is_given_back(work: Path) -> None:
    """Even when the forward fails, the model's own output layer is in place again."""
    model = load(work / "tiny")
    with pytest.raises(KeyError):
        token_logprobs_of(model, {"token_ids": torch.zeros(1)})
    assert "forward" not in vars(model.module.get_output_embeddings())


def test_questions_made_on_the_fly_are_the_same_each_time() -> None:
    from relisten.data.worlds.curriculum import rl_rows

    [one], [again], [other] = rl_rows(3), rl_rows(3), rl_rows(4)
    assert one.cot is None and one.answer in one.choices and one.id != other.id
    assert one.question == again.question and (one.audio.samples == again.audio.samples).all()
