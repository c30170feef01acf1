"""Tasks in several processes: their order, their faults, and what is left when the first process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from studies.echo import side_by_side


def touch(folder: Path, name: str, *before: str) -> None:
    """Leaves a file; those of the tasks before must be there."""
    missing = [other for other in before if not (folder / other).exists()]
    (folder / name).write_text(f"{os.environ['OMP_NUM_THREADS']} {missing}")
    print("said", name)


def fail(folder: Path) -> None:
    raise ValueError("one line that says why")


def die(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stay(folder: Path) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def test_a_task_comes_after_those_that_it_needs(tmp_path: Path) -> None:
    needs = {"last": ["one", "two"], "two": ["one"]}
    tasks = {name: partial(touch, tmp_path, name, *needs.get(name, [])) for name in ("last", "two", "one", "free")}
    side_by_side.run(tasks, needs, 2, tmp_path / "logs")
    threads = max(1, (os.cpu_count() or 1) // 2)
    assert [(tmp_path / name).read_text() for name in tasks] == [f"{threads} []"] * 4
    assert (tmp_path / "logs" / "last.log").read_text() == "said last\n"


def test_a_task_that_fails_ends_all_and_what_needs_it_is_not_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {"bad": partial(fail, tmp_path), "after": partial(touch, tmp_path, "after")}
    with pytest.raises(ValueError, match="one line that says why"):
        side_by_side.run(tasks, {"after": ["bad"]}, 2, tmp_path / "logs")
    assert not (tmp_path / "after").exists()
    assert "bad: one line that says why" in capsys.readouterr().out


def test_a_process_that_is_killed_is_told_in_one_line(tmp_path: Path) -> None:
    tasks = {"bad": partial(die, tmp_path), "after": partial(touch, tmp_path, "after")}
    with pytest.raises(ValueError, match=r"bad: its process was killed \(out of memory\?\); see .*; start again"):
        side_by_side.run(tasks, {"after": ["bad"]}, 1, tmp_path / "logs")
    assert not (tmp_path / "after").exists()


def test_processes_end_when_the_first_is_killed(tmp_path: Path) -> None:
    lines = (
        "import sys\nfrom functools import partial\nfrom pathlib import Path\nfrom studies.echo import side_by_side\n"
        "import test_side_by_side as here\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    side_by_side.run({'long': partial(here.stay, folder)}, {}, 1, folder / 'logs')\n"
    )
    (tmp_path / "main.py").write_text(lines)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    first = subprocess.Popen([sys.executable, tmp_path / "main.py", tmp_path], env=os.environ | {"PYTHONPATH": path})
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and bool(pid.read_text()))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_until(lambda: not running(int(pid.read_text())))


def running(pid: int) -> bool:
    """Whether a process still runs; one that waits to be reaped does not."""
    status = Path(f"/proc/{pid}/stat")
    if status.parent.parent.is_dir() and Path("/proc/self").exists():
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(holds: object) -> None:
    """Ends when `holds()` is true; the limit only keeps a failing test from waiting for ever."""
    assert callable(holds)
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("a minute has passed")
