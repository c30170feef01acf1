"""Many questions through one engine: no row idles while questions are left, and no answer loses its recording."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_audio, make_example, make_model
from test_engine import CONFIG, same

from relisten.engine import naive
from relisten.engine.answer import answer_each
from relisten.engine.generation import GenerationConfig
from relisten.engine.memory import Usage
from relisten.engine.naive import Script
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.evals import runner
from relisten.evals.hearing import hearing
from relisten.models.base import pad_features
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training.batch import encode
from relisten.types import Audio, Example, Segment, Trace


@pytest.fixture(scope="module")
def small() -> Qwen2_5Omni:
    return make_model(layers=1)


def test_a_long_answer_does_not_hold_up_the_questions_behind_it(small: Qwen2_5Omni) -> None:
    """Questions once went through in blocks of 128, and at the end of each block all rows but a few idled."""
    counted = ", ".join(map(str, range(100)))
    long, short = (script(small, text + "</answer>", END) for text in (counted, ""))
    engine = ScriptedEngine(small, lambda i, s: short if i else long, max_rows=3)
    held, most = 0, 0

    def ready(example: Example) -> Example:
        nonlocal held, most
        held += 1
        most = max(most, held)
        return example

    order, asked = [], [make_example(0.2, seed=i) for i in range(140)]
    for index, _, trace in answer_each(engine, asked, GenerationConfig(max_new_tokens=500), ready):
        assert isinstance(trace, Trace)
        held -= 1
        order.append(index)
    assert order.index(0) > 130, "the others go on while the first is written"
    assert sorted(order) == list(range(140))
    assert most <= 3 + 1, "a recording is read when its turn comes"
    assert engine.usage.rows == 3


def test_questions_of_one_run_may_want_different_numbers_of_answers(small: Qwen2_5Omni) -> None:
    """Evaluation once waited for all questions with one answer before it began those with four."""
    asked = [make_example(0.3, seed=i) for i in range(4)]
    engine = ScriptedEngine(small, lambda i, s: script(small, "<think>", 2 + s, "</answer>", END), max_rows=4)
    found = {(i, s): t for i, s, t in answer_each(engine, asked, CONFIG, lambda e: e, [1, 3, 1, 2])}
    assert sorted(found) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (3, 0), (3, 1)]
    alone = ScriptedEngine(small, lambda i, s: script(small, "<think>", 2 + s, "</answer>", END))
    for (index, sample), trace in found.items():
        assert isinstance(trace, Trace)
        same(trace, alone.generate([asked[index]], CONFIG, sample + 1)[0][sample])


def test_the_reason_why_a_question_cannot_be_asked_comes_with_its_index(small: Qwen2_5Omni, tmp_path: Path) -> None:
    def ready(example: Example) -> Example:
        if example.id == "example-1":
            raise ValueError("cannot be read")
        return example

    asked = [make_example(0.3, seed=0), make_example(0.3, seed=1), Example("example-2", make_audio(0.3), " ")]
    engine = ScriptedEngine(small, lambda i, s: script(small, "</answer>", END))
    found = {(i, s): trace for i, s, trace in answer_each(engine, asked, CONFIG, ready, 2)}
    assert found[1, 0] == "cannot be read" and "the question is empty" in str(found[2, 0])
    assert sorted(found) == [(0, 0), (0, 1), (1, 0), (2, 0)]


def test_evaluation_tells_what_the_engine_used(small: Qwen2_5Omni, tmp_path: Path) -> None:
    told: dict[str, float] = {}
    asked = [Example(f"q{i}", make_audio(0.3, seed=i), "Which?", ("a", "b"), "a") for i in range(3)]
    runner.evaluate(small, asked, tmp_path / "a.jsonl", CONFIG, max_rows=2, told=told.update)
    assert told["engine_rows"] == 2 and told["engine_prefill_forwards"] >= 2 and told["engine_decode_seconds"] > 0
    assert told["engine_cache_tokens"] > 0 and told["engine_put_back"] == 0


def test_a_control_knows_a_recording_for_as_long_as_the_engine_holds_it(small: Qwen2_5Omni) -> None:
    """It knew the latest 128; an answer that took longer than 128 others then ended the run."""
    asked = [Example(f"q{i}", make_audio(0.5, seed=i), "Which?") for i in range(300)]
    control = hearing("other", asked, small)
    first = control.ready(asked[0]).audio
    assert isinstance(first, Audio)
    for example in asked[1:]:
        control.ready(example)
    assert len(control.operations()["seg"](first, Segment(0.1, 0.4)).samples) == 4800
    remembered: Callable[[], int] = lambda: len(control.change.__self__.places)  # type: ignore[attr-defined] # noqa: E731
    assert remembered() == 1, "what the engine no longer holds is forgotten"


# --- the same on every side -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["interleaved", "grounded"])
@pytest.mark.parametrize("num", [8, 9, 11])
def test_training_data_ends_where_the_engine_would_end_it(small: Qwen2_5Omni, format: str, num: int) -> None:
    """After one segment too many the engine leads to the answer. Training data once taught how to go on from there."""
    tags = [f"It is at <seg>{n / 10:.1f}, {n / 10 + 0.4:.1f}</seg>" for n in range(num)]
    example = Example("e", make_audio(2.0), "Which?", ("a dog", "a cat"), "a dog", cot=" and ".join(tags) + ", a dog.")
    encoded = encode(small, example, format)  # type: ignore[arg-type]
    written = "<think>" + " and ".join(tags[:9])
    rest = ", a dog.</think><answer>a dog</answer>" if num == 8 else "a dog</answer>"
    own: Script = script(small, written, rest, END)
    [[trace]] = ScriptedEngine(small, lambda i, s: own).generate([example], GenerationConfig(format=format))  # type: ignore[arg-type]
    assert encoded.trace.token_ids == trace.token_ids
    assert encoded.trace.sampled == trace.sampled
    assert encoded.trace.text == trace.text and trace.text.endswith("</think><answer>a dog</answer>")
    assert encoded.trace.listens == trace.listens and encoded.trace.refusals == trace.refusals
    assert encoded.trace.finish == trace.finish == ("stop" if num == 8 else "listens")
    assert len(trace.listens) == (9 if format == "interleaved" else 1)


def test_endoftext_ends_an_answer_even_if_no_file_says_so() -> None:
    """A folder without generation_config.json, or with one end token in it, let the model write on behind it."""
    model = make_model(layers=1)
    end = model.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    model.module.generation_config.eos_token_id = model.end_token_id
    again = Qwen2_5Omni(model.module, model.tokenizer, model.feature_extractor)
    assert again.end_token_ids == {again.end_token_id, end}
    engine = ScriptedEngine(again, lambda i, s: dict(enumerate([*again.encode("so"), end, end, end])).get)
    [[trace]] = engine.generate([make_example(0.3)], CONFIG)
    assert trace.token_ids[-1] == end and trace.finish == "stop" and trace.text == "so"


def test_the_naive_loop_and_mels_stay_on_the_device_of_the_model(
    small: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the naive loop picked log-probabilities with an index on the CPU, and mels went to the CPU and back.

    The device "meta" stands for the GPU: it has shapes and no numbers.
    """
    seen: list[str] = []

    def watched(logits: torch.Tensor, token_ids: torch.Tensor, banned: torch.Tensor) -> torch.Tensor:
        seen.append(token_ids.device.type)
        return torch.zeros(1)

    monkeypatch.setattr(naive, "token_logprobs", watched)
    assert naive._next(small, torch.empty(1, 600, device="meta"), 0, lambda num: 5) == (5, 0.0)
    assert seen == ["meta"]
    stacked, mask = pad_features([torch.empty(16, frames, device="meta") for frames in (7, 9)])
    assert stacked.shape == (2, 16, 9) and stacked.device.type == mask.device.type == "meta"


def test_what_two_sessions_used_is_added_up() -> None:
    """A rollout asks again in place of a question that cannot be asked; its figures are those of both."""
    first = Usage({"prefill": 1, "listen": 2, "decode": 3}, 64, 900, 1000, 1)
    both = first.merged(Usage({"prefill": 4, "listen": 5, "decode": 6}, 8, 100, 990, 2))
    assert both == Usage({"prefill": 5, "listen": 7, "decode": 9}, 64, 900, 1000, 3)
    assert both.figures()["engine_decode_forwards"] == 9 and both.figures()["engine_max_cache_tokens"] == 1000
