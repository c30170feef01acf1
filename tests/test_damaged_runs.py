"""Damaged run folders: whatever stands in their files, a command succeeds or says in one line which file is at fault.

A bounded fuzz with a fixed seed. RELISTEN_FUZZ sets another number of cases, RELISTEN_FUZZ_SEED another seed.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relisten import plotting, run
from relisten.audio import save
from relisten.cli import run as relisten
from relisten.evals.runner import evaluate
from relisten.models import load
from relisten.types import Audio, Example

CASES = int(os.environ.get("RELISTEN_FUZZ", "320"))
SEED = int(os.environ.get("RELISTEN_FUZZ_SEED", "0"))
NESTED: Any = []
for _ in range(400):
    NESTED = [NESTED]
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2.5, 1e308, float("nan"), float("inf"), 10**400, "", "x", "$x^{$", "\ud800", "0/0",
    "7", "\u202e", "<b>", "a" * 5000, [], {}, [None], [[1]], [[2, 1]], [["a", "b"]], {"a": 1}, NESTED,
)  # fmt: skip
RUN_FILES = ("answers.jsonl", "config.json", "run.json", "attention.json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real runs of nano, a training run's metrics, and a built set."""
    root = tmp_path_factory.mktemp("runs")
    save(root / "tone.wav", Audio((0.1 * np.sin(np.arange(32_000) / 9)).astype(np.float32)))
    labels = {"kind": "after", "modality": "sound", "category": "one", "segments": [[0.5, 1.0]]}
    questions = [
        Example(
            f"q{n}", root / "tone.wav", "What is it?", ("tone", "cow"), "tone", labels=labels | {"kind": f"k{n % 2}"}
        )
        for n in range(4)
    ]
    model = load("nano")
    for name in ("own", "other"):
        settings = {"format": "interleaved", "questions": "gone.jsonl", "num_answers": 4, "shard": "0/1"}
        run.start(root / name, settings)
        evaluate(model, questions, root / name / "answers.jsonl")
    curve = {"model": "nano", "differing": 0, "num": [2, 1], "shares": [[0.25] * 4, [0.5, 0.5, 0, 0]]}
    (root / "own" / "attention.json").write_text(json.dumps(curve))
    for step in range(1, 6):
        run.log_metrics(root / "train", step, {"loss": 1 / step, "reward": step / 5, "reward_accuracy": 0.5})
    assert relisten(["scenes", str(root / "scenes"), "--num", "3", "--questions", "0"]) == 0
    assert (
        relisten(["data", "build", "--source", "scenes", "--root", str(root / "scenes"), "--out", str(root / "set")])
        == 0
    )
    return root


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value in a JSON value, but the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(rng: random.Random, text: str) -> str:
    """A JSON text with one value in it replaced or removed."""
    value = json.loads(text)
    paths = list(places(value))
    if not paths or rng.random() < 0.05:
        return json.dumps(rng.choice(VALUES))
    *path, last = rng.choice(paths)
    inner = value
    for key in path:
        inner = inner[key]
    if rng.random() < 0.2:
        del inner[last]
    else:
        inner[last] = copy.copy(rng.choice(VALUES))
    return json.dumps(value)


def damage(rng: random.Random, path: Path) -> str:
    """Damage a file in one way; says in which."""
    content = path.read_bytes()
    way = rng.choices(("value", "cut", "bytes", "double", "gone", "folder", "empty"), (12, 2, 3, 1, 1, 1, 1))[0]
    if way == "value":
        if path.suffix == ".jsonl":
            lines = content.decode().splitlines()
            place = rng.randrange(len(lines))
            lines[place] = changed(rng, lines[place])
            path.write_text("\n".join(lines) + "\n")
        else:
            path.write_text(changed(rng, content.decode()))
    elif way == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif way == "bytes":
        start = rng.randrange(len(content))
        path.write_bytes(content[:start] + bytes(rng.choices(range(256), k=3)) + content[start + rng.randrange(3) :])
    elif way == "double":
        path.write_bytes(content * 2)
    else:
        path.unlink()
        if way == "folder":
            path.mkdir()
        elif way == "empty":
            path.touch()
    return way


def command_for(rng: random.Random, root: Path) -> list[str]:
    """One of the commands that read a run."""
    own, other = str(root / "own"), str(root / "other")
    return rng.choice([
        ["score", own], ["report", own, other, "--examples", "1", "--out", str(root / "r.html")],
        ["analyse", own, "--out", str(root / "a")], ["compare", own, other, "--out", str(root / "c")],
    ])  # fmt: skip


def test_a_damaged_run_is_told_in_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(SEED)
    written = plotting._written
    counts: Counter[str] = Counter()
    for case in range(CASES):
        root = tmp_path / str(case)
        shutil.copytree(runs, root)
        turn = case % 8
        if turn == 7:
            path = root / "set" / rng.choice(("manifest.json", "manifest.json", "sft.jsonl"))
            command = ["data", "stats", str(root / "set"), "--html", str(root / "stats.html")]
        elif turn == 6:
            path, command = root / "train" / "metrics.jsonl", ["analyse", str(root / "train"), "--out", str(root / "a")]
        else:
            path = root / "own" / RUN_FILES[max(turn - 2, 0)]
            command = command_for(rng, root)
        way = damage(rng, path)
        # Figures are made each time; that they can be written, which takes longest, is tried on every 25th, so that
        # each file has its turn.
        monkeypatch.setattr(plotting, "_written", written if case % 25 == 0 else lambda figure, format: b"<svg/>")
        capsys.readouterr()
        code = relisten(command)
        told = capsys.readouterr().err
        what = f"case {case}, seed {SEED}: {' '.join(command[:2])} with {path.name} damaged ({way}): {told}"
        assert code in (0, 2), what
        if code == 2:
            assert told.startswith("relisten: ") and told.count("\n") == 1, what
            assert path.name in told or "own" in told or "set" in told or "train" in told, what
        counts[f"{command[0]} {code}"] += 1
        shutil.rmtree(root)
    assert all(counts[f"{name} 2"] for name in ("score", "report", "analyse", "compare", "data")), counts


@pytest.mark.parametrize("starts", [2.5, 1, True, "x", {"a": 1}, [3], [{"command": 3}]])
def test_starts_of_another_kind_are_told_in_one_line(
    runs: Path, tmp_path: Path, starts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the fuzz meets this place depends on how long run.json is."""
    folder = shutil.copytree(runs / "own", tmp_path / "own")
    (folder / "run.json").write_text(json.dumps(json.loads((folder / "run.json").read_text()) | {"starts": starts}))
    assert relisten(["compare", str(folder), str(runs / "other")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "run.json" in told
