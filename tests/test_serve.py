"""`relisten serve` on the shipped model: clients of OpenAI's API get what `relisten ask` answers."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import httpx2
import openai
import psutil
import pytest

import relisten
from benchmarks import serving
from relisten.commands.options import ModelOptions
from relisten.commands.serve import served
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.records import read_examples
from relisten.types import Example
from tests.serving import EXAMPLES, encoded, messages, running

QUESTIONS = read_examples(EXAMPLES / "questions.jsonl")


@pytest.fixture(scope="module")
def nano() -> relisten.AudioLM:
    return relisten.load("nano")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(served(ModelOptions(), max_rows=4)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def own(example: Example, **more: Any) -> dict[str, Any]:
    """What goes into `extra_body`."""
    return {"relisten": {"choices": list(example.choices), "name": example.audio.name} | more}  # type: ignore[union-attr]


def request(example: Example) -> dict[str, Any]:
    return {"model": "nano", "messages": messages(example.question, example.audio)}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def expected(nano: relisten.AudioLM) -> list[Any]:
    return [relisten.ask(nano, e.audio, e.question, e.choices) for e in QUESTIONS]


def test_the_openai_client_gets_what_ask_answers(client: openai.OpenAI, expected: list[Any]) -> None:
    for example, answer in zip(QUESTIONS, expected, strict=True):
        reply = client.chat.completions.create(**request(example), extra_body=own(example))
        message = reply.choices[0].message
        assert message.content == answer.answer
        told = message.model_extra["relisten"]
        assert told["choice"] == answer.choice
        assert told["response"]["text"] == answer.response.text
        assert message.model_extra["reasoning"] == message.model_extra["reasoning_content"] == answer.response.think
        assert [(s["start"], s["end"]) for s in told["segments"]] == [(s.start, s.end) for s in answer.segments]
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.total_tokens == len(answer.trace.token_ids)
        again = sum(listen.num_tokens for listen in answer.trace.listens)
        assert reply.usage.prompt_tokens_details.audio_tokens == again > 0


def test_a_stream_tells_each_segment_at_its_place(client: openai.OpenAI, expected: list[Any]) -> None:
    for example, answer in zip(QUESTIONS, expected, strict=True):
        stream = client.chat.completions.create(
            **request(example), stream=True, stream_options={"include_usage": True}, extra_body=own(example)
        )
        thinking, content, heard, last, usage = "", "", [], None, None
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                told = choice.delta.model_extra
                thinking += told.get("reasoning", "")
                assert told.get("reasoning") == told.get("reasoning_content")
                content += choice.delta.content or ""
                if choice.finish_reason is not None:
                    last = told["relisten"]
                elif told["relisten"].get("segments"):
                    heard += told["relisten"]["segments"]
                    assert thinking.endswith("</seg>")  # the tag has just been written
        assert (thinking, content) == (answer.response.think, answer.answer)
        assert heard == last["segments"] and len(heard) == len(answer.segments)
        assert last["choice"] == answer.choice and last["seconds"]["first"] <= last["seconds"]["total"]
        assert usage.total_tokens == len(answer.trace.token_ids)


def test_another_client_and_a_data_url_and_a_stretch(address: str, nano: relisten.AudioLM) -> None:
    """Plain HTTP, as `curl` does it. A stretch is what the model would hear if the recording were cut there."""
    example = QUESTIONS[1]
    audio = relisten.audio.load(example.audio)
    part = relisten.audio.crop(audio, relisten.Segment(1.0, 5.5))
    answer = relisten.ask(nano, part, example.question, example.choices)
    content = [
        {"type": "audio_url", "audio_url": {"url": f"data:audio/flac;base64,{encoded(example.audio)}"}},  # type: ignore[arg-type]
        {"type": "text", "text": example.question},
    ]
    asked = {"model": "nano", "messages": [{"role": "user", "content": content}]} | own(example, stretch=[1.0, 5.5])
    reply = httpx2.post(f"{address}/v1/chat/completions", json=asked, timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["relisten"]["response"]["text"] == answer.response.text


def test_samples_draw_as_they_do_in_ask(client: openai.OpenAI, nano: relisten.AudioLM) -> None:
    example = QUESTIONS[0]
    config = GenerationConfig(temperature=1.2, seed=3, top_p=0.95, max_new_tokens=200)
    answer = relisten.ask(nano, example.audio, example.question, example.choices, config)
    reply = client.chat.completions.create(
        **request(example), n=3, temperature=1.2, seed=3, top_p=0.95, max_tokens=200, extra_body=own(example)
    )
    texts = [choice.message.model_extra["relisten"]["response"]["text"] for choice in reply.choices]
    assert texts[0] == answer.response.text
    assert len(set(texts)) > 1
    assert [choice.index for choice in reply.choices] == [0, 1, 2]


def test_formats_and_limits_are_honoured(client: openai.OpenAI, nano: relisten.AudioLM) -> None:
    example = QUESTIONS[1]
    config = GenerationConfig(format="grounded", max_new_tokens=12, max_listens=1)
    answer = relisten.ask(nano, example.audio, example.question, example.choices, config)
    reply = client.chat.completions.create(
        **request(example), max_completion_tokens=12, extra_body=own(example, format="grounded", max_listens=1)
    )
    told = reply.choices[0].message.model_extra["relisten"]
    assert told["response"]["text"] == answer.response.text and told["segments"] == []
    assert reply.choices[0].finish_reason == "length" and told["finish"] == "length"


def test_a_trace_comes_whole_and_becomes_the_page_of_ask(
    client: openai.OpenAI, address: str, expected: list[Any]
) -> None:
    example, answer = QUESTIONS[0], expected[0]
    asked = request(example) | own(example, trace=True)
    told = client.chat.completions.create(**request(example), extra_body=own(example, trace=True))
    told = told.choices[0].message.model_extra["relisten"]
    assert told["trace"] | {"sound": None} == json.loads(json.dumps(asdict(replace(answer.trace, sound=None))))
    page = httpx2.post(f"{address}/v1/relisten/page", json={"request": asked, "answer": told}, timeout=60)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")

    def core(html: str) -> str:
        return html[html.index("<h1>") : html.index("<details>")]

    assert core(page.text) == core(_page(answer))
    bad = httpx2.post(f"{address}/v1/relisten/page", json={"request": asked, "answer": {"trace": {}}})
    assert bad.status_code == 400 and bad.json()["error"]["param"] == "answer"
    told["trace"]["listens"][1]["segment"]["band"] = [1]
    bad = httpx2.post(f"{address}/v1/relisten/page", json={"request": asked, "answer": told})
    assert bad.status_code == 400


@pytest.mark.parametrize("part", [{"\ud800": 1}, {"relisten": {"\ud800": 1}}, {"stop": "\ud800"}])
def test_half_a_character_in_a_request_is_refused(address: str, part: dict[str, Any]) -> None:
    """Its refusal quoted it, which is no UTF-8: a traceback and 500."""
    body = json.dumps(request(QUESTIONS[0]) | part)
    answer = httpx2.post(f"{address}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and "?" in answer.json()["error"]["message"]


def _page(answer: Any) -> str:
    from relisten.reports.answer_page import page

    return page(answer, answer._recording(), answer.question, answer.choices, answer.name, answer.model, "")


def test_the_python_of_the_document_runs(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], expected: list[Any]
) -> None:
    text = (EXAMPLES.parent / "docs" / "serve.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert "http://127.0.0.1:8000/" in code
    monkeypatch.chdir(EXAMPLES.parent)
    exec(compile(code.replace("http://127.0.0.1:8000", address), "serve.md", "exec"), {})
    said, heard = capsys.readouterr().out.splitlines()
    assert said == expected[2].answer and heard.count("'start'") == len(expected[2].segments)


def test_among_clients_that_misbehave_every_answer_is_that_of_the_engine(address: str, nano: relisten.AudioLM) -> None:
    """The benchmark's load, small: `python -m benchmarks.serving` does it with 200 questions."""
    expected, _ = serving.offline(Engine(nano), QUESTIONS)
    bodies = {example.id: serving.body(example) for example in QUESTIONS}
    found = asyncio.run(serving.load(address, psutil.Process(), bodies, 3, faults=True))
    assert found.texts == expected and serving.different(found.texts, expected) == 0
    assert len(found.firsts) == len(QUESTIONS) / 2
    assert {name.partition(":")[0] for name in found.faults} >= {"half a body", "no recording", "too large"}
    assert found.faults["no recording: 200"] == 0


def test_a_child_that_ends_while_time_is_counted_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[psutil.Popen] = []  # without those that other tests have started, whose time counts as well
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: children)
    before = serving.used(psutil.Process())
    children.append(psutil.Popen([sys.executable, "-c", "sum(range(10**7))"]))
    children[0].wait()
    assert serving.used(psutil.Process()) > before


def test_models_say_what_they_know(client: openai.OpenAI, nano: relisten.AudioLM) -> None:
    [model] = client.models.list().data
    assert model.id == "nano"
    assert nano.scope is not None and model.model_extra["relisten"]["about"] == nano.scope.about


def test_a_question_outside_of_the_scope_gets_its_notice(client: openai.OpenAI) -> None:
    example = QUESTIONS[0]
    reply = client.chat.completions.create(
        model="nano",
        messages=messages("Wherefore do people argue so loudly?", example.audio),  # type: ignore[arg-type]
    )
    assert "do not rely on this answer" in reply.choices[0].message.model_extra["relisten"]["notice"]
