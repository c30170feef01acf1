"""A server on loopback that speaks as vLLM's do for tokens, with a real model behind it, and with faults on demand."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import soundfile
import torch
from transformers import DynamicCache

from relisten import models
from relisten.engine.sampling import allow_only
from relisten.models.base import AudioLM
from relisten.types import Audio

Fault = Callable[[int, str], str]
"""(number of the request to generate, counted from 1, its path) -> what goes wrong with it; empty: nothing."""
Says = Callable[[str], str | None]
"""What the model has written so far -> what it writes from there on; None: what its weights say."""


ALONE = threading.Lock()
"""Servers of one test may share a model, which cannot run twice at a time."""


class VllmServer(ThreadingHTTPServer):
    """A model, a cache of audio, and what was asked; `url` is its address."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, model: AudioLM, fault: Fault, says: Says, processed: bool, context: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.fault, self.says, self.processed, self.context = model, fault, says, processed, context
        self.lock = threading.Lock()
        self.audio: dict[str, Audio] = {}
        """Pieces of audio in the processor's cache, by uuid."""
        self.num = 0
        self.faults: Counter[str] = Counter()
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.now = self.most = 0
        """Requests in hand at this moment, and the most there ever were."""
        self.key = ""
        """Requests must bring it, if it is set."""
        self.version = "0.32.0"
        self.router = False
        """Whether it passes on only what every router does."""
        self.weights = ""
        """The folder that the weights were last read from."""
        self.version_of_weights = "default"
        self.developer = True
        """Whether it takes commands, as with VLLM_SERVER_DEV_MODE=1."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away: no traceback for that."""


class Handler(BaseHTTPRequestHandler):
    server: VllmServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self.path == "/v1/models":
            model = {"id": "served", "object": "model", "max_model_len": self.server.context}
            return self.send(200, {"object": "list", "data": [model]})
        if self.path == "/version":
            return self.send(200, {"version": self.server.version})
        return self.send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        server.paths.append(self.path)
        if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
            return self.send(401, {"error": "Unauthorized"})
        if self.path == "/tokenize" and server.router:
            return self.send(404, {"detail": "Not Found"})
        if self.path == "/tokenize":
            return self.send(200, {"tokens": server.model.encode(body["prompt"]), "max_model_len": server.context})
        if self.path == "/inference/v1/generate":
            return self.generate(body)
        if not server.developer:
            return self.send(404, {"detail": "Not Found"})
        if self.path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            server.weights = body["kwargs"]["weights_path"]
            with ALONE:
                server.model = models.load(server.weights)
        if self.path == "/reset_mm_cache":
            server.audio.clear()
        if self.path == "/update_weight_version":
            server.version_of_weights = body["new_version"]
        return self.send(200, {"success": True})

    def generate(self, body: dict[str, Any]) -> None:
        server = self.server
        with server.lock:
            server.num += 1
            server.now += 1
            server.most = max(server.most, server.now)
            server.bodies.append(body)
            name, _, value = server.fault(server.num, self.path).partition(" ")
            server.faults[name] += 1
            if name == "miss":
                server.audio.clear()
            if name == "slow":
                time.sleep(float(value))
            try:
                with ALONE:
                    replies = list(self.replies(body, int(value) if name == "overshoot" else 0))
            except LookupError as missing:
                server.now -= 1
                return self.send(400, {"error": {"message": str(missing), "type": "BadRequestError", "code": 400}})
            server.now -= 1
        if name.isdigit():
            headers = {"Retry-After": value} if value else {}
            return self.send(int(name), {"error": {"message": "as asked for"}}, headers)
        if name == "close":
            self.close_connection = True
            return None
        if name == "half":
            return self.send(200, b'{"choices": [', {"Content-Length": "4000", "Connection": "close"})
        if name == "garbage":
            return self.send(200, value.encode() or b"<html>")
        if body.get("stream"):
            return self.stream(replies, len(replies) // 2 if name == "cut" else None)
        return self.send(200, together(replies))

    def replies(self, body: dict[str, Any], overshoot: int) -> Iterator[dict[str, Any]]:
        """One object for each token, as in a stream. overshoot: tokens that are sampled after the end."""
        model, asked = self.server.model, body["sampling_params"]
        pieces = [self.heard(part, index) for index, part in enumerate(body.get("content_parts") or [])]
        ids = self.expanded(body["token_ids"], pieces)
        sampler = torch.Generator().manual_seed(asked.get("seed", 0))
        written: list[int] = []
        cache, unread = DynamicCache(), list(ids)
        features = [model.features(piece) for piece in pieces]
        finish, left = None, 0
        while finish is None or left:
            logits = self.forward(unread, len(ids) + len(written), features if not written else [], cache)
            token, logprob = self.choose(logits, asked, sampler, len(written), ids, written)
            written.append(token)
            unread = [token]
            left -= finish is not None
            if finish is None:
                finish = self.finished(asked, written)
                left = overshoot if finish else 0
            content = [{"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": []}]
            end = finish if finish and not left else None
            spans = [{"version": self.server.version_of_weights, "start": 0, "end": len(written)}]
            choice = {"index": 0, "token_ids": [token], "finish_reason": end, "logprobs": {"content": content}}
            choice["weight_versions"] = spans if end else None
            shown = {"prompt_token_ids": ids} if body.get("return_token_ids") and len(written) == 1 else {}
            yield {"choices": [choice], **shown}

    def heard(self, part: dict[str, Any], index: int) -> Audio:
        """A piece of audio, from the request or from the cache."""
        if "url" in part:
            data = base64.b64decode(part["url"].partition("base64,")[2])
            samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
            self.server.audio[part["uuid"]] = Audio(samples, rate)
        elif part["uuid"] not in self.server.audio:
            raise LookupError(f"Cache miss for audio at index {index} but data is not provided.")
        return self.server.audio[part["uuid"]]

    def expanded(self, ids: Sequence[int], pieces: Sequence[Audio]) -> list[int]:
        """The tokens with as many placeholders as each piece of audio takes."""
        placeholder = self.server.model.audio_tokens(self.server.model.rate)[1]
        waiting, found = iter(pieces), []
        for token in ids:
            times = self.server.model.num_audio_tokens(len(next(waiting).samples)) if token == placeholder else 1
            found += [token] * times
        assert next(waiting, None) is None, "more audio than placeholders"
        return found

    @torch.no_grad()
    def forward(self, unread: list[int], length: int, features: Any, cache: Any) -> torch.Tensor:
        positions = torch.arange(length - len(unread), length)[None]
        keep = (torch.zeros(1, dtype=torch.long), torch.tensor([len(unread) - 1]))
        return self.server.model.forward(torch.tensor([unread]), positions, features, None, cache, keep)[0]

    def choose(
        self, logits: torch.Tensor, asked: dict[str, Any], sampler: Any, place: int, ids: list[int], written: list[int]
    ) -> tuple[int, float]:
        """The next token and its log-probability, as the server's --logprobs-mode says."""
        processed = logits.clone()
        for token, bias in (asked.get("logit_bias") or {}).items():
            processed[int(token)] += bias
        processed = allow_only([asked.get("allowed_token_ids")], processed[None])[0]
        temperature = asked.get("temperature", 1.0)
        processed /= temperature or 1.0
        forced = (asked.get("trace_decode_token_ids") or [None])[place:][:1]
        told = self.told(ids + written)
        if forced and forced[0] is not None:
            token = forced[0]
        elif told is not None:
            token = told
        elif temperature == 0:
            token = int(processed.argmax())
        else:
            token = int(torch.multinomial(processed.softmax(-1), 1, generator=sampler))
        shown = processed if self.server.processed else logits
        return token, float(shown.log_softmax(-1)[token])

    def told(self, ids: list[int]) -> int | None:
        """The token that `says` asks for next."""
        model = self.server.model
        text = model.decode(ids).rpartition("assistant\n")[2]
        rest = self.server.says(text)
        return None if rest is None else model.encode(rest)[0] if rest else model.end_token_id

    def finished(self, asked: dict[str, Any], written: list[int]) -> str | None:
        text = self.server.model.decode(written)
        if written[-1] in asked.get("stop_token_ids", []) or any(stop in text for stop in asked.get("stop", [])):
            return "stop"
        trace = asked.get("trace_decode_token_ids")
        return "length" if len(written) >= min(asked["max_tokens"], len(trace or written) + (trace is None)) else None

    def stream(self, replies: list[dict[str, Any]], cut: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for reply in replies[:cut]:
            self.wfile.write(f"data: {json.dumps(reply)}\n\n".encode())
        if cut is None:
            self.wfile.write(b"data: [DONE]\n\n")

    def send(self, code: int, body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(content))}.items():
            self.send_header(key, (headers or {}).get(key, value))
        for key in (headers or {}).keys() - {"Content-Length"}:
            self.send_header(key, (headers or {})[key])
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def together(replies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The pieces of a stream as one reply."""
    choices = [reply["choices"][0] for reply in replies]
    content = [one for choice in choices for one in choice["logprobs"]["content"]]
    whole = {
        "index": 0,
        "finish_reason": choices[-1]["finish_reason"],
        "token_ids": [token for choice in choices for token in choice["token_ids"]],
        "logprobs": {"content": content},
        "weight_versions": choices[-1]["weight_versions"],
    }
    return {"choices": [whole]} | {"prompt_token_ids": replies[0].get("prompt_token_ids")}


@contextmanager
def serving(
    model: AudioLM,
    fault: Fault = lambda number, path: "",
    says: Says = lambda text: None,
    processed: bool = True,
    context: int = 4096,
) -> Iterator[VllmServer]:
    """The server, running."""
    server = VllmServer(model, fault, says, processed, context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
