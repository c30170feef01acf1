"""The measurement of training: both sides do equal work; its figures are not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from benchmarks.training import commands
from benchmarks.training_steps import MEMORY, OneAtATime, Steps, Work, examples, peak_bytes, plain, script, tiny
from relisten.cli import run
from relisten.engine.engine import GenerationConfig
from relisten.engine.operations import crop
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training.batch import Encoded, replay
from relisten.training.sft import collate
from relisten.training.trainer import token_logprobs_of
from relisten.types import Audio

WORK = Work(questions=1, group_size=3, seconds=5.0, segments=2, sampled=24)


@pytest.fixture(scope="module")
def small() -> Qwen2_5Omni:
    return tiny()


@pytest.fixture(scope="module")
def rows(small: Qwen2_5Omni) -> list[list[Encoded]]:
    """Scripted answers, each a row of its own."""
    [example] = examples(small, WORK)
    loop = OneAtATime(small, lambda i, s: script(small, WORK, i, s))
    [traces] = loop.generate([example], GenerationConfig(max_new_tokens=100), WORK.group_size)
    assert isinstance(example.audio, Audio)
    return [[one] for one in replay(small, example.audio, traces, {"seg": crop})]


def test_answers_are_as_long_as_said_and_hear_as_much_at_places_of_their_own(rows: list[list[Encoded]]) -> None:
    traces = [one.trace for [one] in rows]
    assert [sum(trace.sampled) for trace in traces] == [18, 24, 30]
    assert all(len(trace.listens) == 3 and not trace.refusals for trace in traces)
    assert len({trace.listens[1].segment for trace in traces}) == len({trace.listens[1].at for trace in traces}) == 3


def test_the_plain_trainer_is_given_the_same_rows(small: Qwen2_5Omni, rows: list[list[Encoded]]) -> None:
    """Its forward gives our log-probabilities, once placeholders are left out of them as we do."""
    batch = plain(rows)
    labels = batch.pop("labels")[:, 1:]
    with torch.no_grad():
        logits = small.module(**batch).logits[:, :-1][labels != -100]
        packed = collate(rows)
        ours, _ = token_logprobs_of(small, packed | {"token_ids": packed["labels"][1:]})
    logits[:, small.banned_token_ids] = -torch.inf
    theirs = logits.log_softmax(-1).gather(1, labels[labels != -100][:, None])[:, 0]
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)


def test_the_peak_is_what_was_held_at_once() -> None:
    with peak_bytes() as peak:
        for _ in range(3):
            one = torch.ones(1000)
            two = one + 1
            del one, two
    assert 8000 <= peak[0] < 9000


def test_the_engine_and_the_loop_do_the_same_in_a_step(rows: list[list[Encoded]], tmp_path: Path) -> None:
    steps = Steps("tiny", tmp_path, tqdm(disable=True))
    figures = steps.grpo(WORK, "engine")
    assert 0 < figures["rollout cpu"] < figures["cpu"]
    [group] = steps.traces["engine", WORK]
    loop = [one.trace for [one] in rows]
    assert [(a.token_ids, a.sampled) for a in group] == [(b.token_ids, b.sampled) for b in loop]


def test_quick_gives_tables_a_file_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--quick", "--out", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.png")], commands) == 0
    result = json.loads((tmp_path / "f.json").read_text())
    assert set(result["ratios"]) == {"rollout", "step", "sft"} and set(result["memory"]) == set(MEMORY)
    assert min(result["memory"].values()) > 0
    assert {point["what"] for point in result["growth"]} == {"group_size", "segments"}
    losses = list(result["losses"].values())
    assert losses[0] == pytest.approx(losses[1], rel=0.02), "placeholders are banned in ours alone"
    assert (tmp_path / "f.png").stat().st_size > 1000
    said = capsys.readouterr().out
    assert "traces a minute" in said and "SFT tokens a second" in said and "{'loss'" not in said


def test_a_wrong_number_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--repeats", "0"], commands) == 2
    assert capsys.readouterr().err.count("\n") == 1
