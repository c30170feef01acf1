"""LoRA adapters: small matrices beside the frozen weights of a base model, in a folder that names this base.

A folder with an adapter has `adapter_config.json` and `adapter_model.safetensors`, as peft writes them. Nothing in it
is executed: only the rank, the scale and the name of the base are read from the settings, and the layers from the
weights.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from relisten.extras import install_hint
from relisten.models.base import AudioLM, read_prompts
from relisten.models.folder import foreign, header, plain_name, read_json

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PLAIN: dict[str, Any] = {
    "peft_type": "LORA", "bias": "none", "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None,
    "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None, "trainable_token_indices": None,
    "target_parameters": None, "lora_bias": False,
}  # fmt: skip
"""What the settings of a plain LoRA say. With other values the adapter would compute something else."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter and no model of its own."""
    return (folder / SETTINGS).exists() and not (folder / "config.json").exists()


def base_of(folder: Path) -> str:
    """The name of the model that an adapter belongs to. Raises ValueError if the folder names none."""
    name = read_json(folder / SETTINGS).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{folder / SETTINGS}: names no base model; write its folder or name into base_model_name_or_path"
        )
    return name


def attach(model: AudioLM, folder: Path) -> None:
    """Put the adapter of a folder into its base model, in the precision of the model's weights.

    The model's prompts become those of the folder, if it has some. Raises ValueError, in one line, if the two do not
    fit.
    """
    rank, alpha, rslora, shapes = _checked(folder)
    live = {plain_name(name): name for name, layer in model.module.named_modules() if isinstance(layer, nn.Linear)}
    targets = []
    for name, (size, width) in shapes.items():
        layer = model.module.get_submodule(live[name]) if name in live else None
        if not isinstance(layer, nn.Linear) or (layer.out_features, layer.in_features) != (size, width):
            raise ValueError(f"{folder}: changes a layer {name} [{size}, {width}], which {model.name} does not have")
        targets.append(live[name])
    add(model, base_of(folder), rank, targets, alpha=alpha, rslora=rslora)
    read(model.module, folder)
    model.module.eval().requires_grad_(False)
    if (folder / "prompts.json").exists():
        model.prompts = read_prompts(folder)
    model.scope = None


def add(
    model: AudioLM, base: str, rank: int, targets: Sequence[str], alpha: float | None = None, rslora: bool = False
) -> None:
    """Put a new adapter, which changes nothing yet, into the linear layers that `targets` names. Only it is trained.

    base: the name by which others find the model. alpha: the scale of the change is alpha / rank; by default it is 2.
    Raises ValueError if peft is not installed.
    """
    require_peft(base)
    from peft import LoraConfig

    scale = 2 * rank if alpha is None else alpha
    config = LoraConfig(r=rank, lora_alpha=scale, target_modules=list(targets), use_rslora=rslora)  # type: ignore[arg-type]
    model.module.add_adapter(config)
    config.base_model_name_or_path = base


def require_peft(what: str) -> None:
    """Raise ValueError, with the command that installs it, if peft is not there."""
    if importlib.util.find_spec("peft") is None:
        raise ValueError(f"{what}: an adapter needs peft, which is not installed: {install_hint('lora')}")


def settings(module: nn.Module) -> Any | None:
    """The LoraConfig of the adapter inside a module, or None if there is none."""
    configs: dict[str, Any] = getattr(module, "peft_config", None) or {}
    return configs.get("default")


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the adapter inside a module, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if ".lora_" in name}


def to_float32(module: nn.Module, folder: Path | None) -> None:
    """Keep the adapter's parameters in float32, in which they are trained and merged.

    folder: where its weights are read again, so that nothing is lost of them; None for a new adapter.
    """
    for parameter in parameters(module).values():
        parameter.data = parameter.data.float()
    if folder is not None:
        read(module, folder)


def read(module: nn.Module, folder: Path) -> None:
    """Copy the weights of a folder into the adapter inside a module. Raises ValueError if they are not its weights."""
    path = folder / WEIGHTS
    with foreign(path):
        stored = {_layer(name): weight for name, weight in load_file(path).items()}
    own = {_layer(name): parameter for name, parameter in parameters(module).items()}
    if stored.keys() != own.keys() or any(stored[name].shape != own[name].shape for name in own):
        odd = next(iter(sorted(stored.keys() ^ own.keys(), key=str)), ("of other shapes",))
        raise ValueError(f"{path}: its layers are not those of the adapter ({' '.join(odd)}); was it made for another?")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])


def merge(model: AudioLM, dtype: torch.dtype) -> float:
    """Add the adapter to the weights in float32, cast them to `dtype`, and remove the adapter.

    Returns how large the error of casting is, as a share of the adapter's own change (both as Frobenius norms over all
    changed layers). It is 0 in float32. Give the adapter in float32 (`to_float32`).
    """
    module = model.module
    error = change = 0.0
    for name, layer in _layers(module):
        added = layer.get_delta_weight("default").float()
        whole = layer.base_layer.weight.detach().float() + added
        cast = whole.to(dtype)
        error += float((cast.float() - whole).square().sum())
        change += float(added.square().sum())
        layer.base_layer.weight.data = cast
        module.set_submodule(name, layer.base_layer)
    del module.peft_config
    module._hf_peft_config_loaded = False
    module.to(dtype)
    return (error / change) ** 0.5 if change else 0.0


def said(lost: float) -> str:
    """What `merge` returned, as a sentence."""
    if not lost:
        return "Nothing of its change is lost by rounding."
    return f"Rounding adds an error of {100 * lost:.2g} % of the adapter's own change."


def _layers(module: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLayer)]


def _layer(name: str) -> tuple[str, str]:
    """A layer's plain name and A or B, of a name in a file or of a parameter."""
    match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.(?:default\.)?weight", name)
    return (plain_name(match[1]), match[2]) if match else (name, "")


def _checked(folder: Path) -> tuple[int, float, bool, dict[str, tuple[int, int]]]:
    """Rank, alpha, whether alpha is divided by the root of the rank, and [out, in] of each layer by its plain name.

    Raises ValueError for anything but a plain LoRA whose settings fit its weights.
    """
    path = folder / SETTINGS
    told = read_json(path)
    for name, plain in PLAIN.items():
        if (told.get(name, plain) or plain) != plain:
            raise ValueError(f"{path}: {name} is {str(told[name])[:60]}; only plain LoRA adapters can be loaded")
    rank, alpha = told.get("r"), told.get("lora_alpha")
    if type(rank) is not int or not isinstance(alpha, int | float) or not (0 < rank < 2**20 and 0 < alpha < 1e6):
        raise ValueError(
            f"{path}: r is {str(rank)[:60]} and lora_alpha {str(alpha)[:60]}; both must be positive numbers"
        )
    stored = {_layer(name): shape for name, shape in header(folder / WEIGHTS).items()}
    layers = {name for name, _ in stored}
    shapes = {}
    for name in sorted(layers):
        a, b = stored.get((name, "A"), ()), stored.get((name, "B"), ())
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            raise ValueError(f"{folder / WEIGHTS}: {name[:100]} is not an adapter of rank {rank}; download it again")
        shapes[name] = b[0], a[1]
    return rank, float(alpha), bool(told.get("use_rslora")), shapes
