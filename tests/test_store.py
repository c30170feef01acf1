"""The store of a build: a write that cannot be made is told in a line, and no text can break it.

Half a character in a label, or a token count beyond 64 bits, once ended the writing, and the build waited for ever.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from relisten import redact
from relisten.data import store as store_module
from relisten.data.store import Call, Store


def kept(path: Path, *calls: Call) -> None:
    """Keep some calls in a new store."""
    with Store(path) as store:
        for n, call in enumerate(calls):
            store.keep_call(bytes([n]) * 16, "compose", f"clip {n}", call)


def test_a_write_that_cannot_be_made_is_told_and_the_others_are_made(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.keep_call(b"a", "compose", "a", Call("fine"))
        with pytest.raises(ValueError, match=r"s\.sqlite: cannot be written"):
            store.keep_call(b"b", "compose", "b", Call("fine", prompt_tokens=10**30))
        store.keep_call(b"c", "compose", "c", Call("fine"))
    with Store(tmp_path / "s.sqlite") as store:
        assert store.spent().calls == 2


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql.startswith("INSERT INTO calls"):
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *parameters)

    plain = sqlite3.connect
    monkeypatch.setattr(store_module.sqlite3, "connect", lambda *a, **k: plain(*a, **k, factory=Full))
    with pytest.raises(ValueError, match=r"s\.sqlite: cannot be written \(database or disk is full\); check the disk"):
        kept(tmp_path / "s.sqlite", Call("one"))


def test_half_a_character_is_stored_as_a_mark_and_a_file_name_comes_back_unharmed(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.keep_call(b"k", "compose", "clip \ud800", Call("a \ud800 b", "\udfff", ""))
        store.keep_outcome(b"1" * 16, "clip \ud800", {"audio": "caf\udce9.wav"})
        store.keep_fact("name \ud800", "\ud800")
    with Store(tmp_path / "s.sqlite") as store:
        call = store.call(b"k")
        assert call is not None and (call.text, call.thought) == ("a \ufffd b", "\ufffd")
        assert store.meet([(b"1" * 16, "clip")]) == ["done"]
        [(clip, outcome)] = store.outcomes()
        assert clip == "clip \ufffd" and outcome == {"audio": "caf\udce9.wav"}
        assert store.fact("name \ud800") == "\ud800"


def test_no_secret_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_known", set())
    redact.hide('a"very secret/key')
    text = json.dumps({"question": 'Is it a"very secret/key?'})
    call = Call(text, 'a"very secret/key', "401: no such key sk-abcdefgh12345678 at http://me:word@host/v1")
    kept(tmp_path / "s.sqlite", call)
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(secret in held for secret in (b"secret/key", b"sk-abcdefgh", b"me:word"))
    with Store(tmp_path / "s.sqlite") as store, sqlite3.connect(tmp_path / "s.sqlite") as file:
        assert store.call(bytes(16)) is None  # it failed
        assert file.execute("SELECT error FROM calls").fetchall() == [
            ("401: no such key [hidden] at http://[hidden]@host/v1",)
        ]


def test_a_teachers_prose_is_left_alone_but_for_keys() -> None:
    said = 'The password: "swordfish" is whispered at http://x.org/a@b, a skeleton-like sound, sk-eleton'
    assert redact.redact(said, prose=True) == said
    assert redact.redact("?api_key=abcdefgh&x=1 Authorization: Bearer abc.def.ghi") == (
        "?api_key=[hidden]&x=1 Authorization: Bearer [hidden]"
    )
    settings = {"url": "https://u:p@h/v1", "paths": ("a", 1)}
    assert redact.each_text(redact.redact, settings) == {"url": "https://[hidden]@h/v1", "paths": ("a", 1)}


def test_a_damaged_store_is_told_in_one_line(tmp_path: Path) -> None:
    calls = [Call("a reply " * 200) for _ in range(100)]
    kept(tmp_path / "s.sqlite", *calls)
    whole = (tmp_path / "s.sqlite").read_bytes()
    (tmp_path / "s.sqlite").write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(ValueError, match=r"s\.sqlite: cannot be (read|opened)"), Store(tmp_path / "s.sqlite") as store:
        store.spent()
