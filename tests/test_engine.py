"""The engine's invariants, on a random model of the real class: replay, independence, equality with the naive loop."""

from __future__ import annotations

import json
import pydoc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_audio, make_example, make_model

import relisten
from relisten.asking import ask
from relisten.audio import save
from relisten.engine.cache import Window
from relisten.engine.engine import Engine, Finished, Heard, Refused, Text, audible
from relisten.engine.generation import GenerationConfig
from relisten.engine.naive import Script, naive
from relisten.engine.operations import crop, slow
from relisten.engine.question import ANSWER_TOKENS
from relisten.engine.repetition import repeats
from relisten.engine.sampling import choose, token_logprobs
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.models import nano
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio, Example, Format, Segment, Trace

CONFIG = GenerationConfig(max_new_tokens=160)
TOKEN_BYTES = 2 * 2 * 2 * 32 * 4
"""Bytes of a token of `model` in the cache: keys and values, layers, heads, width, float32."""
TAGS = ("<seg>0.5, 1.5</seg", "<seg>1.0, 9.0</seg", "<seg>0.1, 0.7</seg")


def ragged(model: Qwen2_5Omni) -> Callable[[int, int], Script]:
    """Every row pauses three times, each at steps of its own, twice without a word between."""
    return lambda i, s: script(
        model, "<think>", 2 + i + 2 * s, TAGS[0], 1 + s, TAGS[1], TAGS[2], 3 + i, "</think><answer>a dog</answer>", END
    )


def examples(number: int = 3) -> list[Example]:
    return [make_example(2.0 + 1.3 * i, seed=i, question="What is it?" * (i + 1)) for i in range(number)]


def same(first: Trace, second: Trace, tolerance: float = 2e-5) -> None:
    assert first.token_ids == second.token_ids
    assert first.sampled == second.sampled
    assert first.listens == second.listens
    assert first.text == second.text
    np.testing.assert_allclose(first.logprobs, second.logprobs, atol=tolerance)


def replayed(model: Qwen2_5Omni, example: Example, trace: Trace) -> torch.Tensor:
    """Log-probabilities [L] from one plain forward of the module, with its own positions and mask."""
    assert isinstance(example.audio, Audio)
    heard = [audible(model, example.audio), *(crop(example.audio, h.segment) for h in trace.listens[1:])]
    features = [model.features(audio) for audio in heard]
    frames = max(f.shape[1] for f in features)
    stacked = torch.stack([torch.nn.functional.pad(f, (0, frames - f.shape[1])) for f in features])
    mask = torch.tensor([[1] * f.shape[1] + [0] * (frames - f.shape[1]) for f in features])
    ids = torch.tensor([trace.token_ids])
    with torch.no_grad():
        logits = model.module(
            input_ids=ids, attention_mask=torch.ones_like(ids), input_features=stacked, feature_attention_mask=mask
        ).logits
    return token_logprobs(logits[0, :-1], ids[0, 1:], model.banned_token_ids)


# --- invariants -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(model: Qwen2_5Omni) -> list[list[Trace]]:
    """What the naive loop gives for three examples and three rows of each."""
    scripts = ragged(model)
    return [[naive(model, e, CONFIG, script=scripts(i, s)) for s in range(3)] for i, e in enumerate(examples())]


@pytest.mark.parametrize("max_rows", [1, 3, 8])
def test_greedy_output_is_the_naive_loops_token_for_token(
    model: Qwen2_5Omni, plain: list[list[Trace]], max_rows: int
) -> None:
    traces = ScriptedEngine(model, ragged(model), max_rows).generate(examples(), CONFIG, num_samples=3)
    for group, expected in zip(traces, plain, strict=True):
        for trace, other in zip(group, expected, strict=True):
            assert len(trace.listens) == 4
            same(trace, other)


def test_a_vocabulary_with_whole_tags_needs_no_forced_token() -> None:
    """As nano has it: `</seg>` is one token, which the model chooses and is trained on."""
    text = "<think>a dog <seg>0.5, 1.5</seg> so <seg>1.0, 1.8</seg></think><answer>a dog</answer>"
    model = nano.create([text] * 3, nano.NanoConfig(hidden_size=64, num_mel_bins=16, audio_width=48))
    own = script(model, 2, text, END)
    [[trace]] = ScriptedEngine(model, lambda i, s: own).generate(examples(1), CONFIG)
    assert len(trace.listens) == 3
    same(trace, naive(model, examples(1)[0], CONFIG, script=own))
    for listen in trace.listens[1:]:
        assert model.decode([trace.token_ids[listen.at - 2]]) == "</seg>"
        assert trace.sampled[listen.at - 2]


def test_the_shipped_model_answers_as_in_the_naive_loop() -> None:
    """Here nothing is scripted: the pauses are the model's own."""
    model = relisten.load("nano", device="cpu")
    asked = [replace(e, question="What is heard first?") for e in examples(3)]
    config = GenerationConfig(max_new_tokens=120)
    for [trace], example in zip(Engine(model).generate(asked, config), asked, strict=True):
        other = naive(model, example, config)
        until = len(other.token_ids) if trace.finish == "length" else None
        assert trace.token_ids[:until] == other.token_ids
        assert trace.listens == other.listens
        again = replayed(model, example, trace)[torch.tensor(trace.sampled[1:])]
        np.testing.assert_allclose(again, np.array(trace.logprobs)[trace.sampled], atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replay_finds_the_recorded_log_probabilities(model: Qwen2_5Omni, temperature: float) -> None:
    config = replace(CONFIG, temperature=temperature)
    for example, group in zip(
        examples(), ScriptedEngine(model, ragged(model)).generate(examples(), config, 2), strict=True
    ):
        for trace in group:
            again = replayed(model, example, trace)
            sampled = torch.tensor(trace.sampled[1:])
            np.testing.assert_allclose(again[sampled], torch.tensor(trace.logprobs[1:])[sampled], atol=3e-5)


def test_a_row_depends_on_its_own_seed_alone(model: Qwen2_5Omni) -> None:
    """Not on its neighbours, their number, their order, or how much the cache may take."""
    config = replace(CONFIG, temperature=1.0, top_p=0.95, top_k=200)
    whole = ScriptedEngine(model, ragged(model), max_rows=9).generate(examples(), config, 3)
    for max_rows, max_cache_bytes in ((1, None), (5, None), (8, 1200 * TOKEN_BYTES)):
        engine = ScriptedEngine(model, ragged(model), max_rows, max_cache_bytes)
        for group, expected in zip(engine.generate(examples(), config, 3), whole, strict=True):
            for trace, other in zip(group, expected, strict=True):
                same(trace, other)
    backwards = ScriptedEngine(model, lambda i, s: ragged(model)(2 - i, s)).generate(examples()[::-1], config, 2)
    same(backwards[0][1], whole[2][1])
    again = ScriptedEngine(model, ragged(model)).generate(examples(), replace(config, seed=1), 1)
    assert again[0][0].token_ids != whole[0][0].token_ids
    assert whole[0][0].token_ids != whole[0][1].token_ids


def test_a_model_that_ignores_the_attention_of_the_cache_is_refused(
    model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would attend to the new tokens alone, and answer nonsense without a word."""
    forward = model.forward

    def ignores(*args: Any) -> torch.Tensor:
        given = list(args)
        given[4] = None
        return forward(*given) if isinstance(args[4], Window) else forward(*args)

    monkeypatch.setattr(model, "forward", ignores)
    with pytest.raises(ValueError, match="its forward ignores the cache's attention"):
        ScriptedEngine(model, ragged(model)).generate(examples()[:1], CONFIG)


def test_the_cache_stays_within_its_bound(model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    from relisten.engine import cache

    cells: list[int] = []
    grown = cache.Slab.reserve
    monkeypatch.setattr(cache.Slab, "reserve", lambda self, *a: (grown(self, *a), cells.append(self.cells))[0])
    bound = 1200
    ScriptedEngine(model, ragged(model), 8, bound * TOKEN_BYTES).generate(examples(), CONFIG, 3)
    assert max(cells) <= bound


def test_a_row_that_hears_much_leaves_the_others_their_place(model: Qwen2_5Omni) -> None:
    """Where memory is bounded, a pausing row once took the places of rows behind it."""
    asked = [make_example(10.0, seed=i) for i in range(3)]
    heard = script(model, "<think>", *["<seg>0.0, 10.0</seg"] * 3, "</think><answer>a dog</answer>", END)
    talked = script(model, "<think>", 25, "</think><answer>a dog</answer>", END)
    config = GenerationConfig(max_new_tokens=60, max_listens=3)
    whole = ScriptedEngine(model, lambda i, s: talked if i else heard).generate(asked, config)
    for cells in range(2000, 6000, 500):
        engine = ScriptedEngine(model, lambda i, s: talked if i else heard, max_cache_bytes=cells * TOKEN_BYTES)
        for [trace], [other] in zip(engine.generate(asked, config), whole, strict=True):
            same(trace, other)


@pytest.mark.parametrize(
    ("samples", "rate", "question", "choices", "said"),
    [
        (np.zeros((100, 2), np.float32), 16_000, "q", ("a",), r"float32 \[100, 2\]"),
        (np.zeros(16_000, np.int16), 16_000, "q", ("a",), "int16"),
        (np.zeros(16_000, np.float32), 0, "q", ("a",), "0 Hz"),
        (np.full(16_000, np.nan, np.float32), 16_000, "q", ("a",), "NaN"),
        (np.zeros(16_000, np.float32), 16_000, "q", "five", "not one text"),
        (np.zeros(16_000, np.float32), 16_000, "q \udcff", ("a",), "half a character"),
    ],
)
def test_what_no_model_can_be_asked_is_told_in_a_line(
    model: Qwen2_5Omni, samples: Any, rate: int, question: str, choices: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        ask(model, Audio(samples, rate), question, choices)


def test_audio_and_forced_tokens_are_never_sampled(model: Qwen2_5Omni) -> None:
    [[trace]] = ScriptedEngine(model, ragged(model)).generate(examples(1), CONFIG)
    assert not any(trace.sampled[: trace.num_prompt])
    assert trace.sampled[-1], "the end token is the model's own, so it is trained"
    for listen in trace.listens[1:]:
        before, after = listen.at - 1, listen.at + listen.num_tokens
        assert trace.token_ids[before] == model.audio_begin_id
        assert trace.token_ids[after] == model.audio_end_id
        assert set(trace.token_ids[listen.at : after]) == {model.audio_id}
        assert not any(trace.sampled[before : after + 1])
        assert model.decode([trace.token_ids[before - 1]]) == ">"
        assert not trace.sampled[before - 1]
        assert trace.sampled[before - 2]
    assert all(lp == 0.0 for lp, sampled in zip(trace.logprobs, trace.sampled, strict=True) if not sampled)
    written = [t for t in trace.token_ids[trace.num_prompt :] if t not in model.banned_token_ids.tolist()]
    assert model.decode(written) == trace.text


def test_a_segment_is_encoded_anew_and_matters(model: Qwen2_5Omni) -> None:
    """Another crop at the same place changes what is said next."""
    first, second = (
        ScriptedEngine(model, lambda i, s, tag=tag: script(model, tag, 20)).generate(examples(1), CONFIG)[0][0]
        for tag in ("<seg>0.2, 1.2</seg", "<seg>0.9, 1.9</seg")
    )
    start = first.listens[1].at + first.listens[1].num_tokens + 1
    assert first.logprobs[start] != second.logprobs[start]


def test_banned_tokens_are_never_drawn() -> None:
    model = make_model()
    with torch.no_grad():
        model.module.get_output_embeddings().weight[model.banned_token_ids] *= 50
    for config in (CONFIG, replace(CONFIG, temperature=2.0)):
        for group in Engine(model).generate(examples(2), config, 2):
            for trace in group:
                drawn = {t for t, sampled in zip(trace.token_ids, trace.sampled, strict=True) if sampled}
                assert not drawn & set(model.banned_token_ids.tolist())
                assert np.isfinite(trace.logprobs).all()


# --- boundaries, limits, failures -----------------------------------------------------------------------------------


def test_boundaries_are_those_of_training_data(model: Qwen2_5Omni) -> None:
    for format in ("grounded", "interleaved"):
        for rest in ("", ",", ".", "\n", "<answer>"):
            text = f"<think>a <seg>0.5, 1.5</seg>{rest} b</think><answer>a dog</answer>"
            parts = text.replace("</seg>", "</seg\0").split("\0")
            engine = ScriptedEngine(model, lambda i, s, parts=parts: script(model, *parts, END))
            [[trace]] = engine.generate(examples(1), replace(CONFIG, format=format))
            own = [t for t in trace.token_ids[trace.num_prompt :] if t not in model.banned_token_ids.tolist()]
            assert own == [*model.encode_response(text), model.end_token_id]
            assert trace.text == text
            assert len(trace.listens) == (2 if format == "interleaved" else 1)
            assert not trace.refusals


@pytest.mark.parametrize("format", ["grounded", "interleaved"])
def test_one_listen_too_many_leads_to_an_answer(model: Qwen2_5Omni, format: Format) -> None:
    config = replace(CONFIG, max_new_tokens=2000, max_listens=4, format=format)
    engine = ScriptedEngine(
        model, lambda i, s: script(model, "<think>", *["<seg>0.5, 0.9</seg"] * 5, "a dog</answer>", END)
    )
    [[trace]] = engine.generate(examples(1), config)
    assert len(trace.listens) == (5 if format == "interleaved" else 1)
    assert [r.reason for r in trace.refusals] == ["too many"]
    assert trace.finish == "listens"
    assert trace.text.endswith("<seg>0.5, 0.9</seg></think><answer>a dog</answer>")


def test_fifty_tags_in_a_row(model: Qwen2_5Omni) -> None:
    config = replace(CONFIG, max_new_tokens=2000, max_listens=50)
    engine = ScriptedEngine(
        model, lambda i, s: script(model, "<think>", *["<seg>0.5, 0.9</seg"] * 50, "</think><answer>a</answer>", END)
    )
    [[trace]] = engine.generate(examples(1), config)
    assert len(trace.listens) == 51 and not trace.refusals
    assert trace.finish == "stop"
    assert trace.text.endswith("<answer>a</answer>")


@pytest.mark.parametrize("limit", range(4, 40, 3))
def test_a_limit_on_tokens_leads_to_an_answer_from_anywhere(model: Qwen2_5Omni, limit: int) -> None:
    """In the middle of the thought, of a tag, at a tag's end, within `</think>`, in the answer."""
    own = script(model, "<think>so ", TAGS[0], " and ", TAGS[1], "</think><answer>")
    for end in (model.encode("a")[0], model.end_token_id):
        engine = ScriptedEngine(model, lambda i, s, end=end: lambda n: own(n) or end if n < limit else end)
        [[trace]] = engine.generate(examples(1), replace(CONFIG, max_new_tokens=limit))
        if trace.finish == "stop":
            assert end == model.end_token_id, "the model ended the answer before the limit"
            continue
        complete(model, trace, limit)


def complete(model: Qwen2_5Omni, trace: Trace, limit: int) -> None:
    assert trace.finish == "length"
    assert limit <= sum(trace.sampled) <= limit + ANSWER_TOKENS
    assert trace.text.count("<answer>") == trace.text.count("</answer>") == trace.text.count("</think>") == 1
    assert trace.text.endswith("</answer>")
    assert trace.token_ids[-1] == model.end_token_id
    assert not trace.sampled[-1]


def test_a_tag_that_ends_at_the_very_limit_is_heard(model: Qwen2_5Omni) -> None:
    limit = len(model.encode("<think>")) + len(model.encode(TAGS[0]))
    engine = ScriptedEngine(model, lambda i, s: script(model, "<think>", TAGS[0]))
    [[trace]] = engine.generate(examples(1), replace(CONFIG, max_new_tokens=limit))
    assert len(trace.listens) == 2
    assert trace.finish == "length"
    assert "</seg></think><answer>" in trace.text


def test_a_tag_left_open_at_the_limit_is_closed_and_not_heard(model: Qwen2_5Omni) -> None:
    text = "<think><seg>0.5, 1.5"
    engine = ScriptedEngine(model, lambda i, s: script(model, text))
    [[trace]] = engine.generate(examples(1), replace(CONFIG, max_new_tokens=len(model.encode(text))))
    assert trace.text.startswith(text + "</seg></think><answer>")
    assert [r.reason for r in trace.refusals] == ["context"]
    assert len(trace.listens) == 1


@pytest.mark.parametrize("context", [250, 260, 300, 340, 400])
def test_the_context_is_never_exceeded(context: int) -> None:
    model = make_model(layers=1, context=context)
    engine = ScriptedEngine(model, lambda i, s: script(model, "<think>", *[TAGS[0], 3] * 20))
    [[trace]] = engine.generate([make_example(3.0)], replace(CONFIG, max_new_tokens=900, max_listens=99))
    assert len(trace.token_ids) <= context
    assert trace.finish == "context"
    if context >= 260:
        assert trace.text.endswith("</answer>")
    if context >= 400:
        assert "context" in {r.reason for r in trace.refusals}
        assert len(trace.listens) > 1


def test_a_tiny_cache_is_a_short_context(model: Qwen2_5Omni) -> None:
    engine = Engine(model, max_cache_bytes=320 * TOKEN_BYTES)
    [[trace]] = engine.generate([make_example(3.0)], replace(CONFIG, max_new_tokens=900))
    assert trace.finish == "context"
    assert len(trace.token_ids) <= 320


def test_a_prompt_that_does_not_fit_is_named(model: Qwen2_5Omni) -> None:
    example = replace(make_example(60.0), id="long one")
    small = make_model(layers=1, context=1000)
    with pytest.raises(ValueError, match=r"^long one: 60\.0 s .* room for 1000; cut the recording$"):
        Engine(small).generate([example], CONFIG)
    with pytest.raises(ValueError, match="shorten the question"):
        Engine(small).generate([replace(make_example(1.0), question="why " * 2000)], CONFIG)
    with pytest.raises(ValueError, match="the question is empty"):
        Engine(model).generate([replace(example, question=" ")], CONFIG)
    with pytest.raises(ValueError, match=r"the cache \(max_cache_bytes\) has room for"):
        Engine(model, max_cache_bytes=10_000).generate([example], CONFIG)


def test_a_question_that_cannot_be_asked_does_not_hold_up_the_others(tmp_path: Path) -> None:
    gone = replace(make_example(), audio=tmp_path / "gone.wav")
    questions = [make_example(60.0), make_example(2.0, 1), gone, make_example(3.0, 2), make_example(60.0)]
    engine = Engine(make_model(layers=1, context=1000), max_rows=3)
    reasons: dict[int, str] = {}
    found = {(i, s): t.token_ids for i, s, t in engine.run(questions, CONFIG, 2, failed=reasons.__setitem__)}
    alone = engine.generate([questions[1], questions[3]], CONFIG, 2)
    assert found == {(i, s): alone[n][s].token_ids for n, i in enumerate((1, 3)) for s in (0, 1)}
    assert sorted(reasons) == [0, 2, 4] and "no such file" in reasons[2] and "cut the recording" in reasons[4]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.05, 60.0])
def test_very_short_and_long_recordings(model: Qwen2_5Omni, seconds: float) -> None:
    example = Example("x", make_audio(seconds), "What is it?")
    engine = ScriptedEngine(model, lambda i, s: script(model, "<seg>0.0, 0.4</seg", 3, "</answer>", END))
    [[trace]] = engine.generate([example], CONFIG)
    assert trace.listens[0].num_tokens == max(1, model.num_audio_tokens(round(seconds * 16_000)))
    assert trace.listens[0].segment == Segment(0.0, example.audio.duration)  # type: ignore[union-attr]
    if seconds < 1:
        assert [r.reason for r in trace.refusals] == ["outside" if seconds == 0 else "too short"]
    else:
        assert trace.listens[1].segment == Segment(0.0, 0.4)
    again = replayed(model, example, trace).numpy()
    np.testing.assert_allclose(again[trace.sampled[1:]], np.array(trace.logprobs)[trace.sampled], atol=3e-5)


def test_a_segment_too_short_to_encode_is_refused(model: Qwen2_5Omni) -> None:
    engine = ScriptedEngine(model, lambda i, s: script(model, "<seg>0.00, 0.01</seg", 3, "</answer>", END))
    [[trace]] = engine.generate(examples(1), replace(CONFIG, min_segment=0.0))
    assert [r.reason for r in trace.refusals] == ["too short"]


def test_other_operations_and_rates(model: Qwen2_5Omni) -> None:
    engine = ScriptedEngine(model, lambda i, s: script(model, "<slow>0.5, 1.5</slow", ">", 3, "</answer>", END))
    engine.operations = {"seg": crop, "slow": slow}
    [[trace]] = engine.generate([Example("x", make_audio(3.0, rate=8000), "What is it?")], CONFIG)
    assert trace.listens[0].num_tokens == model.num_audio_tokens(48_000)
    assert trace.listens[1].operation == "slow"
    assert trace.listens[1].num_tokens == model.num_audio_tokens(32_000)


def test_after_the_answer_only_an_end_is_kept(model: Qwen2_5Omni) -> None:
    text = "<think>so</think><answer>a dog</answer>"
    kept, dropped = (
        ScriptedEngine(model, lambda i, s, rest=rest: script(model, text, rest, 9)).generate(examples(1), CONFIG)[0][0]
        for rest in (END, " dog")
    )
    assert kept.token_ids == dropped.token_ids
    assert kept.sampled[:-1] == dropped.sampled[:-1]
    assert kept.sampled[-1]
    assert not dropped.sampled[-1]
    assert kept.text == dropped.text == text
    assert kept.finish == dropped.finish == "stop"


def test_characters_arrive_whole(model: Qwen2_5Omni) -> None:
    text = "<think>é 犬 \N{HEADPHONE}</think><answer>犬</answer>"
    engine = ScriptedEngine(model, lambda i, s: script(model, text, END))
    events = list(engine.stream(examples(1)[0], CONFIG))
    assert "".join(e.text for e in events if isinstance(e, Text)) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in e.text for e in events if isinstance(e, Text))
    half = model.encode("\N{HEADPHONE}")[:-1]
    broken = ScriptedEngine(model, lambda i, s: dict(enumerate([*half * 4, *model.encode("</answer>")])).get)
    [[trace]] = broken.generate(examples(1), CONFIG)
    assert trace.text.endswith("</answer>")


def test_streaming_is_generating_with_every_event_in_its_place(model: Qwen2_5Omni) -> None:
    scripts = lambda i, s: script(model, "<think>", TAGS[0], 2, "<seg>5, 4</seg", 1, "</think><answer>a</answer>", END)  # noqa: E731
    engine = ScriptedEngine(model, scripts)
    events = list(engine.stream(examples(1)[0], CONFIG))
    [[trace]] = engine.generate(examples(1), CONFIG)
    assert isinstance(events[-1], Finished)
    same(events[-1].trace, trace)
    assert "".join(e.text for e in events if isinstance(e, Text)) == trace.text
    assert [e.listen for e in events if isinstance(e, Heard)] == trace.listens[1:]
    assert [e.refusal for e in events if isinstance(e, Refused)] == trace.refusals
    at = next(i for i, e in enumerate(events) if isinstance(e, Heard))
    assert "".join(e.text for e in events[:at] if isinstance(e, Text)).endswith("<seg>0.5, 1.5</seg>")


def test_all_that_pause_in_a_step_are_encoded_and_read_together(
    model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    forward = model.forward

    def counted(*args: Any) -> torch.Tensor:
        calls.append((len(args[0]), len(args[2])))
        return forward(*args)

    monkeypatch.setattr(model, "forward", counted)
    engine = ScriptedEngine(model, lambda i, s: script(model, "<think>", TAGS[0], 3, "</answer>", END))
    engine.generate(examples(1), CONFIG, 8)
    assert calls[0] == (1, 1), "one prompt for eight rows"
    assert [call for call in calls[1:] if call[1]] == [(8, 8)]


def test_the_module_is_left_as_it_was_even_when_the_caller_walks_away(model: Qwen2_5Omni) -> None:
    model.module.train()
    try:
        stream = Engine(model).stream(examples(1)[0], CONFIG)
        next(stream)
        assert torch.is_grad_enabled()
        stream.close()
        assert model.module.training
    finally:
        model.module.eval()


def test_timings_are_told_apart(model: Qwen2_5Omni) -> None:
    engine = ScriptedEngine(model, ragged(model))
    engine.generate(examples(2), CONFIG)
    assert set(engine.seconds) == {"prefill", "listen", "decode"}
    assert all(seconds > 0 for seconds in engine.seconds.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "spoken"}, {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": 1e-39},
        {"top_p": 0.0}, {"top_k": -1},
        {"max_new_tokens": 0}, {"max_listens": -1}, {"min_segment": float("nan")}, {"seed": -1},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenerationConfig(**wrong)  # type: ignore[arg-type]


# --- sampling -------------------------------------------------------------------------------------------------------


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 9.0]).expand(20_000, -1)
    banned = torch.tensor([4])
    uniforms = np.random.default_rng(0).random(20_000).tolist()

    def shares(**settings: float) -> np.ndarray:
        ids, _ = choose(logits, banned, uniforms, **settings)  # type: ignore[arg-type]
        return np.bincount(ids, minlength=5) / 20_000

    expected = torch.softmax(torch.tensor([2.0, 1.0, 0.0, -1.0]), 0).numpy()
    np.testing.assert_allclose(shares(temperature=1.0)[:4], expected, atol=0.01)
    assert shares(temperature=1.0)[4] == 0
    np.testing.assert_allclose(shares(temperature=1.0, top_k=2)[:2], expected[:2] / expected[:2].sum(), atol=0.01)
    np.testing.assert_allclose(shares(temperature=1.0, top_p=0.7)[:2], expected[:2] / expected[:2].sum(), atol=0.01)
    assert shares(temperature=1.0, top_p=0.01)[0] == 1
    assert shares(temperature=0.0)[0] == 1


def test_extreme_uniforms_and_logits_stay_in_the_support() -> None:
    banned = torch.tensor([0, 4])
    for uniform in (0.0, np.nextafter(1.0, 0.0)):
        ids, logprobs = choose(torch.tensor([[9.0, 1, 2, 3, 9]]), banned, [uniform], 1.0)
        assert ids[0] in (1, 2, 3)
        assert np.isfinite(logprobs).all()


def test_token_logprobs_leaves_banned_ids_out_and_has_a_gradient() -> None:
    logits = torch.randn(2, 3, 7, requires_grad=True)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    banned = torch.tensor([0, 6])
    found = token_logprobs(logits, ids, banned)
    expected = torch.log_softmax(logits.detach().index_fill(-1, banned, float("-inf")), -1)
    torch.testing.assert_close(found[:, :2].detach(), expected.gather(-1, ids[..., None]).squeeze(-1)[:, :2])
    assert torch.isfinite(found).all(), "a masked position must not poison a sum"
    found[0].sum().backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, banned].any()


# --- answers --------------------------------------------------------------------------------------------------------


def test_a_sampled_answer_does_not_depend_on_how_the_path_is_spelt(
    model: Qwen2_5Omni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.wav", make_audio(1.0))
    monkeypatch.chdir(tmp_path)
    config = replace(CONFIG, temperature=1.0, max_new_tokens=8)
    one, other = (ask(model, path, "What is it?", config=config).trace for path in ("a.wav", tmp_path / "a.wav"))
    assert one.token_ids == other.token_ids


def test_ask_answers_a_question_about_a_recording(model: Qwen2_5Omni) -> None:
    answer = ask(model, make_audio(2.0), "What is it?", ["a dog", "a cat"], replace(CONFIG, max_new_tokens=5))
    assert answer.trace.finish == "length"
    assert answer.response.text == answer.trace.text
    assert answer.answer is not None
    assert {"load", "prefill", "listen", "decode", "total"} == set(answer.seconds)
    assert answer.segments == ()


def test_fixture_vocabulary_is_json() -> None:
    from conftest import FIXTURES

    assert len(json.loads((FIXTURES / "qwen_bpe.json").read_text())["model"]["vocab"]) < 1000


# --- repetition -----------------------------------------------------------------------------------------------------

KNOCKS = "a knock, " * 60
LOOP = "and the dog barks again and then "


@pytest.mark.parametrize("format", ["conditioned", "grounded", "interleaved"])
def test_a_loop_is_cut_and_led_to_an_answer(model: Qwen2_5Omni, format: Format) -> None:
    config = replace(CONFIG, max_new_tokens=3000, format=format)
    engine = ScriptedEngine(model, lambda i, s: script(model, "<think>It knocks. ", LOOP * 90))
    [[trace]] = engine.generate(examples(1), config)
    assert trace.finish == "repetition"
    assert trace.text.startswith("<think>It knocks. " + LOOP * (600 // len(LOOP)))
    assert len(trace.text.partition("</think>")[0]) <= len("<think>It knocks. ") + 600 + 20
    assert "</think><answer>" in trace.text and trace.text.endswith("</answer>")
    assert "dog" in trace.text.partition("<answer>")[2], "the model writes the answer itself"
    again = replayed(model, examples(1)[0], trace)[torch.tensor(trace.sampled[1:])]
    np.testing.assert_allclose(again, np.array(trace.logprobs)[trace.sampled], atol=3e-5)


def test_an_answer_that_loops_is_closed_at_once(model: Qwen2_5Omni) -> None:
    engine = ScriptedEngine(model, lambda i, s: script(model, "<think>so</think><answer>", KNOCKS * 9))
    [[trace]] = engine.generate(examples(1), replace(CONFIG, max_new_tokens=3000))
    assert trace.finish == "repetition"
    assert trace.text.endswith("</answer>") and trace.text.count("knock") < 80


def test_a_cut_answer_is_the_same_alone_and_in_a_batch_and_starts_as_in_the_naive_loop(model: Qwen2_5Omni) -> None:
    config, asked = replace(CONFIG, max_new_tokens=1200), examples(2)
    scripts = lambda i, s: script(model, "<think>", 2 + i, TAGS[0], 1, LOOP * 60)  # noqa: E731
    together, alone = (ScriptedEngine(model, scripts, max_rows).generate(asked, config) for max_rows in (2, 1))
    for i, ([trace], [other]) in enumerate(zip(together, alone, strict=True)):
        same(trace, other)
        assert trace.finish == "repetition" and len(trace.listens) == 2
        loop = naive(model, asked[i], replace(config, max_new_tokens=110), script=scripts(i, 0))
        assert trace.text.startswith(loop.text)
        assert trace.token_ids[: len(loop.token_ids)] == loop.token_ids


@pytest.mark.parametrize("honest", [KNOCKS, "ha " * 150, "no, wait: " * 40, "\n" * 500, LOOP * 15])
def test_a_long_list_of_equal_words_is_no_loop(model: Qwen2_5Omni, honest: str) -> None:
    text = f"<think>{honest}</think><answer>{KNOCKS}</answer>"
    engine = ScriptedEngine(model, lambda i, s: script(model, text, END))
    [[trace]] = engine.generate(examples(1), replace(CONFIG, max_new_tokens=3000))
    assert (trace.finish, trace.text) == ("stop", text)


def test_a_segment_heard_again_and_again_is_left_to_its_own_limit(model: Qwen2_5Omni) -> None:
    engine = ScriptedEngine(model, lambda i, s: script(model, "<think>", "Again <seg>0.5, 0.9</seg> " * 45))
    [[trace]] = engine.generate(examples(1), replace(CONFIG, max_new_tokens=3000, max_listens=30))
    assert trace.finish == "listens" and len(trace.listens) == 31


@pytest.mark.parametrize("period", [1, 2, 7, 24, 25, 100, 255, 256])
def test_repeats_finds_each_period_and_needs_six_times_and_600_characters(period: int) -> None:
    rng = np.random.default_rng(period)
    stretch = "".join(rng.choice(list("abcdef "), period))
    least = max(600, 6 * period)
    assert repeats(("before it " + stretch * 700)[: 10 + least]), "as soon as it is long enough"
    if period > 7:  # shorter ones may have a period of their own
        assert not repeats((stretch * 700)[: least - 1])
    assert not repeats(stretch * 700 + "and on")
    assert not repeats((stretch * 700)[:300] + "x" + (stretch * 700)[:500])


# --- limits that were off -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["<think>", "<think></think><answer>"])
def test_a_tag_begun_at_the_contexts_last_place_does_not_exceed_it(before: str) -> None:
    """`</answer>` is one token of nano's; after a `<` that the model wrote, the rest of it is three."""
    text = "<think>a dog <seg>0.5, 1.5</seg> so</think><answer>a dog</answer>"
    size = nano.NanoConfig(hidden_size=32, num_layers=1, num_mel_bins=16, audio_width=48, audio_layers=1, context=190)
    model = nano.create([text] * 3, size)

    def scripts(index: int, sample: int) -> Script:
        at, written = divmod(sample, 5)
        begun = model.encode(("<", "</", "</ans", "<seg", "so <")[written])
        ids = [*model.encode(before), *model.encode(" so") * at, *begun, *model.encode(" so") * 300]
        return dict(enumerate(ids)).get

    [traces] = ScriptedEngine(model, scripts, max_rows=64).generate(examples(1), CONFIG, 5 * 120)
    assert {trace.finish for trace in traces} == {"context"}
    assert max(len(trace.token_ids) for trace in traces) <= 190
    assert all(trace.text.endswith("</answer>") for trace in traces)


def test_a_recording_beyond_the_context_is_refused_before_its_mel_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mel of three hours took 5.8 GB before the refusal came."""
    small = make_model(layers=1, context=1000)
    monkeypatch.setattr(small, "features", lambda audio: pytest.fail("the log-mel was computed"))
    with pytest.raises(ValueError, match="cut the recording"):
        Engine(small).generate([make_example(60.0)], CONFIG)


def test_help_shows_what_each_option_means() -> None:
    assert "whatever operation is applied" in pydoc.render_doc(Segment)
    assert "Seconds from the start of the recording" in pydoc.render_doc(Segment)
    shown = pydoc.render_doc(GenerationConfig)
    assert "The same seed gives the same answers." in shown and "The shortest segment that may be heard again" in shown
