"""The commands that take long, at the size of seconds: each is killed, starved of disk, and started again."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safety.trials import Counts, Outcome, attempt, command, forked
from tiny import TINY

import relisten.training.grpo
import relisten.training.sft  # noqa: F401  (once here, not in every process that is killed)
from relisten import records
from relisten.data.worlds.scene_files import write_scenes
from relisten.models import nano


@dataclass(frozen=True)
class Long:
    """A command, and what it leaves when it was not disturbed."""

    name: str
    tokens: tuple[str, ...]
    """With OUT where the folder for results stands."""
    results: tuple[str, ...]
    """Patterns of the files that must be the same, byte for byte, however often it was disturbed."""

    def given(self, out: Path) -> list[str]:
        """The command line with a folder for OUT."""
        return [token.replace("OUT", str(out)) for token in self.tokens]

    def left(self, out: Path) -> dict[str, bytes]:
        """What is in those files; lines that are appended as they come may stand in any order."""
        files = sorted(path for pattern in self.results for path in out.glob(pattern))
        return {str(path.relative_to(out)): content(path) for path in files}


def content(path: Path) -> bytes:
    """A file's bytes; of answers, what does not tell the time, sorted."""
    if path.name != "answers.jsonl":
        return path.read_bytes()
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in records.read(path)]
    return b"\n".join(sorted(json.dumps(line, sort_keys=True).encode() for line in lines))


def make(world: Path) -> list[Long]:
    """A small world (recordings, questions, a tiny model), and the six long commands over it."""
    questions = write_scenes(world / "scenes", num=12, questions=1, max_seconds=4)
    texts = [str(json.loads(line).get("cot")) for line in questions.read_text().splitlines()]
    nano.create([*texts, "user assistant <think></think><answer></answer>"] * 2, TINY).save(world / "tiny")
    model = ("--model", str(world / "tiny"))
    few = (*model, "--max-new-tokens", "24", "--device", "cpu")
    training = (
        *model, "--data", str(questions), "--output", "OUT", "--batch-size", "2", "--learning-rate", "1e-3",
        "--no-bf16", "--workers", "0", "--save-steps", "2", "--log-steps", "1",
    )  # fmt: skip
    weights = ("model/*.safetensors", "model/config.json")
    return [
        Long("scenes", ("scenes", "OUT", "--num", "30", "--max-seconds", "4"), ("*.jsonl", "audio/*.flac")),
        Long("eval", ("eval", str(questions), "OUT", *few, "--max-rows", "2"), ("answers.jsonl",)),
        Long("ask FILE", ("ask", str(questions), "--out", "OUT/answers.jsonl", *few), ("answers.jsonl",)),
        Long("data build", ("data", "build", "--source", "scenes", "--root", str(world / "scenes"), "--out", "OUT",
             "--questions", "4", "--blind-margin", "1"), ("sft.jsonl", "rl.jsonl", "rejected.jsonl")),
        Long("train sft", ("train", "sft", *training, "--device-batch-size", "2", "--steps", "8"), weights),
        Long("train grpo", ("train", "grpo", *training, "--steps", "4", "--mini-batch-size", "2", "--group-size", "2",
             "--max-new-tokens", "16"), weights),
    ]  # fmt: skip


def kill(long: Long, out: Path, num: int, rng: random.Random, counts: Counts, until: float = math.inf) -> None:
    """Kill the command `num` times at random moments; it must end as if it had not been disturbed.

    until: on the clock of time.monotonic(); no run is begun after it.
    """
    kind = f"kill -9 of {long.name}"
    whole = out.parent / "whole"
    begun = time.monotonic()
    outcome = attempt(lambda: command(long.given(whole)), seconds=120)
    lasts = time.monotonic() - begun
    if outcome.kind != "passed":
        counts.add(kind, "undisturbed", Outcome("failed", outcome.said))
        return
    wanted, done = long.left(whole), 0
    while done < num and time.monotonic() < until:
        shutil.rmtree(out, ignore_errors=True)
        kills = rng.randint(1, min(4, num - done))
        for _ in range(kills):  # before the run may end
            child = forked(lambda: command(long.given(out)))
            time.sleep(rng.uniform(0.1, 0.9) * lasts)
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        done += kills
        outcome = attempt(lambda: command(long.given(out)), seconds=120)
        if outcome.kind == "passed":
            outcome = compared(long, out, wanted)
        outcome = outcome if outcome.kind == "passed" else Outcome("failed", outcome.said)
        counts.add(kind, "then started again", outcome, kills)


def starve(long: Long, out: Path, num: int, rng: random.Random, counts: Counts, until: float = math.inf) -> None:
    """Let the disk fail in different ways; the command says so in one line, and ends well when it is mended."""
    kind = f"a failing disk under {long.name}"
    whole = out.parent / "whole"
    if not whole.exists():
        attempt(lambda: command(long.given(whole)), seconds=120)
    wanted = long.left(whole)
    for _ in range(num):
        if time.monotonic() > until:
            return
        shutil.rmtree(out, ignore_errors=True)
        fault = rng.choice([full_disk, failing_sync, removed_folder])(rng, out)
        outcome = attempt(lambda fault=fault: [fault(), command(long.given(out))], seconds=120)
        if fault.__name__ == "remove" and outcome.kind == "passed":
            outcome = compared(long, out, wanted)  # what is lost must be said
            if gone := {path.name for path in whole.glob("[!.]*")} - {path.name for path in out.iterdir()}:
                outcome = Outcome("failed", f"{min(gone)} is lost, and nothing was said; {outcome.said}")
        counts.add(kind, fault.__doc__ or "", outcome)
        if outcome.kind != "failed" and fault.__name__ != "remove":
            outcome = attempt(lambda: command(long.given(out)), seconds=120)
            outcome = compared(long, out, wanted) if outcome.kind == "passed" else Outcome("failed", outcome.said)
            if outcome.kind == "failed":
                counts.add(kind, f"{fault.__doc__}, then started again", outcome)


def compared(long: Long, out: Path, wanted: dict[str, bytes]) -> Outcome:
    """Whether a run left what an undisturbed one leaves, and no half-written files."""
    found = long.left(out)
    if other := sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name)):
        return Outcome("failed", f"{', '.join(other[:5])} differ from an undisturbed run's")
    if litter := [path.name for path in out.rglob("*") if path.name.startswith(".part")]:
        return Outcome("failed", f"{litter[0]} is left over")
    return Outcome("passed")


def full_disk(rng: random.Random, out: Path) -> Callable[[], None]:
    """No file may grow beyond a size."""
    size = int(10 ** rng.uniform(1, 6))

    def limit() -> None:
        """a full disk"""
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


def failing_sync(rng: random.Random, out: Path) -> Callable[[], None]:
    """Putting a file on the disk fails, at a random time."""
    after, real = rng.randrange(20), os.fsync

    def fail() -> None:
        """a disk that fails"""
        left = after

        def fsync(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(descriptor)

        os.fsync = fsync

    return fail


def removed_folder(rng: random.Random, out: Path) -> Callable[[], None]:
    """The folder of results is removed while the command runs, at a random time."""
    after, real = rng.randrange(2, 20), os.fsync

    def remove() -> None:
        """a folder that is removed"""
        left = after

        def fsync(descriptor: int) -> None:
            nonlocal left
            left -= 1
            real(descriptor)
            if left == 0:
                shutil.rmtree(out, ignore_errors=True)

        os.fsync = fsync

    return remove
