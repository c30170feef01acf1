"""What docs/safety.md promises, tried for ten minutes: before a release, by hand.

    pytest -m slow tests/safety -s

RELISTEN_SAFETY_SECONDS sets another time, RELISTEN_SAFETY_SEED repeats an earlier run's inputs. It ends in a table.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from safety import fuzz, long_commands, servers
from safety.trials import Counts

SECONDS = float(os.environ.get("RELISTEN_SAFETY_SECONDS", "600"))
"""For everything together. Kills and faults get what they need, up to two thirds; the fuzzers share what is left."""
SEED = int(os.environ.get("RELISTEN_SAFETY_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
KILLS, FAULTS = 20, 8
"""Of each long command, where the time allows."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, questions and a tiny model."""
    folder = tmp_path_factory.mktemp("world")
    long_commands.make(folder)
    return folder


@pytest.mark.slow
def test_what_is_promised_holds_for_ten_minutes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    rng, counts, begun = random.Random(SEED), Counts(), time.monotonic()
    longs = long_commands.make(tmp_path / "long")
    for number, long in enumerate(longs):
        place = tmp_path / f"of-{number}"
        place.mkdir()
        now = time.monotonic()
        share = (begun + SECONDS * 2 / 3 - now) / (len(longs) - number)
        long_commands.kill(long, place / "out", KILLS, rng, counts, now + 0.7 * share)
        long_commands.starve(long, place / "out", FAULTS, rng, counts, now + share)
        shutil.rmtree(place)
    kinds = [*fuzz.fuzzers(world, tmp_path / "fuzz"), server_fuzzer(world, tmp_path / "servers")]
    while time.monotonic() < begun + SECONDS:
        for kind in kinds:
            name, outcome = kind.trial(rng)
            counts.add(kind.name, name, outcome)
    with capfd.disabled():
        print(f"\n\nseed {SEED}, {time.monotonic() - begun:.0f} s\n\n{counts.table()}\n")
        print("\n\n".join(counts.failures))
    assert not counts.failures


def server_fuzzer(world: Path, place: Path) -> fuzz.Fuzzer:
    """Builds with a server that misbehaves."""

    def trial(rng: random.Random) -> tuple[str, servers.Outcome]:
        fault = servers.random_fault(rng)
        return fault[:200], servers.server_trial(world, place, fault, rng)

    return fuzz.Fuzzer("servers that misbehave", trial)


def test_one_of_each_kind_of_broken_input(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzers in short, with a fixed seed: each kind is broken a few times and gives no traceback."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    rng, counts = random.Random(19), Counts()
    for kind in [*fuzz.fuzzers(world, tmp_path / "fuzz"), server_fuzzer(world, tmp_path / "servers")]:
        for _ in range(2):
            name, outcome = kind.trial(rng)
            counts.add(kind.name, name, outcome)
    assert not counts.failures, "\n\n".join(counts.failures)
    assert len(counts.by_kind) == 8


def test_a_kill_and_a_full_disk_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest of the long commands; `pytest -m slow tests/safety` has the others."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    rng, counts = random.Random(19), Counts()
    scenes = next(long for long in long_commands.make(tmp_path / "long") if long.name == "scenes")
    long_commands.kill(scenes, tmp_path / "out", 2, rng, counts)
    long_commands.starve(scenes, tmp_path / "out", 2, rng, counts)
    assert not counts.failures, "\n\n".join(counts.failures)
