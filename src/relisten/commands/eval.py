"""`relisten eval`: answer a benchmark, or a file of questions whose answers are known, and score them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from relisten import records, run
from relisten.commands.options import GENERATION, MODEL, ModelOptions, keeping, kept_answers
from relisten.engine.generation import GenerationConfig
from relisten.evals.benchmarks import BENCHMARKS, Benchmark, check_ids, export, missing
from relisten.evals.figures import Failed, Record, summary, write_summary
from relisten.evals.hearing import Hears, PromptAudio
from relisten.evals.runner import Asking, check, evaluate
from relisten.reports.accuracy import shown
from relisten.reports.text import console
from relisten.types import Example

ABLATIONS = Parameter(group=Group("Ablations", sort_key=1))
ASKING = Parameter(group=Group("Asking", sort_key=1))


def eval_file(
    questions: Path,
    out: Path,
    /,
    *,
    data: Path | None = None,
    failed: Failed = "wrong",
    allow_missing: bool = False,
    hears: Annotated[Hears, ABLATIONS] = "own",
    recording: Annotated[PromptAudio, ABLATIONS] = "own",
    samples: Annotated[int, ASKING] = 1,
    shuffle: Annotated[int | None, ASKING] = None,
    shard: Annotated[str, ASKING] = "0/1",
    max_rows: Annotated[int, ASKING] = 32,
    generation: Annotated[GenerationConfig, GENERATION] = GenerationConfig(),
    options: Annotated[ModelOptions, MODEL] = ModelOptions(),
) -> int:
    """Answer every question of a benchmark or a file and score the answers. After a stop, the same command continues.

    The exit code is 1 if some questions could not be asked (the recording is unreadable or too long). Run the command
    again to try those again.

    Parameters
    ----------
    questions
        mmar, mmau-mini, mmau or mmau-pro (then give --data), or a JSONL or JSON file in MMAR's form, with answers.
    out
        Folder for answers.jsonl (one record for each answer), summary.json and the settings. For a benchmark, also its
        predictions in the form that the official script reads.
    data
        For a benchmark: the folder with its question file and its recordings as published. For a file of your own: the
        folder that audio_path is relative to, if it is not the folder of the file.
    failed
        How a question without an answer counts. wrong: as wrong. first-choice: as if the first choice was given, which
        the authors' release does.
    allow_missing
        Continue if recordings of a benchmark are missing. Their questions count as errors.
    hears
        What the model hears for a segment: own (the recording itself), other (another question's recording at the same
        times), silence, off (no audio is inserted, the tag stays text), random (a stretch of the same length from
        anywhere), neighbour (the stretch right after it), oracle (the gold segment nearest to it).
    recording
        What the prompt contains: own (the recording), other (that of another question), silence, none (no audio; the
        model hears only segments).
    samples
        Answers to each question, for avg@k and the majority vote. More than 1 needs a --temperature, or --shuffle.
    shuffle
        A random seed: show the choices in another order, a different one for each sample.
    shard
        Which part of the questions to ask, such as 0/2 and 1/2. Score the folders together with `relisten score`.
    max_rows
        Answers generated side by side. With 1, the seconds of an answer are its latency.
    """
    asking = Asking(hears, recording, samples, shuffle, _shard(shard))
    if samples > 1 and generation.temperature == 0 and shuffle is None:
        raise ValueError(f"--samples {samples}: greedy answers are all the same; set a --temperature, or use --shuffle")
    benchmark = BENCHMARKS.get(str(questions))
    path, examples = _questions(questions, benchmark, data)
    if benchmark is not None and not allow_missing:
        _check_recordings(examples)
    loaded, make = options.open()
    check(examples, generation, asking, max_rows)
    settings = {"questions": path, **asdict(options), **asdict(asking), "shard": shard, **asdict(generation)}
    del settings["device"], settings["engine"]  # a run may continue on another device, or on other servers
    settings |= options.told()
    if benchmark is None and data is not None:
        settings["data"] = data  # where a report finds the recordings again
    hashes = sums([path, *options.weights()])
    num = samples * len(examples[asking.shard[0] :: asking.shard[1]])
    _start(out, settings | hashes | {"num_answers": num})
    with records.sole_writer(out / "answers.jsonl"), keeping(lambda: kept_answers(out / "answers.jsonl", num)):
        answers = evaluate(
            loaded, examples, out / "answers.jsonl", generation, asking, max_rows, options.max_seconds, make,
            told=lambda figures: run.note(out, {"engine": figures}),
        )  # fmt: skip
    result = summary(answers, generation.format, failed)
    left = {} if benchmark is None else benchmark.left_out(path.parent)
    found = {"questions": str(path), "max_rows": max_rows, "not_asked": left, **hashes}
    write_summary(out / "summary.json", result | found)
    console().print(shown(result, _title(path, options.name, generation.format, asking), generation.format))
    notes = [f"{path.name}: sha256 {hashes[f'sha256 of {path.name}']}"]
    if left:
        notes.insert(0, f"not asked, and in no figure: {', '.join(f'{n:,} {reason}' for reason, n in left.items())}")
    if benchmark is not None and shard == "0/1":
        notes.append(_handed_in(benchmark, path, answers, out, failed))
    console().print("\n".join(notes), soft_wrap=True)
    return int(result["rows"]["all"]["errors"] > 0)


def _start(out: Path, settings: dict[str, Any]) -> None:
    """Begin or continue the run. Raises ValueError if the folder holds answers whose settings are unknown."""
    if (out / "answers.jsonl").exists() and not (out / "config.json").exists():
        raise ValueError(f"{out}: holds answers.jsonl without the config.json of a run; choose a new folder")
    run.start(out, settings)


def _handed_in(benchmark: Benchmark, path: Path, answers: Sequence[Record], out: Path, failed: Failed) -> str:
    """Write the predictions in the form that the benchmark's own script reads. Returns a line that says where."""
    to = out / f"predictions.{benchmark.form}"
    without = export(benchmark, path, answers, to, failed)
    sent = "send it in to be scored" if benchmark.withheld else "for the official script"
    return f"{to}: {sent}; {without} without an answer"


def sums(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of files, for the settings: a run may only continue with the same questions and weights."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[f"sha256 of {path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _questions(name: Path, benchmark: Benchmark | None, data: Path | None) -> tuple[Path, Sequence[Example]]:
    """The question file and its questions. Each has a known answer unless the benchmark withholds the answers."""
    if benchmark is None:
        path, examples = name, records.read_examples(name, data)
    elif data is None:
        raise ValueError(f"{name}: give --data, the folder that holds its question file and its recordings")
    else:
        path, examples = benchmark.file(data), benchmark.examples(data)
        check_ids(benchmark, path, examples)
    without = [e.id for e in examples if e.answer is None]
    if without and not (benchmark is not None and benchmark.withheld):
        raise ValueError(f"{path}: {len(without)} questions have no answer, for example {without[0]}; give each one")
    return path, examples


def _check_recordings(examples: Sequence[Example]) -> None:
    if absent := missing(examples):
        raise ValueError(
            f"{len(absent)} recordings are missing, for example {absent[0]}; get them, or continue with --allow-missing"
        )


def _shard(text: str) -> tuple[int, int]:
    which, slash, num = text.partition("/")
    if not (slash and which.isascii() and which.isdigit() and num.isascii() and num.isdigit()):
        raise ValueError(f"--shard {text}: write the number of the shard, a slash, and how many there are: 0/2")
    return int(which), int(num)


def _title(path: Path, model: str, format: str, asking: Asking) -> str:
    parts: list[Any] = [path.name, model, format, f"hears {asking.hears}"]
    if asking.recording != "own":
        parts.append(f"prompt holds {asking.recording}")
    if asking.shard[1] > 1:
        parts.append(f"shard {asking.shard[0]}/{asking.shard[1]}")
    return " · ".join(map(str, parts))
