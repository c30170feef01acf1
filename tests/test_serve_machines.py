"""`relisten serve` in front of servers: questions go to all of them, and one that dies takes no answer along."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
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
