"""What a build has done so far, in one SQLite file: every call that was paid for, and how each clip came out.

Nothing is ever changed in place: calls are appended, and a clip's outcome is written once. A write is on the disk
before `await` returns; writes that wait together share one commit, so durability costs little.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from relisten import redact
from relisten.files import refuse_links

TABLES = """
CREATE TABLE IF NOT EXISTS calls (number INTEGER PRIMARY KEY, key BLOB NOT NULL, stage TEXT, clip TEXT, time REAL,
  text TEXT, thought TEXT, error TEXT, failure TEXT, attempts INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
  cost REAL, seconds REAL);
CREATE INDEX IF NOT EXISTS calls_by_key ON calls (key);
CREATE TABLE IF NOT EXISTS outcomes (key BLOB PRIMARY KEY, clip TEXT, again INTEGER, outcome TEXT);
CREATE INDEX IF NOT EXISTS done ON outcomes (key) WHERE again = 0;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
"""
TOGETHER = 512
"""At most so many writes share a commit, and so many clips are met in one step."""
NO_KEY = bytes(16)


PAID = (
    "key, stage, clip, time, text, thought, error, failure, attempts, prompt_tokens, completion_tokens, cost, seconds"
)
ADOPT = (
    f"INSERT INTO main.calls ({PAID}) SELECT {PAID} FROM shard.calls AS new WHERE NOT EXISTS"
    " (SELECT 1 FROM main.calls AS known WHERE known.key = new.key AND known.time = new.time) ORDER BY number",
    "INSERT OR REPLACE INTO main.outcomes SELECT * FROM shard.outcomes AS new WHERE new.again = 0 OR NOT EXISTS"
    " (SELECT 1 FROM main.outcomes AS known WHERE known.key = new.key)",
    "INSERT OR IGNORE INTO main.facts SELECT * FROM shard.facts",
)
"""Statements that copy a shard's store into the store of the whole build."""


Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]
Waiting = tuple[str, Sequence[Any], Waiter]
"""A statement, its parameters, and who waits until it is on the disk."""
Failure = Literal["", "passing", "lasting", "fatal"]


@dataclass(frozen=True, slots=True)
class Call:
    """One question to a teacher or describer, with all its attempts."""

    text: str
    """What it replied; empty where it failed."""
    thought: str = ""
    """What a reasoning model thought beside its reply."""
    error: str = ""
    """Why it failed; empty where it did not."""
    failure: Failure = ""
    """passing: the same call may succeed later. lasting: these messages will never succeed. fatal: no call will, since
    the key, the model or the credit is wrong."""
    attempts: int = 1
    """Requests that were sent."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """In the currency of the prices given."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Spent:
    """Sums over calls."""

    calls: int = 0
    failed: int = 0
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and of replies together."""
        return self.prompt_tokens + self.completion_tokens


class Store:
    """The store of a build. Any thread may read; one thread of its own writes. Use it in a `with`, or close it."""

    def __init__(self, path: Path, earlier: Path | None = None) -> None:
        """earlier: another store in which replies and outcomes are looked up too; it is only read.

        Raises ValueError where the file is no store, or another build is using it.
        """
        self.path = path
        self._places = ["main"]
        self._claim = _claimed(path)
        try:
            self._reader = self._open()
            self._reader.executescript(TABLES)
            writes = self._open()
            if earlier is not None and earlier.exists():
                # Without a log beside it nobody is writing, and a file that cannot change needs no locks of a network.
                still = "" if earlier.with_name(f"{earlier.name}-wal").exists() else "&immutable=1"
                self._reader.execute("ATTACH ? AS earlier", (f"{earlier.absolute().as_uri()}?mode=ro{still}",))
                self._places.append("earlier")
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"{path}: cannot be opened as a build's store ({error}); choose a new folder") from None
        self._lock = threading.Lock()
        self._done: Keys | None = None
        self._ids = _Ids()
        self._met = bytearray()
        """Keys of the clips that were met, in order; zeros where an id came for the second time."""
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, args=(writes,), name="store", daemon=True)
        self._writer.start()

    def _open(self) -> sqlite3.Connection:
        where = self.path.absolute().as_uri()
        connection = sqlite3.connect(where, timeout=60, check_same_thread=False, isolation_level=None, uri=True)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # a reply that was paid for outlives a power cut too
        return connection

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what still waits, then close the file."""
        self._queue.put(None)
        self._writer.join()
        self._reader.close()
        self._claim.close()

    def adopt(self, path: Path) -> None:
        """Copy a shard's store into this one and remove its file; what is here already is not doubled."""
        with closing(_claimed(path)), closing(self._open()) as connection:
            connection.execute("ATTACH ? AS shard", (path.absolute().as_uri(),))
            connection.execute("BEGIN IMMEDIATE")
            for sql in ADOPT:
                connection.execute(sql)
            connection.execute("COMMIT")
        for suffix in ("", "-wal", "-shm", ".lock"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        self._done = None

    def call(self, key: bytes) -> Call | None:
        """The reply that was once given to this very question; None where there is none."""
        for place in self._places:
            row = self._one(
                "SELECT text, thought, error, failure, attempts, prompt_tokens, completion_tokens, cost, seconds"
                f" FROM {place}.calls WHERE key = ? AND error = '' ORDER BY number LIMIT 1",
                (key,),
            )
            if row:
                return Call(*row)
        return None

    async def keep_call(self, key: bytes, stage: str, clip: str, call: Call) -> None:
        """Append a call; it is on the disk when this returns. Secrets and halves of characters are taken out."""
        values = asdict(call) | {name: redact.redact(getattr(call, name), prose=True) for name in ("text", "thought")}
        values["error"] = redact.redact(call.error)
        await self._put(
            f"INSERT INTO calls ({PAID}) VALUES ({', '.join('?' * 13)})",
            (key, stage, redact.whole(clip), time.time(), *values.values()),
        )

    async def keep_outcome(self, key: bytes, clip: str, outcome: dict[str, Any], again: bool = False) -> None:
        """Note how a clip came out; it is on the disk when this returns.

        again: the outcome is for now only, and `meet` will call the clip new once more.
        """
        row = (key, redact.whole(clip), int(again), redact.redact(_json(outcome), prose=True))
        await self._put("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)", row)

    def meet(self, clips: Sequence[tuple[bytes, str]]) -> list[str]:
        """Note the next clips (key, id) of the source. Says of each whether it is "new" or "done".

        It is "twice" where an earlier clip of this source has the same id.
        """
        with self._reading():
            if self._done is None:
                self._done = self._read_done()
            done = _among([key for key, _ in clips], self._done)
            once = self._ids.add([clip for _, clip in clips])
            self._met += b"".join(key if first else NO_KEY for (key, _), first in zip(clips, once, strict=True))
        return ["twice" if not first else "done" if known else "new" for first, known in zip(once, done, strict=True)]

    def _read_done(self) -> Keys:
        """Sorted keys of the clips that are finished now. One query for all is cheaper than one for each."""
        every = " UNION ".join(f"SELECT key FROM {place}.outcomes WHERE again = 0" for place in self._places)
        found = self._reader.execute(f"{every} ORDER BY key")
        parts = []
        while some := found.fetchmany(1 << 16):
            parts.append(b"".join(key for (key,) in some))
        return _halves(b"".join(parts))

    def outcomes(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """(position, clip's id, outcome) of the clips that were met since opening, in the order of the source."""
        size = len(NO_KEY)
        for first in range(0, len(self._met) // size, TOGETHER):
            some = bytes(self._met[first * size : (first + TOGETHER) * size])
            keys = [some[at : at + size] for at in range(0, len(some), size)]
            asked = ", ".join("?" * len(keys))
            with self._reading():
                found = self._reader.execute(f"SELECT key, clip, outcome FROM outcomes WHERE key IN ({asked})", keys)
                outcomes = {key: (clip, outcome) for key, clip, outcome in found}
            for position, key in enumerate(keys, start=first):
                if key in outcomes:
                    clip, outcome = outcomes[key]
                    yield position, clip, json.loads(outcome)

    def spent_earlier(self) -> Spent:
        """Sums over the calls of the earlier store."""
        return self.spent(place="earlier") if "earlier" in self._places else Spent()

    def spent(self, stage: str | None = None, place: str = "main") -> Spent:
        """Sums over all calls, or over those of one stage."""
        row = self._one(
            "SELECT count(*), coalesce(sum(error != ''), 0), coalesce(sum(attempts), 0),"
            " coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(cost), 0.0)"
            f" FROM {place}.calls WHERE ? IS NULL OR stage = ?",
            (stage, stage),
        )
        assert row is not None
        return Spent(*row)

    def stages(self) -> list[str]:
        """Names of the stages that made calls, sorted."""
        with self._reading():
            return [stage for (stage,) in self._reader.execute("SELECT DISTINCT stage FROM calls ORDER BY stage")]

    def fact(self, name: str) -> Any:
        """The value that was noted under a name; None where there is none."""
        for place in self._places:
            if row := self._one(f"SELECT value FROM {place}.facts WHERE name = ?", (redact.redact(name),)):
                return json.loads(row[0])
        return None

    async def keep_fact(self, name: str, value: Any) -> None:
        """Note a value under a name; it is on the disk when this returns."""
        await self._put("INSERT OR REPLACE INTO facts VALUES (?, ?)", (redact.redact(name), _json(value)))

    def _one(self, sql: str, parameters: Sequence[Any]) -> tuple[Any, ...] | None:
        with self._reading():
            row: tuple[Any, ...] | None = self._reader.execute(sql, parameters).fetchone()
        return row

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Hold the reader. Raises ValueError where the file is damaged."""
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise ValueError(f"{self.path}: cannot be read ({error}); build again in a new folder") from None

    async def _put(self, sql: str, parameters: Sequence[Any]) -> None:
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._queue.put((sql, parameters, (loop, written)))
        await written

    def _write(self, connection: sqlite3.Connection) -> None:
        """Commit what waits, batch by batch. Whatever goes wrong, everybody who waits is told."""
        with closing(connection):
            while waiting := self._waiting():
                errors = [self._commit(connection, waiting)]
                if errors[0] and len(waiting) > 1:  # one write that cannot be made does not take the others with it
                    errors = [self._commit(connection, [one]) for one in waiting]
                _tell([waiter for *_, waiter in waiting], errors)

    def _commit(self, connection: sqlite3.Connection, waiting: Sequence[Waiting]) -> ValueError | None:
        """Make these writes, all or none; the reason where they cannot be made."""
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for sql, parameters, _ in waiting:
                    connection.execute(sql, parameters)
        except sqlite3.OperationalError as error:
            return ValueError(f"{self.path}: cannot be written ({error}); check the disk, then start again")
        except BaseException as error:  # this thread must not die: a waiter would wait for ever
            what = f"{type(error).__name__}: {redact.one_line(str(error))}"
            return ValueError(f"{self.path}: a reply or a result cannot be stored ({what})")
        return None

    def _waiting(self) -> list[Waiting]:
        """Everything that waits to be written, at least one; nothing at the end."""
        first = self._queue.get()
        if first is None:
            return []
        waiting = [first]
        while len(waiting) < TOGETHER and not self._queue.empty():
            after = self._queue.get()
            if after is None:
                self._queue.put(None)
                break
            waiting.append(after)
        return waiting


def _json(value: Any) -> str:
    """JSON as it is written to the store. The bytes of a file name that is not UTF-8 come back unharmed."""
    text = json.dumps(value, ensure_ascii=False)
    return text if redact.is_whole(text) else json.dumps(value)


def _claimed(path: Path) -> sqlite3.Connection:
    """A lock beside a store, held until it is closed or the process ends. Two builds in one store would pay twice."""
    refuse_links(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(path.with_name(f"{path.name}.lock"), timeout=1, check_same_thread=False)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise ValueError(
                f"{path}: another build is at work there; wait for its end, or choose another folder"
            ) from None
        raise ValueError(f"{path}: cannot be opened as a build's store ({error}); choose a new folder") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened as a build's store ({error}); choose a new folder") from None
    return lock


Keys = NDArray[np.uint64]
"""[N, 2] keys of 16 bytes, as two numbers each."""


def _halves(keys: bytes) -> Keys:
    return np.frombuffer(keys, ">u8").astype(np.uint64).reshape(-1, 2)


def _among(keys: Sequence[bytes], done: Keys) -> list[bool]:
    """Which keys are among `done`, which is sorted. Of two that share their first half, one may be done again."""
    if not len(done):
        return [False] * len(keys)
    asked = _halves(b"".join(keys))
    places = np.minimum(np.searchsorted(done[:, 0], asked[:, 0]), len(done) - 1)
    return [bool(same) for same in (done[places] == asked).all(axis=1)]


class _Ids:
    """The ids that came before, 8 bytes each, in sorted runs that are merged when their lengths are alike.

    Two ids with the same 64-bit hash are taken for one; among ten million clips the chance of that is 1 in 400,000.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def add(self, ids: Sequence[str]) -> list[bool]:
        """Says of each id whether it comes for the first time, and remembers it."""
        asked = np.fromiter(map(hash, ids), np.int64, len(ids))
        fresh, first = np.unique(asked, return_index=True)
        for run in self._runs:
            new = run[np.minimum(np.searchsorted(run, fresh), len(run) - 1)] != fresh
            fresh, first = fresh[new], first[new]
        once = np.zeros(len(asked), dtype=bool)
        once[first] = True
        while self._runs and len(self._runs[-1]) <= len(fresh):
            fresh = np.sort(np.concatenate([self._runs.pop(), fresh]), kind="stable")  # merges two ordered runs
        if len(fresh):
            self._runs.append(fresh)
        return once.tolist()


def _tell(waiters: Sequence[Waiter], errors: Sequence[ValueError | None]) -> None:
    """Let those who wait go on: each with its own error, or all with the only one."""

    def settle(some: list[tuple[asyncio.Future[None], ValueError | None]]) -> None:
        for future, error in some:
            if not future.done():
                future.set_exception(error) if error else future.set_result(None)

    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], ValueError | None]]] = {}
    for number, (loop, future) in enumerate(waiters):
        by_loop.setdefault(loop, []).append((future, errors[number % len(errors)]))
    for loop, some in by_loop.items():
        with suppress(RuntimeError):  # a loop that was closed meanwhile has nobody who waits
            loop.call_soon_threadsafe(settle, some)
