"""Try something that may hang, eat memory or crash, in a process of its own, and count what came of it."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["passed", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """passed: it went well. refused: one clear line (ValueError). failed: anything else, and `said` tells what."""

    kind: Kind
    said: str = ""


def attempt(action: Callable[[], object], seconds: float, gigabytes: float) -> Outcome:
    """Do something in a forked process that may take so long, and that much more memory than this process has."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _do(action, writer, gigabytes)
        finally:
            os._exit(0)
    os.close(writer)
    said, until = b"", time.monotonic() + seconds
    try:
        while (left := until - time.monotonic()) > 0:
            if not select.select([reader], [], [], left)[0]:
                break
            if not (piece := os.read(reader, 1 << 16)):
                break
            said += piece
        else:
            left = 0
    finally:
        os.close(reader)
        late = time.monotonic() >= until
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if late:
        return Outcome("failed", f"not done after {seconds:g} s")
    if not said:
        return Outcome("failed", f"the process ended (signal {os.WTERMSIG(status)})")
    kind, text = json.loads(said)
    return Outcome(kind, text)


def _do(action: Callable[[], object], writer: int, gigabytes: float) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = held + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        action()
        kind, said = "passed", ""
    except ValueError as error:
        kind, said = "refused", str(error)
        if "\n" in said or len(said) > 2000:
            kind, said = "failed", f"more than one line: {said[:500]}"
    except BaseException:
        kind, said = "failed", traceback.format_exc()[-3000:]
    os.write(writer, json.dumps([kind, said]).encode())
    os.close(writer)


@dataclass
class Counts:
    """How many trials of each kind ended how, and what was said where one failed."""

    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str, outcome: Outcome) -> None:
        """Count one trial."""
        self.by_kind.setdefault(kind, Counter())[outcome.kind] += 1
        if outcome.kind == "failed":
            self.failures.append(f"{kind}: {name}: {outcome.said}")

    def table(self) -> str:
        """As Markdown: passed, refused in one line, failed."""
        lines = ["| trials | passed | refused in one line | failed |", "|---|--:|--:|--:|"]
        for kind, counts in self.by_kind.items():
            lines.append(f"| {kind} | " + " | ".join(str(counts[k]) for k in ("passed", "refused", "failed")) + " |")
        total: Counter[str] = sum(self.by_kind.values(), Counter())
        lines.append("| all | " + " | ".join(str(total[k]) for k in ("passed", "refused", "failed")) + " |")
        return "\n".join(lines)


def summed(outcomes: Iterable[tuple[str, Outcome]], kind: str) -> Counts:
    """The counts of one kind of trials."""
    counts = Counts()
    for name, outcome in outcomes:
        counts.add(kind, name, outcome)
    return counts
