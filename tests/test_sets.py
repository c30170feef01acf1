"""Built sets are movable, other stacks read them, and several of them become one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY

from relisten import cli, records
from relisten.data import export
from relisten.data.build import build
from relisten.data.build_config import BuildConfig
from relisten.data.join import JoinConfig, join, largest
from relisten.data.worlds.scene_files import write_scenes
from relisten.models import nano
from relisten.training.config import SftConfig
from relisten.training.sft import train_sft


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and sets that were built from them, in a folder each."""
    folder = tmp_path_factory.mktemp("sets")
    write_scenes(folder / "scenes", num=12, questions=0)
    build(BuildConfig("scenes", folder / "scenes", folder / "built", questions=3, export=("parquet", "swift", "verl")))
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return list(records.read(path))


def test_no_form_of_a_set_names_an_absolute_path(work: Path) -> None:
    import pyarrow.parquet

    out = work / "built"
    named = [row["audio_path"] for name in export.SETS for row in rows(out / f"{name}.jsonl")]
    named += [path for row in rows(out / "swift_sft.jsonl") for path in row["audios"]]
    named += pyarrow.parquet.read_table(out / "sft.parquet")["audio_path"].to_pylist()
    named += [
        path for paths in pyarrow.parquet.read_table(out / "verl_rl.parquet")["audios"].to_pylist() for path in paths
    ]
    assert len(named) > 30
    assert all(path.startswith("../scenes/audio/") and (out / path).is_file() for path in named)


def test_a_folder_that_is_moved_with_its_recordings_still_serves(work: Path, tmp_path: Path) -> None:
    """Sets held absolute paths: on another machine, or under another name, no recording was found."""
    shutil.copytree(work, tmp_path / "elsewhere")
    check_serves(tmp_path / "elsewhere" / "built", tmp_path)


def test_copy_audio_takes_the_recordings_along(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "build", "--source", "scenes", "--root", str(work / "scenes"), "--out", str(tmp_path / "out")]
    assert cli.run([*command, "--questions", "3", "--copy-audio"]) == 0
    copies = sorted((tmp_path / "out" / "audio").iterdir())
    made = [path.stat().st_mtime_ns for path in copies]
    assert [path.read_bytes() for path in copies] == [(work / "scenes/audio" / p.name).read_bytes() for p in copies]
    assert cli.run([*command, "--questions", "3", "--copy-audio"]) == 0  # what is there is kept
    assert [path.stat().st_mtime_ns for path in copies] == made
    shutil.move(tmp_path / "out", tmp_path / "alone")
    assert {Path(row["audio_path"]).parent for row in rows(tmp_path / "alone" / "sft.jsonl")} == {Path("audio")}
    check_serves(tmp_path / "alone", tmp_path)


def check_serves(out: Path, tmp_path: Path) -> None:
    """A folder validates, shows and trains."""
    sft = out / "sft.jsonl"
    for name in export.SETS:
        assert cli.run(["data", "validate", str(out / f"{name}.jsonl")]) == 0
    assert cli.run(["data", "show", str(sft), "1"]) == 0
    texts = [str(row["cot"]) for row in rows(sft)]
    nano.create([*texts, "user assistant <think></think><answer></answer>"] * 2, TINY).save(tmp_path / "tiny")
    settings: dict[str, Any] = {"batch_size": 2, "device_batch_size": 2, "bf16": False, "workers": 0}
    train_sft(SftConfig(data=str(sft), output=tmp_path / "run", model=str(tmp_path / "tiny"), steps=1, **settings))


def test_names_that_meet_are_told_apart_and_a_copy_that_fails_is_said(tmp_path: Path) -> None:
    for name in ("one/a.wav", "two/a.wav", "two/A.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    copied = export.Copies(tmp_path / "out")
    copies = [copied(tmp_path / name) for name in ("one/a.wav", "two/a.wav", "two/A.wav", "one/a.wav")]
    assert [path.name for path in copies] == ["a.wav", "a-2.wav", "A-3.wav", "a.wav"]
    assert copies[1].read_text() == "two/a.wav"
    with pytest.raises(ValueError, match=r"gone\.wav: cannot be copied to .*No such file"):
        copied(tmp_path / "gone.wav")


def test_paths_hold_through_folders_that_are_links(tmp_path: Path) -> None:
    """`..` in a folder that is a link leads to the parent of where the link leads."""
    (tmp_path / "big/sets").mkdir(parents=True)
    (tmp_path / "here/audio").mkdir(parents=True)
    (tmp_path / "here/audio/a.wav").write_text("sound")
    (tmp_path / "here/sets").symlink_to(tmp_path / "big/sets")
    (tmp_path / "here/linked").symlink_to(tmp_path / "here/audio")
    for audio in ("here/audio/a.wav", "here/linked/a.wav"):
        for folder in ("here/sets", "here", "big"):
            found = export.relative(tmp_path / audio, tmp_path / folder)
            assert not Path(found).is_absolute() and (tmp_path / folder / found).read_text() == "sound"
    assert export.relative(tmp_path / "here/linked/a.wav", tmp_path / "here") == "linked/a.wav"


def form(value: Any) -> Any:
    """The type of a JSON value, those of its parts included; what `datasets` makes its features of."""
    if isinstance(value, list):
        return ["list", *{json.dumps(form(part)) for part in value}]
    if isinstance(value, dict):
        return {key: form(part) for key, part in value.items()}
    return type(value).__name__


def test_lines_of_both_sets_have_the_same_keys_and_types(work: Path) -> None:
    """`datasets.load_dataset("json", data_files={"sft": ..., "rl": ...})` takes the features of the first file."""
    found = {name: {json.dumps(form(row)) for row in rows(work / "built" / f"{name}.jsonl")} for name in export.SETS}
    assert len(found["sft"]) == 1 and found["sft"] == found["rl"]
    assert "null" not in str(found) and "NoneType" not in str(found)
    examples = {name: list(export.read_set(work / "built" / f"{name}.jsonl")) for name in export.SETS}
    assert all(example.cot for example in examples["sft"]) and all(example.cot is None for example in examples["rl"])
    assert all(records.gold_segments(example) for example in examples["sft"])
    assert not any(records.gold_segments(example) for example in examples["rl"])


def test_several_builds_become_one_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed, num in (("dogs", 0, 16), ("trams", 8, 16)):  # half of the scenes are in both
        write_scenes(tmp_path / name / "scenes", num=num, seed=seed, questions=0)
        build(BuildConfig("scenes", tmp_path / name / "scenes", tmp_path / name / "sets", questions=3))
    given = [tmp_path / name / "sets" for name in ("dogs", "trams")]
    command = ["data", "join", "OUT", *map(str, given), "--export", "swift"]
    for out in ("one", "two"):
        assert cli.run([str(tmp_path / out) if word == "OUT" else word for word in command]) == 0
    one = tmp_path / "one"
    shown = capsys.readouterr()
    assert "data join" in shown.out and "ids were taken already; they begin with sets-2- now" in shown.err
    for file in sorted(one.iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    manifest = json.loads((one / "manifest.json").read_text())
    assert [build["folder"] for build in manifest["joined"]] == ["sets-1", "sets-2"]
    assert manifest["counts"]["asked"] == 96 and manifest["licences"]["scenes"].startswith("Apache")
    check_joined(one, given)
    for name in export.SETS:
        assert cli.run(["data", "validate", str(one / f"{name}.jsonl")]) == 0
    assert cli.run(["data", "stats", str(one)]) == 0
    assert cli.run(["data", "join", str(tmp_path / "all"), str(one), str(given[0])]) == 0  # a join is a build
    assert json.loads((tmp_path / "all" / "manifest.json").read_text())["joined"][1]["sft"]["kept"] == 0


def check_joined(out: Path, given: list[Path]) -> None:
    """Nothing is lost without a reason, no id is there twice, no question is there twice about one recording."""
    kept = [row for name in export.SETS for row in rows(out / f"{name}.jsonl")]
    rejected = rows(out / "rejected.jsonl")
    assert len(kept) + len(rejected) == sum(len(rows(f / f"{name}.jsonl")) for f in given for name in export.SETS)
    assert len({row["id"] for row in kept}) == len(kept)
    asked = [(Path(row["audio_path"]).name, row["question"], row["answer"]) for row in kept]
    assert len(set(asked)) == len(asked)
    positions = [row["choices"].index(row["answer"]) for row in rows(out / "sft.jsonl") if len(row["choices"]) == 4]
    assert max(map(positions.count, range(4))) - min(map(positions.count, range(4))) <= 1


def small(folder: Path, ids: list[str], kind: str = "order", **fields: Any) -> Path:
    """A built folder with one question for RL about each id."""
    folder.mkdir(parents=True)
    asked = {"choices": ["dog", "cat", "cow"], "answer": "cat", "kind": kind, "cot": "", "cot_fault": "x"} | fields
    lines = [{"id": id, "audio_path": f"{id}.wav", "question": "What is heard first?", **asked} for id in ids]
    (folder / "rl.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "sft.jsonl").write_text("")
    manifest = {"config": {"source": folder.name, "teacher": "rules", "judge": ""}, "calls": {}, "blind": {},
                "counts": {}, "licences": {folder.name: "mine"}, "stopped": ""}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_near_duplicates_are_found_across_builds_and_not_where_recordings_differ(tmp_path: Path) -> None:
    event = {"label": "bell", "start": 0.0, "end": 1.0}
    known = {"duration": 5.0, "events": [event]}
    one = small(tmp_path / "one", ["a"], **known)
    two = small(tmp_path / "two", ["b"], question="What is heard first here?", **known)  # the same recording, renamed
    three = small(tmp_path / "three", ["c"], **{"events": [event | {"label": "a car that passes by slowly"}]})
    four, five = small(tmp_path / "four", ["d"]), small(tmp_path / "five", ["e"])  # of which nothing is known
    made = join(tmp_path / "out", [one, two, three, four, five])
    assert [row["id"] for row in rows(tmp_path / "out" / "rl.jsonl")] == ["a", "c", "d", "e"]
    [out] = rows(tmp_path / "out" / "rejected.jsonl")
    assert (out["id"], out["stage"]) == ("two: b", "join") and made["counts"]["reasons"] == {
        f"join: {out['reason']}": 1
    }


def test_no_kind_of_question_has_more_than_its_share(tmp_path: Path) -> None:
    many = small(tmp_path / "many", [f"m{n}" for n in range(40)])
    few = small(tmp_path / "few", [f"f{n}" for n in range(10)], kind="count")
    made = join(tmp_path / "out", [many, few], JoinConfig(max_share=0.6))
    assert made["kinds"]["rl"] == {"count": 10, "order": 15}
    assert len(rows(tmp_path / "out" / "rejected.jsonl")) == 25
    kept = [row["id"] for row in rows(tmp_path / "out" / "rl.jsonl")]
    join(tmp_path / "again", [many, few], JoinConfig(max_share=0.6, seed=1))
    assert kept != [row["id"] for row in rows(tmp_path / "again" / "rl.jsonl")]
    assert (largest([5, 5], 0.5), largest([5, 5], 0.4), largest([100, 10, 10], 0.5), largest([7], 1.0)) == (5, 0, 20, 7)


def test_what_cannot_be_joined_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = small(tmp_path / "one", ["a"]), small(tmp_path / "two", ["a"], question="What is next?")
    third = small(tmp_path / "three", ["two-a"])
    (tmp_path / "bare").mkdir()
    for given, told in [
        ([one], "name two built folders or more"),
        ([one, one], "is named twice"),
        ([one, tmp_path / "bare"], "holds no manifest.json"),
        ([one, third, two], "the id 'a' is taken, and so is 'two-a'"),
    ]:
        assert cli.run(["data", "join", str(tmp_path / "out"), *map(str, given)]) == 2
        assert told in capsys.readouterr().err
    assert cli.run(["data", "join", str(one), str(one), str(two)]) == 2
    assert "choose a new folder" in capsys.readouterr().err
    assert cli.run(["data", "join", str(tmp_path / "out"), str(one), str(two), "--max-share", "0"]) == 2
    (two / "rl.jsonl").write_text('{"id": "b"}\n')
    assert cli.run(["data", "join", str(tmp_path / "out"), str(one), str(two)]) == 2
    assert "two/rl.jsonl, line 1: has no 'audio_path'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()
