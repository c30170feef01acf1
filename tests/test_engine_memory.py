"""Memory: how much there is, how many rows it admits, and what happens to answers when it runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from conftest import make_example
from test_engine import CONFIG, TAGS, TOKEN_BYTES, examples, ragged, same
from test_engine_session import drained, finished
from torch import Tensor

from relisten.engine import memory
from relisten.engine.engine import Engine, Failed
from relisten.engine.memory import FIRST, SHARE, Lengths
from relisten.engine.row import Row
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Trace

GIB = 2**30


class Gpu:
    """What a driver and PyTorch's allocator say, in bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int) -> None:
        self.total, self.allocated, self.reserved = total, 0, 0
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.total - self.reserved, self.total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.allocated)
        found = memory.free_bytes
        monkeypatch.setattr(memory, "free_bytes", lambda device: found(torch.device("cuda")))


def test_memory_that_pytorch_holds_without_using_it_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update the driver called 14 GiB of 60 free, and the rollouts of the next step had 23 rows, not 99."""
    gpu = Gpu(monkeypatch, 80 * GIB)
    gpu.allocated = gpu.reserved = 20 * GIB
    before = memory.free_bytes(torch.device("cpu"))
    gpu.reserved = 66 * GIB
    assert torch.cuda.mem_get_info(None)[0] == 14 * GIB
    assert memory.free_bytes(torch.device("cpu")) == before == 60 * GIB


def test_later_rollouts_have_as_many_rows_as_the_first(model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, int(16 * 500 * TOKEN_BYTES / SHARE))
    engine = ScriptedEngine(model, lambda i, s: script(model, "<think>", TAGS[0], 30, "</answer>", END), max_rows=64)
    asked, rows, groups = [make_example(10.0, seed=i) for i in range(3)], [], []
    for step in range(4):
        groups.append(engine.generate(asked, CONFIG, 8))
        rows.append(engine.usage.rows)
        assert engine.usage.cache_tokens <= (engine.usage.max_cache_tokens or 0)
        gpu.reserved = gpu.total * (step + 6) // 10  # what the update leaves in the allocator
    assert min(rows[1:]) >= rows[0] >= 8
    for later in groups[1:]:
        alike(later, groups[0])


def test_a_token_takes_the_bytes_of_the_type_that_the_cache_really_has(model: Qwen2_5Omni) -> None:
    """In a rollout under autocast, float32 weights make keys and values in bfloat16: twice as many rows fit."""
    assert memory.bytes_per_token(model) == TOKEN_BYTES
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert memory.bytes_per_token(model) == TOKEN_BYTES // 2


def test_rows_are_admitted_by_what_they_are_likely_to_need(model: Qwen2_5Omni) -> None:
    """Rows once reserved memory for the most that they may ever need, so that 3 were decoded side by side, not 16."""
    config = replace(CONFIG, max_new_tokens=2048)
    engine = ScriptedEngine(model, lambda i, s: script(model, "<think>", 40, "</answer>", END), 16, 8000 * TOKEN_BYTES)
    engine.generate(examples(2), config, 16)
    first = engine.usage
    engine.generate(examples(2), config, 16)
    assert first.rows >= 10 and engine.usage.rows == 16
    assert engine.usage.put_back == 0


def test_the_likely_length_is_one_that_few_answers_exceed() -> None:
    lengths = Lengths()
    assert lengths.likely == FIRST
    for length in range(1, 101):
        lengths.add(length)
    assert lengths.likely == 90
    for _ in range(memory.SEEN):
        lengths.add(7)
    assert lengths.likely == 7, "only the latest count, because training changes how much a model writes"


def alike(groups: Sequence[Sequence[Trace]], expected: Sequence[Sequence[Trace]]) -> None:
    for group, others in zip(groups, expected, strict=True):
        for trace, other in zip(group, others, strict=True):
            same(trace, other)
            assert trace.finish == other.finish and trace.refusals == other.refusals


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("cells", [700, 1500])
def test_no_answer_is_cut_when_memory_runs_out(model: Qwen2_5Omni, cells: int, temperature: float) -> None:
    """The youngest row waits again and goes on where it stopped: same tokens, same random numbers, same segments."""
    config = replace(CONFIG, temperature=temperature)
    expected = ScriptedEngine(model, ragged(model)).generate(examples(), config, 4)
    engine = ScriptedEngine(model, ragged(model), max_rows=12, max_cache_bytes=cells * TOKEN_BYTES)
    engine.lengths.add(1)  # as if answers were short, so that too many are admitted
    alike(engine.generate(examples(), config, 4), expected)
    assert engine.usage.put_back > 0
    assert engine.usage.cache_tokens <= cells


def test_rows_that_were_put_back_are_the_youngest_and_go_on_first(model: Qwen2_5Omni) -> None:
    engine = ScriptedEngine(model, ragged(model), max_rows=12, max_cache_bytes=1200 * TOKEN_BYTES)
    engine.lengths.add(1)
    with engine.session() as session:
        for example in examples():
            session.submit(example, CONFIG, 3)
        seen = session.num_live
        while session.busy:
            session.step()
            live = [row.place for row in session._decoder.rows]
            if session._waiting:
                assert not live or max(live) < session._waiting[0]
            assert list(session._waiting) == sorted(session._waiting)
            seen = max(seen, session.num_live)
    assert session.usage.put_back > 0 and seen == session.usage.rows


# --- PyTorch runs out -----------------------------------------------------------------------------------------------


def fail_at(model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch, at: Sequence[int]) -> None:
    """Let PyTorch run out of memory in these forwards, counted from 1."""
    forward, numbers = model.forward, count(1)

    def limited(*args: Any) -> Tensor:
        logits = forward(*args)  # the cache is written before it fails
        if next(numbers) in at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return logits

    monkeypatch.setattr(model, "forward", limited)


@pytest.mark.parametrize(("at", "temperature"), [([1], 1.0), ([2], 0.0), ([14, 15], 1.0), ([6, 20, 34], 0.0)])
def test_running_out_of_memory_in_a_forward_costs_no_answer(
    model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch, at: list[int], temperature: float
) -> None:
    config = replace(CONFIG, temperature=temperature)
    expected = ScriptedEngine(model, ragged(model)).generate(examples(), config, 2)
    engine = ScriptedEngine(model, ragged(model), max_rows=6)
    fail_at(model, monkeypatch, at)
    alike(engine.generate(examples(), config, 2), expected)
    assert engine.usage.put_back > 0 and engine.usage.max_cache_tokens is not None


def test_an_answer_is_not_cut_because_memory_ran_out_before_it_began(
    model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What two short rows held then was once the room of every later row."""
    scripts = lambda i, s: script(model, "<think>", TAGS[0] if s else 1, 40 * s, "</answer>", END)  # noqa: E731
    expected = ScriptedEngine(model, scripts).generate(examples(2), CONFIG, 3)
    fail_at(model, monkeypatch, [3])
    engine = ScriptedEngine(model, scripts, max_rows=2)
    alike(engine.generate(examples(2), CONFIG, 3), expected)
    longest = max(len(trace.token_ids) for group in expected for trace in group)
    assert engine.usage.max_cache_tokens is not None and engine.usage.max_cache_tokens < longest


def test_running_out_of_memory_while_sampling_draws_the_same_number_again(
    model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, asked = replace(CONFIG, temperature=1.0, max_new_tokens=20), examples(2)
    expected = Engine(model).generate(asked, config, 2)
    engine, calls = Engine(model), 0
    choose = engine.choose

    def limited(rows: Sequence[Row], logits: Tensor) -> list[tuple[int, float]]:
        nonlocal calls
        calls += 1
        chosen = choose(rows, logits)
        if calls in (1, 5):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return chosen

    monkeypatch.setattr(engine, "choose", limited)
    alike(engine.generate(asked, config, 2), expected)
    assert calls > 5


def test_a_question_for_which_memory_is_never_enough_fails_and_the_others_are_answered(
    model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = model.forward

    def limited(input_ids: Tensor, *args: Any) -> Tensor:
        if input_ids.shape[1] > 400:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids, *args)

    monkeypatch.setattr(model, "forward", limited)
    asked = [make_example(2.0), make_example(30.0, seed=1), make_example(3.0, seed=2)]
    engine = ScriptedEngine(model, lambda i, s: script(model, TAGS[0], 5, "</answer>", END))
    with engine.session() as session:
        for example in asked:
            session.submit(example, CONFIG, 2)
        updates = drained(session)
    assert set(finished(updates)) == {(0, 0), (0, 1), (2, 0), (2, 1)}
    [failure] = [u for u in updates if isinstance(u.event, Failed)]
    assert failure.question == 1 and isinstance(failure.event, Failed)
    assert "memory ran out on it alone; cut the recording" in failure.event.reason
