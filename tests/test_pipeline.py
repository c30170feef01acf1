"""The run: nothing lost, nothing doubled, every call accounted for; stopped and gone on is as never stopped."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from teacher_server import COMPLETION_TOKENS, PROMPT_TOKENS, TeacherServer, serving

from relisten import records
from relisten.cli import run
from relisten.data import export, leakage
from relisten.data.build import build
from relisten.data.build_config import BuildConfig
from relisten.data.export import SETS
from relisten.data.job import fingerprint
from relisten.data.route import Funnel, route
from relisten.data.store import Call, Store
from relisten.reports import data_stats as stats
from relisten.types import Audio, Clip, Event

LABELS = ("dog", "bell", "horn", "rain", "siren", "knock", "tone", "crow", "saw", "owl", "goat", "drum")


def clips(root: Path) -> Iterator[Clip]:
    """As many as the folder's name says; every seventh is known by nothing."""
    for seed in range(int(root.name)):
        rng = np.random.default_rng(seed)
        drawn = [str(label) for label in rng.permutation(LABELS)[:5]]
        starts = np.cumsum(rng.uniform(0.9, 1.4, 5))
        events = [
            Event(label, round(float(s), 2), round(float(s) + 0.6, 2)) for label, s in zip(drawn, starts, strict=True)
        ]
        path = root / f"{seed}.wav"
        yield Clip(f"clip{seed}", path, 9.0, () if seed % 7 == 6 else tuple(events))


def in_memory(root: Path) -> Iterator[Clip]:
    """Recordings without files."""
    for clip in clips(root):
        yield Clip(clip.id, Audio(np.full(16_000, 0.1, np.float32)), 9.0, clip.events)


def torn_texts(root: Path) -> Iterator[Clip]:
    """Half a character in every id, label and description, and a file name that is not UTF-8."""
    for clip in clips(root):
        events = tuple(Event(f"{e.label}\ud800", e.start, e.end, {"group": "x\udfff"}) for e in clip.events)
        path = root / f"caf\udce9 {clip.id}.wav"
        yield Clip(f"\ud800{clip.id}", path, 9.0, events, {"sound": "a \ud800 sound"})


def twice(root: Path) -> Iterator[Clip]:
    """Every clip two times."""
    for clip in clips(root):
        yield from (clip, clip)


def loud(clip: Clip) -> Clip:
    """A describer that fails on one clip."""
    if clip.id == "clip3":
        raise RuntimeError("cannot decode")
    return Clip(clip.id, clip.audio, clip.duration, clip.events, {"sound": f"a loud {clip.events[0].label}"})


HERE = "test_pipeline:"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


def config(tmp_path: Path, num: int = 20, **more: Any) -> BuildConfig:
    root = tmp_path / "source" / str(num)
    root.mkdir(parents=True, exist_ok=True)
    return BuildConfig(**{"source": HERE + "clips", "root": root, "out": tmp_path / "out", "questions": 2} | more)


def sets(out: Path) -> dict[str, str]:
    return {name: (out / f"{name}.jsonl").read_text() for name in (*SETS, "rejected")}


def remote(server: TeacherServer, **more: Any) -> dict[str, Any]:
    return {"teacher": "m", "url": server.url, "in_flight": 8, **more}


def test_offline_build_gives_sets_that_training_reads(tmp_path: Path) -> None:
    made = build(config(tmp_path, 40))
    found = {name: records.read_examples(tmp_path / "out" / f"{name}.jsonl") for name in ("sft",)}
    assert all(e.cot and e.answer in e.choices for e in found["sft"])
    counts = made["counts"]
    lines = Counter(name for name, text in sets(tmp_path / "out").items() for _ in text.splitlines())
    assert counts["clips"] == 40 and counts["described"] == 35  # five are known by nothing
    assert lines["sft"] == counts["sft"] > 50 and lines["sft"] + lines["rl"] + lines["rejected"] == 5 + counts["asked"]
    rejected = [json.loads(line) for line in sets(tmp_path / "out")["rejected"].splitlines()]
    assert {r["id"] for r in rejected if r["stage"] == "describe"} == {f"clip{n}" for n in range(6, 40, 7)}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["prompts"] and manifest["licences"] and manifest["versions"]["relisten"]


def test_a_rerun_pays_nothing_and_another_judge_pays_for_judging_alone(tmp_path: Path) -> None:
    with serving() as server:
        build(config(tmp_path, **remote(server)))
        first, num = sets(tmp_path / "out"), server.num
        build(config(tmp_path, **remote(server)))
        assert server.num == num and sets(tmp_path / "out") == first
        again = build(config(tmp_path, judge="other", **remote(server)))
        assert server.num - num == again["calls"]["judge"]["calls"] / 2
        assert max(server.asked.values()) <= 2  # once by each judge, compositions once


def test_faults_lose_nothing_double_nothing_and_every_request_is_in_the_books(tmp_path: Path) -> None:
    names = ("429 0.02", "500", "empty", "torn", "half", "prose", "refusal", "timeout 0.8", "503 0.01")

    def fault(number: int, messages: list[dict[str, str]]) -> str:
        return names[number // 6 % len(names)] if number % 6 == 5 else ""

    plain = config(tmp_path / "a", 24)
    build(plain)
    with serving(fault) as server:
        made = build(config(tmp_path / "b", 24, **remote(server, timeout=0.5)))
    asked = {json.loads(line)["id"] for name in SETS for line in sets(plain.out)[name].splitlines()}
    every = [json.loads(line)["id"] for text in sets(tmp_path / "b" / "out").values() for line in text.splitlines()]
    assert asked <= set(every) and len(every) == len(set(every))
    assert len(server.faults) > 6
    books = made["calls"]["all"]
    assert books["attempts"] == server.num
    assert max(server.asked.values()) == 1
    told = sum(num for name, num in server.faults.items() if name in ("", "empty", "half", "prose"))
    refused = server.faults["refusal"]
    assert books["prompt_tokens"] == PROMPT_TOKENS * (told + refused)
    assert books["completion_tokens"] == COMPLETION_TOKENS * (told + refused)
    reasons = [json.loads(line)["reason"] for line in sets(tmp_path / "b" / "out")["rejected"].splitlines()]
    assert sum("refused" in reason for reason in reasons) == refused


def test_what_failed_for_a_passing_reason_is_tried_again_next_time(tmp_path: Path) -> None:
    with serving(lambda number, _: "500" if number < 4 else "") as server:
        options = remote(server, retries=0)
        first = build(config(tmp_path, 6, **options))
        assert first["calls"]["all"]["failed"] == 3
        assert "500" in sets(tmp_path / "out")["rejected"]
        second = build(config(tmp_path, 6, **options))
    assert second["counts"]["asked"] == second["counts"]["composed"] and max(server.asked.values()) == 1
    assert "500" not in sets(tmp_path / "out")["rejected"]


def test_a_wrong_key_stops_at_once_and_a_dead_server_soon(tmp_path: Path) -> None:
    with serving(lambda *_: "401") as server:
        with pytest.raises(ValueError, match="401"):
            build(config(tmp_path / "a", **remote(server)))
        assert server.num <= 8
    with serving(lambda *_: "500") as server:
        made = build(config(tmp_path / "b", 60, **remote(server, retries=0)))
    assert "in a row" in made["stopped"] and server.num < 60


def test_a_budget_stops_cleanly_and_is_kept_to(tmp_path: Path) -> None:
    with serving() as server:
        options = remote(server, price_in=1000.0, price_out=1000.0)
        made = build(config(tmp_path, max_total_tokens=8000, **options))
        spent = made["calls"]["all"]
        assert "budget" in made["stopped"] and spent["prompt_tokens"] + spent["completion_tokens"] <= 8000
        costly = build(config(tmp_path, max_cost=spent["cost"] + 3, **options))
        assert "budget" in costly["stopped"] and costly["calls"]["all"]["cost"] <= spent["cost"] + 3
        assert costly["calls"]["all"]["calls"] > spent["calls"]
        build(config(tmp_path, **options))
        assert max(server.asked.values()) == 1
    whole = config(tmp_path / "whole", **options | {"teacher": "rules"})
    build(whole)
    assert sets(tmp_path / "out")["sft"] == sets(whole.out)["sft"].replace("/whole/source/", "/source/")


def test_a_run_that_stops_at_once_leaves_finished_sets_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relisten.data.pipeline.TOGETHER", 4)
    with serving(lambda number, _: "500" if number < 2 else "") as server:
        options = remote(server, retries=0)
        build(config(tmp_path, **options))
        finished, num = sets(tmp_path / "out"), server.num
        assert finished["sft"]
        stopped = build(config(tmp_path, max_total_tokens=1, **options))
    assert "budget" in stopped["stopped"] and server.num == num and sets(tmp_path / "out") == finished


def test_more_clips_change_nothing_of_those_that_are_done(tmp_path: Path) -> None:
    with serving() as server:
        few = build(config(tmp_path, 30, clips=10, **remote(server)))
        num, first = server.num, sets(tmp_path / "out")["sft"].count("\n")
        many = build(config(tmp_path, 30, **remote(server)))
    whole = build(config(tmp_path / "whole", 30))
    assert many["calls"]["all"]["calls"] == whole["calls"]["all"]["calls"]
    assert (few["counts"]["clips"], many["counts"]["clips"]) == (10, 30)
    assert max(server.asked.values()) == 1 and server.num > num
    assert many["files"]["sft.jsonl"] > first > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_tokens", -1), ("timeout", 0.0), ("requests_per_minute", -1.0), ("price_in", -0.1),
     ("price_out", float("nan")), ("max_cost", -1.0), ("max_total_tokens", -5), ("clips", -1), ("questions", 0)],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is "):
        build(config(tmp_path, **{name: value}))
    assert not (tmp_path / "out").exists()


def test_prompts_are_read_before_the_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompts"):
        build(config(tmp_path, source=HERE + "never", prompts=tmp_path / "prompts"))


def never(root: Path) -> Iterator[Clip]:
    """A source that must not be read."""
    raise AssertionError(root)


def test_as_many_calls_are_in_flight_as_are_allowed(tmp_path: Path) -> None:
    with serving(delay=0.3) as server:
        build(config(tmp_path, 30, **remote(server, in_flight=16)))
    assert server.most == 16


def test_a_dry_run_estimates_and_its_calls_are_not_paid_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        options = remote(server, price_in=1.0, price_out=1.0)
        found = build(config(tmp_path, 12, **options), sample=6)
        assert found["clips"] == 12 and found["whole"]["calls"] == 2 * server.num
        assert found["whole"]["prompt_tokens"] == 2 * server.num * PROMPT_TOKENS
        assert not (tmp_path / "out" / "sft.jsonl").exists()
        build(config(tmp_path, 12, **options))
        assert max(server.asked.values()) == 1
        build(config(tmp_path, 12, judge="other", **options))
        again = build(config(tmp_path, 12, **options), sample=6)  # all of it is in the store by now, and more
        assert again["whole"] == found["whole"] and again["paid now"]["calls"] == 0


def test_a_describer_is_asked_once_and_a_clip_it_fails_on_stops_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {"describer": HERE + "loud"}
    build(config(tmp_path, 6, **options))
    rejected = [json.loads(line) for line in sets(tmp_path / "out")["rejected"].splitlines()]
    assert {"id": "clip3", "stage": "describe", "reason": "RuntimeError: cannot decode"} in rejected
    made = build(config(tmp_path, 6, seed=1, **options))
    assert made["calls"]["describe"]["calls"] == 7  # five once, and twice the one it fails on


def test_recordings_in_memory_become_files_and_ids_stay_unique(tmp_path: Path) -> None:
    build(config(tmp_path / "a", 4, source=HERE + "in_memory"))
    for example in records.read_examples(tmp_path / "a" / "out" / "sft.jsonl"):
        assert isinstance(example.audio, Path) and example.audio.stat().st_size > 100
    doubled = build(config(tmp_path / "b", 6, source=HERE + "twice"))
    rejected = [json.loads(line) for line in sets(tmp_path / "b" / "out")["rejected"].splitlines()]
    assert [r["id"] for r in rejected if r["reason"] == "another recording has this id"] == [
        f"clip{n}" for n in range(6)
    ]
    assert doubled["counts"]["left out by the source"] == 6
    once = config(tmp_path / "c", 6)
    build(once)
    assert sets(tmp_path / "b" / "out")["sft"] == sets(once.out)["sft"].replace("/c/source/", "/b/source/").replace(
        ":clips", ":twice"
    )


def test_benchmark_recordings_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("clip0000002\n")
    settings = config(tmp_path, 4, source=HERE + "with_ids", benchmarks=(tmp_path / "ids.txt",))
    made = build(settings)
    assert made["counts"]["reasons"]["source: its recording clipN is in a benchmark"] == 1


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ('{"id": "4a1c9d7e-0000-4000-8000-123456789abc", "instruction": "A high-energy, full-bodied tune?"}', None),
        ('{"audio_id": "./test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav"}', None),
        ("s9d-2nh_JCQ\n", {"s9d-2nh_JCQ"}),
    ],
)
def test_a_list_that_names_no_recording_is_refused(tmp_path: Path, text: str, ids: set[str] | None) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    if ids is not None:
        assert leakage.read_benchmarks([path]).ids == ids
        return
    with pytest.raises(ValueError, match=r"list\.json: holds no YouTube id, SHA-256 or recording; name the folder"):
        leakage.read_benchmarks([path])


def test_calls_in_flight_keep_to_the_budget_from_the_first(tmp_path: Path) -> None:
    dear = {"price_in": 10.0, "price_out": 1000.0, "max_cost": 3.0}  # a call is reckoned at one, before any was paid
    with serving(delay=0.1) as server:
        made = build(config(tmp_path, 20, **remote(server, in_flight=16), **dear))
        assert server.num <= 3 and "the budget of 3 is spent" in made["stopped"]


def test_another_label_or_kind_is_another_question(tmp_path: Path) -> None:
    def asked(number: int, kind: str, about: str) -> dict[str, Any]:
        question = f"Which is {kind}, the sound before the {about} or the sound after it?"
        draft = {"question": question, "choices": ["the one before", "the one after"], "answer": "the one after"}
        return {"number": number, "route": "rl", "cot_fault": "",
                "draft": draft | {"cot": f"{number} {about}", "kind": kind, "prompt": "p"}}  # fmt: skip

    events = [["dog", 1.0, 2.0], ["cat", 3.0, 4.0]]
    four = [asked(0, "longer", "dog"), asked(1, "longer", "cat"), asked(2, "louder", "cat"), asked(3, "longer", "dog")]
    outcome = {"questions": four, "duration": 9.0, "events": events, "audio": "a.wav"}
    routed = list(route([("clip", outcome)], "s", 0, Funnel()))
    assert [one.set for one in routed] == ["rl", "rl", "rl", ""]


def with_ids(root: Path) -> Iterator[Clip]:
    """Clips that are called as YouTube's are."""
    for n, clip in enumerate(clips(root)):
        yield Clip(f"clip{n:07d}_30000", clip.audio, clip.duration, clip.events)


def test_exports_are_read_by_their_readers_and_stats_are_drawn(tmp_path: Path) -> None:
    import pyarrow.parquet

    build(config(tmp_path, 30, export=("parquet", "swift", "verl")))
    out = tmp_path / "out"
    sft = records.read_examples(out / "sft.jsonl")
    table = pyarrow.parquet.read_table(out / "sft.parquet").to_pylist()
    assert [row["id"] for row in table] == [e.id for e in sft] and table[0]["choices"] == list(sft[0].choices)
    swift = list(records.read(out / "swift_sft.jsonl"))
    assert [message["role"] for message in swift[0]["messages"]] == ["system", "user", "assistant"]
    assert swift[0]["messages"][1]["content"].count("<audio>") == len(swift[0]["audios"]) == 1
    assert swift[0]["messages"][2]["content"].endswith(f"<answer>{sft[0].answer}</answer>")
    assert out / swift[0]["audios"][0] == sft[0].audio
    verl = pyarrow.parquet.read_table(export.to_verl(out_with_rl(out))[0]).to_pylist()
    assert verl[0]["reward_model"]["ground_truth"] == sft[0].answer
    found = stats.read(out)
    stats.write_page(out / "report.html", found)
    page = (out / "report.html").read_text()
    assert "<mark>" in page
    assert page.count("<figure>") == len(stats.PICTURES) - 1 and "<script" not in page
    assert found.sets["sft"].num == len(sft) and found.sets["sft"].distinct(2) > 0


def test_names_in_the_data_are_no_formulas_on_the_page(tmp_path: Path) -> None:
    """A kind `$x^{$` ended `data stats` in a traceback of matplotlib's."""
    build(config(tmp_path, 4))
    out = tmp_path / "out"
    rows = [row | {"kind": "$x^{$<b>", "duration": "long"} for row in records.read(out / "sft.jsonl")]
    records.write_atomic(out / "sft.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert run(["data", "stats", str(out)]) == 0
    assert "<b>" not in (out / "report.html").read_text()
    manifest = json.loads((out / "manifest.json").read_text())
    for fault in ({"counts": {}}, {"calls": {"all": 3}}, {"blind": {"accuracy": "x"}}, {"config": None}):
        records.write_atomic(out / "manifest.json", json.dumps(manifest | fault))
        with pytest.raises(ValueError, match="is no manifest of a build"):
            stats.read(out)


def out_with_rl(out: Path) -> Path:
    """The folder, with an RL set of the first SFT question without its chain."""
    row = next(records.read(out / "sft.jsonl"))
    (out / "rl.jsonl").write_text(json.dumps({key: row[key] for key in row if key not in ("cot", "segments")}) + "\n")
    return out


def test_an_empty_set_has_no_exports_and_both_sets_are_one_table(tmp_path: Path) -> None:
    import pyarrow.parquet

    build(config(tmp_path, 6))
    out = tmp_path / "out"
    (out / "rl.jsonl").write_text("")
    names = {name: [path.name for path in make(out)] for name, make in export.EXPORTS.items()}
    assert names == {"parquet": ["sft.parquet"], "swift": ["swift_sft.jsonl"], "verl": []}
    assert not (out / "rl.parquet").exists() and not (out / "swift_rl.jsonl").exists()
    both = [pyarrow.parquet.read_table(path) for path in export.to_parquet(out_with_rl(out))]
    assert len(both) == 2 and pyarrow.concat_tables(both).num_rows == both[0].num_rows + 1


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(tmp_path, 8)
    (tmp_path / "s.yaml").write_text(f"source: {settings.source}\nroot: {settings.root}\nout: {settings.out}\n")
    assert run(["data", "build", str(tmp_path / "s.yaml"), "--questions", "2"]) == 0
    assert "blind guesser" in capsys.readouterr().out
    assert run(["data", "stats", str(settings.out)]) == 0
    assert "words of a chain" in capsys.readouterr().out
    assert run(["data", "build", str(tmp_path / "s.yaml"), "--questions", "2", "--dry-run"]) == 0
    assert run(["data", "build", str(tmp_path / "s.yaml"), "--export", "csv"]) == 2
    assert "parquet, swift, verl" in capsys.readouterr().err
    assert run(["data", "stats", str(tmp_path)]) == 2
    assert "relisten data build" in capsys.readouterr().err
    (settings.out / "manifest.json").write_text("{}")
    assert run(["data", "stats", str(settings.out)]) == 2
    assert "manifest.json: is no manifest" in capsys.readouterr().err


def test_the_store_finds_what_is_done_and_forgets_nothing(tmp_path: Path) -> None:
    def key(n: int) -> bytes:
        return hashlib.blake2b(bytes([n]), digest_size=16).digest()

    near = key(4)[:8] + bytes(8)  # half of a key that is done

    with Store(tmp_path / "s.sqlite") as store:
        for n in range(10):
            store.keep_outcome(key(n), f"c{n}", {"n": n}, again=n == 3)
        store.keep_call(b"k", "compose", "c", Call("", "", "broken", "passing", 2, 5, 0))
        store.keep_call(b"k", "compose", "c", Call("fine", attempts=1, prompt_tokens=7, cost=0.5))
        store.keep_fact("a", [1, {"b": 2}])
    with Store(tmp_path / "s.sqlite") as store:
        met = store.meet([(key(2), "c2"), (key(3), "c3"), (key(20), "x"), (key(21), "x"), (key(1), "c1"), (near, "y")])
        assert met == ["done", "new", "new", "twice", "done", "new"]
        assert store.meet([(key(5), "c5"), (key(6), "c3"), (key(22), "c5")]) == ["done", "twice", "twice"]
        assert [clip for clip, _ in store.outcomes()] == ["c2", "c3", "c1", "c5"]
        found = store.call(b"k")
        assert found is not None and found.text == "fine" and store.call(b"unknown") is None
        spent = store.spent()
        assert (spent.calls, spent.failed, spent.attempts, spent.prompt_tokens, spent.cost) == (2, 1, 3, 12, 0.5)
        assert store.fact("a") == [1, {"b": 2}] and store.fact("z") is None


def test_an_id_is_known_again_after_any_number_of_batches(tmp_path: Path) -> None:
    ids = [f"clip {number * 7919 % 400}" for number in range(2000)]
    known = set[str]()
    with Store(tmp_path / "s.sqlite") as store:
        for first, size in ((0, 1), (1, 30), (31, 30), (61, 500), (561, 7), (568, 1432)):
            batch = ids[first : first + size]
            twice = [(id in known or id in batch[:at]) for at, id in enumerate(batch)]
            met = store.meet([(hashlib.blake2b(id.encode(), digest_size=16).digest(), id) for id in batch])
            assert met == ["twice" if again else "new" for again in twice]
            known |= set(batch)


def test_a_fingerprint_changes_with_anything_that_is_known() -> None:
    one = Clip("a", Path("a.wav"), 4.0, (Event("dog", 0, 1),))
    others = [
        Clip("b", Path("a.wav"), 4.0, one.events), Clip("a", Path("b.wav"), 4.0, one.events),
        Clip("a", Path("a.wav"), 4.0, (Event("dog", 0, 1.1),)),
        Clip("a", Path("a.wav"), 4.0, one.events, {"sound": "x"}),
    ]  # fmt: skip
    assert len({fingerprint(c) for c in (one, *others)} | {fingerprint(one, "plan")}) == 6


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from relisten.data.build import build
from relisten.data.build_config import BuildConfig
settings = json.loads(sys.argv[2])
build(BuildConfig(**settings | {"root": Path(settings["root"]), "out": Path(settings["out"])}))
"""


def killed_and_resumed(tmp_path: Path, kills: int, num: int) -> None:
    """SIGKILL at random moments, then to the end: the sets are those of an undisturbed run, no reply paid for twice."""
    build(config(tmp_path / "calm", num))
    rng = random.Random(7)
    with serving(delay=0.02) as server:
        settings = config(tmp_path / "hurt", num, **remote(server))
        given = json.dumps(vars(settings), default=str)
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), given]
        lost = done = 0
        for _ in range(kills):
            before = server.num
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"TQDM_DISABLE": "1"})
            aim = before + rng.randint(1, max(2, (4 * num) // (kills + 1)))
            while process.poll() is None and server.num < aim:
                time.sleep(0.002)
            done += process.poll() is not None
            process.send_signal(signal.SIGKILL)
            process.wait()
            lost += 8
        time.sleep(0.2)
        made = build(settings)
    assert done == 0, "the run was over before the kill: nothing was tested"
    hurt, calm = (tmp_path / name / "out" for name in ("hurt", "calm"))
    roots = [str(tmp_path / name / "source") for name in ("hurt", "calm")]
    assert {k: v.replace(roots[0], roots[1]) for k, v in sets(hurt).items()} == sets(calm)
    books = made["calls"]["all"]
    assert books["failed"] == 0 and books["attempts"] <= server.num <= books["attempts"] + lost
    assert books["calls"] == len(server.asked)


def test_two_kills_change_nothing(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, kills=2, num=20)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, kills=20, num=120)


def test_the_page_marks_a_segment_with_its_operation() -> None:
    """Only <seg> was marked, and a <slow> stood there as a tag."""
    shown = stats._TAG.sub(
        stats._marked, "a &lt;slow&gt;1.0, 2.5&lt;/slow&gt; b &lt;seg&gt;x&lt;/seg&gt; &lt;seg&gt;1, 2&lt;/seg&gt;"
    )
    assert shown == "a <mark>1–2.5 s, at half speed</mark> b &lt;seg&gt;x&lt;/seg&gt; <mark>1–2 s</mark>"
