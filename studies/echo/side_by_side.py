"""Do tasks that need each other's results in several processes, as many at a time as one likes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

from tqdm import tqdm

Task = Callable[[], object]
"""Something that a process can be handed: a function of a module, or `functools.partial` of one."""


def run(tasks: Mapping[str, Task], needs: Mapping[str, Sequence[str]], num: int, logs: Path) -> None:
    """Do every task after those that it needs, `num` at a time, each in a process with its share of the cores.

    The first that are ready go first, in the order of `tasks`. What a task prints goes to a file of its name in `logs`.
    Where one raises, no other is begun, those that are under way are let finish, and its exception is raised.
    """
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // num)
    left, done = dict(tasks), set[str]()
    running: dict[Future[None], str] = {}
    failed: BaseException | None = None
    # The number of threads is read when torch is imported, so before a process has begun.
    with (
        tqdm(total=len(tasks), desc="tasks", unit="task") as bar,
        _environment("OMP_NUM_THREADS", str(threads)),
        ProcessPoolExecutor(num, get_context("spawn"), initializer=_end_with_parent) as pool,
    ):
        while running or (left and not failed):
            ready = [name for name in left if done.issuperset(needs.get(name, ()))]
            for name in [] if failed else ready[: num - len(running)]:
                running[pool.submit(_logged, left.pop(name), logs / f"{_file_name(name)}.log")] = name
            bar.set_postfix_str(", ".join(running.values()))
            assert running, f"{', '.join(left)}: waiting for what is no task, or for each other"
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                if error := future.exception():
                    failed = failed or _told(error, name, logs)
                    tqdm.write(f"{name}: {error}; what is under way is finished first")
                else:
                    done.add(name)
                    bar.update()
    if failed:
        raise failed


def _told(error: BaseException, name: str, logs: Path) -> BaseException:
    """What is raised in place of a task's exception."""
    if isinstance(error, BrokenProcessPool):  # all that ran are gone with it
        return ValueError(f"{name}: its process was killed (out of memory?); see {logs}; start again to go on")
    return error


def _logged(task: Task, log: Path) -> None:
    with log.open("a", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        task()


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _end_with_parent() -> None:
    """A process of the pool ends when the one that began it is gone, killed or not; it would wait for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        print("the process that began this one is gone", file=sys.stderr)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _file_name(name: str) -> str:
    return name.replace("'", "2").replace(" ", "-").replace("/", "-")
