"""A session: questions join a running batch, and every answer is the one that it would be alone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_example, make_model
from test_engine import CONFIG, TAGS, TOKEN_BYTES, examples, ragged, same

from relisten import audio as audio_files
from relisten.engine import decoder
from relisten.engine.decoder import LONGEST_WAIT, PATIENCE
from relisten.engine.engine import Engine, Failed, Finished, Heard, Session, Text, Update
from relisten.engine.naive import Script, naive
from relisten.engine.question import Question
from relisten.engine.scripted import END, ScriptedEngine, script
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio, Example, Trace


def drained(session: Session) -> list[Update]:
    """Step until nothing is left to do."""
    updates: list[Update] = []
    while session.busy:
        updates += session.step()
    return updates


def finished(updates: list[Update]) -> dict[tuple[int, int], Trace]:
    return {(u.question, u.sample): u.event.trace for u in updates if isinstance(u.event, Finished)}


def test_questions_that_join_late_get_the_answers_that_they_get_alone(model: Qwen2_5Omni) -> None:
    expected = ScriptedEngine(model, ragged(model), 1).generate(examples(), CONFIG, 2)
    with ScriptedEngine(model, ragged(model), max_rows=4).session() as session:
        updates: list[Update] = []
        for example in examples():
            session.submit(example, CONFIG, 2)
            for _ in range(7):
                updates += session.step()
        assert session.num_live == 4 and session.num_waiting == 2, "the third question waits for a place"
        updates += drained(session)
    found = finished(updates)
    assert len(found) == 6
    for (question, sample), trace in found.items():
        same(trace, expected[question][sample])
        own = [u.event for u in updates if (u.question, u.sample) == (question, sample)]
        assert "".join(e.text for e in own if isinstance(e, Text)) == trace.text
        assert [e.listen for e in own if isinstance(e, Heard)] == trace.listens[1:]
        assert isinstance(own[-1], Finished)


def test_answers_of_one_batch_may_have_different_options(model: Qwen2_5Omni) -> None:
    configs = [
        replace(CONFIG, max_new_tokens=30),
        replace(CONFIG, max_new_tokens=20, temperature=1.0),
        replace(CONFIG, max_new_tokens=25, temperature=0.7, top_p=0.9, seed=3),
        replace(CONFIG, max_new_tokens=9, format="grounded"),
    ]
    asked = [*examples(3), examples(1)[0]]
    with Engine(model).session() as session:
        for example, config in zip(asked, configs, strict=True):
            session.submit(example, config)
        found = finished(drained(session))
    for number, (example, config) in enumerate(zip(asked, configs, strict=True)):
        same(found[number, 0], Engine(model).generate([example], config)[0][0])


def test_a_cancelled_answer_frees_its_row_and_disturbs_nobody(model: Qwen2_5Omni) -> None:
    expected = ScriptedEngine(model, ragged(model), 1).generate(examples(), CONFIG, 2)
    with ScriptedEngine(model, ragged(model), max_rows=3).session() as session:
        for example in examples():
            session.submit(example, CONFIG, 2)
        updates = [update for _ in range(6) for update in session.step()]
        session.cancel(0, 1)
        session.cancel(1)  # one of its answers is a row, the other waits
        session.cancel(77)
        assert session.num_live == 1 and session.num_waiting == 2
        told = len(updates)
        updates += drained(session)
    assert {(u.question, u.sample) for u in updates[told:]} == {(0, 0), (2, 0), (2, 1)}
    for (question, sample), trace in finished(updates).items():
        same(trace, expected[question][sample])


def test_a_question_that_cannot_be_asked_is_told_once_and_the_others_go_on(tmp_path: Path) -> None:
    model = make_model(context=1000)
    gone = replace(make_example(), audio=tmp_path / "gone.wav")
    with ScriptedEngine(model, lambda i, s: script(model, TAGS[0], "</answer>", END)).session() as session:
        numbers = [session.submit(example, CONFIG, 2) for example in (gone, make_example(), make_example(60.0))]
        updates = drained(session)
    failures = {u.question: u.event.reason for u in updates if isinstance(u.event, Failed)}
    assert "no such file" in failures[numbers[0]] and "cut the recording" in failures[numbers[2]]
    assert [u.question for u in updates if isinstance(u.event, Failed)] == [numbers[0], numbers[2]]
    assert set(finished(updates)) == {(numbers[1], 0), (numbers[1], 1)}


def test_a_session_that_idles_goes_on(model: Qwen2_5Omni) -> None:
    """As a server's does: nothing to do for a while, then a new question."""
    with ScriptedEngine(model, lambda i, s: script(model, TAGS[0], 2, "</answer>", END)).session() as session:
        session.submit(examples()[0], CONFIG)
        first = finished(drained(session))
        assert not session.busy and session.step() == []
        session.submit(examples()[0], CONFIG)
        second = finished(drained(session))
    same(first[0, 0], second[1, 0])


def test_rows_that_end_with_their_first_token_leave_the_others_in_place(model: Qwen2_5Omni) -> None:
    """They leave before the cache has memory for any row; the row that took their number had none to be moved."""
    scripts = lambda i, s: script(model, END if s % 3 == 0 else "<think>so</think></answer>", END)  # noqa: E731
    [traces] = ScriptedEngine(model, scripts).generate(examples(1), CONFIG, 8)
    [expected] = ScriptedEngine(model, scripts, max_rows=1).generate(examples(1), CONFIG, 8)
    for trace, other in zip(traces, expected, strict=True):
        same(trace, other)
    assert [len(trace.token_ids) - trace.num_prompt for trace in traces[:4:3]] == [1, 1]


@pytest.mark.parametrize("training", [True, False])
def test_a_session_leaves_the_module_as_it_was(model: Qwen2_5Omni, training: bool) -> None:
    model.module.train(training)
    try:
        with pytest.raises(ValueError, match="the question is empty"):
            Engine(model).generate([replace(examples()[0], question=" ")], CONFIG)
        assert model.module.training == training
    finally:
        model.module.eval()


# --- pauses wait for company ----------------------------------------------------------------------------------------


def test_pauses_wait_for_company_and_every_answer_stays_the_naive_loops(model: Qwen2_5Omni) -> None:
    """Each pause once cost a forward of its own: 16 rows that pause at steps of their own needed 32 of them."""
    scripts = lambda i, s: script(model, "<think>", 1 + s, TAGS[0], 20 - s, TAGS[2], 3, "</answer>", END)  # noqa: E731
    engine = ScriptedEngine(model, scripts, max_rows=16)
    [traces] = engine.generate(examples(1), CONFIG, 16)
    for sample in (0, 5, 15):
        same(traces[sample], naive(model, examples(1)[0], CONFIG, script=scripts(0, sample)))
    assert engine.usage.forwards["listen"] <= 16
    assert all(len(trace.listens) == 3 for trace in traces)
    alone = max(sum(trace.sampled) for trace in traces) + LONGEST_WAIT * 2
    assert engine.usage.forwards["decode"] <= alone


@pytest.mark.parametrize(("rows", "alone", "together"), [(8, 122, 125), (64, 176, 135)])
def test_waiting_for_company_saves_forwards(
    monkeypatch: pytest.MonkeyPatch, rows: int, alone: int, together: int
) -> None:
    """Rows of 110 tokens with two pauses at places of their own: with few rows it costs little, with many it saves."""
    small, tag = make_model(layers=1), "<seg>0.1, 0.5</seg"
    pause, words = small.encode(tag), small.encode("a b c d e f g h i j k l m n o p q r s t u v w x y z ") * 4

    def written(index: int, sample: int) -> Script:
        text = words[: 109 - 2 * len(pause)]
        first, second = sorted(random.Random(sample).sample(range(2, len(text) - 2), 2))
        ids = [*text[:first], *pause, *text[first:second], *pause, *text[second:], small.end_token_id]
        return dict(enumerate(ids)).get

    engine, forwards = ScriptedEngine(small, written, max_rows=rows), []
    for patience in (0.0, PATIENCE):
        monkeypatch.setattr(decoder, "PATIENCE", patience)
        engine.generate([make_example(1.0)], CONFIG, rows)
        forwards.append(engine.usage.forwards["listen"] + engine.usage.forwards["decode"])
    assert forwards[0] == alone
    assert forwards[1] <= together


def test_a_single_row_never_waits(model: Qwen2_5Omni) -> None:
    engine = ScriptedEngine(model, ragged(model))
    [[trace]] = engine.generate(examples(1), CONFIG)
    assert engine.usage.forwards == {"prefill": 1, "listen": 3, "decode": sum(trace.sampled) - 1 - 3}


def test_no_row_waits_for_long(model: Qwen2_5Omni) -> None:
    """One row pauses and 15 do not: it is heard after a few steps, though nobody joins it."""
    scripts = lambda i, s: script(model, TAGS[0] if s == 0 else 40, 60, "</answer>", END)  # noqa: E731
    with ScriptedEngine(model, scripts, max_rows=16).session() as session:
        session.submit(examples(1)[0], CONFIG, 16)
        while not session.usage.forwards["listen"]:
            session.step()
            assert max(row.waited for row in session._decoder.rows) <= LONGEST_WAIT
    # The first token comes with the prompt; the step of the listen decodes one more.
    assert session.usage.forwards["decode"] == len(model.encode(TAGS[0])) - 1 + LONGEST_WAIT + 1


def about_one_recording(num: int) -> list[Example]:
    """Questions about one recording, and one about another in their midst."""
    asked = [make_example(3.0, seed=1, question="What is it?" * (i + 1)) for i in range(num)]
    asked = [replace(one, id=f"q{i}", audio=asked[0].audio) for i, one in enumerate(asked)]
    return [asked[0], make_example(2.0, seed=2), *asked[1:]]


def test_questions_about_one_recording_share_it_and_get_the_naive_loops_answers(
    model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, pieces, cells = about_one_recording(3), list[int](), list[int]()
    forward = model.forward

    def counted(*args: Any) -> torch.Tensor:
        pieces.append(len(args[2]))
        return forward(*args)

    monkeypatch.setattr(model, "forward", counted)
    with ScriptedEngine(model, ragged(model)).session() as session:
        for example in asked:
            session.submit(example, CONFIG, 2)
        first = session.step()
        encoded = sum(pieces)
        cells = [length for length in session._decoder._slab.prompt_lengths if length]  # type: ignore[union-attr]
        found = finished(first + drained(session))
        assert not any(session._decoder._slab.prompt_lengths), "all are freed at the end"  # type: ignore[union-attr]
    assert encoded == 2 and len(cells) == 2, "two recordings, however many questions"
    monkeypatch.undo()
    for (question, sample), trace in found.items():
        same(trace, naive(model, asked[question], CONFIG, script=ragged(model)(question, sample)))
    assert len(found) == 8


def test_a_shared_recording_survives_a_full_cache_and_cancelled_questions(model: Qwen2_5Omni) -> None:
    asked = about_one_recording(4)
    expected = ScriptedEngine(model, ragged(model), 1).generate(asked, CONFIG, 2)
    engine = ScriptedEngine(model, ragged(model), 8, 900 * TOKEN_BYTES)
    engine.lengths.add(40)  # so that too many rows are admitted
    with engine.session() as session:
        for example in asked:
            session.submit(example, CONFIG, 2)
        updates = [update for _ in range(6) for update in session.step()]
        session.cancel(0)
        found = finished(updates + drained(session))
    assert set(found) == {(question, sample) for question in range(1, 5) for sample in range(2)}
    assert engine.usage.put_back, "this test wants a cache that is too small"
    for (question, sample), trace in found.items():
        same(trace, expected[question][sample])


def test_a_file_that_several_questions_are_about_is_read_once(
    model: Qwen2_5Omni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, path = about_one_recording(3), tmp_path / "one.wav"
    assert isinstance(asked[0].audio, Audio)
    audio_files.save(path, asked[0].audio)
    asked = [replace(one, audio=path) for one in asked if one.id != asked[1].id]
    reads: list[Path] = []
    read = audio_files.load
    monkeypatch.setattr(audio_files, "load", lambda file, rate: (reads.append(file), read(file, rate))[1])
    ScriptedEngine(model, ragged(model)).generate(asked, CONFIG)
    assert reads == [path]


def test_a_prompt_that_is_replaced_is_stored_whole(model: Qwen2_5Omni) -> None:
    question = Question(model, make_example(2.0), 4, "interleaved")
    question.token_ids = [*question.token_ids, 1, 2, 3]  # as the plug-in for ms-swift does
    assert question.prefix == (4, len(question.token_ids))
    question.share()
    assert question.prefix == (4, question.listen.at + question.listen.num_tokens)
