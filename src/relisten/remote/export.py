"""Write a model in the layout that vLLM reads.

relisten trains and saves the Thinker alone. vLLM knows Qwen2.5-Omni only as a whole: the Thinker's settings inside of
the whole model's (`thinker_config`), its weights under `thinker.`, and the settings of a processor that also takes
images and video. The talker is not needed, so it is not written.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from relisten import models
from relisten.files import replacing_files
from relisten.models import adapter
from relisten.models.folder import Shapes, checked, foreign, read_json

CONTROL = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
"""The names that the processor uses for control tokens. If a tokenizer has no tokens for vision, <|IMAGE|> is used."""
IMAGES: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "merge_size": 2,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "processor_class": "Qwen2_5OmniProcessor",
}
"""Settings of the image processor, as Qwen2.5-Omni has them. The processor cannot be made without them."""
EMBEDDING, HEAD = "thinker.model.embed_tokens.weight", "thinker.lm_head.weight"
KEPT = ("tokenizer.json", "vocab.json", "merges.txt", "generation_config.json", "chat_template.json", "prompts.json")


def export_vllm(model: str, out: Path, max_seconds: int | None = None) -> Path:
    """Write the model of this name or folder into the folder `out`, ready for `vllm serve`. Returns the folder.

    max_seconds: the longest piece of audio that the server takes; it computes the log-mel of every piece as if it was
    that long (None: as the model's own settings say). Raises ValueError, in one line, for a folder that cannot be read.
    """
    folder = models.find(model)
    if adapter.is_adapter(folder):
        raise ValueError(
            f"{folder}: holds an adapter; merge it into its model first (`relisten merge`), and export that"
        )
    config = read_json(folder / "config.json")
    if config.get("model_type") != "qwen2_5_omni_thinker":
        whole = config.get("model_type") == "qwen2_5_omni"
        hint = "it is whole already, so serve it as it is" if whole else "only Qwen2.5-Omni's Thinker can be exported"
        raise ValueError(f"{folder}: model type {str(config.get('model_type'))[:60]!r}; {hint}")
    if out.exists() and folder.samefile(out):
        raise ValueError(f"{out}: is the model's own folder; name another one")
    shapes = checked(folder) or {}
    mel = read_json(folder / "preprocessor_config.json")
    if max_seconds is not None:
        if max_seconds < 1:
            raise ValueError(f"max_seconds is {max_seconds}; it must be at least 1")
        mel |= _for_seconds(mel, max_seconds)
    with foreign(out, "the model cannot be written there"), replacing_files(out, stale="model*.safetensors*") as part:
        _write(part / "config.json", _whole(config))
        _write(part / "preprocessor_config.json", IMAGES | mel | {"processor_class": "Qwen2_5OmniProcessor"})
        _write(part / "tokenizer_config.json", _tokenizer(folder))
        for name in KEPT:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, part / name)
        _weights(folder, part, shapes)
    return out


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the whole model, which contain those of the Thinker."""
    own = dict(config)
    for key in ("architectures", "transformers_version"):
        own.pop(key, None)
    # When vLLM reloads weights, a head that is tied to the embedding keeps its old ones; so it gets its own.
    own["tie_word_embeddings"] = False
    own["text_config"] = own["text_config"] | {"tie_word_embeddings": False}
    # Older and newer releases of transformers read one name or the other.
    for kind in ("audio", "image", "video"):
        known = own.get(f"{kind}_token_index", own.get(f"{kind}_token_id"))
        own[f"{kind}_token_index"] = own[f"{kind}_token_id"] = known
    return {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "dtype": config.get("dtype", config.get("torch_dtype", "float32")),
        "enable_audio_output": False,
        "thinker_config": own,
        "tie_word_embeddings": False,
    }


def _for_seconds(mel: dict[str, Any], seconds: int) -> dict[str, Any]:
    rate, hop = int(mel.get("sampling_rate", 16_000)), int(mel.get("hop_length", 160))
    return {"chunk_length": seconds, "n_samples": seconds * rate, "nb_max_frames": seconds * rate // hop}


def _tokenizer(folder: Path) -> dict[str, Any]:
    """The tokenizer's settings, with the names that the processor uses for control tokens."""
    path = folder / "tokenizer_config.json"
    settings = dict(read_json(path)) if path.is_file() else {}
    known = {token.get("content") for token in read_json(folder / "tokenizer.json").get("added_tokens", [])}
    given = settings.get("extra_special_tokens")
    named = {name: text if text in known else "<|IMAGE|>" for name, text in CONTROL.items()}
    settings["extra_special_tokens"] = named | (given if isinstance(given, dict) else {})
    settings["processor_class"] = "Qwen2_5OmniProcessor"
    return settings


def _weights(folder: Path, part: Path, shapes: Shapes) -> None:
    """Write the weights under `thinker.`, file by file, so that only one file is in memory."""
    head_is_there = any(name.endswith("lm_head.weight") for name in shapes)
    where: dict[str, str] = {}
    total = 0
    for file in models.weight_files(folder):
        tensors = {f"thinker.{name}": tensor for name, tensor in load_file(file).items()}
        if EMBEDDING in tensors and not head_is_there:
            tensors[HEAD] = tensors[EMBEDDING].clone()
        save_file(tensors, part / file.name, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, file.name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if len(set(where.values())) > 1:
        _write(part / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
