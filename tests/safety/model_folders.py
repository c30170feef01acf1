"""Model folders that somebody broke: every single change to a good one, and what loading and using it then does."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from conftest import make_audio
from safety.trials import Outcome, attempt

import relisten
import relisten.models.qwen2_5_omni  # once here, not in every trial
from relisten.engine.engine import Engine, GenerationConfig
from relisten.types import Example

Change = Callable[[Path], None]
"""Breaks a copy of a good folder."""
SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "generation_config.json",
    "prompts.json",
    "tokenizer_config.json",
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 2**31, 10**9, 10**30, 0.5, -1e308, float("nan"), float("inf"), "x", "", "a/b", "../x",
    [], {}, [1], [-1], [None], ["x"], {"a": 1}, "x" * 100_000,
)  # fmt: skip
CONTENTS: dict[str, bytes] = {
    "empty": b"", "a list": b"[1]", "null": b"null", "a number": b"7", "a text": b'"x"', "not JSON": b"{'a': 1}",
    "not UTF-8": b'{"a": "\xff"}', "UTF-16": '{"a": 1}'.encode("utf-16"), "brackets": b"[" * 200_000,
    "braces": b'{"a":' * 50_000, "a long number": b'{"a": ' + b"9" * 10_000 + b"}", "zeros": b"\0" * 1000,
    "an empty object": b"{}",
}  # fmt: skip
HEADERS: dict[str, bytes] = {
    "nothing": b"", "short": b"\x08", "a huge header": b"\xff" * 8 + b"{}", "an empty header": b"\0" * 8,
    "no JSON": (4).to_bytes(8, "little") + b"abcd", "a list": (2).to_bytes(8, "little") + b"[]",
    "no tensors": (2).to_bytes(8, "little") + b"{}",
    "deep": (100_000).to_bytes(8, "little") + b'{"a":' * 20_000,
    "a zip": b"PK\x03\x04" + b"\0" * 100,
}  # fmt: skip


@dataclass(frozen=True)
class Broken:
    """One broken folder: what was done to which file."""

    name: str
    change: Change


def every(good: Path) -> list[Broken]:
    """All single changes of a good folder, in a fixed order."""
    return [*_settings(good), *_files(good), *_tokenizer(good), *_weights(good), *_others()]


def chosen(good: Path, num: int, seed: int) -> list[Broken]:
    """Some of all changes, the same for the same seed."""
    found = every(good)
    return random.Random(seed).sample(found, min(num, len(found)))


def tried(good: Path, broken: Broken, folder: Path, seconds: float = 60.0, gigabytes: float = 2.0) -> Outcome:
    """Copy the good folder, break the copy, and load and use it in a process of its own, which may be stopped."""
    place = folder / "model"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place)
    broken.change(place)
    outcome = attempt(lambda: _use(place), seconds, gigabytes)
    if outcome.kind == "refused" and str(place) not in outcome.said:
        return Outcome("failed", f"the folder is not named: {outcome.said}")
    return outcome


def _use(folder: Path) -> None:
    model = relisten.load(folder, device="cpu")
    example = Example("a", make_audio(3.0), "What is heard?", ("a dog", "a bell"), "a bell")
    [[trace]] = Engine(model).generate([example], GenerationConfig(max_new_tokens=4))
    assert trace.text is not None


# --- changes --------------------------------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a JSON document stands, its containers too; of long lists and vocabularies the first."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in list(value)[:60]:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for place in range(min(2, len(value))):
            yield from leaves(value[place], (*path, place))


def edited(file: str, path: tuple[Any, ...], value: Any, gone: bool = False) -> Change:
    def change(folder: Path) -> None:
        whole = json.loads((folder / file).read_text())
        at = whole
        for key in path[:-1]:
            at = at[key]
        if gone:
            del at[path[-1]]
        else:
            at[path[-1]] = copy.deepcopy(value)
        (folder / file).write_text(json.dumps(whole))

    return change


def _settings(good: Path) -> Iterator[Broken]:
    for file in SETTINGS:
        for path in leaves(json.loads((good / file).read_text())):
            where = f"{file}: {'.'.join(map(str, path))}"
            yield Broken(f"{where} gone", edited(file, path, None, gone=True))
            for value in VALUES:
                yield Broken(f"{where} = {json.dumps(value)[:20]}", edited(file, path, value))
    evil = {"AutoConfig": "evil.A", "AutoTokenizer": ["evil.A", "evil.A"]}
    added = {
        "auto_map": evil, "quantization_config": {"quant_method": "fp8"}, "attn_implementation": "a/b",
        "_attn_implementation": "a/b", "torch_dtype": "int8", "dtype": "float64", "tokenizer_class": "Evil",
        "trust_remote_code": True, "use_kernels": True,
    }  # fmt: skip
    for file in SETTINGS:
        for key, value in added.items():
            yield Broken(f"{file}: {key} added", edited(file, (key,), value))


def _tokenizer(good: Path) -> Iterator[Broken]:
    whole = json.loads((good / "tokenizer.json").read_text())
    for path in leaves(whole):
        if "vocab" in path or "merges" in path:
            continue
        yield Broken(
            f"tokenizer.json: {'.'.join(map(str, path))} gone", edited("tokenizer.json", path, None, gone=True)
        )
        for value in VALUES:
            yield Broken(f"tokenizer.json: {'.'.join(map(str, path))} = {json.dumps(value)[:20]}",
                         edited("tokenizer.json", path, value))  # fmt: skip
    for value in VALUES:
        yield Broken(
            f"tokenizer.json: vocab = {json.dumps(value)[:20]}", edited("tokenizer.json", ("model", "vocab"), value)
        )
        yield Broken(
            f"tokenizer.json: merges = {json.dumps(value)[:20]}", edited("tokenizer.json", ("model", "merges"), value)
        )
        yield Broken(
            f"tokenizer.json: an id = {json.dumps(value)[:20]}",
            edited("tokenizer.json", ("model", "vocab", "a"), value),
        )


def _files(good: Path) -> Iterator[Broken]:
    def content(name: str, data: bytes) -> Change:
        return lambda folder: void((folder / name).write_bytes(data))

    def replaced(name: str, make: Callable[[Path], object]) -> Change:
        def change(folder: Path) -> None:
            (folder / name).unlink(missing_ok=True)
            make(folder / name)

        return change

    for file in sorted(p.name for p in good.iterdir()):
        data = (good / file).read_bytes()
        yield Broken(f"{file} gone", replaced(file, lambda path: None))
        yield Broken(f"{file} is a pipe", replaced(file, os.mkfifo))
        yield Broken(f"{file} is a folder", replaced(file, Path.mkdir))
        yield Broken(f"{file} is a link to nothing", replaced(file, lambda path: path.symlink_to("gone")))
        yield Broken(f"{file} is a link to itself", replaced(file, lambda path: path.symlink_to(path.name)))
        yield Broken(f"{file} is a link to /dev/zero", replaced(file, lambda path: path.symlink_to("/dev/zero")))
        for share in (0.3, 0.9, 0.999):
            yield Broken(f"{file} cut at {share}", content(file, data[: int(len(data) * share)]))
        for name, text in CONTENTS.items():
            yield Broken(f"{file} is {name}", content(file, text))


def _weights(good: Path) -> Iterator[Broken]:
    file = "model.safetensors"

    def header(edit: Callable[[dict[str, Any]], None]) -> Change:
        def change(folder: Path) -> None:
            data = (folder / file).read_bytes()
            size = int.from_bytes(data[:8], "little")
            written = json.loads(data[8 : 8 + size])
            edit(written)
            text = json.dumps(written).encode()
            (folder / file).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])

        return change

    for name, content in HEADERS.items():
        yield Broken(f"{file} is {name}", lambda folder, content=content: void((folder / file).write_bytes(content)))
    data = (good / file).read_bytes()
    names = sorted(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))
    for name in random.Random(0).sample([n for n in names if n != "__metadata__"], 12):
        yield Broken(f"{file}: {name} gone", header(lambda h, n=name: void(h.pop(n))))
        yield Broken(f"{file}: {name} renamed", header(lambda h, n=name: h.update({"x" + n: h.pop(n)})))
        for key, values in {
            "shape": ([], [0], [1], [-1, 4], [10**9, 10**9], [2**63, 2], "x", None, [0.5], [[1]]),
            "dtype": ("I64", "F64", "BOOL", "F8_E4M3", "x", None, 7),
            "data_offsets": ([0, 0], [8, 0], [-8, 8], [0, 10**12], [0], "x", None),
        }.items():
            for value in values:
                yield Broken(f"{file}: {name} {key} = {value}",
                             header(lambda h, n=name, k=key, v=value: h[n].update({k: v})))  # fmt: skip
    yield Broken(f"{file}: metadata is a number", header(lambda h: h.update({"__metadata__": 7})))
    body = 8 + int.from_bytes(data[:8], "little")
    noise = data[:body] + b"\xff" * (len(data) - body)
    yield Broken(f"{file}: not numbers", lambda folder: void((folder / file).write_bytes(noise)))
    for index in ("x", 7, None, [], {}, {"weight_map": 7}, {"weight_map": {}}, {"weight_map": {"a": 7}},
                  {"metadata": {}, "weight_map": {"lm_head.weight": "gone.safetensors"}},
                  {"metadata": {}, "weight_map": {"lm_head.weight": "../../x.safetensors"}},
                  {"metadata": {}, "weight_map": {"lm_head.weight": "/dev/zero"}},
                  {"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}):  # fmt: skip
        yield Broken(f"an index: {json.dumps(index)[:60]}", lambda folder, index=index: _indexed(folder, index))


def _indexed(folder: Path, index: Any) -> None:
    """The weights as parts with an index."""
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _others() -> Iterator[Broken]:
    def pickled(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save({"lm_head.weight": torch.zeros(2)}, folder / "pytorch_model.bin")

    yield Broken("pickled weights", pickled)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "somebody/else"}
    yield Broken("an adapter", lambda folder: void((folder / "adapter_config.json").write_text(json.dumps(adapter))))
    for name in ("special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja",
                 "processor_config.json", "vocab.json", "merges.txt"):  # fmt: skip
        for kind, text in CONTENTS.items():
            yield Broken(f"{name} is {kind}", lambda folder, n=name, t=text: void((folder / n).write_bytes(t)))
        yield Broken(f"{name} is a pipe", lambda folder, n=name: os.mkfifo(folder / n))
    for model_type in (
        "base",
        "nano",
        "folder",
        "__init__",
        "x.y",
        "..",
        "",
        "qwen2_5_omni.load",
        "os",
        "thinker",
        "_thinker",
        7,
    ):
        yield Broken(f"model_type is {model_type}", edited("config.json", ("model_type",), model_type))


def void(_: object) -> None:
    """For a lambda that may give nothing."""
