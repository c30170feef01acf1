"""`relisten serve` in a rough world: limits, keys, clients that leave, recordings that kill a decoder, signals."""

from __future__ import annotations

import asyncio
import gc
import http.server
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx2
import pytest

from relisten.commands import serve as command
from relisten.serving import fetch, server, service
from relisten.serving.chat import RequestError
from relisten.serving.limits import Limits
from relisten.types import Example
from tests.serving import EXAMPLES, FakeBatch, body, running

KEY = "a-key-of-at-least-16"


def ask(address: str, given: Any = None, **options: Any) -> httpx2.Response:
    return httpx2.post(f"{address}/v1/chat/completions", json=given or body(), timeout=60, **options)


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def counted(address: str, name: str) -> float:
    lines = httpx2.get(f"{address}/metrics").text.splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"relisten_{name} ")))


def raw(address: str, head: str, content: bytes = b"") -> socket.socket:
    """A connection that has sent this much of a request and is still open."""
    sock = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=30)
    sock.sendall(head.encode() + content)
    return sock


def head(length: int) -> str:
    fields = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close"
    return f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n\r\n"


def events(response: httpx2.Response) -> list[Any]:
    """The data of server-sent events."""
    return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]


# what a server says


def test_health_models_metrics_and_unknown_addresses() -> None:
    with running(FakeBatch()) as (address, _):
        assert httpx2.get(f"{address}/health").json() == {"status": "ok"}
        assert httpx2.get(f"{address}/v1/models").json()["data"][0]["id"] == "fake"
        assert ask(address).status_code == 200
        assert counted(address, 'answers_total{finish="stop"}') == 1
        assert counted(address, 'requests_total{endpoint="chat_completions",status="200"}') == 1
        for path, status in (("/nothing", 404), ("/v1/chat/completions", 405), ("/web/../app.py", 404)):
            reply = httpx2.get(address + path)
            assert reply.status_code == status and reply.json()["error"]["code"] == status
        for name in ("..%2fapp.py", "%2fetc%2fpasswd", ".hidden.js", "nothing.js", "..\\app.py.js"):
            assert httpx2.get(f"{address}/web/{name}").status_code == 404


def test_errors_have_openai_s_form_and_a_status() -> None:
    with running(FakeBatch()) as (address, _):
        error = ask(address, body() | {"stop": "x"}).json()["error"]
        assert error["param"] == "stop" and error["type"] == "invalid_request_error" and "</answer>" in error["message"]
        assert ask(address, body() | {"model": "gpt-5"}).status_code == 404
        text = httpx2.post(f"{address}/v1/chat/completions", content=json.dumps(body()), timeout=60)
        assert text.status_code == 415  # a page of another site can send texts, but not JSON
        bad = ask(address, body(audio=b"this is no recording"))
        assert bad.status_code == 400 and bad.json()["error"]["message"].startswith("the recording: ")
        failed = ask(address, body("fail") | {"stream": True})
        assert failed.status_code == 400 and "cannot be asked" in failed.json()["error"]["message"]


def test_examples_are_offered_by_number_alone(tmp_path: Path) -> None:
    example = Example("one", EXAMPLES / "scene-1.flac", "What is heard?", ("a bell",))
    with running(FakeBatch(), examples=[example]) as (address, _):
        [told] = httpx2.get(f"{address}/v1/relisten/examples").json()["data"]
        assert told == {"name": "scene-1.flac", "question": "What is heard?", "choices": ["a bell"]}
        sound = httpx2.get(f"{address}/v1/relisten/examples/0").content
        assert sound == (EXAMPLES / "scene-1.flac").read_bytes()
        for path in ("1", "-1", "x", "../../../etc/passwd"):
            assert httpx2.get(f"{address}/v1/relisten/examples/{path}").status_code == 404


def test_a_recording_comes_back_as_the_model_hears_it() -> None:
    with running(FakeBatch()) as (address, _):
        given = {"input_audio": {"data": body()["messages"][0]["content"][1]["input_audio"]["data"]}}
        reply = httpx2.post(f"{address}/v1/relisten/recording", json=given, timeout=60)
        assert reply.headers["content-type"] == "audio/wav" and reply.content[:4] == b"RIFF"
        assert struct.unpack("<I", reply.content[24:28]) == (16_000,)


# who may ask


def test_a_key_is_required_where_one_is_set() -> None:
    with running(FakeBatch(), api_key=KEY) as (address, _):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": KEY},
            {"Authorization": "Basic " + KEY},
        ):
            for path in ("/v1/models", "/metrics", "/v1/relisten/examples"):
                reply = httpx2.get(address + path, headers=headers)
                assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
                assert KEY not in reply.text
            assert ask(address, headers=headers).status_code == 401
        assert ask(address, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert httpx2.get(f"{address}/health").status_code == 200


def test_another_name_of_this_machine_is_refused() -> None:
    """A site whose name was made to mean 127.0.0.1 could read every answer (DNS rebinding)."""
    with running(FakeBatch(), hosts=("127.0.0.1", "localhost")) as (address, _):
        assert httpx2.get(f"{address}/v1/models").status_code == 200
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
            assert httpx2.get(f"{address}/v1/models", headers={"Host": host}).status_code in (400, 403)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((["--host", "0.0.0.0"]), "--insecure"), (["--host", "192.0.2.1"], "RELISTEN_API_KEY"),
        (["--api-key", "short"], "16 printable"), (["--port", "70000"], "0 to 65535"),
        (["--max-rows", "0"], "--max-rows is 0"), (["--request-seconds", "nan"], "--request-seconds is nan"),
        (["--examples", "nowhere.jsonl"], "nowhere.jsonl"), (["--host", "no.such.host.invalid"], "--host"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line(
    given: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from relisten.cli import run

    monkeypatch.delenv("RELISTEN_API_KEY", raising=False)
    if "no.such.host.invalid" in given:
        given = [*given, "--insecure"]
    assert run(["serve", *given]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ValueError, match="--port"):
        command._bound("127.0.0.1", taken.getsockname()[1])


# how much


def test_a_recording_that_is_too_large_is_refused_and_the_client_can_read_why() -> None:
    with running(FakeBatch(), Limits(max_bytes=150_000, num_decoders=1)) as (address, _):
        for num_bytes in (150_001, 200_000, 5_000_000):
            reply = ask(address, body(audio=bytes(num_bytes)))
            assert reply.status_code == 413 and "150,000" in reply.json()["error"]["message"]
        chunks = (b"x" * 10_000 for _ in range(1000))  # without a Content-Length
        reply = httpx2.post(
            f"{address}/v1/chat/completions", content=chunks, headers={"Content-Type": "application/json"}
        )
        assert reply.status_code == 413
        assert ask(address).status_code == 200


def test_a_recording_that_is_too_long_is_refused() -> None:
    with running(FakeBatch(), max_seconds=2.0) as (address, _):
        reply = ask(address)
        assert reply.status_code == 400 and "longer than the limit of 2 s" in reply.json()["error"]["message"]


def test_a_full_queue_is_refused_with_a_time_to_come_back() -> None:
    batch = FakeBatch(seconds=0.1, max_rows=1)
    with (
        running(batch, Limits(max_rows=1, max_waiting=1, num_decoders=1)) as (address, _),
        ThreadPoolExecutor() as pool,
    ):
        first = [pool.submit(ask, address) for _ in range(2)]
        wait_for(lambda: len(batch.live) + len(batch.waiting) == 2)
        batch.go.clear()  # however long the next requests take, both places stay taken
        refused = [ask(address), ask(address, body() | {"stream": True})]
        batch.go.set()
        assert [reply.status_code for reply in refused] == [503, 503]
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert [reply.result().status_code for reply in first] == [200, 200]
        assert ask(address).status_code == 200


def test_a_request_that_takes_too_long_is_ended_and_its_row_freed() -> None:
    batch = FakeBatch(seconds=0.3, pieces=["<think>", *["and on "] * 1000])
    with running(batch, Limits(request_seconds=5.0, num_decoders=1)) as (address, _), ThreadPoolExecutor() as pool:
        whole = pool.submit(ask, address)
        with httpx2.stream(
            "POST", f"{address}/v1/chat/completions", json=body() | {"stream": True}, timeout=60
        ) as reply:
            assert reply.status_code == 200  # it began in time
            assert events(reply)[-1]["error"]["code"] == 504
        assert whole.result().status_code == 504
        wait_for(lambda: not batch.busy)


# clients that misbehave


def test_half_a_request_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "IDLE_SECONDS", 0.5)
    with running(FakeBatch(), Limits(max_uploads=1, num_decoders=1)) as (address, _):
        half = raw(address, head(1000), b'{"model"')
        assert ask(address).status_code == 200  # it waited for the only place
        assert b" 408 " in half.recv(1000)
        half.close()


def test_uploads_beyond_the_limit_wait_and_are_then_refused() -> None:
    with running(FakeBatch(), Limits(max_uploads=1, upload_seconds=2.0, num_decoders=1)) as (address, running_service):
        loop, places = running_service.desk._loop, running_service._uploads
        asyncio.run_coroutine_threadsafe(places.acquire(), loop).result()  # as an upload that goes on has it
        reply = ask(address)
        assert reply.status_code == 429 and int(reply.headers["retry-after"]) > 0
        loop.call_soon_threadsafe(places.release)
        assert ask(address).status_code == 200


def test_half_a_head_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    with running(FakeBatch()) as (address, _):
        sock = raw(address, "POST /v1/chat/compl")
        assert sock.recv(100) == b""
        sock.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_row(stream: bool) -> None:
    batch = FakeBatch(seconds=0.05, pieces=["<think>", *["and on "] * 100_000])
    with running(batch) as (address, running_service):
        content = json.dumps(body() | {"stream": stream, "n": 2}).encode()
        sock = raw(address, head(len(content)), content)
        wait_for(lambda: len(batch.live) == 2)
        if stream:
            assert sock.recv(100)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        wait_for(lambda: not batch.busy and running_service.desk.num_asked == 0)
        assert counted(address, "rows") == 0


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue() -> None:
    batch = FakeBatch(seconds=0.05, max_rows=1, pieces=["<think>", *["and on "] * 60, "<answer>two</answer>"])
    with running(batch) as (address, _), ThreadPoolExecutor() as pool:
        first = pool.submit(ask, address)
        wait_for(lambda: len(batch.live) == 1)
        content = json.dumps(body()).encode()
        sock = raw(address, head(len(content)), content)
        wait_for(lambda: len(batch.waiting) == 1)
        sock.close()
        wait_for(lambda: not batch.waiting)
        assert first.result().status_code == 200


def test_a_slow_reader_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STALL_SECONDS", 1.0)
    long = FakeBatch(pieces=["<think>", *["x" * 2000] * 4000, "</think><answer>two</answer>"], max_rows=4)
    with running(long) as (address, running_service):
        content = json.dumps(body() | {"stream": True}).encode()
        sock = raw(address, head(len(content)), content)  # and reads nothing of the 20 MB
        long.pieces = FakeBatch().pieces
        assert ask(address).status_code == 200
        wait_for(lambda: running_service.desk.num_asked == 0)
        sock.close()


def test_an_engine_that_breaks_starts_anew() -> None:
    with running(FakeBatch()) as (address, running_service):
        assert ask(address, body("break")).status_code == 500
        assert ask(address).status_code == 200
        away = ask(address, body("unreachable"))  # as an engine that consists of servers says it
        assert away.status_code == 503 and away.headers["retry-after"] == "5"
        assert ask(address).status_code == 200
        assert running_service.desk.num_failed == 2


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    """About a minute. Answers, refusals, and clients that leave: after the first 400 requests nothing piles up."""
    whole, stream = json.dumps(body()).encode(), json.dumps(body() | {"stream": True, "n": 2}).encode()
    given = [whole, stream, json.dumps(body(audio=bytes(100_000))).encode(), b'{"model": "fake"}', whole[:-100]]

    def one(number: int) -> None:
        content = given[number % len(given)]
        sock = raw(address, head(len(content)), content)
        if number % 7:  # the others leave at once
            while sock.recv(65_536) and number % 11:
                pass
        sock.close()

    def all_of(num: int) -> int:
        list(pool.map(one, range(num)))
        wait_for(lambda: running_service.desk.num_asked == 0)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with running(FakeBatch(max_rows=16)) as (address, running_service), ThreadPoolExecutor(16) as pool:
        before = all_of(400)
        assert all_of(1200) - before < 20_000_000
        assert ask(address).status_code == 200


# recordings that kill


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Decoders in which some recordings crash the process, fill its memory, or never end."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'relisten.serving.decoder' in sys.orig_argv:\n"
        "    from relisten import audio\n"
        "    load = audio.load\n"
        "    def hostile(path, rate, max_seconds):\n"
        "        first = open(path, 'rb').read(8)\n"
        "        if first == b'CRASHES!': os.kill(os.getpid(), 11)\n"
        "        if first == b'SWALLOWS': return [bytes(1 << 28) for _ in range(100)]\n"
        "        while first == b'ENDLESS!': pass\n"
        "        if first == b'PRINTS!!': print('{}'); os.write(1, b'{}'); raise ValueError(f'{path}: prints')\n"
        "        return load(path, rate, max_seconds)\n"
        "    audio.load = hostile\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    return


def test_a_recording_that_kills_its_decoder_kills_nothing_else(hostile: None) -> None:
    with running(FakeBatch(), Limits(upload_seconds=8.0, num_decoders=1)) as (address, running_service):
        for content, told in (
            (b"CRASHES!", "crashed"), (b"SWALLOWS", "crashed"), (b"ENDLESS!", "longer than 8 s"),
            (b"PRINTS!!", "the recording: prints"),
        ):  # fmt: skip
            reply = ask(address, body(audio=content))
            assert reply.status_code == 400 and told in reply.json()["error"]["message"]
            assert ask(address).status_code == 200
        assert counted(address, "dead_decoders") == 3
        folder = Path(running_service.decoders._folder.name)  # type: ignore[union-attr]
        assert folder.is_dir() and not list(folder.iterdir())
    assert not folder.exists()


def test_a_damaged_recording_is_answered_with_a_warning() -> None:
    """The command line warns of it, so a client must hear of it too."""
    sound = bytearray((EXAMPLES / "scene-2.flac").read_bytes())
    sound[len(sound) // 2 : len(sound) // 2 + 4000] = bytes(range(250)) * 16
    with running(FakeBatch()) as (address, _):
        told = ask(address, body(audio=bytes(sound))).json()["choices"][0]["message"]["relisten"]
        assert [text for text in told["warnings"] if text.startswith("the recording: ")] == told["warnings"] != []
        assert ask(address).json()["choices"][0]["message"]["relisten"]["warnings"] == []


def test_a_client_that_goes_away_during_decoding_ends_the_decoder(hostile: None) -> None:
    with running(FakeBatch(), Limits(upload_seconds=60.0, num_decoders=1)) as (address, _):
        content = json.dumps(body(audio=b"ENDLESS!")).encode()
        sock = raw(address, head(len(content)), content)
        time.sleep(0.5)
        sock.close()
        assert ask(address).status_code == 200  # the only decoder was replaced


# addresses


class Resolver:
    """Names that mean one address the first time and another one after it."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.num_asked = 0

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.num_asked += 1
        address = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


def url_body(url: str) -> dict[str, Any]:
    content = [{"type": "text", "text": "What?"}, {"type": "audio_url", "audio_url": {"url": url}}]
    return {"model": "fake", "messages": [{"role": "user", "content": content}]}


def test_addresses_are_fetched_only_where_allowed() -> None:
    with running(FakeBatch()) as (address, _):
        reply = ask(address, url_body("http://example.org/a.wav"))
        assert reply.status_code == 400 and "--allow-urls" in reply.json()["error"]["message"]


class Outside(http.server.BaseHTTPRequestHandler):
    """A server that stands for the open internet."""

    seen: ClassVar[list[str]] = []
    moves: ClassVar[dict[str, str]] = {
        "/inside": "http://127.0.0.1:1/secret", "/again": "/again", "/moved": "/found?x=1", "/file": "file:///etc/passwd"
    }  # fmt: skip

    def do_GET(self) -> None:
        self.seen.append(f"{self.headers['Host']}{self.path}")
        where = self.moves.get(self.path)
        self.send_response(302 if where else 404 if self.path == "/missing" else 200)
        if where:
            self.send_header("Location", where)
        self.end_headers()
        self.wfile.write(b"x" * 200_000 if self.path == "/large" else b"sound")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], list[str]]]:
    """What the server outside has seen, and to which addresses connections went. 198.51.100.* stands for outside."""
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outside)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    connected: list[str] = []

    real = anyio.connect_tcp

    async def connect_tcp(remote_host: str, **_: Any) -> Any:
        connected.append(remote_host)
        return await real("127.0.0.1", int(site.server_address[1]))

    Outside.seen.clear()
    monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)
    monkeypatch.setattr(fetch, "is_public", lambda address: address.startswith("198.51.100."))
    yield Outside.seen, connected
    site.shutdown()
    site.server_close()


def fetched(path: str) -> bytes:
    return asyncio.run(fetch.fetch(f"http://sounds.example/{path}", 1000, 5.0))


def test_an_address_is_looked_up_once(outside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was checked, whatever the name means a moment later."""
    seen, connected = outside
    monkeypatch.setattr(socket, "getaddrinfo", Resolver("198.51.100.7", "127.0.0.1"))
    assert fetched("a b?ä") == b"sound"
    assert seen == ["sounds.example/a%20b?%C3%A4"] and connected == ["198.51.100.7"]
    with pytest.raises(RequestError, match="private network"):
        fetched("a")
    assert len(seen) == 1


def test_redirects_are_checked_like_the_first_address(outside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, _ = outside
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: Resolver(
        "198.51.100.7" if host == "sounds.example" else host)(host, port))  # fmt: skip
    assert fetched("moved") == b"sound"
    for path, told in (
        ("inside", "private network"), ("again", "more than 3 times"), ("file", "http or https"),
        ("missing", "status 404"), ("large", "larger than 1,000"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=told):
            fetched(path)
    assert not [one for one in seen if one.startswith("127.")]


# the end


def test_sigterm_finishes_what_has_begun_and_refuses_the_rest(tmp_path: Path) -> None:
    script = tmp_path / "serving_fake.py"
    script.write_text(
        "import socket, sys\n"
        "from relisten.engine.generation import GenerationConfig\n"
        "from relisten.serving.app import build\n"
        "from relisten.serving.limits import Limits\n"
        "from relisten.serving.server import make_server\n"
        "from relisten.serving.service import Served, Service\n"
        "from tests.serving import FakeBatch\n"
        "batch = FakeBatch(seconds=0.3, max_rows=1)\n"
        "served = Served('fake', 16_000, batch.session, lambda *_: None)\n"
        "make = lambda: Service(served, Limits(num_decoders=1), GenerationConfig(), 600.0)\n"
        "sock = socket.create_server(('127.0.0.1', 0))\n"
        "ready = lambda: print(sock.getsockname()[1], flush=True)\n"
        "make_server(build(make), 60.0, ready).run([sock])\n"
        "print('ended', flush=True)\n"
    )
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, f"{root}/src", os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    address = f"http://127.0.0.1:{int(process.stdout.readline())}"
    with ThreadPoolExecutor() as pool:
        runs = pool.submit(ask, address)
        wait_for(lambda: counted(address, "rows") == 1)
        waits = pool.submit(ask, address)
        wait_for(lambda: counted(address, "waiting") == 1)
        process.send_signal(signal.SIGTERM)
        refused = waits.result()
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert runs.result().status_code == 200
    assert process.wait(30) == 0 and process.stdout.read() == "ended\n"
    with pytest.raises(httpx2.ConnectError):
        ask(address)
