"""Inputs that nobody meant: models, recordings, questions, runs, sets, settings and texts, broken at random.

Each fuzzer breaks one good input in one way, drawn from a random generator, and runs what reads it in a process of its
own, with bounds on time and memory.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from conftest import make_audio
from recordings import encode
from safety import model_folders
from safety.model_folders import CONTENTS, VALUES, leaves
from safety.trials import Outcome, attempt, command

from relisten import audio, cli, tags
from relisten.choices import read_choice
from relisten.commands.settings import read_yaml
from relisten.data.compose import read_draft
from relisten.data.judge import read_verdict
from relisten.engine.listener import Listener
from relisten.evals import runner
from relisten.reports.answer_page import annotate
from relisten.types import Example, Trace

SECONDS, GIGABYTES = 60.0, 2.0
"""What one input may take, beyond what the process has."""


@dataclass(frozen=True)
class Fuzzer:
    """A kind of input: `trial` breaks one, tries it, and gives what was done and what came of it."""

    name: str
    trial: Callable[[random.Random], tuple[str, Outcome]]


def fuzzers(world: Path, place: Path) -> list[Fuzzer]:
    """All of them, over a world of `long_commands.make`, with a folder to break things in."""
    return [
        Fuzzer("model folders", model_fuzzer(world / "tiny", place)),
        Fuzzer("recordings", recording_fuzzer(place)),
        Fuzzer("files of questions", question_fuzzer(world / "scenes", place)),
        Fuzzer("run folders", run_fuzzer(world, place)),
        Fuzzer("built sets", set_fuzzer(world, place)),
        Fuzzer("settings", settings_fuzzer(place)),
        Fuzzer("texts of models and teachers", text_fuzzer),
    ]


Trial = Callable[[random.Random], tuple[str, Outcome]]


def model_fuzzer(good: Path, place: Path) -> Trial:
    """Single changes of a model folder."""
    changes = model_folders.every(good)

    def trial(rng: random.Random) -> tuple[str, Outcome]:
        broken = rng.choice(changes)
        return broken.name, model_folders.tried(good, broken, place, SECONDS, GIGABYTES)

    return trial


def recording_fuzzer(place: Path) -> Trial:
    """Recordings in several containers, with bytes changed, cut out, doubled or cut off."""
    place.mkdir(exist_ok=True)
    samples = make_audio(2.0).samples
    for name in ("a.wav", "a.flac", "a.ogg", "a.aiff"):
        soundfile.write(place / name, samples, 16_000)
    encode(place / "a.mp3", samples, "mp3", 44_100)
    encode(place / "a.m4a", samples, "aac", 44_100, "mp4")
    encode(place / "a.mkv", samples, "aac", 44_100, "matroska")
    good = {path.name: path.read_bytes() for path in sorted(place.glob("a.*"))}

    def trial(rng: random.Random) -> tuple[str, Outcome]:
        name = rng.choice(sorted(good))
        path = place / f"broken{Path(name).suffix}"
        path.write_bytes(mutated(good[name], rng))

        def use() -> None:
            heard = audio.load(path, 16_000, max_seconds=600)
            assert heard.samples.dtype == np.float32 and np.isfinite(heard.samples).all()

        return name, attempt(use, SECONDS, GIGABYTES)

    return trial


def question_fuzzer(scenes: Path, place: Path) -> Trial:
    """Files of questions for `data validate` and `eval`."""
    place.mkdir(exist_ok=True)
    good = (scenes / "questions.jsonl").read_bytes().splitlines(keepends=True)[:4]

    def trial(rng: random.Random) -> tuple[str, Outcome]:
        folder = fresh(place)
        (folder / "audio").symlink_to(scenes / "audio")
        (folder / "questions.jsonl").write_bytes(mutated_lines(good, rng))
        model = ["--model", str(scenes.parent / "tiny"), "--max-new-tokens", "2"]
        asking = [
            ["data", "validate", str(folder / "questions.jsonl")],
            ["eval", str(folder / "questions.jsonl"), str(folder / "run"), *model],
            ["ask", str(folder / "questions.jsonl"), "--out", str(folder / "answers.jsonl"), *model],
        ]
        tokens = rng.choice(asking)
        return tokens[0], attempt(lambda: command(tokens), SECONDS, GIGABYTES)

    return trial


def run_fuzzer(world: Path, place: Path) -> Trial:
    """A run folder of `eval`, for every command that reads one."""
    good = world / "run"
    if not good.exists():
        model = ["--model", str(world / "tiny"), "--max-new-tokens", "16"]
        assert cli.run(["eval", str(world / "scenes" / "questions.jsonl"), str(good), *model]) == 0

    def trial(rng: random.Random) -> tuple[str, Outcome]:
        folder = fresh(place)
        shutil.copytree(good, folder / "run")
        name = rng.choice(["answers.jsonl", "answers.jsonl", "config.json", "run.json", "summary.json"])
        (folder / "run" / name).write_bytes(mutated_file(good / name, rng))
        run, out = str(folder / "run"), str(folder)
        tokens = rng.choice([
            ["score", run], ["score", run, "--out", f"{out}/s.json"], ["report", run, "--out", f"{out}/r.html"],
            ["analyse", run, "--out", f"{out}/analysis"], ["compare", run, str(good), "--out", f"{out}/c"],
        ])  # fmt: skip
        return f"{tokens[0]} after {name}", attempt(lambda: command(tokens), SECONDS, GIGABYTES)

    return trial


def set_fuzzer(world: Path, place: Path) -> Trial:
    """A built folder, for the commands that read one."""
    good = world / "built"
    if not good.exists():
        cli.run(["data", "build", "--source", "scenes", "--root", str(world / "scenes"), "--out", str(good)])

    def trial(rng: random.Random) -> tuple[str, Outcome]:
        folder = fresh(place)
        shutil.copytree(good, folder / "built")
        name = rng.choice(["sft.jsonl", "rl.jsonl", "rejected.jsonl", "manifest.json"])
        (folder / "built" / name).write_bytes(mutated_file(good / name, rng))
        tokens = rng.choice([
            ["data", "stats", str(folder / "built")], ["data", "show", str(folder / "built" / name)],
            ["data", "validate", str(folder / "built" / name)],
        ])  # fmt: skip
        return f"{' '.join(tokens[:2])} after {name}", attempt(lambda: command(tokens), SECONDS, GIGABYTES)

    return trial


def settings_fuzzer(place: Path) -> Trial:
    """YAML that says anything."""
    place.mkdir(exist_ok=True)
    good = b"data: a.jsonl\noutput: run\nsteps: 3\nrewards: [accuracy, format]\nlearning_rate: 1e-6\nb: &b {c: *a}\n"

    def trial(rng: random.Random) -> tuple[str, Outcome]:
        (place / "settings.yaml").write_bytes(mutated(good, rng))
        return "YAML", attempt(lambda: read_yaml(place / "settings.yaml"), SECONDS, GIGABYTES)

    return trial


PIECES = (
    "<think>", "</think>", "<seg>", "</seg>", "<answer>", "</answer>", "<", ">", "1.2", ", ", "3.4", "9" * 400, "-",
    "\n", " ", " " * 50, "!" * 50, "The answer is ", "(A)", "B.", "a dog", "bell", "not ", "```json\n", "{", "}", "[",
    "]", '{"question": ', '"', "\\", "\\u", "\ud800", "\0", "\x1b[2J", "说", "é", "QA: yes", "CoT: no", "reason: ",
    "**", "$", "$$", "\u202e",
)  # fmt: skip


def text_fuzzer(rng: random.Random) -> tuple[str, Outcome]:
    """Texts that a model or a teacher could write, for everything that reads them; they may never raise."""
    texts = ["".join(rng.choices(PIECES, k=rng.choice((1, 5, 30, 300)))) for _ in range(50)]
    texts.append(rng.choice(PIECES) * 20_000)

    def use() -> None:
        for text in texts:
            read_all(text)

    return repr(texts[-1][:20]), attempt(use, SECONDS, GIGABYTES)


def read_all(text: str) -> None:
    """Give a text to every reader of texts. What teachers write may be refused; what models write may not."""
    choices = ("a dog", "bell", "(A) x", "B", "1.2")
    response = tags.parse(text)
    assert response.text == text
    read_choice(text, choices)
    example = Example("q", Path("a.wav"), "What?", choices, "bell")
    json.dumps(runner.record(example, Trace([1], [True], [0.0], [], 0, text=text)))
    listener = Listener(10.0, "interleaved", ("seg",), 8, 0.2)
    for start in range(0, len(text), 7):
        list(listener.feed(text[start : start + 7]))
    annotate(text, [], [], 10.0)
    for read in (read_draft, read_verdict):
        with suppress(ValueError):
            read(text)


# --- changes --------------------------------------------------------------------------------------------------------


def fresh(place: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(place / "fuzz", ignore_errors=True)
    (place / "fuzz").mkdir(parents=True)
    return place / "fuzz"


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to eight changes: set, cut out, doubled, or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 1, 4, 64))
        what = rng.randrange(5)
        if what == 0:
            changed[at : at + length] = rng.randbytes(length)
        elif what == 1:
            changed[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f\xff")) * length
        elif what == 2:
            del changed[at : at + length]
        elif what == 3:
            changed[at:at] = changed[at : at + length]
        else:
            del changed[at:]
    return bytes(changed)


def mutated_file(path: Path, rng: random.Random) -> bytes:
    """A file of JSON or JSON lines with one value, one line or some bytes changed."""
    if rng.random() < 0.15:
        return rng.choice(sorted(CONTENTS.values()))
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.8:
        return json.dumps(changed(json.loads(data), rng)).encode()
    return mutated_lines(data.splitlines(keepends=True), rng) if path.suffix == ".jsonl" else mutated(data, rng)


def mutated_lines(lines: list[bytes], rng: random.Random) -> bytes:
    """Lines of JSON with one of them changed, doubled, taken out, or cut; or with bytes changed."""
    lines = list(lines)
    if not lines or rng.random() < 0.2:
        return mutated(b"".join(lines), rng)
    at = rng.randrange(len(lines))
    what = rng.randrange(8)
    if what == 0:
        lines.insert(at, lines[at])
    elif what == 1:
        lines[at] = lines[at][: rng.randrange(len(lines[at]))]
    elif what == 2:
        lines[at] = rng.choice(sorted(CONTENTS.values())) + b"\n"
    else:
        lines[at] = json.dumps(changed(json.loads(lines[at]), rng)).encode() + b"\n"
    return b"".join(lines)


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts taken out, or another in its place."""
    path = rng.choice(list(leaves(value)))
    at = value
    for key in path[:-1]:
        at = at[key]
    if rng.random() < 0.15:
        del at[path[-1]]
    else:
        at[path[-1]] = rng.choice((*VALUES, "\ud800", "$x^{$", "[" * 60, "</script>", "\x1b[2J", "0/1"))
    return value
