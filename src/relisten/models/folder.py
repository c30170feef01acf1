"""What is checked of a model folder before anything in it is loaded: it may have come from anybody.

Nothing in it is ever executed. Weights are read from safetensors alone, because a pickle is a program. The sizes in the
settings are compared with the header of the weights before memory is taken for them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from relisten.files import SCOPE

MAX_JSON = 256 * 2**20
"""Bytes of a JSON file; the largest, the tokenizer of a 7B model, has 11 MB."""
MAX_SETTING = 1e8
"""Largest whole number that a setting may have."""
MAX_EXTRA = 256 * 2**20
"""Bytes that a model may need beside its weights, for tables that are computed from settings."""
MOST_LAYERS = 1_000
"""Layers of a model whose weights are not there to count them."""
READ = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number, by its name in the header of a safetensors file."""
ATTENTION = (None, "eager", "sdpa", "flash_attention_2")
"""Any other name would be looked up on the hub and run."""

Shapes = dict[str, tuple[int, ...]]
"""Shape of every tensor that the weights hold, by its name in the file."""


def checked(folder: Path, weights: bool = True) -> Shapes | None:
    """Check the files of a model folder, and return the shapes that the headers of its weights tell.

    Without `weights`, none need be there, and None is returned. Raises ValueError, in one line that names the file.
    """
    try:
        names = sorted({path for pattern in READ for path in folder.glob(pattern)})
    except OSError as error:
        raise ValueError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    if odd := [path for path in names if not path.is_file()]:
        raise ValueError(f"{odd[0]}: is not a file; a model folder holds files and links to files")
    config = read_json(folder / "config.json")
    for where, value in _settings(config):
        _check_setting(folder / "config.json", where, value)
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder}: has a model and an adapter (adapter_config.json); move the adapter's files into another folder"
        )
    for path in names:
        if path.suffix == ".json" and path.name not in ("config.json", "prompts.json"):
            read_json(path, anything=path.name not in _OBJECTS)
    return _shapes(folder) if weights else None


_OBJECTS = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "preprocessor_config.json",
            "special_tokens_map.json", "added_tokens.json", "processor_config.json", "vocab.json",
            "model.safetensors.index.json"}  # fmt: skip


def read_json(path: Path, anything: bool = False) -> Any:
    """The JSON object in a file; with `anything`, other values too. Raises ValueError, in one line that names it."""
    try:
        if not path.is_file():
            what = "is not a file" if os.path.lexists(path) else "is missing"
            raise ValueError(f"{path}: {what}; a model folder has it beside its weights")
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"{path}: is larger than {MAX_JSON >> 20} MB, which no such file is; download it again")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = (
            error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8, nested too deep, or a long number"
        )
        raise ValueError(f"{path}: is not JSON ({reason}); download it again") from None
    if not isinstance(content, dict) and not anything:
        raise ValueError(f"{path}: is not a JSON object; download it again")
    return content


@contextmanager
def foreign(path: Path, doing: str = "cannot be loaded") -> Iterator[None]:
    """Turn whatever another package raises over a file or folder into a ValueError of one line that names it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # the tokenizer's panics are no Exceptions
        if isinstance(error, MemoryError):
            reason = "there is not enough memory"
        else:
            lines = [line.strip(" \t:") for line in str(error).splitlines() if line.strip()]
            # Some say first what they validate, and then what is wrong with it.
            reason = " ".join(lines[:3]) or type(error).__name__
        if str(error).startswith(f"{path}"):
            raise ValueError(reason) from error
        raise ValueError(f"{path}: {doing} ({reason[:300]})") from error


def check_plausible(folder: Path, module: nn.Module, shapes: Shapes) -> None:
    """Compare a module that was built without memory (on the meta device) with the weights that shall fill it.

    Raises ValueError where a shape differs, or where the module would take more memory than the weights explain.
    """
    held = _with_experts({plain_name(name): shape for name, shape in shapes.items()})
    for name, tensor in module.state_dict().items():
        shape = held.get(plain_name(name))
        if shape is not None and shape != tuple(tensor.shape):
            raise ValueError(
                f"{folder / 'config.json'}: {name} is {[*shape]} in the weights, where config.json asks for"
                f" {[*tensor.shape]}; do the two belong together?"
            )
    asked = sum(parameter.numel() for parameter in module.parameters())
    stored = sum(math.prod(shape) for shape in shapes.values())
    if asked > stored:
        missing = sorted(name for name, _ in module.named_parameters() if plain_name(name) not in held)
        raise ValueError(
            f"{folder}: {len(missing)} weights are missing, {(missing or ['of one layer'])[0]} for one; is the download"
            " whole?"
        )
    extra = sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
    if extra > MAX_EXTRA:
        raise ValueError(f"{folder / 'config.json'}: asks for {extra:,} bytes beside the weights; correct it")


def _with_experts(held: Shapes) -> Shapes:
    """The shapes as a module has them: files store each expert by itself, modules all experts of a layer in one."""
    found: Shapes = {}
    for name, shape in held.items():
        match = re.fullmatch(r"(.+\.experts)\.\d+\.(gate|up|down)_proj\.weight", name)
        if match is None or len(shape) != 2:
            found[name] = shape
        elif match[2] != "up":
            whole = f"{match[1]}.{'gate_up' if match[2] == 'gate' else 'down'}_proj"
            rows = shape[0] * (2 if match[2] == "gate" else 1)
            found[whole] = (found.get(whole, (0,))[0] + 1, rows, shape[1])
    return found


def check_layers(path: Path, name: str, value: Any, shapes: Shapes | None, pattern: str) -> None:
    """Raise ValueError where a setting is not the number of layers in the weights. `pattern` finds a layer's number.

    This comes before the module is built: it would be built layer by layer, a billion of them if asked for.
    """
    if shapes is None:
        if type(value) is not int or not 0 < value <= MOST_LAYERS:
            raise ValueError(f"{path}: {name} is {_short(value)}; no model has as many layers; correct it")
        return
    found = {int(match[1]) for key in shapes if (match := re.match(pattern, plain_name(key)))}
    stored = max(found, default=-1) + 1
    if isinstance(value, bool) or not isinstance(value, int) or value != stored:
        raise ValueError(f"{path}: {name} is {_short(value)}, but the weights have {stored} layers of it; correct it")


def plain_name(name: str) -> str:
    """A weight's name without what stands before it: releases of transformers differ in that."""
    return re.sub(r"^(thinker\.)?(model\.)?(language_model\.)?(model\.)?", "", name)


def _settings(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(name with dots, value) of everything in a JSON value that is no container, and of the containers."""
    if where:
        yield where, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _settings(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for inner in value[:1000]:
            yield from _settings(inner, where)


def _check_setting(path: Path, where: str, value: Any) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        whole = isinstance(value, int)
        if not math.isfinite(value) or abs(value) > (MAX_SETTING if whole else 1e12):
            raise ValueError(f"{path}: {where} is {_short(value)}, which cannot be meant; correct it")
    name = where.rpartition(".")[2]
    if name == "quantization_config" and value is not None:
        raise ValueError(f"{path}: the weights are quantised, which relisten cannot load; get the ones in bfloat16")
    if name.endswith("attn_implementation") and value not in ATTENTION:
        raise ValueError(f"{path}: {where} is {_short(value)}, and would be fetched and run; remove that line")


def _shapes(folder: Path) -> Shapes:
    files = sorted(file for file in folder.glob("*.safetensors") if file.name != SCOPE)
    index = folder / "model.safetensors.index.json"
    if index.exists() and not (folder / "model.safetensors").exists():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
            raise ValueError(f"{index}: has no list of weights (weight_map); download it again")
        files = [folder / name for name in sorted(set(listed.values()))]
        if odd := [file for file in files if file.parent != folder or not file.is_file()]:
            raise ValueError(
                f"{index}: names {odd[0].name}, which is not a file of this folder; is the download whole?"
            )
    if not files:
        if any(path for pattern in PICKLED for path in folder.glob(pattern)):
            raise ValueError(
                f"{folder}: has pickled weights only, which could run code when they are opened, and are never read;"
                " get the weights as *.safetensors"
            )
        raise ValueError(f"{folder}: has no weights (*.safetensors); is the download whole?")
    found: Shapes = {}
    for file in files:
        found |= header(file)
    mine = {name: shape for name, shape in found.items() if name.startswith("thinker.")}
    return mine or found


def header(path: Path) -> Shapes:
    """Shapes by name, read from the first bytes of a safetensors file. Raises ValueError where they cannot be right."""
    wrong = f"{path}: cannot be loaded, because it is not a whole safetensors file; download it again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_JSON):
                raise ValueError(wrong)
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        raise ValueError(wrong) from None
    if not isinstance(header, dict):
        raise ValueError(wrong)
    found: Shapes = {}
    for name, told in header.items():
        if name != "__metadata__":
            found[name] = _told(path, name, told, size - 8 - length)
    if not found:
        raise ValueError(f"{path}: holds no weights; download it again")
    return found


def _told(path: Path, name: str, told: Any, size: int) -> tuple[int, ...]:
    """The shape of one tensor, once its header is plausible. size: bytes of all tensors in the file."""
    told = told if isinstance(told, Mapping) else {}
    shape, dtype, span = told.get("shape"), told.get("dtype"), told.get("data_offsets")
    if dtype not in FLOATS:
        raise ValueError(f"{path}: {_short(name)} is stored as {_short(dtype)}, not as floating-point numbers")
    whole = all(isinstance(part, list) and all(type(n) is int and n >= 0 for n in part) for part in (shape, span))
    if not whole or len(span) != 2 or span[1] > size or math.prod(shape) * FLOATS[dtype] != span[1] - span[0]:
        raise ValueError(f"{path}: cannot be loaded, because the header of {_short(name)} is wrong; download it again")
    return tuple(shape)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
