"""What a build has done so far, in one SQLite file: every call that was paid for, and how each clip came out.

Nothing is ever changed in place: calls are appended, and a clip's outcome is written once. A write is in the file when
its method returns, so a process that is killed loses nothing; a power cut may take the last seconds with it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from relisten import redact
from relisten.files import sole_writer

TABLES = """
CREATE TABLE IF NOT EXISTS calls (number INTEGER PRIMARY KEY, key BLOB NOT NULL, stage TEXT, clip TEXT, time REAL,
  text TEXT, thought TEXT, error TEXT, failure TEXT, attempts INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
  cost REAL, seconds REAL);
CREATE INDEX IF NOT EXISTS calls_by_key ON calls (key);
CREATE TABLE IF NOT EXISTS outcomes (key BLOB PRIMARY KEY, clip TEXT, again INTEGER, outcome TEXT);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TEMP TABLE met (number INTEGER PRIMARY KEY, clip TEXT UNIQUE, key BLOB);
"""
"""`met` holds the clips of the source in their order. It is temporary: every run meets the whole source again."""
TOGETHER = 512
"""Number of clips that are met, or outcomes that are read, in one step."""
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
SUMS = (
    "count(*), coalesce(sum(error != ''), 0), coalesce(sum(attempts), 0), coalesce(sum(prompt_tokens), 0),"
    " coalesce(sum(completion_tokens), 0), coalesce(sum(cost), 0.0)"
)
"""The fields of `Spent`, over calls."""
Failure = Literal["", "passing", "lasting", "fatal"]


@dataclass(frozen=True, slots=True)
class Call:
    """One question to a teacher or describer, with all its attempts."""

    text: str
    """The reply; empty if the call failed."""
    thought: str = ""
    """What a reasoning model thought beside its reply."""
    error: str = ""
    """Why the call failed; empty if it did not."""
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
    """The store of a build, for all threads of one process. Use it in a `with`, or close it."""

    def __init__(self, path: Path, earlier: Path | None = None) -> None:
        """earlier: another store in which replies and outcomes are looked up too; it is only read.

        Raises ValueError if the file is not a store, or if another build is using it.
        """
        self.path = path
        self._lock = threading.Lock()
        self._places = ["main"]
        with ExitStack() as stack:
            stack.enter_context(sole_writer(path))
            try:
                self._file = stack.enter_context(closing(_opened(path)))
                self._file.executescript(TABLES)
                if earlier is not None and earlier.exists():
                    # Without a log beside it nobody is writing, and an unchanging file needs no locks of a network.
                    still = "" if earlier.with_name(f"{earlier.name}-wal").exists() else "&immutable=1"
                    self._file.execute("ATTACH ? AS earlier", (f"{earlier.absolute().as_uri()}?mode=ro{still}",))
                    self._places.append("earlier")
            except sqlite3.Error as error:
                raise ValueError(f"{path}: cannot be opened as a store ({error}); choose a new folder") from None
            self._open = stack.pop_all()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let other processes write it."""
        self._open.close()

    def adopt(self, path: Path) -> None:
        """Copy a shard's store into this one and remove its file. What is here already is not doubled."""
        with sole_writer(path), self._writing() as file:
            file.execute("ATTACH ? AS shard", (path.absolute().as_uri(),))
            file.execute("BEGIN IMMEDIATE")
            for sql in ADOPT:
                file.execute(sql)
            file.execute("COMMIT")
            file.execute("DETACH shard")
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f".{path.name}.lock"):
            path.with_name(name).unlink(missing_ok=True)

    def call(self, key: bytes) -> Call | None:
        """The reply that was once given to this very question, or None."""
        for place in self._places:
            row = self._one(
                "SELECT text, thought, error, failure, attempts, prompt_tokens, completion_tokens, cost, seconds"
                f" FROM {place}.calls WHERE key = ? AND error = '' ORDER BY number LIMIT 1",
                (key,),
            )
            if row:
                return Call(*row)
        return None

    def keep_call(self, key: bytes, stage: str, clip: str, call: Call) -> None:
        """Append a call. Secrets and halves of characters are taken out."""
        values = asdict(call) | {name: redact.redact(getattr(call, name), prose=True) for name in ("text", "thought")}
        values["error"] = redact.redact(call.error)
        row = (key, stage, redact.whole(clip), time.time(), *values.values())
        with self._writing() as file:
            file.execute(f"INSERT INTO calls ({PAID}) VALUES ({', '.join('?' * len(row))})", row)

    def keep_outcome(self, key: bytes, clip: str, outcome: dict[str, Any], again: bool = False) -> None:
        """Note how a clip came out. again: for now only, and `meet` will call the clip new once more."""
        row = (key, redact.whole(clip), int(again), redact.redact(_json(outcome), prose=True))
        with self._writing() as file:
            file.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)", row)

    def meet(self, clips: Sequence[tuple[bytes, str]]) -> list[str]:
        """Note the next clips (key, id) of the source. Says of each whether it is "new" or "done".

        It is "twice" if an earlier clip of this source has the same id.
        """
        marks = ", ".join("?" * len(clips))
        asked = " UNION ".join(
            f"SELECT key FROM {place}.outcomes WHERE again = 0 AND key IN ({marks})" for place in self._places
        )
        with self._reading() as file:
            done = {key for (key,) in file.execute(asked, [key for key, _ in clips] * len(self._places))}
            file.execute("BEGIN")
            first = [
                file.execute("INSERT OR IGNORE INTO met (clip, key) VALUES (?, ?)", (redact.whole(clip), key)).rowcount
                for key, clip in clips
            ]
            file.execute("COMMIT")
        return [
            "twice" if not new else "done" if key in done else "new" for (key, _), new in zip(clips, first, strict=True)
        ]

    def outcomes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, outcome) of the clips that were met since opening and have one, in the order of the source."""
        found = "SELECT o.clip, o.outcome FROM met JOIN outcomes AS o USING (key) ORDER BY met.number"
        with self._reading() as file:
            rows = file.execute(found)
        while some := self._next(rows):
            for clip, outcome in some:
                yield clip, json.loads(outcome)

    def spent_earlier(self) -> Spent:
        """Sums over the calls of the earlier store."""
        return self.spent(place="earlier") if "earlier" in self._places else Spent()

    def spent(self, place: str = "main") -> Spent:
        """Sums over all calls."""
        row = self._one(f"SELECT {SUMS} FROM {place}.calls", ())
        assert row is not None
        return Spent(*row)

    def spent_by_stage(self) -> dict[str, Spent]:
        """Sums over the calls of each stage, sorted by the stage's name."""
        with self._reading() as file:
            rows = file.execute(f"SELECT stage, {SUMS} FROM calls GROUP BY stage ORDER BY stage").fetchall()
        return {stage: Spent(*sums) for stage, *sums in rows}

    def fact(self, name: str) -> Any:
        """The value that was noted under a name, or None."""
        for place in self._places:
            if row := self._one(f"SELECT value FROM {place}.facts WHERE name = ?", (redact.redact(name),)):
                return json.loads(row[0])
        return None

    def keep_fact(self, name: str, value: Any) -> None:
        """Note a value under a name."""
        with self._writing() as file:
            file.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (redact.redact(name), _json(value)))

    def _next(self, rows: sqlite3.Cursor) -> list[tuple[str, str]]:
        with self._reading():
            return rows.fetchmany(TOGETHER)

    def _one(self, sql: str, parameters: Sequence[Any]) -> tuple[Any, ...] | None:
        with self._reading() as file:
            row: tuple[Any, ...] | None = file.execute(sql, parameters).fetchone()
        return row

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                yield self._file
        except sqlite3.Error as error:
            raise ValueError(f"{self.path}: cannot be read ({error}); build again in a new folder") from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                yield self._file
        except (sqlite3.Error, OverflowError) as error:
            raise ValueError(f"{self.path}: cannot be written ({error}); check the disk, then start again") from None


def _opened(path: Path) -> sqlite3.Connection:
    """A connection in which every statement is a transaction of its own, unless BEGIN opens one."""
    file = sqlite3.connect(
        path.absolute().as_uri(), timeout=60, check_same_thread=False, isolation_level=None, uri=True
    )
    file.execute("PRAGMA journal_mode=WAL")
    file.execute("PRAGMA synchronous=NORMAL")
    return file


def _json(value: Any) -> str:
    """JSON as it is written to the store. The bytes of a file name that is not UTF-8 come back unharmed."""
    text = json.dumps(value, ensure_ascii=False)
    return text if redact.is_whole(text) else json.dumps(value)
