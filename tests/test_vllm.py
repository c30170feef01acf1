"""Answers from vLLM servers are those of the engine in this process, whatever the servers do; tested with a fake."""

from __future__ import annotations

import asyncio
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from conftest import make_example
from test_engine import same
from vllm_server import Handler, VllmServer, serving

from relisten import audio, cli, models, records, redact, tags
from relisten.asking import ask
from relisten.commands.options import ModelOptions
from relisten.commands.serve import served
from relisten.engine.engine import Engine, Finished, Heard, Refused, Text
from relisten.engine.generation import GenerationConfig
from relisten.engine.operations import slow
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.remote import fleet as fleets
from relisten.remote.fleet import Unreachable, machines
from relisten.remote.vllm import VllmEngine, connect
from relisten.types import Audio, Example, Trace
from tests.serving import messages, running

ANSWER = (
    "<think>A siren <seg>0.5, 1.5</seg>, then <seg>1.0, 9.0</seg><seg>3, 2</seg> and <seg>0.1, 0.7</seg> two"
    " knocks.</think><answer>two knocks</answer>"
)
CONFIG = GenerationConfig(max_new_tokens=160)
SOUND = Path(__file__).parent.parent / "src" / "relisten" / "assets" / "example.flac"


def says(text: str) -> str | None:
    """What the fake's model writes after `text`."""
    return ANSWER[len(text) :] if ANSWER.startswith(text) else None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(fleets, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(fleets, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(redact, "_known", set())


@pytest.fixture(scope="module")
def nano() -> Qwen2_5Omni:
    return models.load("nano")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def questions() -> list[Example]:
    heard = audio.load(SOUND, 16_000)
    return [
        Example("first", heard, "which sound is heard first?", ("violin", "flute")),
        Example("word", heard, "which word is spoken right after the flute?", ("two", "five", "nine")),
        Example("short", Audio(heard.samples[:20_000]), "which word is spoken first?", ("two", "nine")),
    ]


def engine(server: VllmServer | str, model: Qwen2_5Omni, **more: Any) -> VllmEngine:
    address = server if isinstance(server, str) else server.url
    return VllmEngine(model, servers=connect(address, model), **more)


def equal(ours: list[list[Trace]], theirs: list[list[Trace]]) -> None:
    assert len(ours) == len(theirs)
    for first, second in zip([t for g in ours for t in g], [t for g in theirs for t in g], strict=True):
        same(first, second)
        assert (first.finish, first.refusals) == (second.finish, second.refusals)


# --- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(),
        GenerationConfig(format="grounded"),
        GenerationConfig(format="conditioned"),
        GenerationConfig(max_new_tokens=12),
        GenerationConfig(max_listens=0),
        GenerationConfig(only_choices=True, max_new_tokens=13),
    ],
    ids=lambda c: f"{c.format} {c.max_new_tokens} {c.max_listens}",
)
def test_answers_are_those_of_the_local_engine(
    nano: Qwen2_5Omni, questions: list[Example], config: GenerationConfig, live: bool
) -> None:
    with serving(nano) as server:
        theirs = engine(server, nano, live=live).generate(questions, config)
    equal(Engine(nano).generate(questions, config), theirs)


def test_a_model_without_its_weights_is_enough(nano: Qwen2_5Omni, questions: list[Example]) -> None:
    bare = models.load_without_weights("nano")
    assert bare.module.device.type == "meta"
    with serving(nano) as server:
        theirs = engine(server, bare).generate(questions)  # type: ignore[arg-type]
    equal(Engine(nano).generate(questions), theirs)


def test_a_closing_tag_of_several_tokens_is_the_row_s_affair(model: Qwen2_5Omni) -> None:
    """Qwen's vocabulary has no `</seg>`. The server stops inside of it, and the row forces the rest."""
    example = make_example(4.0)
    with serving(model, says=says) as server:
        [[trace]] = engine(server, model).generate([example], CONFIG)
    assert trace.text == ANSWER
    assert [(listen.segment.start, listen.segment.end) for listen in trace.listens[1:]] == [
        (0.5, 1.5), (1.0, 4.0), (0.1, 0.7),
    ]  # fmt: skip
    assert [refusal.reason for refusal in trace.refusals] == ["unreadable"]
    after = slice(trace.num_prompt, None)
    own = zip(trace.token_ids[after], trace.sampled[after], strict=True)
    forced = [model.decode([token]) for token, sampled in own if not sampled]
    assert forced.count(">") == 4


def test_recorded_log_probabilities_are_those_of_a_forced_decode(model: Qwen2_5Omni) -> None:
    """Parity: the server is made to write the trace again (trace_decode_token_ids), and says how likely that was."""
    example = make_example(4.0)
    config = replace(CONFIG, temperature=0.8, seed=3)
    with serving(model) as server:
        answering = engine(server, model)
        [[trace]] = answering.generate([example], config)
        begin = trace.num_prompt
        sampling = {"temperature": 0.8, "max_tokens": 9, "trace_decode_token_ids": trace.token_ids[begin : begin + 9]}
        bias = {str(token): -100 for token in model.banned_token_ids.tolist()}
        body = server.bodies[-1] | {"sampling_params": sampling | {"logit_bias": bias}}
        body["token_ids"] = server.bodies[1]["token_ids"]
        replies = [found["choices"][0]["logprobs"]["content"][0] for found in replay(server, body)]
    assert [one["token_id"] for one in replies] == trace.token_ids[begin : begin + 9]
    np.testing.assert_allclose([one["logprob"] for one in replies], trace.logprobs[begin : begin + 9], atol=1e-4)


def replay(server: VllmServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    handler = Handler.__new__(Handler)
    handler.server = server
    return list(handler.replies(body, 0))


def test_banned_tokens_have_no_probability_and_seeds_decide(model: Qwen2_5Omni) -> None:
    config = GenerationConfig(temperature=1.3, max_new_tokens=40, seed=5)
    banned = set(model.banned_token_ids.tolist())
    with serving(model) as server:
        answering = engine(server, model)
        first, again = (answering.generate([make_example(2.0)], config, num_samples=3)[0] for _ in range(2))
        other = answering.generate([make_example(2.0)], replace(config, seed=6))[0][0]
    assert [t.token_ids for t in first] == [t.token_ids for t in again]
    assert len({tuple(t.token_ids) for t in [*first, other]}) == 4
    for trace in first:
        sampled = {t for t, own in zip(trace.token_ids, trace.sampled, strict=True) if own}
        assert not sampled & banned


def test_log_probabilities_that_cannot_be_known_are_not_numbers(nano: Qwen2_5Omni, questions: list[Example]) -> None:
    sampling = GenerationConfig(temperature=0.7, top_p=0.9)
    with serving(nano, processed=False) as raw, serving(nano) as server:
        [[greedy]] = engine(raw, nano).generate(questions[:1])
        [[cut]] = engine(server, nano).generate(questions[:1], sampling)
    for trace in (greedy, cut):
        kinds = {math.isnan(p) for p, own in zip(trace.logprobs, trace.sampled, strict=True) if own}
        assert kinds == {True}


def test_other_operations_are_sent_as_they_sound(nano: Qwen2_5Omni) -> None:
    example = make_example(4.0)
    text = "<think>It <slow>0.5, 1.5</slow> ends.</think><answer>a dog</answer>"
    with serving(nano, says=lambda written: text[len(written) :] if text.startswith(written) else None) as server:
        [[trace]] = engine(server, nano, operations={"slow": slow}).generate([example])
    assert trace.listens[1].operation == "slow"
    assert trace.listens[1].num_tokens == nano.num_audio_tokens(2 * 16_000)


# --- events ---------------------------------------------------------------------------------------------------------


def test_events_come_in_order_and_live_ones_token_by_token(model: Qwen2_5Omni) -> None:
    with serving(model, says=says) as server:
        whole = list(engine(server, model).stream(make_example(4.0), CONFIG))
        live = list(engine(server, model, live=True).stream(make_example(4.0), CONFIG))
    for events in (whole, live):
        assert "".join(e.text for e in events if isinstance(e, Text)) == ANSWER
        assert [type(e) for e in events if not isinstance(e, Text)] == [Heard, Heard, Refused, Heard, Finished]


def test_answers_run_side_by_side_and_can_be_given_up(model: Qwen2_5Omni) -> None:
    with serving(model, says=says) as server:
        answering = engine(server, model, max_rows=3)
        with answering.session() as session:
            numbers = [session.submit(make_example(2.0, seed=i), CONFIG) for i in range(5)]
            session.cancel(numbers[4])
            session.step()
            assert session.num_live <= 3 and session.num_waiting + session.num_live == 4
            session.cancel(numbers[0])
            told = [update for _ in range(10_000) if session.busy for update in session.step()]
        assert {u.question for u in told} == set(numbers[1:4])
        assert sum(isinstance(u.event, Finished) for u in told) == 3
        equal(*(answering.generate([make_example(2.0)], CONFIG) for _ in range(2)))


# --- servers that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    "fault",
    ["500", "503 0.01", "429 0.01", "close", "half", "garbage", 'garbage {"choices": 3}', "miss", "overshoot 3"],
)
def test_a_fault_changes_no_answer(model: Qwen2_5Omni, fault: str, live: bool) -> None:
    asked = [make_example(2.0 + i, seed=i) for i in range(2)]
    # The first request is the one that asks what the server can do.
    bad = {number for number in range(2, 500) if random.Random(number).random() < 0.3}
    with serving(model, lambda number, _: fault if number in bad else "", says) as server:
        theirs = engine(server, model, live=live).generate(asked, CONFIG)
        assert server.faults[fault.partition(" ")[0]] > 1
    with serving(model, says=says) as server:
        equal(engine(server, model).generate(asked, CONFIG), theirs)


def test_a_stream_that_is_cut_goes_on_from_there(nano: Qwen2_5Omni, questions: list[Example]) -> None:
    with serving(nano, lambda number, _: "cut" if number in (2, 3) else "") as server:
        events = list(engine(server, nano, live=True).stream(questions[0]))
        assert server.faults["cut"] == 2
    assert isinstance(events[-1], Finished)
    equal(Engine(nano).generate(questions[:1]), [[events[-1].trace]])


def test_a_server_that_dies_is_left_out_and_its_work_asked_elsewhere(model: Qwen2_5Omni) -> None:
    asked = [make_example(2.0, seed=i) for i in range(6)]
    with serving(model, says=says) as well:
        alone = engine(well, model).generate(asked, CONFIG)
        with serving(model, lambda number, _: "close" if number > 4 else "", says) as dying:
            theirs = engine(f"{dying.url},{well.url}", model).generate(asked, CONFIG)
            assert dying.num > 4
    equal(alone, theirs)


def test_the_least_busy_server_is_asked(model: Qwen2_5Omni) -> None:
    asked = [make_example(2.0, seed=i) for i in range(8)]
    with serving(model, says=says) as one, serving(model, says=says) as two:
        engine(f"{one.url},{two.url}", model).generate(asked, CONFIG)
        assert abs(one.num - two.num) <= 8 and one.most <= 4 and two.most <= 4


@pytest.mark.parametrize("fault", ["500", "close"])
def test_when_no_server_is_left_the_run_stops(model: Qwen2_5Omni, fault: str) -> None:
    with serving(model, lambda number, _: fault if number > 3 else "", says) as server:
        answering = engine(server, model)
        with pytest.raises(Unreachable, match=r"no server answers .*; when one does, start again"):
            answering.generate([make_example(2.0, seed=i) for i in range(2)], CONFIG)


def test_a_router_that_passes_on_little_is_enough(model: Qwen2_5Omni) -> None:
    with serving(model, says=says) as server:
        server.router = True
        [[trace]] = engine(server, model).generate([make_example(2.0)], CONFIG)
    assert trace.text == ANSWER


def test_audio_is_sent_once(model: Qwen2_5Omni) -> None:
    """A later request names the recording by its uuid alone; if the server has dropped it, it is sent again."""
    with serving(model, lambda number, _: "miss" if number == 3 else "", says) as server:
        [[trace]] = engine(server, model).generate([make_example(4.0)], CONFIG)
    assert trace.text == ANSWER
    sent = [["url" in part for part in body["content_parts"]] for body in server.bodies[1:]]
    assert sent[:3] == [[True], [False, True], [True, True]]
    assert sent[-1] == [False, False, False, True]


def test_a_question_that_cannot_be_asked_stops_no_other(nano: Qwen2_5Omni, questions: list[Example]) -> None:
    broken = replace(questions[0], id="broken", audio=Audio(np.full(16_000, np.nan, np.float32)))
    long = replace(questions[0], id="long", audio=Audio(np.zeros(400 * 16_000, np.float32)))
    reasons: dict[int, str] = {}
    with serving(nano) as server:
        groups = engine(server, nano).generate([broken, *questions, long], None, 2, reasons.__setitem__)
    assert [len(group) for group in groups] == [0, 2, 2, 2, 0]
    assert "NaN" in reasons[0] and "has room for 4096" in reasons[4] and len(reasons) == 2


def test_a_refused_question_names_the_server_s_reason(nano: Qwen2_5Omni, questions: list[Example]) -> None:
    reasons: dict[int, str] = {}
    with serving(nano, lambda number, _: "400" if number == 2 else "") as server:
        engine(server, nano, max_rows=1).generate(questions[:2], failed=reasons.__setitem__)
        assert reasons == {0: f"first: {server.url}: 400: as asked for"}


def test_a_server_that_reads_another_prompt_is_found_out(
    nano: Qwen2_5Omni, questions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor with a short chunk_length cuts the recording without a word: fewer tokens, and a wrong answer."""
    other = models.load("nano")
    monkeypatch.setattr(other, "num_audio_tokens", lambda num: min(20, nano.num_audio_tokens(num)))
    with serving(other) as server, pytest.raises(ValueError, match="cuts audio at its chunk_length"):
        engine(server, nano).generate(questions[:1])


# --- what is wrong from the start -----------------------------------------------------------------------------------


def refused(address: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert cli.run(["ask", "example", "what?", "--engine", address, *more]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_bad_servers_are_told_in_one_line(
    nano: Qwen2_5Omni, model: Qwen2_5Omni, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "start the server, or correct --engine" in refused("http://127.0.0.1:1", capsys)
    assert "none of these servers answers" in refused("http://127.0.0.1:1,http://127.0.0.1:2", capsys)
    assert "write local, the address of a vLLM server" in refused("vllm", capsys)
    assert "such as http://localhost:8000" in refused("http://127.0.0.1:1?x=1", capsys)
    with serving(model) as server:
        assert "whose tokens are not those of 'nano'" in refused(server.url, capsys)
    with serving(nano, lambda *_: "403") as server:
        assert "start it with --enable-scale-out" in refused(server.url, capsys)
    with serving(nano, lambda *_: "404") as server:
        server.version = "0.19.1"
        assert "vLLM 0.19.1 does not answer" in refused(server.url, capsys)
    with serving(nano, context=0) as server:
        assert "it is no vLLM server" in refused(server.url, capsys)
    with serving(nano) as server:
        server.key = "key-of-a-test-1234567"
        assert "401" in refused(server.url, capsys)
        monkeypatch.setenv("VLLM_API_KEY", server.key)
        assert cli.run(["ask", "example", "what is heard first?", "--engine", server.url, "--json"]) == 0
        capsys.readouterr()
        assert "temperature is 3; vLLM samples at" in refused(server.url, capsys, "--temperature", "3", "--json")


def test_an_address_is_taken_as_people_write_it() -> None:
    assert [m.url for m in machines("http://a:1/v1/, http://b:2/,http://b:2/")] == ["http://a:1", "http://b:2"]


# --- commands and Python --------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, questions: list[Example]) -> Path:
    for question in questions:
        assert isinstance(question.audio, Audio)
        audio.save(tmp_path / f"{question.id}.wav", question.audio)
        line = {"id": question.id, "audio_path": f"{question.id}.wav", "question": question.question}
        answer = {"choices": list(question.choices), "answer": question.choices[0]}
        records.append(tmp_path / "questions.jsonl", line | answer)
    return tmp_path / "questions.jsonl"


def test_every_command_answers_alike_on_both(
    nano: Qwen2_5Omni, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(*engine: str) -> tuple[Any, ...]:
        name = "there" if engine else "here"
        assert cli.run(["ask", str(file), "--out", str(tmp_path / f"{name}.jsonl"), *engine]) == 0
        assert cli.run(["eval", str(file), str(tmp_path / name), *engine]) == 0
        lines = {line["id"]: line["relisten"]["response"] for line in records.read(tmp_path / f"{name}.jsonl")}
        evaluated = {line["id"]: line["response"] for line in records.read(tmp_path / name / "answers.jsonl")}
        return lines, evaluated

    with serving(nano) as server:
        assert answers() == answers("--engine", server.url)
    assert json.loads((tmp_path / "there" / "config.json").read_text())["engine"] == "vllm"
    assert "engine" not in json.loads((tmp_path / "here" / "config.json").read_text())
    with serving(nano) as another:  # servers may change while a run goes on
        assert cli.run(["eval", str(file), str(tmp_path / "there"), "--engine", another.url]) == 0
    capsys.readouterr()
    assert cli.run(["eval", str(file), str(tmp_path / "there")]) == 2
    assert "engine" in capsys.readouterr().err


def test_python_takes_an_engine_by_name(nano: Qwen2_5Omni, questions: list[Example]) -> None:
    with serving(nano) as server:
        one = ask("nano", SOUND, questions[0].question, questions[0].choices, engine=server.url)
        many = ask(nano, questions, engine=server.url)
    assert one.trace.text == many[0].trace.text == ask(nano, questions)[0].trace.text
    assert set(one.seconds) == {"load", "server", "total"}


def test_a_notebook_that_runs_an_event_loop_can_ask(nano: Qwen2_5Omni, questions: list[Example]) -> None:
    async def cell(address: str) -> str | None:
        return ask(nano, questions[:1], engine=address)[0].choice

    with serving(nano) as server:
        assert asyncio.run(cell(server.url)) == ask(nano, questions[:1])[0].choice


def test_serve_answers_in_front_of_several_servers(nano: Qwen2_5Omni, questions: list[Example]) -> None:
    heard = questions[0].audio
    assert isinstance(heard, Audio)
    expected = ask(nano, questions[:1], config=GenerationConfig())[0]
    with serving(nano) as one, serving(nano) as two:
        answering = served(ModelOptions(engine=f"{one.url},{two.url}"), max_rows=4)
        with running(answering) as (address, _), openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
            replies = [
                client.chat.completions.create(
                    model="nano",
                    messages=messages(questions[0].question, SOUND),  # type: ignore[arg-type]
                    extra_body={"relisten": {"choices": list(questions[0].choices), "trace": True}, "top_p": top_p},
                )
                for top_p in (1, 0.5)
            ]
        assert one.num > 1 and two.num >= 1
    for reply in replies:  # greedy, so that top_p changes nothing but what is known of probabilities
        assert reply.choices[0].message.model_extra["relisten"]["response"]["text"] == expected.trace.text
    known = [reply.choices[0].message.model_extra["relisten"]["trace"]["logprobs"][-1] for reply in replies]
    assert known[0] == pytest.approx(expected.trace.logprobs[-1], abs=1e-4) and known[1] is None


def test_an_answer_is_bound_wherever_a_request_ends(model: Qwen2_5Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that ended inside <answer> left the rest of the answer free, one in 256."""
    free = Handler.choose

    def choose(self: Handler, logits: Any, asked: dict[str, Any], *more: Any) -> tuple[int, float]:
        says, bound = self.server.says, asked.get("allowed_token_ids")
        self.server.says = (lambda text: None) if bound else says  # a bound token is the model's own choice
        try:
            return free(self, logits, asked, *more)
        finally:
            self.server.says = says

    monkeypatch.setattr(Handler, "choose", choose)
    monkeypatch.setattr("relisten.remote.vllm.PIECE", 8)
    example = replace(make_example(2.0), choices=("cat", "dog"))
    config = GenerationConfig(only_choices=True, max_new_tokens=100, format="grounded")
    for filler in range(8):
        script = f"<think>{' a' * filler}</think><answer>moon</answer>"
        with serving(model, says=lambda text, s=script: s[len(text) :] if s.startswith(text) else None) as server:
            [[trace]] = engine(server, model).generate([example], config)
        assert tags.parse(trace.text).answer in ("cat", "dog")


def test_a_request_that_is_sent_again_changes_no_sampled_answer(model: Qwen2_5Omni) -> None:
    """Its seed was drawn anew."""
    config = GenerationConfig(temperature=1.0, max_new_tokens=12, format="conditioned")
    found = []
    for bad in (set[int](), {2, 4}):
        with serving(model, lambda number, _, bad=bad: "503 0.01" if number in bad else "") as server:
            found.append(engine(server, model).generate([make_example(2.0)], config))
            assert server.faults["503"] == len(bad)
    equal(*found)
