"""A teacher's server that misbehaves in every way that is known here, under a whole build."""

from __future__ import annotations

import json
import random
from pathlib import Path

from safety.fuzz import PIECES, VALUES, fresh
from safety.trials import Outcome, attempt, command
from teacher_server import serving

ODD_BODIES = (
    "", "<html>busy</html>", "null", "[]", '"text"', "7", "{}", "[" * 100_000, '{"a":' * 20_000, "9" * 10_000,
    '{"choices": {"0": "a"}}', '{"choices": "many"}', '{"choices": [null]}', '{"choices": [{"message": "a text"}]}',
    '{"choices": [{"message": {"content": {"deep": 1}}}]}', '{"error": {"message": "\\u001b[2J"}}',
)  # fmt: skip
FAULTS = (
    "429", "429 1", "429 -5", "429 nonsense", "503", "503 1", "500", "400", "401", "404", "418", "301 http://127.0.0.1:9/",
    "307 http://127.0.0.1:9/v1", "302 file:///etc/passwd", "timeout 3", "half", "prose", "empty", "refusal", "torn",
    "drip 0.05", "huge 40", "bomb 40", "packed br", "packed gzip", "cut", "echo 401", "repeat",
    *(f"body {body}" for body in ODD_BODIES),
)  # fmt: skip
"""As `teacher_server` names them. `timeout` and `drip` are longer than the build waits."""


def server_trial(world: Path, place: Path, fault: str, rng: random.Random) -> Outcome:
    """Build sets with a teacher that gives a fault always, or now and then; the build ends, and not in a traceback."""
    share = rng.choice((0.3, 1.0))
    chances = [rng.random() < share for _ in range(1000)]
    out = fresh(place) / "out"
    tokens = [
        "data", "build", "--source", "scenes", "--root", str(world / "scenes"), "--out", str(out), "--teacher", "m",
        "--clips", "3", "--retries", "1", "--timeout", "1.5", "--repairs", "0", "--blind-margin", "1",
    ]  # fmt: skip

    def build() -> None:
        with serving(lambda number, _: fault if chances[number % 1000] else "") as server:
            command([*tokens, "--url", server.url])

    outcome = attempt(build, seconds=90, gigabytes=2.0)
    if outcome.kind != "failed" and any(
        "Traceback" in path.read_text(errors="replace") for path in out.glob("*.jsonl")
    ):
        return Outcome("failed", "a traceback is in the sets")
    return outcome


def random_fault(rng: random.Random) -> str:
    """One of the known faults, or a reply with an odd value in an odd place."""
    if rng.random() < 0.4:
        return rng.choice(FAULTS)
    text = "".join(rng.choices([piece for piece in PIECES if piece.isprintable()], k=rng.choice((1, 5, 40))))
    value = rng.choice((text, json.dumps({"question": text, "choices": rng.choice(VALUES), "answer": text}), *VALUES))
    message = {"role": "assistant", "content": value, rng.choice(("reasoning", "refusal", "x")): rng.choice(VALUES)}
    usage = {"prompt_tokens": rng.choice(VALUES), "completion_tokens": rng.choice(VALUES)}
    body = {"choices": rng.choice(([{"message": message}], rng.choice(VALUES))), "usage": rng.choice((usage, None, 7))}
    return f"body {json.dumps(body)}"
