"""Try something that may hang, eat memory or crash, in a process of its own, and count what came of it."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from relisten import cli

Kind = Literal["passed", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """passed: it went well. refused: one clear line (ValueError). failed: anything else, and `said` tells what."""

    kind: Kind
    said: str = ""


def attempt(action: Callable[[], object], seconds: float, gigabytes: float | None = None) -> Outcome:
    """Do something in a forked process, which may take so long, and that much more memory than this process has."""
    reader, writer = os.pipe()
    child = forked(lambda: _do(action, writer, gigabytes))
    os.close(writer)
    said, until = b"", time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        if not (piece := os.read(reader, 1 << 16)):
            break
        said += piece
    late = time.monotonic() >= until
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if late:
        return Outcome("failed", f"not done after {seconds:g} s")
    if not said:
        return Outcome("failed", f"the process ended by itself (status {status})")
    kind, text = json.loads(said)
    return Outcome(kind, text)


def forked(action: Callable[[], object]) -> int:
    """Start an action in a child, which has all that was imported here already, and ends with it; the child's id."""
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            action()
        finally:
            os._exit(0)
    return child


def _do(action: Callable[[], object], writer: int, gigabytes: float | None) -> None:
    silence()
    if gigabytes is not None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limit = held + int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    kind, said = "passed", ""
    try:
        action()
    except ValueError as error:
        kind, said = "refused", str(error)
        if "\n" in said or len(said) > 2000:
            kind, said = "failed", f"more than one line: {said[:500]}"
    except BaseException:
        kind, said = "failed", traceback.format_exc()[-3000:]
    os.write(writer, json.dumps([kind, said]).encode())


def silence(errors: int | None = None) -> None:
    """Standard input and output are nothing from here on; errors go into an open file where one is given."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor, to in ((0, nowhere), (1, nowhere), (2, nowhere if errors is None else errors)):
        os.dup2(to, descriptor)
    # pytest has put files of its own in their place.
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def command(tokens: Sequence[str], codes: Sequence[int] = (0, 1)) -> None:
    """Run a command of relisten in this process. Raises ValueError with its one line where it refuses (code 2).

    AssertionError where it ends otherwise, or shows a traceback.
    """
    reader, writer = os.pipe()  # a file would be as full as the disk is, in some trials
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    silence(writer)
    os.close(writer)
    try:
        code: int | str | None = cli.run(tokens)
    except SystemExit as end:
        code = end.code
    sys.stderr.flush()
    os.set_blocking(reader, False)
    told = os.read(reader, 1 << 20).decode(errors="replace") if select.select([reader], [], [], 0)[0] else ""
    assert "Traceback" not in told, told[-2000:]
    if code == 2:
        lines = [line for line in told.replace("\r", "\n").splitlines() if line.startswith("relisten: ")]
        assert len(lines) == 1, told[-2000:]
        raise ValueError(lines[0])
    assert code in codes, f"exit code {code}: {told[-1000:]}"


@dataclass
class Counts:
    """How many trials of each kind ended how, and what was said where one failed."""

    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str, outcome: Outcome, num: int = 1) -> None:
        """Count trials of one kind that ended alike."""
        self.by_kind.setdefault(kind, Counter())[outcome.kind] += num
        if outcome.kind == "failed":
            self.failures.append(f"{kind}: {name}: {outcome.said}")

    def table(self) -> str:
        """As Markdown: passed, refused in one line, failed."""
        lines = ["| trials | passed | refused in one line | failed |", "|---|--:|--:|--:|"]
        total: Counter[str] = sum(self.by_kind.values(), Counter())
        for kind, counts in [*self.by_kind.items(), ("all", total)]:
            lines.append(f"| {kind} | " + " | ".join(f"{counts[k]:,}" for k in ("passed", "refused", "failed")) + " |")
        return "\n".join(lines)
