"""The same build gives the same bytes, whatever Python's hash seed is and however often it was killed.

Chains of thought once drew their reasons in the order of a set of texts. Two builds of one source then differed in a
few lines, and a build that was resumed held some of each.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from relisten.types import Clip, Event

LABELS = ("dog", "bell", "horn", "rain", "siren", "knock", "tone", "crow", "saw", "owl", "goat", "drum")
NUM_CLIPS = 40

BUILD = """
import os, signal, sys
from pathlib import Path
out, root, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from relisten.data import store
from relisten.data.build import build
from relisten.data.build_config import BuildConfig
kept, num = store.Store.keep_outcome, 0

def keep_and_die(*given, **more):
    global num
    kept(*given, **more)
    num += 1
    if num == most:
        os.kill(os.getpid(), signal.SIGKILL)

store.Store.keep_outcome = keep_and_die
build(BuildConfig(source="test_same_sets:clips", root=root, out=out, questions=3, in_flight=4))
"""


def clips(root: Path) -> Iterator[Clip]:
    """Recordings with five or six sounds each; one label comes twice in some of them."""
    for seed in range(NUM_CLIPS):
        rng = np.random.default_rng(seed)
        labels = [str(label) for label in rng.permutation(LABELS)[:5]]
        labels += labels[:1] if seed % 3 == 0 else []
        starts = np.cumsum(rng.uniform(0.9, 1.4, len(labels)))
        lengths = rng.uniform(0.3, 0.8, len(labels))
        events = (
            Event(label, round(float(start), 2), round(float(start + length), 2), {"level": -8.0 * (n % 2)})
            for n, (label, start, length) in enumerate(zip(labels, starts, lengths, strict=True))
        )
        yield Clip(f"clip{seed}", root / f"{seed}.wav", 9.5, tuple(events))


def run_build(out: Path, root: Path, hash_seed: int, kill_after: int = 0) -> int:
    """A build in a process of its own; with `kill_after`, it is killed after so many clips. Gives the exit code."""
    command = [sys.executable, "-c", BUILD, str(out), str(root), str(kill_after), str(Path(__file__).parent)]
    env = os.environ | {"PYTHONHASHSEED": str(hash_seed), "TQDM_DISABLE": "1"}
    return subprocess.run(command, env=env, stderr=subprocess.DEVNULL).returncode


def sets(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.jsonl").read_bytes() for name in ("sft", "rl", "rejected")}


def test_two_hash_seeds_and_a_kill_give_the_same_bytes(tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    assert run_build(tmp_path / "one", root, hash_seed=1) == 0
    assert run_build(tmp_path / "two", root, hash_seed=2) == 0
    assert run_build(tmp_path / "killed", root, hash_seed=1, kill_after=NUM_CLIPS // 2) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "sft.jsonl").exists()
    assert run_build(tmp_path / "killed", root, hash_seed=3) == 0
    made = sets(tmp_path / "one")
    assert made["sft"].count(b"\n") > NUM_CLIPS
    assert sets(tmp_path / "two") == made
    assert sets(tmp_path / "killed") == made


def is_set(node: ast.AST) -> bool:
    """Whether an expression is plainly a set, whose order changes with the hash seed."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.BitAnd | ast.BitOr | ast.BitXor):
        return is_set(node.left) or is_set(node.right)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
    return isinstance(node, ast.Set | ast.SetComp)


def test_nothing_goes_through_a_set_in_its_own_order() -> None:
    """`for x in {...}` gives another order in another process; write `sorted(...)`, or `dict.fromkeys(...)`."""
    package = Path(__file__).parent.parent / "src" / "relisten"
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            loops = [node] if isinstance(node, ast.For | ast.AsyncFor) else getattr(node, "generators", [])
            listed = (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("list", "tuple")
            )
            through = [loop.iter for loop in loops] if not isinstance(node, ast.SetComp) else []
            through += node.args[:1] if listed else []  # type: ignore[attr-defined]
            found += [f"{path.relative_to(package)}:{each.lineno}" for each in through if is_set(each)]
    assert found == [], "these lines go through a set in the order of its hashes"
