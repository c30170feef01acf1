"""The sets as files: sft.jsonl and rl.jsonl as `relisten train` reads them, rejected.jsonl, and other stacks' forms.

Every file appears whole or not at all; a set of millions is written line by line. Recordings are named relative to the
folder of the set, in every form.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from relisten import records, tags
from relisten.data.route import Routed
from relisten.extras import install_hint
from relisten.files import make_folder, replacing
from relisten.types import Example, Format

if TYPE_CHECKING:
    from relisten.models.base import Prompts

SETS = ("sft", "rl")
ROWS = 10_000
"""Rows that are in memory at the same time, and in one row group of a Parquet file."""
INSTRUCTION = (
    "{0} Choose the answer from {1}. Think step by step. Refer to the segments of the audio that matter as"
    " <seg>start, end</seg> in seconds. Write <think>...</think><answer>...</answer>."
)


def write_sets(out: Path, routed: Iterable[Routed], left_out: Path | None = None, copy_audio: bool = False) -> None:
    """sft.jsonl, rl.jsonl and rejected.jsonl in a folder, which can be moved together with the recordings.

    copy_audio: copy the recordings into the folder, so that it can be moved alone.
    """
    copied = Copies(out) if copy_audio else None
    with ExitStack() as stack:
        files = {name: stack.enter_context(_appearing(out / f"{name}.jsonl")) for name in (*SETS, "rejected")}
        if left_out is not None and left_out.exists():
            files["rejected"].writelines(_line(line) for line in records.read(left_out, torn=True))
        for one in routed:
            if one.example is not None:
                files[one.set].write(_line(row(one.example, out, copied)))
            else:
                files["rejected"].write(_line({"id": one.id, "stage": one.stage, "reason": one.reason}))


def row(example: Example, out: Path, copied: Copies | None = None) -> dict[str, Any]:
    """An example as a line of a set in `out`. Lines of both sets have the same keys, each with one type.

    So `datasets` loads both sets as one DatasetDict. Segments are not repeated: they are in the chain of thought.
    """
    if copied is not None:
        example = replace(example, audio=copied(_path(example)))
    made = records.record_from_example(example, out) | {"audio_path": relative(_path(example), out)}
    given = [made.pop("events", None) or [], made.pop("cot", None), made.pop("cot_fault", None)]
    made.pop("segments", None)
    events = [event if isinstance(event, dict) else dict(zip(_EVENT, event, strict=True)) for event in given[0]]
    return made | {"events": events, "cot": given[1] or "", "cot_fault": given[2] or ""}


_EVENT = ("label", "start", "end")


def relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder, so that both can be moved together; absolute if they are on different drives."""
    # abspath leaves links alone: a folder of links to recordings elsewhere stays one folder.
    audio, root = Path(os.path.abspath(path)), Path(os.path.abspath(folder))  # noqa: PTH100
    if audio.is_relative_to(root):
        return audio.relative_to(root).as_posix()
    try:
        return (_way(audio.parent, root) / audio.name).as_posix()
    except ValueError:
        return audio.as_posix()


@lru_cache(maxsize=4096)
def _way(to: Path, root: Path) -> Path:
    """The way from one folder to another. `..` in a folder that is a link leads elsewhere than its name says."""
    way = os.path.relpath(to, root)
    if os.path.realpath(root / way) == os.path.realpath(to):
        return Path(way)
    return Path(os.path.relpath(os.path.realpath(to), os.path.realpath(root)))


class Copies:
    """Copies recordings into `audio` in a folder, each once; a copy that is there already is kept."""

    def __init__(self, out: Path) -> None:
        self._folder = make_folder(out / "audio")
        self._copies: dict[Path, Path] = {}
        self._taken: set[str] = set()

    def __call__(self, path: Path) -> Path:
        """The copy of a recording. Raises ValueError if it cannot be made."""
        if path not in self._copies:
            self._copies[path] = self._copy(path)
        return self._copies[path]

    def _copy(self, path: Path) -> Path:
        names = (path.stem + (f"-{number}" if number > 1 else "") + path.suffix for number in count(1))
        name = next(name for name in names if name.casefold() not in self._taken)
        self._taken.add(name.casefold())
        target = self._folder / name
        try:
            old, new = target.stat() if target.is_file() else None, path.stat()
            if old is None or (old.st_size, old.st_mtime_ns) != (new.st_size, new.st_mtime_ns):
                with path.open("rb") as source, replacing(target) as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                os.utime(target, ns=(new.st_atime_ns, new.st_mtime_ns))
        except OSError as error:
            raise ValueError(f"{path}: cannot be copied to {target} ({error.strerror}); check path and disk") from None
        return target


def _path(example: Example) -> Path:
    assert isinstance(example.audio, Path)
    return example.audio


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def _appearing(path: Path) -> Iterator[IO[str]]:
    """Open a text file for writing; it gets its name when everything is written."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace")
        yield text
        text.flush()
        text.detach()  # the file stays open until it has its name


def read_set(path: Path) -> Iterator[Example]:
    """Examples of a set, one by one. Raises ValueError that names the line."""
    for place, record in records.entries(path):
        try:
            yield records.example_from_record(record, path.parent)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def to_parquet(out: Path) -> list[Path]:
    """sft.parquet and rl.parquet: the columns of the JSONL, for `datasets.load_dataset("parquet", ...)`."""
    written = []
    for name in SETS:
        rows = (_columns(example, out) for example in read_set(out / f"{name}.jsonl"))
        written.append(_parquet(out / f"{name}.parquet", rows, COLUMNS))
    return [path for path in written if path is not None]


COLUMNS = {
    "id": "text", "audio_path": "text", "question": "text", "choices": "texts", "answer": "text", "cot": "text",
    "segments": "pairs", "duration": "number", "kind": "text", "source": "text", "prompt": "text",
}  # fmt: skip
"""Columns of the Parquet files, the same for both sets, so that they can be loaded as one."""


def _columns(example: Example, out: Path) -> dict[str, Any]:
    labels = {key: str(example.labels.get(key, "")) for key in ("kind", "source", "prompt")}
    return {
        "id": example.id, "audio_path": relative(_path(example), out), "question": example.question,
        "choices": list(example.choices), "answer": example.answer, "cot": example.cot or "",
        "segments": [[segment.start, segment.end] for segment in records.gold_segments(example)],
        "duration": float(example.labels.get("duration", 0.0)), **labels,
    }  # fmt: skip


def to_swift(out: Path) -> list[Path]:
    """swift_sft.jsonl and swift_rl.jsonl in ms-swift's form, with the paper's prompt: see `swift_row`."""
    from relisten.models.base import Prompts

    written = []
    for name in SETS:
        path = out / f"swift_{name}.jsonl"
        with _appearing(path) as file:
            examples = read_set(out / f"{name}.jsonl")
            file.writelines(_line(swift_row(one, relative(_path(one), out), Prompts())) for one in examples)
        if path.stat().st_size:
            written.append(path)
        else:
            path.unlink()
    return written


SWIFT_TAGS = ("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>", "<start-image>")
"""Texts that ms-swift replaces wherever they stand in a message."""


def swift_row(example: Example, audio: str, prompts: Prompts, format: Format = "interleaved") -> dict[str, Any]:
    """An example as ms-swift reads it: `messages` with <audio>, `audios`, `solution`, and what rewards need.

    The messages hold the prompt that our own engine and training use, and the response if there is a chain of thought.
    Raises ValueError for an example that ms-swift would misread.
    """
    if example.answer is None:
        raise ValueError(f"{example.id}: it has no answer to learn from; give it one")
    asked = prompts.text(example.question, example.choices, format)
    said = [] if example.cot is None else [tags.write(example.cot, example.answer)]
    if found := [tag for tag in SWIFT_TAGS if tag in "".join((asked, *said))]:
        raise ValueError(f"{example.id}: it says {found[0]}, which ms-swift would replace; write it in another way")
    # Without a system message, ms-swift would add its own; an empty one means none.
    messages = [{"role": "system", "content": prompts.system or ""}, {"role": "user", "content": "<audio>" + asked}]
    segments = [[segment.start, segment.end] for segment in records.gold_segments(example)]
    return {
        "id": example.id, "messages": messages + [{"role": "assistant", "content": text} for text in said],
        "audios": [audio], "question": example.question, "choices": list(example.choices),
        "solution": example.answer, "segments": segments,
    }  # fmt: skip


def export_swift(examples: Sequence[Example], out: Path, prompts: Prompts, format: Format = "interleaved") -> None:
    """Write examples as one file in ms-swift's form.

    Recordings are named by their absolute paths, since ms-swift's server and its trainer may run in different folders.
    Raises ValueError that names the example.
    """
    with _appearing(out) as file:
        file.writelines(_line(swift_row(one, str(_path(one).resolve()), prompts, format)) for one in examples)


def to_verl(out: Path) -> list[Path]:
    """verl_rl.parquet: prompt, audios, reward_model and data_source, as verl and Echo's code read them."""
    rows = (_verl(n, e, out) for n, e in enumerate(read_set(out / "rl.jsonl")))
    path = _parquet(out / "verl_rl.parquet", rows, {})
    return [] if path is None else [path]


def _verl(number: int, example: Example, out: Path) -> dict[str, Any]:
    asked = "<audio>" + INSTRUCTION.format(example.question, list(example.choices))
    return {
        "data_source": "AVQA",  # the one name for which Echo's release has a reward
        "prompt": [{"role": "user", "content": asked}],
        "audios": [relative(_path(example), out)],
        "ability": "audio",
        "reward_model": {"style": "rule", "ground_truth": example.answer},
        "extra_info": {"index": number, "id": example.id},
    }


def _parquet(path: Path, rows: Iterable[dict[str, Any]], columns: Mapping[str, str]) -> Path | None:
    """Write rows to a Parquet file. Without rows there is no file, since `datasets` cannot load an empty one: None.

    columns: types by name, since the first rows may leave them open (an empty list); {} takes them from the rows.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"Parquet files need pyarrow; {install_hint('data')}") from None
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
"""Each function writes its files into the folder of the sets, none for an empty set, and returns those it wrote."""


def check_forms(names: Sequence[str]) -> None:
    """Raise ValueError if one of these is not a key of EXPORTS."""
    if unknown := [name for name in names if name not in EXPORTS]:
        raise ValueError(f"no export {unknown[0]!r}; there are {', '.join(EXPORTS)}")


def write_forms(out: Path, names: Sequence[str]) -> dict[str, int]:
    """Write the sets of a folder in further forms. Returns the size of each file in bytes."""
    return {path.name: path.stat().st_size for name in names for path in EXPORTS[name](out)}
