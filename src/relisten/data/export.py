"""The sets as files: sft.jsonl and rl.jsonl as `relisten train` reads them, rejected.jsonl, and other stacks' forms.

Every file appears whole or not at all; a set of millions is written line by line.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from relisten import records, tags
from relisten.data.route import Routed
from relisten.files import replacing
from relisten.types import Example

SETS = ("sft", "rl")
ROWS = 10_000
"""In memory at a time, and in a Parquet file's row group."""
INSTRUCTION = (
    "{0} Choose the answer from {1}. Think step by step. Refer to the segments of the audio that matter as"
    " <seg>start, end</seg> in seconds. Write <think>...</think><answer>...</answer>."
)


def write_sets(out: Path, routed: Iterable[Routed], left_out: Path | None = None) -> None:
    """sft.jsonl, rl.jsonl and rejected.jsonl in a folder."""
    with ExitStack() as stack:
        files = {name: stack.enter_context(_appearing(out / f"{name}.jsonl")) for name in (*SETS, "rejected")}
        if left_out is not None and left_out.exists():
            files["rejected"].writelines(_line(line) for line in records.read(left_out, torn=True))
        for one in routed:
            if one.example is not None:
                files[one.set].write(_line(records.record_from_example(one.example, out)))
            else:
                files["rejected"].write(_line({"id": one.id, "stage": one.stage, "reason": one.reason}))


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


@contextmanager
def _appearing(path: Path) -> Iterator[IO[str]]:
    """A text file that is open for writing, and takes its name when all is written."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace")
        yield text
        text.flush()
        text.detach()  # the file stays open until it has its name


def read_set(path: Path) -> Iterator[Example]:
    """Examples of a set, one by one."""
    for record in records.read(path):
        yield records.example_from_record(record, path.parent)


def to_parquet(out: Path) -> list[Path]:
    """sft.parquet and rl.parquet: the columns of the JSONL, for `datasets.load_dataset("parquet", ...)`."""
    written = [_parquet(out / f"{n}.parquet", map(_columns, read_set(out / f"{n}.jsonl")), COLUMNS) for n in SETS]
    return [path for path in written if path is not None]


COLUMNS = {
    "id": "text", "audio_path": "text", "question": "text", "choices": "texts", "answer": "text", "cot": "text",
    "segments": "pairs", "duration": "number", "kind": "text", "source": "text", "prompt": "text",
}  # fmt: skip
"""Of the Parquet files of both sets, which may be loaded as one."""


def _columns(example: Example) -> dict[str, Any]:
    labels = {key: str(example.labels.get(key, "")) for key in ("kind", "source", "prompt")}
    return {
        "id": example.id, "audio_path": str(example.audio), "question": example.question,
        "choices": list(example.choices), "answer": example.answer, "cot": example.cot or "",
        "segments": [[float(s) for s in pair] for pair in example.labels.get("segments", [])],
        "duration": float(example.labels.get("duration", 0.0)), **labels,
    }  # fmt: skip


def to_swift(out: Path) -> list[Path]:
    """swift_sft.jsonl and swift_rl.jsonl: ms-swift's messages with <audio>, and audios; `solution` for RL."""
    written = []
    for name in SETS:
        path = out / f"swift_{name}.jsonl"
        with _appearing(path) as file:
            file.writelines(_line(_swift(example)) for example in read_set(out / f"{name}.jsonl"))
        if path.stat().st_size:
            written.append(path)
        else:
            path.unlink()
    return written


def _swift(example: Example) -> dict[str, Any]:
    messages = [{"role": "user", "content": "<audio>" + instruction(example)}]
    audios = [str(_absolute(example))]
    if example.cot is None:
        return {"messages": messages, "audios": audios, "solution": example.answer}
    said = tags.write(example.cot, str(example.answer))
    return {"messages": [*messages, {"role": "assistant", "content": said}], "audios": audios}


def to_verl(out: Path) -> list[Path]:
    """verl_rl.parquet: prompt, audios, reward_model and data_source, as verl and Echo's code read them."""
    rows = (_verl(n, e) for n, e in enumerate(read_set(out / "rl.jsonl")))
    path = _parquet(out / "verl_rl.parquet", rows, {})
    return [] if path is None else [path]


def _verl(number: int, example: Example) -> dict[str, Any]:
    return {
        "data_source": "AVQA",  # the one name for which Echo's release has a reward
        "prompt": [{"role": "user", "content": "<audio>" + instruction(example)}],
        "audios": [str(_absolute(example))],
        "ability": "audio",
        "reward_model": {"style": "rule", "ground_truth": example.answer},
        "extra_info": {"index": number, "id": example.id},
    }


def instruction(example: Example) -> str:
    """Question and choices in one text."""
    return INSTRUCTION.format(example.question, list(example.choices))


def _absolute(example: Example) -> Path:
    assert isinstance(example.audio, Path)
    return example.audio.absolute()


def _parquet(path: Path, rows: Iterable[dict[str, Any]], columns: Mapping[str, str]) -> Path | None:
    """Write rows; None, and no file, where there are none: `datasets` cannot load an empty one.

    columns: types by name, for what the first rows may leave open (an empty list); {}: as the rows are.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("Parquet files need a package; pip install 'relisten[data]'") from None
    types = {"text": pyarrow.string(), "number": pyarrow.float64(), "texts": pyarrow.list_(pyarrow.string()),
             "pairs": pyarrow.list_(pyarrow.list_(pyarrow.float64()))}  # fmt: skip
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()]) if columns else None
    batches = _batches(rows)
    first = next(batches, None)
    if first is None:
        path.unlink(missing_ok=True)
        return None
    table = pyarrow.Table.from_pylist(first, schema=schema)
    with replacing(path) as file, pyarrow.parquet.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
        for batch in batches:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=table.schema))
    return path


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


EXPORTS: dict[str, Callable[[Path], list[Path]]] = {"parquet": to_parquet, "swift": to_swift, "verl": to_verl}
"""Each writes its files into a folder, none for a set that is empty, and gives those that it wrote."""
