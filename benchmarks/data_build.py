"""What the data pipeline itself costs, without a teacher's time.

python benchmarks/data_build.py overhead [CLIPS]    milliseconds a clip, rules teacher left out
python benchmarks/data_build.py flight [CALLS]      how many calls are in flight, of 64, at a teacher of 0.2 s
python benchmarks/data_build.py resume [CLIPS]      seconds to find that a million clips are done
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from relisten.data import compose
from relisten.data.budget import Budget
from relisten.data.caller import Caller
from relisten.data.job import Plan, fingerprint
from relisten.data.messages import Messages
from relisten.data.pipeline import Pipeline
from relisten.data.store import Call, Store
from relisten.types import Clip, Event

LABELS = ("dog", "bell", "horn", "rain", "siren", "knock")


class Instant:
    """Replies at once, or after a while, with a question that is always valid; notes how many ask at a time."""

    name = "instant"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.now = 0
        self.begun = time.perf_counter()
        self.levels: list[tuple[float, int]] = []

    async def complete(self, messages: Messages) -> Call:
        self.now += 1
        self.levels.append((time.perf_counter(), self.now))
        if self.seconds:
            await asyncio.sleep(self.seconds)
        self.now -= 1
        self.levels.append((time.perf_counter(), self.now))
        text = messages[0]["content"]
        if "<candidate>" in text:
            return Call("[QA valid]: Yes\n[CoT valid]: Yes\n[Reason]: nothing", prompt_tokens=900, completion_tokens=30)
        start = json.loads(text.split('A4_events": ')[1].split("],")[0] + "]")[0]["start"]
        think = f"First I listen <seg>{start}, {start + 0.5}</seg>: that is it. So it is an owl."
        draft = {"question": f"What is heard at {start}?", "choices": ["owl", "cat", "saw", "cow"], "answer": "owl"}
        return Call(json.dumps(draft | {"think": think}), prompt_tokens=900, completion_tokens=200)

    async def close(self) -> None:
        pass


def clips(num: int) -> Iterator[Clip]:
    """Synthetic: four events each."""
    for n in range(num):
        events = tuple(Event(LABELS[(n + k) % 6], 2.0 * k + n % 9 / 10, 2.0 * k + 1.5) for k in range(4))
        yield Clip(f"clip{n:08d}", Path(f"audio/{n:08d}.wav"), 10.0, events)


def plan(teacher: Instant) -> Plan:
    return Plan(teacher, teacher, compose.read_prompts(), {"": dict.fromkeys(LABELS, 1)})


def overhead(folder: Path, num: int) -> None:
    teacher = Instant()
    used, wall = time.process_time(), time.perf_counter()
    with Store(folder / "s.sqlite") as store:
        asyncio.run(_build(teacher, store, folder, clips(num), num))
        done = sum(1 for _ in store.outcomes())
    used, wall = time.process_time() - used, time.perf_counter() - wall
    print(
        f"{done} clips, 2 calls each: {1e3 * used / num:.2f} ms of CPU a clip, {1e3 * wall / num:.2f} ms of wall time"
    )


def flight(folder: Path, num: int) -> None:
    teacher = Instant(0.2)
    with Store(folder / "s.sqlite") as store:
        asyncio.run(_build(teacher, store, folder, clips(num // 2), num // 2))
    levels = teacher.levels
    first = next(at for at, level in levels if level == 64)
    last = max(at for at, level in levels if level == 64)
    inside = [(at, level) for at, level in levels if first <= at <= last]
    area = sum((b - a) * level for (a, level), (b, _) in itertools.pairwise(inside))
    print(f"{num} calls of 0.2 s: mean {area / (last - first):.1f} in flight of 64, most {max(n for _, n in levels)}")


async def _build(teacher: Instant, store: Store, folder: Path, found: Iterator[Clip], num: int) -> Caller:
    caller = Caller(store, Budget(store.spent()))
    await Pipeline(plan(teacher), caller, folder).run(found, num)
    return caller


def resume(folder: Path, num: int, times: int = 3) -> None:
    made = plan(Instant())
    with Store(folder / "s.sqlite") as store:
        _fill(store, made.identity(), num)
    for _ in range(times):
        begun, used = time.perf_counter(), time.process_time()
        with Store(folder / "s.sqlite") as store:
            caller = asyncio.run(_build(Instant(), store, folder, clips(num), num))
            assert caller.calls == 0
        wall, used = time.perf_counter() - begun, time.process_time() - used
        print(f"{num:,} clips found done in {wall:.1f} s of wall time, {used:.1f} s of CPU", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    used = time.process_time()
    assert sum(1 for _ in clips(num)) == num
    print(f"of that the synthetic source alone: {time.process_time() - used:.1f} s of CPU")


def _fill(store: Store, identity: str, num: int) -> None:
    outcome = {"questions": [], "duration": 10.0, "audio": "a.wav", "descriptions": {}, "events": []}
    for clip in clips(num):
        store.keep_outcome(fingerprint(clip, identity), clip.id, outcome)


if __name__ == "__main__":
    what = {"overhead": (overhead, 2000), "flight": (flight, 4000), "resume": (resume, 1_000_000)}
    run, default = what[sys.argv[1]]
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), int(sys.argv[2]) if sys.argv[2:] else default)
