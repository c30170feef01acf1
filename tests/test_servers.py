"""A server that misbehaves costs a call and never the build: time, size, content and redirects of replies are bounded.

One byte a second was read for ever, a gigabyte or a gzip bomb filled the memory, `choices` as a dict ended a build in a
traceback, and a key that a server echoed was printed and stored.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from teacher_server import TeacherServer, serving
from test_pipeline import config, remote, sets

from relisten import cli, redact
from relisten.data import describers, servers
from relisten.data.build import build
from relisten.data.build_config import BuildConfig
from relisten.data.servers import Server
from relisten.data.store import Call
from relisten.data.teachers import Remote, open_teacher
from relisten.types import Audio, Clip

MESSAGES = [{"role": "user", "content": "a prompt"}]
FINE = {"choices": [{"message": {"role": "assistant", "content": "fine"}}]}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(redact, "_known", set())


def ask(server: TeacherServer, **more: Any) -> Call:
    """One call without retries."""

    async def once() -> Call:
        teacher = open_teacher("m", Server(url=server.url, **{"retries": 0, **more}))
        try:
            return await asyncio.wait_for(teacher.complete(MESSAGES), 60)
        finally:
            await teacher.close()

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("drip 0.01", "timeout: no complete reply within 0.5 s"),
        ("huge 1000", "longer than 8,388,608 bytes"),
        ("bomb 200", "longer than 8,388,608 bytes"),
        ("packed br", "compressed in a form that was not asked for (br)"),
        ("packed gzip, gzip", "compressed in a form that was not asked for"),
        ("packed gzip", "DecodingError"),
        ("cut", "RemoteProtocolError"),
    ],
)
def test_time_and_size_of_a_reply_are_bounded(fault: str, reason: str) -> None:
    with serving(lambda *_: fault) as server:
        call = ask(server, timeout=0.5 if "drip" in fault else 60.0)
        assert call.failure == "passing" and reason in call.error and "unreadable" not in call.error
        assert server.sent < 3 * servers.MOST_BYTES


def test_a_reply_that_was_compressed_though_nobody_asked_is_read() -> None:
    with serving(lambda *_: f"gzip {json.dumps(FINE)}") as server:
        assert ask(server).text == "fine"


def with_usage(usage: Any) -> str:
    return json.dumps(FINE | {"usage": usage})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "unreadable reply"),
        ("<html>busy</html>", "unreadable reply"),
        ("[" * 100_000, "unreadable reply"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "unreadable reply"),
        ("1" * 5000, "unreadable reply"),
        ("[]", "no message"),
        ('"text"', "no message"),
        ("null", "no message"),
        ('{"choices": {"0": "a"}}', "no message"),
        ('{"choices": "many"}', "no message"),
        ('{"choices": [null]}', "no message"),
        ('{"choices": [{"message": "a text"}]}', "no message"),
        ('{"choices": [{"message": {"content": {"deep": 1}}}]}', "empty reply"),
        (with_usage("many"), "usage cannot be read"),
        (with_usage({"prompt_tokens": "many"}), "prompt_tokens is 'many'"),
        (with_usage({"prompt_tokens": float("nan")}), "prompt_tokens is nan"),
        (with_usage({"completion_tokens": -1}), "completion_tokens is -1"),
        (with_usage({"completion_tokens": 10**30}), "completion_tokens is 1000"),
        (with_usage([7]), "usage cannot be read"),
    ],
)
def test_an_odd_reply_is_a_failed_call(body: str, reason: str) -> None:
    with serving(lambda *_: f"body {body}") as server:
        call = ask(server)
    assert call.failure == "passing" and reason in call.error and not call.text
    assert call.prompt_tokens == call.completion_tokens == 0


def test_odd_replies_among_good_ones_end_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relisten.data.teachers.FIRST_WAIT", 0.01)
    odd = ["[" * 100_000, '{"choices": {"0": 1}}', with_usage("many"), '{"choices": [{"message": "a text"}]}']

    def fault(number: int, _: Any) -> str:
        return f"body {odd[number // 2 % len(odd)]}" if number % 2 else ""

    with serving(fault) as server:
        made = build(config(tmp_path, 6, **remote(server, retries=3)))
    assert made["stopped"] == "" and made["counts"]["sft"] > 0
    assert made["calls"]["all"]["attempts"] == server.num


def test_half_a_character_anywhere_ends_no_build(tmp_path: Path) -> None:
    draft = {"question": "Which \ud800?", "choices": ["dog", "cat\udfff"], "answer": "dog", "think": "It \ud800."}
    body = json.dumps({"choices": [{"message": {"content": json.dumps(draft), "reasoning": "\ud800"}}]})
    with serving(lambda number, _: f"body {body}" if number % 2 else "") as server:
        made = build(config(tmp_path, 6, source="test_pipeline:torn_texts", **remote(server)))
    assert made["stopped"] == "" and made["counts"]["clips"] == 6 and made["counts"]["composed"] > 0


def test_a_long_text_is_a_failure_for_these_messages() -> None:
    body = json.dumps({"choices": [{"message": {"content": "a" * (servers.MOST_CHARACTERS + 1)}}]})
    with serving(lambda *_: f"body {body}") as server:
        call = ask(server)
    assert call.failure == "lasting" and "longer than 100,000 characters" in call.error


@pytest.mark.parametrize("code", ["301", "302", "307", "308"])
def test_a_prompt_is_not_sent_where_a_redirect_points(code: str) -> None:
    with (
        serving() as elsewhere,
        serving(lambda *_: f"{code} {elsewhere.url}/chat/completions?api_key=abcdefgh") as server,
    ):
        call = ask(server, retries=3)
        assert call.failure == "fatal" and server.num == 1 and elsewhere.num == 0
    assert "redirects are not followed" in call.error and elsewhere.url in call.error and "abcdefgh" not in call.error


def command(settings: BuildConfig) -> list[str]:
    """As one types it."""
    return [
        "data", "build", "--source", settings.source, "--root", str(settings.root), "--out", str(settings.out)
    ]  # fmt: skip


KEY = "test-only-5ecret-value"


@pytest.mark.parametrize("fault", ["echo 401", "echo 500", "echo 400", "repeat"])
def test_a_key_that_a_server_echoes_is_printed_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(lambda *_: fault) as server:
        settings = config(tmp_path, 4)
        given = ["--source", settings.source, "--root", str(settings.root), "--out", str(settings.out)]
        code = cli.run(
            ["data", "build", *given, "--teacher", "m", "--url", server.url, "--key", "MY_KEY", "--retries", "0"]
        )
    assert code in (1, 2) and server.num
    printed = "".join(capfd.readouterr())
    files = {path: path.read_bytes() for path in settings.out.rglob("*") if path.is_file()}
    assert files and KEY not in printed
    assert not [path for path, content in files.items() if KEY.encode() in content]


@pytest.mark.parametrize("key", ["sk-abcdefgh12345678", "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "hf_abcdefghijklmnop12"])
@pytest.mark.parametrize("teacher", ["rules", "m"])
def test_a_key_given_for_its_variables_name_is_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], key: str, teacher: str
) -> None:
    settings = config(tmp_path, 4)
    given = [
        "--source",
        settings.source,
        "--root",
        str(settings.root),
        "--out",
        str(settings.out),
        "--teacher",
        teacher,
    ]
    assert cli.run(["data", "build", *given, "--key", key]) == 2
    printed = "".join(capfd.readouterr())
    assert key not in printed and "such as OPENAI_API_KEY" in printed
    assert not settings.out.exists()


def test_a_password_in_an_address_is_written_nowhere(tmp_path: Path) -> None:
    with serving() as server:
        url = server.url.replace("://", "://me:pass%20w0rd@")
        settings = config(tmp_path, 4, **remote(server, url=url))
        made = build(settings)
    assert made["counts"]["sft"] > 0 and sets(settings.out)["sft"]
    for path in settings.out.rglob("*"):
        assert path.is_dir() or not any(word in path.read_bytes() for word in (b"pass%20w0rd", b"pass w0rd")), path


@pytest.mark.parametrize("fault", ["drip 0.01", "bomb 100", "huge 1000", "echo 401"])
def test_a_describing_server_is_bounded_in_the_same_way(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    limits = Server(timeout=0.5 if "drip" in fault else 60.0, retries=0)
    with serving(lambda *_: fault) as server, pytest.raises(ValueError, match="check that it takes audio") as caught:
        describers.find(f"{server.url}#m", limits)(Clip("c", Audio(np.zeros(16_000, np.float32)), 1.0))
    assert KEY not in str(caught.value) and server.sent < 3 * servers.MOST_BYTES


@pytest.mark.parametrize("fault", ["500", "400", "401", "cut", "empty"])
def test_an_estimate_from_a_server_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    """It said "cost 0.00" with exit code 0."""
    monkeypatch.setattr("relisten.data.teachers.FIRST_WAIT", 0.01)
    with serving(lambda *_: fault) as server:
        code = cli.run([*command(config(tmp_path, 8)), "--teacher", "m", "--url", server.url, "--dry-run"])
    told = capsys.readouterr()
    assert code == 2 and "cost" not in told.out and ("no estimate is possible" in told.err or "401" in told.err)


@pytest.mark.parametrize("estimate", [["--dry-run"], []])
def test_an_address_where_no_server_is_ends_a_build_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], estimate: list[str]
) -> None:
    """Each call was sent nine times over two minutes. A server that has answered before is still waited for."""
    waits: list[int] = []

    async def wait(attempt: int, failed: servers.CallFailed) -> None:
        waits.append(attempt)

    monkeypatch.setattr("relisten.data.teachers._wait", wait)
    with serving() as server:
        url = server.url
    assert cli.run([*command(config(tmp_path, 8)), "--teacher", "m", "--url", url, *estimate]) == 2
    assert f"no server answers at {url} (no connection: " in capsys.readouterr().err and max(waits) == 2


def test_a_server_that_goes_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []

    async def wait(attempt: int, failed: servers.CallFailed) -> None:
        waits.append(attempt)

    async def gone(*_: Any) -> Any:
        raise servers.NotReached("no server answers", "passing")

    async def twice(teacher: Remote) -> tuple[Call, Call]:
        first = await teacher.complete(MESSAGES)
        monkeypatch.setattr(servers, "ask", gone)
        return first, await teacher.complete(MESSAGES)

    monkeypatch.setattr("relisten.data.teachers._wait", wait)
    with serving(lambda *_: f"body {json.dumps(FINE)}") as server:
        first, second = asyncio.run(twice(Remote("m", Server(url=server.url))))
    assert not first.error and second.failure == "passing" and waits == list(range(1, 9))


def test_an_estimate_leaves_out_the_clips_for_which_the_server_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*command(config(tmp_path, 8)), "--teacher", "m", "--dry-run", "--retries", "0"]
    with serving(lambda number, _: "500" if number == 1 else "") as server:
        assert cli.run([*given, "--url", server.url]) == 1
    told = capsys.readouterr()
    assert "from 4 clips" in told.out and "failed for 1 clips of the sample" in told.err and "500" in told.err


def test_calls_that_wait_to_be_sent_again_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relisten.data.pipeline.LOOK", 0.02)
    monkeypatch.setattr("relisten.data.teachers.FIRST_WAIT", 0.2)
    with serving(lambda number, _: "503" if number <= 4 else "") as server:
        build(config(tmp_path, 4, **remote(server)))
    assert "wait to be sent again (503: slow down)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "said"), [("--in-flight", "at least 1 and at most 1,000"), ("--workers", "at most 1,000")]
)
def test_more_calls_than_a_process_can_make_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, said: str
) -> None:
    settings = config(tmp_path, 4)
    assert cli.run([*command(settings), flag, "100000000"]) == 2
    assert said in capsys.readouterr().err and not settings.out.exists()


def test_a_budget_needs_a_server_that_counts_its_tokens(tmp_path: Path) -> None:
    """It counted 0 tokens for each call, and never stopped."""
    body = json.dumps(FINE)
    with serving(lambda *_: f"body {body}") as server:
        made = build(config(tmp_path, 20, **remote(server, in_flight=2, max_total_tokens=1_000_000)))
    assert "no budget can be kept" in made["stopped"] and server.num <= 2


def test_an_interrupted_build_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("relisten.commands.data_build.run_build", interrupted)
    assert cli.run(command(config(tmp_path, 4))) == cli.INTERRUPTED
    assert "the same command continues" in capsys.readouterr().err
