"""A run folder tells how it came about, and is never mixed with another run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from relisten import records, run


@dataclass(frozen=True)
class Inner:
    beta: float = 0.04


@dataclass(frozen=True)
class Config:
    data: Path = Path("sft.jsonl")
    seed: int = 7
    learning_rate: float = 1e-6
    rewards: tuple[str, ...] = ("accuracy",)
    inner: Inner = field(default_factory=Inner)


def test_a_run_explains_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["relisten", "train", "--seed", "7"])
    run.start(tmp_path / "run", Config())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config == {
        "data": "sft.jsonl", "seed": 7, "learning_rate": 1e-6, "rewards": ["accuracy"], "inner": {"beta": 0.04}
    }  # fmt: skip
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["versions"]["numpy"] == np.__version__
    assert {"relisten", "torch", "transformers"} <= set(told["versions"])
    (first,) = told["starts"]
    assert (first["seed"], first["command"]) == (7, ["relisten", "train", "--seed", "7"])
    assert first["time"].endswith("+00:00")


def test_resuming_takes_the_same_config(tmp_path: Path) -> None:
    run.start(tmp_path, Config())
    before = (tmp_path / "config.json").read_bytes()
    run.start(tmp_path, Config())
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2
    with pytest.raises(ValueError, match=r"holds another run \(seed is 7 there, 8 here, inner is .*0.04.*; choose"):
        run.start(tmp_path, Config(seed=8, inner=Inner(0.0)))
    with pytest.raises(ValueError, match=r"data is .* there, not set here"):
        run.start(tmp_path, {"seed": 7})
    assert (tmp_path / "config.json").read_bytes() == before
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2


def test_a_folder_that_was_moved_goes_on(tmp_path: Path) -> None:
    run.start(tmp_path / "a", {"output": tmp_path / "a", "seed": 7})
    (tmp_path / "a").rename(tmp_path / "b")
    run.start(tmp_path / "b", {"output": tmp_path / "b", "seed": 7})
    assert json.loads((tmp_path / "b" / "config.json").read_text())["output"] == str(tmp_path / "b")


def test_configs_of_functions_and_sets(tmp_path: Path) -> None:
    config = {"reward": math.floor, "kinds": {"b", "a"}, "ratio": 0.1}
    run.start(tmp_path, config)
    run.start(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "reward": "math:floor", "kinds": ["a", "b"], "ratio": 0.1
    }  # fmt: skip


def test_folders_that_cannot_hold_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not a folder"):
        run.start(tmp_path / "file", {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: is not JSON"):
        run.start(tmp_path, {})
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="is a JSON list, not an object"):
        run.start(tmp_path, {})
    with pytest.raises(ValueError, match="a dataclass or a mapping, not type"):
        run.start(tmp_path / "new", Config)


def test_the_commit_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert run.git() is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *identity, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert run.git() is None  # no commit yet
    (tmp_path / "a").write_text("one")
    git("add", "a")
    git("commit", "-m", "first")
    assert run.git() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "untracked").touch()
    assert run.git() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("two")
    assert run.git() == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert run.git() is None  # no git at all


def test_nothing_that_a_checkout_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`git status` ran whatever .git/config called core.fsmonitor: a checkout that came as a zip file is enough."""
    checkout, trace = tmp_path / "checkout", tmp_path / "executed"
    checkout.mkdir()
    monkeypatch.chdir(checkout)

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *arguments], capture_output=True, check=True)

    git("init")
    (checkout / "a").write_text("one")
    (checkout / ".gitattributes").write_text("* filter=evil diff=evil\n")
    git("add", "a", ".gitattributes")
    git("commit", "-m", "first")
    evil = f"touch {trace}; cat"
    names = (
        "core.fsmonitor", "core.pager", "core.sshCommand", "core.editor", "diff.external", "diff.evil.textconv",
        "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "alias.status", "alias.rev-parse",
    )  # fmt: skip
    for name in names:
        git("config", name, f"!{evil}" if name.startswith("alias") else evil)
    for hook in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
        (checkout / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\n{evil}\n")
        (checkout / ".git" / "hooks" / hook).chmod(0o755)
    trace.unlink(missing_ok=True)
    before = (checkout / ".git" / "index").read_bytes()
    os.utime(checkout / "a", (1, 1))  # git has to look into it
    told = run.git()
    assert told is not None and told["dirty"] is False
    (checkout / "a").write_text("two")
    told = run.git()
    assert told is not None and told["dirty"] is True
    run.start(tmp_path / "run", Config())
    assert not trace.exists() and (checkout / ".git" / "index").read_bytes() == before
    subprocess.run(["git", "status"], capture_output=True)
    assert trace.exists()  # the trap was set


def test_metrics(tmp_path: Path) -> None:
    run.log_metrics(tmp_path, 1, {"loss": np.float32(0.5), "rows": 3, "stage": "sft", "resumed": False, "gap": None})
    run.log_metrics(tmp_path, 2, {"loss": float("nan"), "kl": np.inf, "rows": np.int64(4)})
    one, two = records.read(tmp_path / "metrics.jsonl")
    assert one.pop("time")
    assert one == {"step": 1, "loss": 0.5, "rows": 3, "stage": "sft", "resumed": False, "gap": None}
    assert {key: two[key] for key in ("step", "loss", "kl", "rows")} == {"step": 2, "loss": None, "kl": None, "rows": 4}
    with pytest.raises(ValueError, match="metric 'loss' must be a number or a text, not list"):
        run.log_metrics(tmp_path, 3, {"loss": [1.0]})


def test_functions_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text("LIMIT = 3\ndef brevity(response, example):\n    return 1.0\n")
    (tmp_path / "my_broken.py").write_text("import no_such_thing\n")
    (tmp_path / "my_wrong.py").write_text("1 / 0\n")
    (tmp_path / "my_syntax.py").write_text("def f(:\n")
    assert run.resolve("math:floor") is math.floor
    assert run.resolve("pathlib:Path.exists") is Path.exists
    assert run.resolve("my_rewards:brevity")(None, None) == 1.0
    for name, message in {
        "math.floor": "write a function as module:function",
        ":f": "write a function as module:function",
        "math:": "write a function as module:function",
        "": "write a function as module:function",
        "no_such_module:f": "there is no module 'no_such_module'; check the spelling",
        "math.nothing:f": "there is no module 'math.nothing'; check the spelling",
        "..relative:f": "failed|no module",
        "my_broken:f": "there is no module 'no_such_thing'; my_broken needs it",
        "my_wrong:f": "importing my_wrong failed .ZeroDivisionError",
        "my_syntax:f": "importing my_syntax failed .SyntaxError",
        "my_rewards:brevitty": "has no 'brevitty'; did you mean 'brevity'",
        "my_rewards:zzz": "has no 'zzz'; check the spelling",
        "my_rewards:LIMIT": "is int, not a function",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            run.resolve(name)
        assert "\n" not in str(caught.value)
