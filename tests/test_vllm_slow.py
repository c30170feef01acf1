"""vLLM itself (its CPU build) against the engine in this process, with nano: `pytest -m slow tests/test_vllm_slow.py`.

The environment is made by runs/vllm_cpu.sh, which takes minutes and 4 GB. RELISTEN_VLLM_ENV names one that is there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relisten import cli, models, records
from relisten.audio import crop, load
from relisten.engine.engine import Engine
from relisten.engine.generation import GenerationConfig
from relisten.models.base import AudioLM
from relisten.remote.rollouts import CACHES
from relisten.remote.vllm import as_piece
from relisten.types import Audio, Example, Trace

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "runs" / "vllm_cpu.sh"
NUM = 200
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a server of nano, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("vllm")
    environment = os.environ.get("RELISTEN_VLLM_ENV")
    if environment is None:
        environment = str(folder / "env")
        subprocess.run([SCRIPT, "setup", environment], check=True)
    assert cli.run(["export", "vllm", "nano", str(folder / "nano")]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [SCRIPT, "serve", environment, str(folder / "nano"), str(port)],
            env=os.environ | {"VLLM_SERVER_DEV_MODE": "1"}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 600
        while not _answers(address):
            assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()[-2000:]
            time.sleep(1)
        yield address, folder / "nano"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _answers(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/health", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.mark.parametrize("options", [[], ["--only-choices"]], ids=["free", "only choices"])
def test_two_hundred_answers_are_equal(served: tuple[str, Path], tmp_path: Path, options: list[str]) -> None:
    scenes = ["scenes", str(tmp_path / "held"), "--num", "104", "--seed", "510000", "--split", "heldout"]
    assert cli.run(scenes) == 0
    lines = list(records.read(tmp_path / "held" / "questions.jsonl"))[:NUM]
    questions = tmp_path / "held" / "some.jsonl"
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {}
    for name, engine in (("here", "local"), ("there", served[0])):
        assert cli.run(["eval", str(questions), str(tmp_path / name), "--engine", engine, *options]) == 0
        found[name] = {line["id"]: line for line in records.read(tmp_path / name / "answers.jsonl")}
    kept = ("response", "heard", "refusals", "finish", "num_tokens")
    differ = [
        f"{i}\n  here:  {found['here'][i]['response']}\n  there: {found['there'][i]['response']}"
        for i in found["here"]
        if any(found["here"][i][key] != found["there"][i][key] for key in kept)
    ]
    assert len(found["here"]) == NUM
    assert not differ, "\n".join(differ)


def test_sampled_tokens_have_the_log_probability_that_vllm_gives_them(served: tuple[str, Path]) -> None:
    """Parity: vLLM reads the local engine's trace, and its own log-probability of every sampled token is the same.

    `trace_decode_token_ids`, which does this in one request, needs a GPU in vLLM 0.32.
    """
    model = models.load("nano")
    heard = load(ROOT / "src" / "relisten" / "assets" / "example.flac", model.rate)
    example = Example("x", heard, "what is heard first?", ("a violin", "a flute"))
    [[trace]] = Engine(model).generate([example], GenerationConfig(temperature=1.0, seed=3))
    places = [place for place, own in enumerate(trace.sampled) if own]
    differences = [abs(_logprob(served[0], model, heard, trace, place) - trace.logprobs[place]) for place in places]
    assert len(trace.listens) > 1 and len(differences) > 20
    assert max(differences) < 1e-4


def _logprob(address: str, model: AudioLM, heard: Audio, trace: Trace, place: int) -> float:
    """What the server says of one token of a trace, given all tokens before it."""
    ids: list[int] = []
    done, pieces = 0, []
    for listen in trace.listens:
        if listen.at < place:
            ids += trace.token_ids[done : listen.at + 1]
            done = listen.at + listen.num_tokens
            pieces.append(as_piece(heard if len(pieces) == 0 else crop(heard, listen.segment)))
    sampling = {"temperature": 1, "max_tokens": 1, "logprobs": 20}
    sampling["logit_bias"] = {str(token): -100 for token in model.banned_token_ids.tolist()}
    body: dict[str, Any] = {
        "token_ids": ids + trace.token_ids[done:place],
        "content_parts": [{"type": "audio_url", "url": piece.url, "uuid": piece.uuid} for piece in pieces],
        "sampling_params": sampling,
    }
    reply = httpx2.post(f"{address}/inference/v1/generate", json=body, timeout=60).json()
    likely = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return float({one["token_id"]: one["logprob"] for one in likely}[trace.token_ids[place]])


def test_rollouts_have_the_trainer_s_weights(served: tuple[str, Path], tmp_path: Path) -> None:
    """Rollout and trainer agree on every log-probability, also after the weights have changed twice."""
    assert cli.run(["scenes", str(tmp_path / "scenes"), "--num", "12", "--seed", "1000000"]) == 0
    options = "--model nano --steps 3 --learning-rate 3e-5 --batch-size 4 --mini-batch-size 4 --group-size 4"
    options += " --device-batch-size 4 --max-new-tokens 96 --kl 0 --no-bf16 --rewards format accuracy confidence"
    where = ["--data", str(tmp_path / "scenes" / "questions.jsonl"), "--output", str(tmp_path / "run")]
    try:
        assert cli.run(["train", "grpo", *options.split(), *where, "--engine", served[0]]) == 0
    finally:  # the other tests want nano's weights
        load = {"method": "reload_weights", "kwargs": {"weights_path": str(served[1])}}
        assert httpx2.post(f"{served[0]}/collective_rpc", json=load, timeout=60).status_code == 200
        for path in CACHES:
            httpx2.post(f"{served[0]}{path}", timeout=60)
    steps = [line for line in records.read(tmp_path / "run" / "metrics.jsonl") if "logprob_difference" in line]
    assert len(steps) == 3 and all(line["grad_norm"] > 0 for line in steps)
    assert max(line["logprob_difference"] for line in steps) < 1e-4
