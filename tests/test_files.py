"""What is written is whole or not there, and nothing of anybody else's is overwritten."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_audio

from relisten import cli, files, records
from relisten.audio import save
from relisten.data.worlds import scene_files
from relisten.data.worlds.scene_files import write_scenes


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Predictions that `relisten score` can score."""
    path = tmp_path / "predictions.jsonl"
    records.append(path, {"id": "1", "choices": ["a", "b"], "answer": "a", "answer_prediction": "a"})
    return path


def read_while(action: Callable[[], object], descriptor: int) -> bytes:
    """What arrives at a pipe or terminal while something is done."""
    received = bytearray()

    def read() -> None:
        while not received.endswith(b"}\n"):
            received.extend(os.read(descriptor, 1 << 16).replace(b"\r\n", b"\n"))

    reader = threading.Thread(target=read)
    reader.start()
    action()
    reader.join(timeout=20)
    return bytes(received)


def test_a_pipe_that_is_named_as_out_stays_a_pipe_and_is_written_into(tmp_path: Path, scored: Path) -> None:
    """`relisten score RUN --out /dev/null` as root, so in every container, put a file in the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    with files.replacing(pipe, follow=True) as keeps_it_open:
        keeps_it_open.write(b"")
        received = read_while(lambda: cli.run(["score", str(scored), "--out", str(pipe)]), descriptor)
    assert b'"accuracy": 1.0' in received
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(descriptor)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pipe", "predictions.jsonl"]


def test_a_pipe_that_nobody_reads_is_refused_at_once(
    tmp_path: Path, scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert cli.run(["score", str(scored), "--out", str(tmp_path / "pipe")]) == 2
    assert "nobody reads this pipe" in capsys.readouterr().err


def test_a_terminal_that_is_named_as_out_is_written_into(scored: Path) -> None:
    """A pseudo-terminal is a character device, as /dev/null is."""
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    received = read_while(lambda: cli.run(["score", str(scored), "--out", name]), ours)
    assert b'"accuracy": 1.0' in received
    assert stat.S_ISCHR(Path(name).stat().st_mode)
    os.close(ours)
    os.close(theirs)


def test_a_link_to_a_device_is_written_into(tmp_path: Path) -> None:
    """/dev/stdout is one. Linking to /dev/null is safe here: a rename would hit the link, not the device."""
    (tmp_path / "link").symlink_to(os.devnull)
    files.write_atomic(tmp_path / "link", "x", follow=True)
    assert (tmp_path / "link").is_symlink() and stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_file_name_of_ours_is_never_followed_as_a_link(tmp_path: Path) -> None:
    """A run folder that came from somebody else may hold `summary.json` as a link to a file of the user's."""
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("summary.json", ".a.jsonl.lock", "a.jsonl"):
        (run / name).symlink_to(precious)
    part = name_while_written(run / "b.json")
    part.symlink_to(precious)
    for write in (
        lambda: files.write_atomic(run / "summary.json", "{}"),
        lambda: files.write_atomic(run / "b.json", "{}"),
        lambda: records.append(run / "a.jsonl", {}),
        lambda: files.sole_writer(run / "a.jsonl").__enter__(),
    ):
        with pytest.raises(ValueError, match="is a link"):
            write()
    (run / "a.jsonl").unlink()
    with pytest.raises(ValueError, match=r"lock: is a link"), files.sole_writer(run / "a.jsonl"):
        pass
    part.unlink()
    part.hardlink_to(precious)
    files.write_atomic(run / "b.json", "{}")
    assert (run / "b.json").read_text() == "{}"
    (run / "audio").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="audio: is a link"):
        files.make_folder(run / "audio")
    assert precious.read_text() == "keep me" and precious.stat().st_nlink == 1


def name_while_written(path: Path) -> Path:
    """The name under which a file is written before it takes its own."""
    with files.replacing(path) as file:
        [found] = [p for p in path.parent.iterdir() if os.path.samestat(p.stat(), os.fstat(file.fileno()))]
    path.unlink()
    return found


def test_a_pipe_with_a_name_of_ours_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "summary.json")
    for write in (files.write_atomic, lambda path, _: records.append(path, {})):
        with pytest.raises(ValueError, match="is a pipe or a device"):
            write(tmp_path / "summary.json", "{}")


def test_what_a_kill_leaves_is_used_up_by_the_next_writer(tmp_path: Path) -> None:
    """`.part-*` files of killed runs were never removed."""
    code = (
        "import time\nfrom relisten import files\n"
        f"with files.replacing({str(tmp_path / 'a.json')!r}) as file:\n"
        "    file.write(b'x' * 100_000)\n    file.flush()\n    print('there', flush=True)\n    time.sleep(600)\n"
    )
    for _ in range(2):
        job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert job.stdout is not None and job.stdout.readline()
        job.send_signal(signal.SIGKILL)
        job.wait()
        job.stdout.close()
    assert len(list(tmp_path.iterdir())) == 1
    files.write_atomic(tmp_path / "a.json", "y")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "y"


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    texts = [letter * 200_000 for letter in "abcdef"]

    def write(text: str) -> None:
        for _ in range(5):
            files.write_atomic(tmp_path / "a", text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a", "old")
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "a") as file:  # of the file that is read
        file.write((tmp_path / "gone").read_bytes())
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_half_a_character_is_written_as_its_escape(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a", f'"{os.fsdecode(b"caf" + bytes([0xE9]))}"')
    assert (tmp_path / "a").read_text() == r'"caf\udce9"'


@pytest.mark.parametrize(
    ("link", "command"),
    [
        ("answers.jsonl", ["eval", "QUESTIONS", "OUT", "--max-new-tokens", "2"]),
        ("config.json", ["eval", "QUESTIONS", "OUT", "--max-new-tokens", "2"]),
        ("summary.json", ["eval", "QUESTIONS", "OUT", "--max-new-tokens", "2"]),
        ("audio", ["scenes", "OUT", "--num", "1"]),
        ("questions.jsonl", ["scenes", "OUT", "--num", "1"]),
        ("build.sqlite", ["data", "build", "--source", "scenes", "--root", "HERE", "--out", "OUT"]),
        ("sft.jsonl", ["data", "build", "--source", "scenes", "--root", "HERE", "--out", "OUT"]),
        ("checkpoints", ["train", "sft", "--data", "QUESTIONS", "--output", "OUT", "--model", "nano", "--steps", "1",
                         "--batch-size", "1", "--device-batch-size", "1", "--workers", "0"]),
    ],
)  # fmt: skip
def test_commands_refuse_a_link_in_the_place_of_what_they_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], link: str, command: list[str]
) -> None:
    """The run folder came from somebody else; what the link points to is as it was before."""
    write_scenes(tmp_path / "here", num=2, max_seconds=4)
    precious = tmp_path / "precious"
    if link in ("audio", "checkpoints"):
        precious.mkdir()
    else:
        precious.write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / link).symlink_to(precious)
    places = {"QUESTIONS": tmp_path / "here" / "questions.jsonl", "OUT": tmp_path / "out", "HERE": tmp_path / "here"}
    assert cli.run([str(places.get(token, token)) for token in command]) == 2
    said = capsys.readouterr().err
    # What a link shows is not the run's, so `eval` may refuse the folder before it writes.
    assert ("is a link" in said) or (command[0] == "eval" and "choose a new folder" in said)
    assert not list(precious.iterdir()) if precious.is_dir() else precious.read_text() == "{}"


# --- what is lost while a command runs ------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["folder", "file", "at once", "end"])
@pytest.mark.parametrize("command", ["eval", "ask"])
def test_answers_that_are_removed_in_mid_run_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str, command: str
) -> None:
    """eval ended in a KeyError; ask said "60 questions" with 23 lines on the disk, and exited with 0."""
    asked, out = tmp_path / "questions.jsonl", tmp_path / "run"
    save(tmp_path / "a.wav", make_audio(1.0))
    for id in "abcd":
        records.append(asked, {"id": id, "audio_path": "a.wav", "question": "?", "choices": ["x", "y"], "answer": "x"})
    answers, num, real = out / "answers.jsonl", 0, records.append

    def append(path: Path, record: dict[str, object], size: int | None = None) -> int:
        nonlocal num
        num += 1
        size = real(path, record, size)
        if num == (4 if what == "end" else 2) and what != "at once":
            shutil.rmtree(out) if what == "folder" else answers.unlink()
        return size

    def fsync(descriptor: int) -> None:
        put(descriptor)
        if num == 2 and what == "at once":  # before the line that is written now has come back to its writer
            answers.unlink()

    put = os.fsync
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(records, "append", append)
    options = ["--max-new-tokens", "4", *(["--out", str(answers)] if command == "ask" else [])]
    given = [str(asked), str(out)] if command == "eval" else [str(asked)]
    assert cli.run([command, *given, *options]) == 2
    said = capsys.readouterr()
    assert "answers.jsonl: holds 0 bytes where this run had written" in said.err and "lost" in said.err
    assert "Traceback" not in said.err and "right" not in said.out
    assert out.exists() == (what != "folder")


def test_scenes_whose_folder_is_removed_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num = 0

    def removing(path: Path, audio: object) -> None:
        nonlocal num
        num += 1
        if num == 2:
            shutil.rmtree(tmp_path / "scenes")
            path.parent.mkdir(parents=True)
        save(path, audio)  # type: ignore[arg-type]

    monkeypatch.setattr(scene_files, "save", removing)
    with pytest.raises(ValueError, match="1 of 3 recordings were removed while"):
        write_scenes(tmp_path / "scenes", num=3, max_seconds=5)
    assert not (tmp_path / "scenes" / "questions.jsonl").exists()
