"""Loading a base from its folder: configuration, log-mel settings, tokenizer, weights. The same checks for every base.

Whatever is wrong with a folder is a ValueError of one line that names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase, WhisperFeatureExtractor

from relisten.models import SAFELY
from relisten.models.base import Prompts, lay_out_for_cpu, read_prompts
from relisten.models.folder import Shapes, check_layers, check_plausible, checked, foreign, read_json
from relisten.models.scope import read_scope
from relisten.models.trial import check_tokenizer, try_out

MEL = {
    "feature_size": (1, 1024), "sampling_rate": (1_000, 384_000), "hop_length": (1, 100_000), "n_fft": (2, 65_536),
    "chunk_length": (1, 100_000),
}  # fmt: skip
"""What the settings of the log-mel may be: mel bins, Hz, samples, samples, seconds."""
MEL_DEFAULTS = {"sampling_rate": 16_000, "hop_length": 160, "n_fft": 400, "chunk_length": 30}


THINKER_LAYERS = {
    "text_config": ("num_hidden_layers", r"layers\.(\d+)\."),
    "audio_config": ("encoder_layers", r"audio_tower\.layers\.(\d+)\."),
    "vision_config": ("depth", r"visual\.blocks\.(\d+)\."),
}
"""`Kind.layers` of the Thinkers of Qwen's Omni models."""


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint, and the classes of transformers that it is made of."""

    published: str
    """Its name for people, for example Qwen2.5-Omni."""
    config: Any
    module: Any
    layers: Mapping[str, tuple[str, str]]
    """Each part's setting for its number of layers, and where the weights' names tell it."""
    check: Callable[[Path, Any], None]
    """Raises ValueError for a configuration that the module would take, and fail with."""
    own: str | None = None
    """The key under which a larger model's config.json has this model's settings."""
    tokenizer: Callable[[Path], PreTrainedTokenizerBase] | None = None
    """How its tokenizer is read; None: as `AutoTokenizer` does."""


M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)


class Load(Protocol[M_co]):
    """The `load` of a base's file. `models/__init__.py` calls it."""

    def __call__(
        self, folder: Path, dtype: str = "auto", device: str = "auto", device_map: Any = None, weights: bool = True
    ) -> M_co:
        """The model of a folder; see `load` of this file."""


def loader(
    kind: Kind, make: Callable[..., M], finish: Callable[[M, Path], None] = lambda model, folder: None
) -> Load[M]:
    """The `load` of a base's file. finish: sets what only the folder tells."""

    def load_base(
        folder: Path, dtype: str = "auto", device: str = "auto", device_map: Any = None, weights: bool = True
    ) -> M:
        model: M = load(kind, make, folder, dtype, device, device_map, weights)
        finish(model, folder)
        return model

    return load_base


def load(
    kind: Kind, make: Callable[..., Any], folder: Path, dtype: str, device: str, device_map: Any, weights: bool
) -> Any:
    """The model of a folder. make: a class of models, such as `Qwen2Audio`.

    Raises ValueError, in one line, if the folder holds no such model. Without `weights`, the module lies on the meta
    device: it has shapes and settings, and cannot run.
    """
    where = pick_device(device)
    prompts = read_prompts(folder, getattr(make, "PROMPTS", Prompts()))
    config = configuration(kind, folder, checked(folder, weights))
    extractor = feature_extractor(folder, config)
    with foreign(folder / "tokenizer.json", "cannot be loaded as a tokenizer"):
        read = kind.tokenizer or _tokenizer
        tokenizer = read(folder)
        check_tokenizer(tokenizer, int(config.get_text_config().vocab_size))
    if not weights:
        with foreign(folder, "cannot be used"), torch.device("meta"):
            module = kind.module(config)
            if (folder / "generation_config.json").exists():
                module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        return make(module, tokenizer, extractor, prompts, str(folder), read_scope(folder, _width(module)))
    with foreign(folder, f"cannot be loaded as {kind.published}"):
        module, report = kind.module.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=device_map,
            output_loading_info=True,
            **SAFELY,
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{folder}: {len(missing)} weights are missing, {missing[0]} for one; is the download whole?")
    with foreign(folder, "is loaded, but cannot be used"):
        model = make(module, tokenizer, extractor, prompts, str(folder), read_scope(folder, _width(module)))
        if device_map is None:
            module.to(where)
            # Where there is a GPU, a model on the CPU is on its way to it: FSDP moves only its part.
            if where.type == "cpu" and not torch.cuda.is_available():
                lay_out_for_cpu(module)
        try_out(model)
    return model


def _width(module: Any) -> int:
    """The size of an embedding, which the audio tower gives too."""
    return int(module.get_input_embeddings().weight.shape[-1])


def configuration(kind: Kind, folder: Path, shapes: Shapes | None) -> Any:
    """The configuration of a folder, once it fits the weights' shapes. Raises ValueError where it does not.

    shapes: None if the weights are not there.
    """
    path = folder / "config.json"
    raw = read_json(path)
    own = raw.get(kind.own, raw) if kind.own else raw
    for part, (name, pattern) in kind.layers.items():
        settings = own.get(part) if isinstance(own, dict) else None
        if not isinstance(settings, dict):
            raise ValueError(f"{path}: {part} is not a JSON object; a {kind.published} model has one")
        if name in settings:
            check_layers(path, f"{part}.{name}", settings[name], shapes, pattern)
    with foreign(path):
        config = kind.config.from_dict(own)
        for part, (name, pattern) in kind.layers.items():
            check_layers(path, f"{part}.{name}", getattr(getattr(config, part), name), shapes, pattern)
        with torch.device("meta"):
            module = kind.module(config)
        if shapes is not None:
            check_plausible(folder, module, shapes)
        kind.check(path, config)
    return config


def check_token_ids(path: Path, config: Any, ids: list[Any]) -> None:
    """Raise ValueError where a token that the configuration names is not in the vocabulary."""
    size = int(config.get_text_config().vocab_size)
    if not all(type(i) is int and 0 <= i < size for i in ids):
        raise ValueError(f"{path}: names a token that the vocabulary does not have; correct it")


def mel_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file with the settings of the log-mel, and these settings. Raises ValueError where there are none."""
    path = folder / "preprocessor_config.json"
    if path.exists():
        return path, read_json(path)
    newer = folder / "processor_config.json"  # as processors are saved since transformers 5
    if newer.exists() and isinstance(inside := read_json(newer).get("feature_extractor"), dict):
        return newer, inside
    raise ValueError(f"{path}: is missing; a model folder has the settings of its feature extractor")


def feature_extractor(folder: Path, config: Any) -> WhisperFeatureExtractor:
    """The log-mel, made from the five settings that matter. Raises ValueError where they are missing or implausible."""
    path, written = mel_settings(folder)
    for name, (least, most) in MEL.items():
        value = written.get(name, MEL_DEFAULTS.get(name))
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{path}: {name} is {str(value)[:60]}; it must be a whole number from {least} to {most}")
    if written["feature_size"] != config.audio_config.num_mel_bins:
        raise ValueError(f"{path}: feature_size is not audio_config.num_mel_bins in config.json; correct one of them")
    if written.get("dither", 0.0) != 0.0 or written.get("padding_value", 0.0) != 0.0:
        raise ValueError(f"{path}: dither and padding_value must be 0; noise or an offset would change every answer")
    with foreign(path):
        return WhisperFeatureExtractor(**{name: written.get(name, MEL_DEFAULTS.get(name)) for name in MEL})


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return found


def pick_device(device: str = "auto") -> torch.device:
    """CUDA, then MPS, then the CPU; or what is named. Raises ValueError for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()  # "meta" has no numbers
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used ({reason}); 'cpu' always can") from None
