"""`relisten eval`: answer a benchmark, or a file of questions whose answers are known, and score them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from relisten import records, run
from relisten.commands.options import GENERATION, MODEL, ModelOptions, keeping, kept_answers
from relisten.engine.generation import GenerationConfig
from relisten.evals import controls as control
from relisten.evals.benchmarks import BENCHMARKS, Benchmark, check_ids, export, missing
from relisten.evals.figures import Failed, Record, summary, write_summary
from relisten.evals.hearing import Hears, PromptAudio
from relisten.evals.runner import Asking, check, evaluate
from relisten.evals.runs import read_run
from relisten.reports.accuracy import shown
from relisten.reports.controls import tables as control_tables
from relisten.reports.table import Table, markdown_table, one_line, terminal_table
from relisten.reports.text import console
from relisten.types import Example

if TYPE_CHECKING:
    from relisten.engine.answering import EngineFactory
    from relisten.models.base import AudioLM

ABLATIONS = Parameter(group=Group("Ablations", sort_key=1))
ASKING = Parameter(group=Group("Asking", sort_key=1))


def eval_file(
    questions: Path | None = None,
    out: Path | None = None,
    /,
    *,
    show_list: Annotated[bool, Parameter(name="--list", negative=())] = False,
    data: Path | None = None,
    failed: Failed = "wrong",
    allow_missing: bool = False,
    hears: Annotated[Hears, ABLATIONS] = "own",
    recording: Annotated[PromptAudio, ABLATIONS] = "own",
    controls: Annotated[bool, ABLATIONS] = False,
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
        The name of a benchmark (then give --data; --list names them), or a JSONL or JSON file in MMAR's form, with
        answers.
    out
        Folder for answers.jsonl (one record for each answer), summary.json and the settings. For a benchmark, also its
        predictions in the form that the official script reads.
    show_list
        List the benchmarks with the number of their questions, their metric, their licence, and where to get them.
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
    controls
        Ask all questions again with silence, with another question's recording, and with the text alone, into folders
        under OUT/controls, and write a table of the four runs (controls.md and controls.json).
    samples
        Answers to each question, for avg@k and the majority vote. More than 1 needs a --temperature, or --shuffle.
    shuffle
        A random seed: show the choices in another order, a different one for each sample.
    shard
        Which part of the questions to ask, such as 0/2 and 1/2. Score the folders together with `relisten score`.
    max_rows
        Answers generated side by side. With 1, the seconds of an answer are its latency.
    """
    if show_list:
        return _list()
    if questions is None or out is None:
        raise ValueError("name the questions and a folder for the answers; `relisten eval --list` lists the benchmarks")
    asking = Asking(hears, recording, samples, shuffle, _shard(shard))
    if samples > 1 and generation.temperature == 0 and shuffle is None:
        raise ValueError(f"--samples {samples}: greedy answers are all the same; set a --temperature, or use --shuffle")
    benchmark = BENCHMARKS.get(str(questions))
    path, examples = _questions(questions, benchmark, data)
    if benchmark is not None and not allow_missing:
        _check_recordings(examples)
    plan = {out: asking} | (_controls(out, asking, generation, benchmark) if controls else {})
    loaded, make = options.open()
    for each in plan.values():
        check(examples, generation, each, max_rows)
    hashes = sums([path, *options.weights()])
    task = _Task(benchmark, path, examples, data, generation, options, max_rows, failed, hashes, loaded, make)
    errors = sum(_run(task, each, folder, brief=folder != out) for folder, each in plan.items())
    if controls:
        console().print(
            *map(terminal_table, _compared(out, failed, f"{path.name} · {options.name} · {generation.format}"))
        )
    return int(errors > 0)


@dataclass(frozen=True)
class _Task:
    """The settings that a run and its controls share."""

    benchmark: Benchmark | None
    path: Path
    """The question file."""
    examples: Sequence[Example]
    data: Path | None
    generation: GenerationConfig
    options: ModelOptions
    max_rows: int
    failed: Failed
    hashes: dict[str, str]
    """SHA-256 of the question file and of the weights."""
    loaded: AudioLM
    make: EngineFactory

    def settings(self, asking: Asking) -> dict[str, Any]:
        """The settings in config.json, without the device and the servers, so that a run may continue on others."""
        shard = f"{asking.shard[0]}/{asking.shard[1]}"
        asked = {"questions": self.path, **asdict(self.options), **asdict(asking), "shard": shard}
        settings = asked | asdict(self.generation)
        del settings["device"], settings["engine"], settings["operations"]
        settings |= self.options.told()
        if offered := [*self.loaded.prompts.operations]:
            settings["operations"] = offered
        if self.benchmark is None and self.data is not None:
            settings["data"] = self.data  # where a report finds the recordings again
        return settings | self.hashes

    def title(self, asking: Asking) -> str:
        """The title of a run's table."""
        parts = [self.path.name, self.options.name, self.generation.format, f"hears {asking.hears}"]
        if asking.recording != "own":
            parts.append(f"prompt holds {asking.recording}")
        if asking.shard[1] > 1:
            parts.append(f"shard {asking.shard[0]}/{asking.shard[1]}")
        return " · ".join(parts)


def _run(task: _Task, asking: Asking, out: Path, brief: bool) -> int:
    """Ask, score and print one run. Returns how many questions could not be asked.

    brief: print one line only, because another table will hold its figures.
    """
    path, generation, benchmark = task.path, task.generation, task.benchmark
    num = asking.samples * len(task.examples[asking.shard[0] :: asking.shard[1]])
    _start(out, task.settings(asking) | {"num_answers": num})
    if benchmark is not None:
        run.note(out, {"benchmark": benchmark.name})
    with records.sole_writer(out / "answers.jsonl"), keeping(lambda: kept_answers(out / "answers.jsonl", num)):
        answers = evaluate(
            task.loaded, task.examples, out / "answers.jsonl", generation, asking, task.max_rows,
            task.options.max_seconds, task.make, told=lambda figures: run.note(out, {"engine": figures}),
        )  # fmt: skip
    result = summary(answers, generation.format, task.failed)
    left = {} if benchmark is None else benchmark.left_out(path.parent)
    found = {"questions": str(path), "max_rows": task.max_rows, "not_asked": left, **task.hashes}
    write_summary(out / "summary.json", result | found)
    notes = [f"{path.name}: sha256 {task.hashes[f'sha256 of {path.name}']}"]
    if left:
        notes.insert(0, f"not asked, and in no figure: {', '.join(f'{n:,} {reason}' for reason, n in left.items())}")
    if benchmark is not None and benchmark.keys and asking.shard[1] == 1:
        notes.append(_handed_in(benchmark, path, answers, out, task.failed))
    if benchmark is not None and benchmark.judge is not None and benchmark.judge.alone:
        notes.append(f"these answers are scored by a language model: relisten judge {out} --judge MODEL")
    if brief:
        notes = [f"{task.title(asking)}: {out / 'summary.json'}"]
    else:
        console().print(shown(result, task.title(asking), generation.format))
    console().print("\n".join(notes), soft_wrap=True)
    return int(result["rows"]["all"]["errors"])


def _controls(
    out: Path, asking: Asking, generation: GenerationConfig, benchmark: Benchmark | None
) -> dict[Path, Asking]:
    """The folder of each control, and how it asks. Raises ValueError if this run can have no controls."""
    if (asking.hears, asking.recording) != ("own", "own"):
        raise ValueError("--controls: is compared with a run that hears the recording; leave --hears, --recording out")
    if asking.shard[1] > 1:
        raise ValueError("--controls: asks all questions; leave --shard out, or make each control a run of its own")
    if benchmark is not None and (benchmark.withheld or (benchmark.judge is not None and benchmark.judge.alone)):
        raise ValueError(f"--controls: {benchmark.name} has no accuracy that could be compared; leave --controls out")
    return {out / "controls" / name: control.asked(name, asking, generation.format) for name in control.CONTROLS}


def _compared(out: Path, failed: Failed, title: str) -> list[Table]:
    """The tables of a run and its controls, which are written beside the run."""
    runs = {name: read_run(out / "controls" / name) for name in control.CONTROLS}
    found = control.controlled(read_run(out), runs, failed)
    made = control_tables(found, title)
    write_summary(out / "controls.json", control.as_json(found))
    records.write_atomic(out / "controls.md", f"# {one_line(title)}\n\n" + "\n".join(map(markdown_table, made)))
    return made


def _list() -> int:
    """Print a few lines about each benchmark. It is not a table, so that addresses stay on one line."""
    for benchmark in BENCHMARKS.values():
        if (about := benchmark.about) is not None:
            lines = [
                f"{benchmark.name}: {about.title}, {about.num} questions, {about.licence}",
                f"    counted by {about.metric}",
                f"    get it from {about.where}",
                f"    --data must hold {about.layout}",
            ]
            console().print("\n".join(lines), soft_wrap=True)
    return 0


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
