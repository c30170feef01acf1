"""Held-out questions: asked as in use, at the steps that were named, without a trace in what is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import TINY

from relisten import records
from relisten.data.worlds.scene_files import write_scenes
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.engine.scripted import ScriptedEngine
from relisten.evals.figures import summary
from relisten.evals.runner import evaluate
from relisten.models import load, nano
from relisten.training import heldout, plots
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.grpo import train_grpo
from relisten.training.plan import planned
from relisten.training.sft import train_sft
from relisten.types import Example

ASKED = GenerationConfig("interleaved", max_new_tokens=12)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with questions to train on, others that are held out, and a tiny model."""
    folder = tmp_path_factory.mktemp("heldout")
    questions = write_scenes(folder / "scenes", num=8, questions=1)
    write_scenes(folder / "held", num=5, questions=1, seed=1)
    texts = [str(json.loads(line).get("cot")) for line in questions.read_text().splitlines()]
    nano.create([*texts, "user assistant <think></think><answer></answer>"] * 2, TINY).save(folder / "tiny")
    return folder


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SftConfig, "asking", lambda self: ASKED)


def config(work: Path, output: Path, **fields: Any) -> SftConfig:
    settings = {"steps": 6, "batch_size": 2, "learning_rate": 1e-2, "save_steps": 2, "keep_checkpoints": 1,
                "log_steps": 1, "bf16": False, "format": "interleaved", "workers": 0, "model": str(work / "tiny"),
                "eval_data": work / "held" / "questions.jsonl"}  # fmt: skip
    return SftConfig(data=str(work / "scenes" / "questions.jsonl"), output=output, **(settings | fields))


def lines(folder: Path, name: str) -> dict[int, dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in rows if name in row}


def script(monkeypatch: pytest.MonkeyPatch, accuracies: Sequence[float]) -> list[int]:
    """The accuracy of each evaluation is the next of these. The number of questions of each is noted."""
    left: Iterator[float] = iter(accuracies)
    asked: list[int] = []

    def ask(engine: Engine, examples: Sequence[Example], config: GenerationConfig) -> list[dict[str, float]]:
        asked.append(len(examples))
        right = next(left)
        return [{"right": right, "well_formed": 1.0, "segments": 2.0, "failed": 0.0} for _ in examples]

    monkeypatch.setattr(heldout, "ask", ask)
    return asked


def test_the_figures_are_those_of_an_evaluation_of_the_same_weights(work: Path, tmp_path: Path) -> None:
    model = train_sft(config(work, tmp_path / "run", eval_steps=4))
    found = lines(tmp_path / "run", "eval_accuracy")
    assert list(found) == [0, 4, 6] and {line["eval_questions"] for line in found.values()} == {5}
    examples = records.read_examples(work / "held" / "questions.jsonl")
    for step, folder in ((0, work / "tiny"), (6, model)):
        told = summary(evaluate(load(folder), examples, tmp_path / f"{step}.jsonl", ASKED))
        assert found[step]["eval_accuracy"] == pytest.approx(told["rows"]["all"]["exact"])
        assert found[step]["eval_segments"] == pytest.approx(told["listens_per_answer"])


def test_right_answers_are_counted_and_what_cannot_be_asked_is_wrong(work: Path) -> None:
    model = load(work / "tiny")
    examples = records.read_examples(work / "held" / "questions.jsonl")
    long = replace(examples[0], id="long", question="word " * 5000)

    def scripts(index: int, sample: int) -> Any:
        answer = examples[index].answer if index < 2 else "nothing of that kind"
        text = f"<think>so <seg>0.5, 1.5</seg> it is</think><answer>{answer}</answer>"
        return dict(enumerate([*model.encode(text), model.end_token_id])).get

    engine = ScriptedEngine(model, scripts)
    found = heldout.figures(heldout.ask(engine, [*examples[:4], long], GenerationConfig("interleaved")))
    assert found == {
        "eval_accuracy": 0.4, "eval_questions": 5, "eval_well_formed": 1.0, "eval_segments": 1.0, "eval_failed": 1,
    }  # fmt: skip


def test_asking_changes_nothing_in_what_is_trained(work: Path, tmp_path: Path) -> None:
    asked, plain = (
        load_file(train_sft(config(work, tmp_path / name, **fields)) / "model.safetensors")
        for name, fields in (("asked", {"eval_steps": 1}), ("plain", {"eval_data": None}))
    )
    assert all(torch.equal(asked[name], value) for name, value in plain.items())


def test_the_best_checkpoint_is_kept_and_named(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six steps are saved every second one, and the best is none of those."""
    script(monkeypatch, [0.9, 0.2, 0.4, 0.6, 0.6, 0.4, 0.2])
    train_sft(config(work, tmp_path / "run", eval_steps=1))
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-3", "checkpoint-6"}
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    best = {"checkpoint": "checkpoints/checkpoint-3", "step": 3, "accuracy": 0.6, "questions": 5}
    assert told["best"] == pytest.approx(best) and len(told["starts"]) == 1
    load(tmp_path / "run" / told["best"]["checkpoint"])  # it can be asked
    said = capsys.readouterr().err
    assert "step 3: accuracy 0.600 of 5 held-out questions; 100% of the answers well-formed, 2.0 segments" in said
    assert "accuracy of 5 held-out questions: 0.900 at step 0, 0.200 at step 6" in said
    assert f"the best was 0.600 at step 3: {tmp_path / 'run' / 'checkpoints' / 'checkpoint-3'}" in said
    series = {one.name: one for one in plots.read_metrics(tmp_path / "run")}
    assert series["eval_accuracy"].values == pytest.approx([0.9, 0.2, 0.4, 0.6, 0.6, 0.4, 0.2])
    assert plots.panels(list(series.values()))[0][0] == "held-out questions"


def test_a_run_ends_early_only_if_it_is_asked_to_and_stays_ended(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracies = [0.1, 0.5, 0.4, 0.5, 0.3, 0.2, 0.1]
    asked = script(monkeypatch, accuracies)
    train_sft(config(work, tmp_path / "whole", eval_steps=1))
    assert len(asked) == 7 and "ends here" not in capsys.readouterr().err
    asked = script(monkeypatch, accuracies)
    train_sft(config(work, tmp_path / "early", eval_steps=1, patience=2))
    assert len(asked) == 4 and max(lines(tmp_path / "early", "loss")) == 3
    assert "step 3: 2 evaluations have not exceeded the best accuracy" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "early" / "model")
    model = train_sft(config(work, tmp_path / "early", eval_steps=1, patience=2))
    assert len(asked) == 4 and max(lines(tmp_path / "early", "loss")) == 3, "it trained on"
    again, kept = (load_file(x / "model.safetensors") for x in (model, tmp_path / "early/checkpoints/checkpoint-3"))
    assert all(torch.equal(again[name], value) for name, value in kept.items() if name in again)


def test_a_resumed_run_knows_its_best_and_asks_no_step_twice(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = script(monkeypatch, [0.1, 0.5, 0.4, 0.3, 0.2])
    train_sft(config(work, tmp_path / "run", eval_steps=2, keep_checkpoints=3))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-6")
    shutil.rmtree(tmp_path / "run" / "model")
    train_sft(config(work, tmp_path / "run", eval_steps=2, keep_checkpoints=3))
    assert asked == [5] * 5, "step 6 alone was asked again"
    assert lines(tmp_path / "run", "eval_accuracy")[6]["eval_accuracy"] == pytest.approx(0.2)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["best"]["step"] == 2 and len(told["starts"]) == 2


def test_a_run_that_goes_on_between_two_evaluations_asks_at_the_same_steps(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer evaluates whenever it starts: patience would have counted one evaluation more."""
    asked = script(monkeypatch, [0.1, 0.5, 0.4, 0.5, 0.4])
    train_sft(config(work, tmp_path / "run", eval_steps=4, keep_checkpoints=3))
    for name in ("checkpoints/checkpoint-4", "checkpoints/checkpoint-6", "model"):
        shutil.rmtree(tmp_path / "run" / name)
    train_sft(config(work, tmp_path / "run", eval_steps=4, keep_checkpoints=3))
    assert len(asked) == 5 and list(lines(tmp_path / "run", "eval_accuracy")) == [0, 4, 6]


def test_grpo_asks_greedily_with_its_own_limits(work: Path, tmp_path: Path) -> None:
    settings = GrpoConfig(
        data=str(work / "scenes" / "questions.jsonl"), output=tmp_path / "run", model=str(work / "tiny"), steps=2,
        batch_size=2, mini_batch_size=2, group_size=2, max_new_tokens=8, bf16=False, workers=0, save_steps=5,
        eval_data=work / "held" / "questions.jsonl", eval_steps=1, max_listens=3,
    )  # fmt: skip
    assert settings.asking() == GenerationConfig(max_new_tokens=8, max_listens=3)
    train_grpo(settings)
    assert list(lines(tmp_path / "run", "eval_accuracy")) == [0, 1, 2]
    assert "reward" in lines(tmp_path / "run", "loss")[2]


def test_questions_that_are_trained_on_are_told(work: Path, tmp_path: Path) -> None:
    data = work / "scenes" / "questions.jsonl"
    notes = planned(config(work, tmp_path / "run", eval_data=data)).notes
    assert "8 of the 8 questions of eval_data are also trained on." in notes
    assert not any("trained on" in note for note in planned(config(work, tmp_path / "run")).notes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eval_data": None, "eval_steps": 2}, "need eval_data"),
        ({"eval_data": None, "patience": 1}, "need eval_data"),
        ({"patience": -1}, "must not be negative"),
        ({"eval_data": Path("gone.jsonl")}, r"gone\.jsonl"),
    ],
)
def test_what_cannot_be_is_one_line(work: Path, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        planned(config(work, tmp_path / "run", **fields))
    assert "\n" not in str(caught.value)


def test_held_out_questions_need_answers(work: Path, tmp_path: Path) -> None:
    row = json.loads((work / "held" / "questions.jsonl").read_text().splitlines()[0]) | {"answer": None}
    row["audio_path"] = str(work / "held" / row["audio_path"])
    (tmp_path / "open.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"open\.jsonl: 1 examples have no answer"):
        planned(config(work, tmp_path / "run", eval_data=tmp_path / "open.jsonl"))


def test_the_best_is_the_first_of_equals_and_never_the_model_before_training() -> None:
    def history(*accuracies: float) -> list[dict[str, float]]:
        return [{"step": step, "eval_accuracy": one} for step, one in enumerate(accuracies)]

    assert heldout.best_step(history(0.9, 0.4, 0.5, 0.5)) == 2
    assert heldout.best_step(history(0.9)) is None and heldout.best_step([{"step": 1, "loss": 2.0}]) is None
    for patience, stalled in ((0, False), (1, True), (2, True), (3, False)):
        assert heldout.has_stalled(history(0.1, 0.6, 0.2, 0.6), patience) == stalled
    assert not heldout.has_stalled(history(0.9), 1)
