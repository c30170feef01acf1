"""`relisten serve` in front of servers: questions go to all of them, and one that dies takes no answer along."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import teacher_server
from test_chat_engine import talks
from vllm_server import serving

import relisten
from relisten.commands.options import ModelOptions
from relisten.commands.serve import served
from relisten.records import read_examples
from relisten.remote import fleet
from relisten.types import Example
from tests.serving import EXAMPLES, messages, running

QUESTIONS = read_examples(EXAMPLES / "questions.jsonl")[:3]


def test_two_servers_answer_as_the_engine_does_and_one_may_die(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(fleet, "LONGEST_WAIT", 0.02)
    nano = relisten.load("nano")
    expected = [relisten.ask(nano, e.audio, e.question, e.choices).response.text for e in QUESTIONS]

    def ask(example: Example) -> str:
        given = {"model": "nano", "messages": messages(example.question, example.audio)}  # type: ignore[arg-type]
        given |= {"relisten": {"choices": list(example.choices)}}
        reply = httpx2.post(f"{address}/v1/chat/completions", json=given, timeout=120)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["message"]["relisten"]["response"]["text"])

    with serving(nano) as first, serving(nano) as second:
        model = served(ModelOptions(engine=f"{first.url},{second.url}"), max_rows=4)
        with running(model) as (address, _), ThreadPoolExecutor() as pool:
            assert list(pool.map(ask, QUESTIONS)) == expected
            assert first.bodies and second.bodies
            first.shutdown()
            first.server_close()
            assert list(pool.map(ask, QUESTIONS)) == expected


def test_a_model_behind_a_chat_api_answers_with_its_segments() -> None:
    with (
        teacher_server.serving(say=talks) as server,
        running(served(ModelOptions(engine=f"chat+{server.url}#m"), 2)) as found,
    ):
        address, _ = found
        given = {"model": "m", "messages": messages(), "relisten": {"trace": True}}
        reply = httpx2.post(f"{address}/v1/chat/completions", json=given, timeout=60).json()
        message = reply["choices"][0]["message"]
        assert message["content"] == "two knocks" and reply["usage"] is None
        assert [(s["start"], s["end"]) for s in message["relisten"]["segments"]] == [
            (0.5, 1.5),
            (1.0, pytest.approx(6.6, abs=0.1)),
        ]
        page = {"request": given, "answer": message["relisten"]}
        assert httpx2.post(f"{address}/v1/relisten/page", json=page, timeout=60).status_code == 200
