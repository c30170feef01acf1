"""The benchmarks known by name: where their questions lie, and which form of predictions their own scripts read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from relisten import records, tags
from relisten.evals import judges
from relisten.evals.benchmarks import adqa, air_bench, bigbench_audio, mmar, mmau, mmau_pro, mmsu
from relisten.evals.benchmarks.layout import About
from relisten.evals.figures import Failed, Record, majority, prediction
from relisten.types import Example


@dataclass(frozen=True)
class Benchmark:
    """A set of questions in a layout of its own."""

    name: str
    file: Callable[[Path], Path]
    """The question file in a folder; ValueError, with where to get it, where there is none."""
    examples: Callable[[Path], list[Example]]
    """The questions in a folder."""
    keys: tuple[str, ...]
    """The names under which the official script, and its manual, expect a prediction; () if there is no script."""
    form: str
    """The form of the predictions file: jsonl, json (a list) or parquet."""
    withheld: bool = False
    """Whether the right answers are not published, so that predictions are sent in for scoring."""
    left_out: Callable[[Path], dict[str, int]] = lambda root: {}
    """How many of the file's questions are not asked, by the reason."""
    id: str = "id"
    """The name under which the file has the ids of its questions."""
    about: About | None = None
    """What it is, for `relisten eval --list`."""
    columns: tuple[str, ...] = ()
    """The groups by which its paper gives accuracy: one name, or two for each pair of their groups."""
    row: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    """An entry of the question file in MMAR's form, for predictions that are scored beside it."""
    marks: tuple[str, ...] = ()
    """Names that each entry has, for a question file whose own name is no proof."""
    judge: judges.Judge | None = None
    """How a language model scores its answers, for `relisten judge`."""
    written: Callable[[Mapping[str, Any], str], str] = lambda row, said: said
    """Given an entry and the choice, what the official script reads as the prediction."""


_MMAU = "model_output", "model_prediction"
BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "mmar", mmar.file, mmar.examples, ("answer_prediction",), "jsonl", about=mmar.ABOUT,
            columns=("modality",), judge=judges.RUBRICS,
        ),
        Benchmark(
            "mmau-mini", mmau.mini_file, mmau.mini_examples, _MMAU, "json", about=mmau.MINI, columns=("modality",)
        ),
        Benchmark("mmau", mmau.file, mmau.examples, _MMAU, "json", withheld=True, about=mmau.TEST),
        Benchmark(
            "mmau-pro", mmau_pro.file, mmau_pro.examples, ("model_output",), "parquet", left_out=mmau_pro.left_out,
            about=mmau_pro.ABOUT, columns=("category",),
        ),
        Benchmark(
            "mmau-pro-open", mmau_pro.file, mmau_pro.open_examples, ("model_output",), "parquet",
            left_out=partial(mmau_pro.left_out, part="open answers"), about=mmau_pro.OPEN,
            judge=judges.OPEN,
        ),
        Benchmark(
            "mmau-pro-instructions", mmau_pro.file, mmau_pro.instruction_examples, ("model_output",), "parquet",
            left_out=partial(mmau_pro.left_out, part="instructions"), about=mmau_pro.INSTRUCTIONS,
        ),
        Benchmark(
            "mmsu", mmsu.file, mmsu.examples, ("response",), "jsonl", about=mmsu.ABOUT, row=mmsu.in_mmars_form,
            marks=("choice_a", "answer_gt"), written=mmsu.as_letter, columns=("category", "sub_category"),
        ),
        Benchmark(
            "air-bench", air_bench.file, air_bench.examples, ("response",), "jsonl", id="uniq_id",
            about=air_bench.ABOUT, row=air_bench.in_mmars_form, marks=("choice_a", "uniq_id"), written=mmsu.as_letter,
            columns=("category",),
        ),
        Benchmark(
            "bigbench-audio", bigbench_audio.file, bigbench_audio.examples, (), "jsonl",
            about=bigbench_audio.ABOUT, row=bigbench_audio.in_mmars_form, marks=("official_answer",),
            columns=("category",), judge=judges.VERDICT,
        ),
        Benchmark(
            "adqa", adqa.file, adqa.examples, (), "jsonl", about=adqa.ABOUT,
            row=adqa.in_mmars_form, marks=("question_text", "multi_choice"),
        ),
    )
}  # fmt: skip


def belonging(questions: Path) -> Benchmark | None:
    """The first benchmark whose question file this is; None where it is no benchmark's."""
    for benchmark in BENCHMARKS.values():
        with suppress(ValueError):
            if benchmark.file(questions.parent) == questions:
                if not benchmark.marks:
                    return benchmark
                _, first = next(records.entries(questions), ("", {}))
                if set(benchmark.marks) <= first.keys():
                    return benchmark
    return None


def entries(questions: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, entry in MMAR's form) of a file of questions, be it a benchmark's or not."""
    benchmark = belonging(questions)
    for place, row in records.entries(questions):
        yield place, row if benchmark is None else benchmark.row(row)


def missing(examples: Sequence[Example]) -> list[Path]:
    """The recordings that do not exist, each once."""
    paths = dict.fromkeys(e.audio for e in examples if isinstance(e.audio, Path))
    return [path for path in paths if not path.is_file()]


def check_ids(benchmark: Benchmark, questions: Path, examples: Sequence[Example]) -> None:
    """Raises ValueError if predictions could not be written into the question file, before anything is asked."""
    names = {name for name, _ in _named(benchmark, questions)}
    if strange := [example.id for example in examples if example.id not in names]:
        raise ValueError(
            f"{questions}: has no entry whose {benchmark.id!r} is {strange[0]!r} ({len(strange)} such questions); name"
            " the key of its ids as the `id` of the Benchmark"
        )


def _named(benchmark: Benchmark, questions: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, entry) of each entry of the question file."""
    for place, row in records.entries(questions):
        if (name := str(row.get(benchmark.id, ""))) == "":
            raise ValueError(f"{place}: has no {benchmark.id!r}, so its prediction cannot be found; correct the file")
        yield name, row


def export(
    benchmark: Benchmark,
    questions: Path,
    answers: Sequence[Record],
    out: Path,
    failed: Failed = "wrong",
    follow: bool = False,
) -> int:
    """Write predictions as the benchmark's own script reads them; how many have none that could be read.

    Each of the file's entries is kept whole, with the prediction added. One without an answer gets an empty text, which
    MMAR's and MMAU's scripts count as wrong: they leave entries without the key out of the denominator. Questions that
    this benchmark does not ask are left out. Of several samples the majority's answer is written. follow: for a path
    that the user typed, as in `files.replacing`.
    """
    asked = {e.id for e in benchmark.examples(questions.parent)} if benchmark.form == "parquet" else None
    groups: dict[str, list[Record]] = {}
    for record in answers:
        groups.setdefault(str(record["id"]), []).append(record)
    rows, without = [], 0
    for name, row in _named(benchmark, questions):
        if asked is not None and name not in asked:
            continue
        given = majority(groups[name]) if name in groups else None
        said = None if given is None else prediction(given, failed)
        without += said is None
        sent = benchmark.written(row, said or "")
        rows.append(dict(row) | dict.fromkeys(benchmark.keys, sent) | _thought(given))
    if benchmark.form == "parquet":
        said_by_id = {str(row[benchmark.id]): str(row[benchmark.keys[0]]) for row in rows}
        _write_table(questions, said_by_id, benchmark, out, follow)
        return without
    if benchmark.form == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
    records.write_atomic(out, text, follow)
    return without


def _write_table(questions: Path, said: Mapping[str, str], benchmark: Benchmark, out: Path, follow: bool) -> None:
    """The rows of a Parquet file that have a prediction, every column as it was, and the predictions."""
    import pyarrow
    import pyarrow.parquet

    whole = records.table(questions)
    names = [str(name) for name in whole.column(benchmark.id).to_pylist()]
    kept = whole.take([place for place, name in enumerate(names) if name in said])
    predictions = pyarrow.array([said[name] for name in names if name in said], pyarrow.string())
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(kept.append_column(benchmark.keys[0], predictions), buffer)
    records.write_atomic(out, buffer.getvalue().to_pybytes(), follow)


def _thought(record: Mapping[str, Any] | None) -> dict[str, str]:
    """What MMAR's script on reasoning reads; nothing where the reasoning is not known."""
    text = None if record is None else record.get("response")
    return {} if text is None else {"thinking_prediction": tags.parse(text).think or ""}
