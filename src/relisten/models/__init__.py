"""Models. `load()` uses the file in this folder that is named after the `model_type` of a checkpoint."""

from __future__ import annotations

import importlib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relisten import cpu
from relisten.files import SCOPE

if TYPE_CHECKING:
    from relisten.models.base import AudioLM

SAFELY: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
"""How transformers is to read a model: nothing is fetched, opened as a pickle, or run."""
NOT_MODELS = {
    "__init__", "adapter", "attention", "base", "causal", "conformance", "folder", "loading", "nano", "scope", "trial",
    "windows",
}  # fmt: skip
"""Files here that are not named after a `model_type`."""
FILES = ["*.json", "*.txt", "*.jinja", SCOPE]
"""What a model needs beside its weights."""


def load(name: str | Path = "nano", dtype: str = "auto", device: str = "auto", device_map: Any = None) -> AudioLM:
    """Load a model: "nano" (shipped), a folder, or a hub name such as "Qwen/Qwen2.5-Omni-7B".

    A folder may also have a LoRA adapter (`relisten train --lora` writes such). Then the model that it names is loaded,
    with the adapter beside its weights.

    dtype: auto (that of the checkpoint), float32, bfloat16 or float16. device: auto (CUDA if there is one, else MPS,
    else the CPU), or a torch device. device_map: as in transformers, for a model that needs several devices ("auto"
    needs accelerate). Raises ValueError, in one line, if the model cannot be loaded.
    """
    return _load(find(name), name, dtype=dtype, device=device, device_map=device_map)


def load_without_weights(name: str | Path = "nano") -> AudioLM:
    """The same model as `load` gives, but without weights, for an engine that runs elsewhere.

    It has everything but `forward` and `save`. Of a hub name, the weights are not downloaded. Raises ValueError, in one
    line, if the files cannot be used.
    """
    return _load(find(name, weights=False), name, weights=False)


def _load(folder: Path, name: str | Path, **how: Any) -> AudioLM:
    from relisten.models import adapter
    from relisten.models.folder import read_json

    if adapter.is_adapter(folder):
        weights = how.get("weights", True)
        base = _base(folder, weights)
        model = _load(find(base, weights), base, **how)
        if weights:
            adapter.attach(model, folder)
        model.name = str(name)
        return model
    path = folder / "config.json"
    loaded: AudioLM = base_module(read_json(path).get("model_type"), path).load(folder, **how)
    loaded.name = str(name)
    if "bfloat16" in str(loaded.module.dtype) and loaded.module.device.type == "cpu":
        cpu.tell_of_bfloat16("load it as float32 (--dtype float32)")
    return loaded


def known() -> list[str]:
    """The model types that can be loaded."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_MODELS)


def base_module(model_type: Any, path: Path) -> Any:
    """The file here for a `model_type`. Raises ValueError, naming the config.json `path`, if there is none."""
    name = str(model_type).removesuffix("_thinker")
    if name not in known():
        told = f"{path}: model type {str(model_type)[:60]!r} is not supported yet"
        raise ValueError(f"{told} (supported: {', '.join(known())})")
    return importlib.import_module(f"relisten.models.{name}")


def _base(folder: Path, weights: bool = True) -> str:
    """The base model of an adapter. Raises ValueError if it is not there, or is an adapter itself."""
    from relisten.models import adapter

    base = adapter.base_of(folder)
    try:
        found = find(base, weights)
    except ValueError as error:
        raise ValueError(
            f"{folder}: its base model cannot be found ({error}); write where it is into base_model_name_or_path of"
            f" {adapter.SETTINGS}"
        ) from None
    if adapter.is_adapter(found):
        raise ValueError(f"{folder}: its base model {base} is an adapter too; merge that one first (`relisten merge`)")
    return base


def weight_files(name: str | Path, fetch: bool = True) -> list[Path]:
    """The files of weights that answers depend on: those of the model, and of its adapter if it has one.

    Without `fetch`, none are downloaded, so there may be none.
    """
    from relisten.models import adapter

    folder = find(name, fetch)
    folders = [folder, find(_base(folder, fetch), fetch)] if adapter.is_adapter(folder) else [folder]
    found = [file for one in folders for file in sorted(one.glob("*.safetensors"))]
    return [file for file in found if file.name != SCOPE]


def find(name: str | Path, weights: bool = True) -> Path:
    """The local folder of a model. A hub name is downloaded first (unless `weights`, without its weights).

    Raises ValueError if there is no such model.
    """
    if str(name) == "nano":
        return Path(str(files("relisten") / "assets" / "nano"))
    folder = Path(name).expanduser()
    if folder.exists():
        if not folder.is_dir():
            raise ValueError(f"{folder}: a model is a folder (config.json, *.safetensors, tokenizer files), not a file")
        return folder
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise ValueError(f"{name}: no such folder, and not a hub name such as Qwen/Qwen2.5-Omni-7B; 'nano' is built in")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=FILES + ["*.safetensors"] * weights))
    except Exception as error:  # the hub client raises a dozen unrelated classes
        raise ValueError(
            f"{name}: cannot be fetched from the hub ({type(error).__name__}); where there is network run"
            f" 'hf download {name} --local-dir FOLDER' and give relisten the FOLDER"
        ) from None
