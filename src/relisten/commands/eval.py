"""`relisten eval`: answer a benchmark, or a file of questions whose answers are known, and score them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from relisten import records, run
from relisten.commands.options import LIMITS, MACHINE, MAX_SECONDS, SAMPLING, load
from relisten.evals.benchmarks import BENCHMARKS, Benchmark, check_ids, export, missing
from relisten.evals.figures import Failed, Record, summary, write_summary
from relisten.evals.hearing import Hears, Recording
from relisten.evals.runner import Asking, check, evaluate
from relisten.models import find
from relisten.reports.accuracy import shown
from relisten.reports.text import console
from relisten.types import Example, Format

ABLATIONS = Parameter(group=Group("Ablations", sort_key=1))
ASKING = Parameter(group=Group("Asking", sort_key=1))


def eval_file(
    questions: Path,
    out: Path,
    /,
    *,
    data: Path | None = None,
    model: str = "nano",
    format: Format = "interleaved",
    failed: Failed = "wrong",
    allow_missing: bool = False,
    hears: Annotated[Hears, ABLATIONS] = "own",
    recording: Annotated[Recording, ABLATIONS] = "own",
    samples: Annotated[int, ASKING] = 1,
    shuffle: Annotated[int | None, ASKING] = None,
    shard: Annotated[str, ASKING] = "0/1",
    max_new_tokens: Annotated[int, LIMITS] = 2048,
    max_listens: Annotated[int, LIMITS] = 8,
    min_segment: Annotated[float, LIMITS] = 0.2,
    max_seconds: Annotated[float, LIMITS] = MAX_SECONDS,
    temperature: Annotated[float, SAMPLING] = 0.0,
    top_p: Annotated[float, SAMPLING] = 1.0,
    top_k: Annotated[int, SAMPLING] = 0,
    seed: Annotated[int, SAMPLING] = 0,
    max_rows: Annotated[int, MACHINE] = 32,
    device: Annotated[str, MACHINE] = "auto",
    dtype: Annotated[str, MACHINE] = "auto",
) -> int:
    """Answer every question of a benchmark or a file and score the answers; the same command goes on after a stop.

    Exits with 1 when some could not be asked (a recording is unreadable or too long); run it again to try those again.

    Parameters
    ----------
    questions
        mmar, mmau-mini, mmau or mmau-pro (then with --data), or a JSONL or JSON in MMAR's form, with answers.
    out
        Folder for answers.jsonl (one record an answer), summary.json and the settings; for a benchmark also its
        predictions as the official script reads them.
    data
        Folder that holds a benchmark's question file and its recordings as published; for a file of your own, the
        folder its audio_path is relative to, if not the file's.
    model
        nano (built in), a folder, or a hub name.
    format
        conditioned: reasons in text alone. grounded: names segments. interleaved: names segments and hears them again.
    failed
        What counts where there is no answer. wrong: wrong. first-choice: choices[0], as in the paper's release.
    allow_missing
        Go on where a benchmark's recordings are missing; their questions count as errors.
    hears
        What a segment gives: own (the recording's), other (another question's recording, same times), silence, off
        (nothing is inserted, the tag stays text), random (a stretch as long, anywhere), neighbour (the stretch right
        after), oracle (the gold segment nearest to it).
    recording
        What the prompt holds: own, other (another question's), silence, none (only what is heard again).
    samples
        Answers to each question, for avg@k and the majority vote; above 1 with a temperature, or --shuffle.
    shuffle
        Seed: show the choices in another order, a different one for each sample.
    shard
        Which part of the questions, as 0/2 and 1/2; score the folders together with `relisten score`.
    max_new_tokens
        Tokens the model may write for the whole answer; at the limit the answer is forced.
    max_listens
        Segments it may hear again; at one more the answer is forced.
    min_segment
        Seconds; a shorter segment is refused.
    max_seconds
        Longest recording taken.
    temperature
        0 is greedy.
    top_p
        Sample from the likeliest tokens that together have this probability.
    top_k
        Sample from this many likeliest tokens; 0 is off.
    seed
        Of the sampling.
    max_rows
        Answers made side by side; with 1, seconds per answer are the latency.
    device
        auto (CUDA, then MPS, then CPU) or a torch device such as cuda:1.
    dtype
        auto (the checkpoint's own), float32, bfloat16 or float16.
    """
    asking = Asking(hears, recording, samples, shuffle, _shard(shard))
    if samples > 1 and temperature == 0 and shuffle is None:
        raise ValueError(f"--samples {samples}: greedy answers are all the same; give a --temperature, or --shuffle")
    benchmark = BENCHMARKS.get(str(questions))
    path, examples = _questions(questions, benchmark, data)
    if benchmark is not None and not allow_missing:
        _check_recordings(examples)
    options = {
        "format": format, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed,
        "max_new_tokens": max_new_tokens, "max_listens": max_listens, "min_segment": min_segment,
    }  # fmt: skip
    config, loaded = load(model, options, device=device, dtype=dtype)
    check(examples, config, asking, max_rows)
    settings = {"questions": path, "model": model, "dtype": dtype, "max_seconds": max_seconds}
    settings |= asdict(asking) | {"shard": shard} | asdict(config)
    if benchmark is None and data is not None:
        settings["data"] = data  # where a report finds the recordings again
    hashes = sums([path, *sorted(find(model).glob("*.safetensors"))])
    _start(out, settings | hashes | {"num_answers": samples * len(examples[asking.shard[0] :: asking.shard[1]])})
    with records.sole_writer(out / "answers.jsonl"):
        answers = evaluate(loaded, examples, out / "answers.jsonl", config, asking, max_rows, max_seconds)
    result = summary(answers, format, failed)
    left = {} if benchmark is None else benchmark.left_out(path.parent)
    found = {"questions": str(path), "max_rows": max_rows, "not_asked": left, **hashes}
    write_summary(out / "summary.json", result | found)
    console().print(shown(result, _title(path, model, config.format, asking), format))
    notes = [f"{path.name}: sha256 {hashes[f'sha256 of {path.name}']}"]
    if left:
        notes.insert(0, f"not asked, and in no figure: {', '.join(f'{n:,} {reason}' for reason, n in left.items())}")
    if benchmark is not None and shard == "0/1":
        notes.append(_handed_in(benchmark, path, answers, out, failed))
    console().print("\n".join(notes), soft_wrap=True)
    return int(result["rows"]["all"]["errors"] > 0)


def _start(out: Path, settings: dict[str, Any]) -> None:
    """Begin the run or go on with it. Raises ValueError where answers lie there of which nobody knows the settings."""
    if (out / "answers.jsonl").exists() and not (out / "config.json").exists():
        raise ValueError(f"{out}: holds answers.jsonl without the config.json of a run; choose a new folder")
    run.start(out, settings)


def _handed_in(benchmark: Benchmark, path: Path, answers: Sequence[Record], out: Path, failed: Failed) -> str:
    """Write the predictions as the benchmark's own script reads them; says where they are."""
    to = out / f"predictions.{benchmark.form}"
    without = export(benchmark, path, answers, to, failed)
    sent = "send it in to be scored" if benchmark.withheld else "for the official script"
    return f"{to}: {sent}; {without} without an answer"


def sums(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of files, for the settings: what was answered before stands only while these are the same."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[f"sha256 of {path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _questions(name: Path, benchmark: Benchmark | None, data: Path | None) -> tuple[Path, Sequence[Example]]:
    """The question file and its questions, each with a known answer unless the benchmark withholds it."""
    if benchmark is None:
        path, examples = name, records.read_examples(name, data)
    elif data is None:
        raise ValueError(f"{name}: where does it lie? Give --data, the folder that holds its question file and audio")
    else:
        path, examples = benchmark.file(data), benchmark.examples(data)
        check_ids(benchmark, path, examples)
    without = [e.id for e in examples if e.answer is None]
    if without and not (benchmark is not None and benchmark.withheld):
        raise ValueError(f"{path}: {len(without)} questions have no answer, {without[0]} for one; nothing to score")
    return path, examples


def _check_recordings(examples: Sequence[Example]) -> None:
    if absent := missing(examples):
        raise ValueError(
            f"{len(absent)} recordings are missing, {absent[0]} for one; get them, or go on with --allow-missing"
        )


def _shard(text: str) -> tuple[int, int]:
    which, slash, num = text.partition("/")
    if not (slash and which.isascii() and which.isdigit() and num.isascii() and num.isdigit()):
        raise ValueError(f"--shard {text}: write which, a slash, of how many: 0/2")
    return int(which), int(num)


def _title(path: Path, model: str, format: str, asking: Asking) -> str:
    parts: list[Any] = [path.name, model, format, f"hears {asking.hears}"]
    if asking.recording != "own":
        parts.append(f"prompt holds {asking.recording}")
    if asking.shard[1] > 1:
        parts.append(f"shard {asking.shard[0]}/{asking.shard[1]}")
    return " · ".join(map(str, parts))
