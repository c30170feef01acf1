"""Segments are heard again by conversation, from any audio model behind a chat API; tested with a fake of one."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import soundfile
from conftest import make_example
from teacher_server import COMPLETION_TOKENS, PROMPT_TOKENS, TeacherServer, serving

from relisten import cli, records, redact
from relisten.asking import ask
from relisten.audio import save
from relisten.data import teachers
from relisten.engine.engine import Finished, Heard, Refused, Text
from relisten.engine.generation import GenerationConfig
from relisten.remote import open_engine
from relisten.remote.chat import GO_ON, LAST
from relisten.types import Audio, Trace

PIECES = (
    "<think>A siren <seg>0.5, 1.5", " wails, then <seg>3, 2", " I mean <seg>1.0, 9.0", " two knocks.</think>"
    "<answer>two knocks</answer>",
)  # fmt: skip
WHOLE = (
    "<think>A siren <seg>0.5, 1.5</seg> wails, then <seg>3, 2</seg> I mean <seg>1.0, 9.0</seg> two knocks.</think>"
    "<answer>two knocks</answer>"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(teachers, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(redact, "_known", set())
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def talks(body: dict[str, Any]) -> tuple[str, str]:
    """Goes on where it stopped; a server that honours `stop` leaves the stop string out."""
    turns = sum(message["role"] == "assistant" for message in body["messages"])
    return PIECES[turns], "stop"


def answers(server: TeacherServer, config: GenerationConfig = GenerationConfig(), number: int = 1) -> list[Trace]:
    model, make = open_engine("unused", f"chat+{server.url}#m")
    asked = [make_example(4.0, seed=i) for i in range(number)]
    return [trace for [trace] in make(model, max_rows=3).generate(asked, config)]


def audio_of(message: dict[str, Any]) -> list[float]:
    """Seconds of each piece of audio in a message."""
    data = [part["input_audio"]["data"] for part in message["content"] if part["type"] == "input_audio"]
    return [len(soundfile.read(io.BytesIO(base64.b64decode(d)))[0]) / 16_000 for d in data]


def test_segments_come_as_audio_in_the_next_message() -> None:
    with serving(say=talks) as server:
        [trace] = answers(server)
        last = server.bodies[-1]
    assert trace.text == WHOLE and trace.finish == "stop"
    assert [(x.segment.start, x.segment.end) for x in trace.listens[1:]] == [(0.5, 1.5), (1.0, 4.0)]
    assert [refusal.reason for refusal in trace.refusals] == ["unreadable"]
    assert last["stop"] == ["</seg>"] and last["model"] == "m"
    roles = [message["role"] for message in last["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user", "assistant", "user"]
    users = [message for message in last["messages"] if message["role"] == "user"]
    assert [audio_of(message) for message in users] == [[4.0], [1.0], [], [3.0]]
    told = users[0]["content"][-1]["text"]
    assert "The recording lasts 4.0 s" in told and "<seg>3.2, 4.8</seg>" in told and "two knocks" in told
    assert "its times cannot be read" in users[2]["content"][0]["text"]
    assert "from 1 to 4 s" in users[3]["content"][-1]["text"] and GO_ON in users[3]["content"][-1]["text"]
    said = [message["content"] for message in last["messages"] if message["role"] == "assistant"]
    assert "".join(said) + PIECES[-1] == WHOLE


def test_the_trace_says_that_it_holds_text_alone() -> None:
    with serving(say=talks) as server:
        [trace] = answers(server)
    assert trace.text_alone and not trace.token_ids and not trace.logprobs and trace.num_prompt == 0
    assert {(x.at, x.num_tokens) for x in trace.listens} == {(0, 0)}


@pytest.mark.parametrize("cut", [" and so on <seg>0, 1</seg>", ""])
def test_a_server_that_knows_no_stop_is_cut_where_audio_belongs(cut: str) -> None:
    """What the model wrote after the tag was written without hearing, so it is not kept."""
    with serving(
        say=lambda body: (f"{talks(body)[0]}</seg>{cut}" if talks(body)[0] != PIECES[-1] else PIECES[-1], "stop")
    ) as server:
        [trace] = answers(server)
    assert [(x.segment.start, x.segment.end) for x in trace.listens[1:]][:1] == [(0.5, 1.5)]
    assert trace.text.startswith("<think>A siren <seg>0.5, 1.5</seg> wails")
    assert trace.text.endswith("<answer>two knocks</answer>")


@pytest.mark.parametrize("format", ["grounded", "conditioned"])
def test_other_formats_are_one_request(format: Any) -> None:
    with serving(say=lambda body: (WHOLE, "stop")) as server:
        [trace] = answers(server, GenerationConfig(format=format))
        assert server.num == 1 and "stop" not in server.bodies[0]
    assert trace.text == WHOLE and len(trace.listens) == 1


def test_a_model_that_does_not_end_is_led_to_its_answer() -> None:
    def rambles(body: dict[str, Any]) -> tuple[str, str]:
        asked = body["messages"][-1]["content"]
        if isinstance(asked, list) and asked[-1]["text"] == LAST:
            return "<answer>two knocks</answer>", "stop"
        return "<think>I hear and hear", "length"

    with serving(say=rambles) as server:
        [trace] = answers(server)
    assert trace.finish == "length"
    assert trace.text == "<think>I hear and hear</think><answer>two knocks</answer>"


def test_a_model_that_asks_for_too_much_is_led_to_its_answer() -> None:
    def greedy(body: dict[str, Any]) -> tuple[str, str]:
        last = body["messages"][-1]["content"][-1]["text"] == LAST
        turns = sum(message["role"] == "assistant" for message in body["messages"])
        return ("two knocks", "stop") if last else (f"{'' if turns else '<think>'}again <seg>0.{turns + 1}, 2", "stop")

    with serving(say=greedy) as server:
        [trace] = answers(server, GenerationConfig(max_listens=2))
        assert server.num == 4
    assert (trace.finish, len(trace.listens)) == ("listens", 3)
    assert trace.text.endswith("</think><answer>two knocks</answer>")


@pytest.mark.parametrize(
    "text", ["", "I do not know.", "<think>hm</think>", "<answer>", "</seg></think>", "<seg>" * 50]
)
def test_whatever_a_model_writes_is_an_answer_or_none(text: str) -> None:
    with serving(say=lambda body: (text, "stop")) as server:
        [trace] = answers(server, GenerationConfig(max_new_tokens=60))
        assert server.num <= 40
    assert trace.text.startswith(text[:5]) and len(trace.listens) == 1


def test_a_thought_that_is_opened_anew_is_written_once() -> None:
    pieces = [PIECES[0], "<think>" + PIECES[3]]
    with serving(say=lambda body: (pieces[sum(m["role"] == "assistant" for m in body["messages"])], "stop")) as server:
        [trace] = answers(server)
    assert trace.text == "<think>A siren <seg>0.5, 1.5</seg> two knocks.</think><answer>two knocks</answer>"


def test_events_come_as_from_every_engine() -> None:
    with serving(say=talks) as server:
        model, make = open_engine("unused", f"chat+{server.url}#m")
        events = list(make(model).stream(make_example(4.0)))
    assert "".join(e.text for e in events if isinstance(e, Text)) == WHOLE
    kinds = [type(e) for e in events if not isinstance(e, Text)]
    assert kinds == [Heard, Refused, Heard, Finished]


# --- faults, keys and costs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503 0.001", "429 0.001", "500", "cut", "torn", "body nonsense"])
def test_a_fault_that_passes_changes_no_answer(fault: str) -> None:
    bad = {number for number in range(100) if random.Random(number).random() < 0.3}
    with serving(lambda number, _: fault if number in bad else "", say=talks) as server:
        traces = answers(server, number=4)
        assert server.faults[fault] > 1
    assert [trace.text for trace in traces] == [WHOLE] * 4


def refused(engine: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert cli.run(["ask", "example", "what?", "--engine", engine, "--json", *more]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_what_is_wrong_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda *_: "401", say=talks) as server:
        assert "401" in refused(f"chat+{server.url}#m", capsys)
    with serving(lambda *_: "400", say=talks) as server:
        assert "as asked for" in refused(f"chat+{server.url}#m", capsys)
    with serving(say=talks) as server:
        server.models = ["a", "b"]
        assert "the server has the models a, b; name one at the end" in refused(f"chat+{server.url}", capsys)
        assert "colour is no option" in refused(f"chat+{server.url}?colour=1#m", capsys)
        assert "price_in is 'x'" in refused(f"chat+{server.url}?price_in=x#m", capsys)
        assert "max_cost needs price_in" in refused(f"chat+{server.url}?max_cost=1#m", capsys)
        assert "a chat API has no such option" in refused(f"chat+{server.url}#m", capsys, "--top-k", "4")
        assert "a chat API has no such option" in refused(
            f"chat+{server.url}#m", capsys, "--only-choices", "--choices", "a"
        )
        assert "NO_SUCH_KEY" in refused(f"chat+{server.url}?key=NO_SUCH_KEY#m", capsys)


def test_a_key_is_sent_and_written_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "secret-of-a-test-98765"
    monkeypatch.setenv("CHAT_TEST_KEY", secret)
    questions = write_questions(tmp_path, 1)
    with serving(lambda *_: "echo 401", say=talks) as server:
        assert cli.run(["eval", str(questions), str(tmp_path / "out"), "--engine", key(server)]) == 2
    with serving(lambda *_: "", say=talks) as server:
        assert cli.run(["eval", str(questions), str(tmp_path / "out2"), "--engine", key(server)]) == 0
    told = capsys.readouterr()
    written = "".join(p.read_text() for p in tmp_path.rglob("*") if p.suffix in (".json", ".jsonl"))
    assert secret not in told.out + told.err + written
    assert json.loads((tmp_path / "out2" / "config.json").read_text())["model"] == "m"


def key(server: TeacherServer) -> str:
    return f"chat+{server.url}?key=CHAT_TEST_KEY#m"


def write_questions(folder: Path, number: int) -> Path:
    for index in range(number):
        example = make_example(4.0, seed=index)
        assert isinstance(example.audio, Audio)
        save(folder / f"{index}.wav", example.audio)
        line = {"id": str(index), "audio_path": f"{index}.wav", "question": "What?", "choices": ["a dog", "two knocks"]}
        records.append(folder / "questions.jsonl", line | {"answer": "two knocks"})
    return folder / "questions.jsonl"


def test_costs_are_counted_and_a_budget_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions, out = write_questions(tmp_path, 6), tmp_path / "out"
    with serving(say=talks) as server:
        prices = f"chat+{server.url}?price_in=1000&price_out=2000"
        assert cli.run(["eval", str(questions), str(out), "--max-rows", "1", "--engine", f"{prices}&max_cost=3#m"]) == 2
        err = capsys.readouterr().err
        assert "the budget of 3 is spent" in err and "raise max_cost" in err
        done = len(list(records.read(out / "answers.jsonl")))
        assert 0 < done < 6 and server.num * (PROMPT_TOKENS * 1000 + COMPLETION_TOKENS * 2000) / 1e6 <= 3
        before = server.num
        assert cli.run(["eval", str(questions), str(out), "--engine", f"{prices}#m"]) == 0
        spent = (server.num - before) * (PROMPT_TOKENS * 1000 + COMPLETION_TOKENS * 2000) / 1e6
        told = capsys.readouterr().err
        assert f"{server.num - before} requests" in told and f"cost {spent:.4g}" in told
    assert all(line["answer_prediction"] == "two knocks" for line in records.read(out / "answers.jsonl"))
    assert {line["num_tokens"] for line in records.read(out / "answers.jsonl")} == {None}


def test_python_and_pages_take_it(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", make_example(4.0).audio)  # type: ignore[arg-type]
    with serving(say=talks) as server:
        found = ask("unused", tmp_path / "a.wav", "what?", ["two knocks", "a dog"], engine=f"chat+{server.url}")
    assert found.choice == "two knocks" and len(found.segments) == 2
    page = found.save(tmp_path / "page.html").read_text()
    assert "two knocks" in page and "tags refused: 1" in page and "0 in the prompt" not in page
