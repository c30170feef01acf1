"""Qwen2.5-Omni's Thinker, the paper's base model: prompt, audio placeholders, log-mel, forward.

The processor of transformers is not used, because it needs torchvision and pads every piece of audio to 300 s. All it
does for audio is to expand the placeholder and to compute the mel.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from relisten.files import replacing_files
from relisten.models import SAFELY
from relisten.models.attention import AttendingCache, attending
from relisten.models.base import Prompts, lay_out_for_cpu, pad_features, read_prompts
from relisten.models.folder import Shapes, check_layers, check_plausible, checked, foreign, read_json
from relisten.models.scope import Scope, read_scope
from relisten.models.trial import check_tokenizer, try_out
from relisten.types import Audio, Format

CLOSING = ("</seg>", "</seg")
"""A closing tag, whole and without its last character. The `>` must be a token of its own, because Qwen's vocabulary
would merge it with the text that follows, and the audio has to start on a token boundary."""


class Qwen2_5Omni:  # noqa: N801 (named after the model)
    """The Thinker with its tokenizer and feature extractor; implements `models.base.AudioLM`."""

    def __init__(
        self,
        module: Qwen2_5OmniThinkerForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        feature_extractor: WhisperFeatureExtractor,
        prompts: Prompts | None = None,
        name: str = "qwen2_5_omni",
        scope: Scope | None = None,
    ) -> None:
        self.name = name
        self.scope = scope
        self.module = module.eval()
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.prompts = prompts or Prompts()
        self.rate = int(feature_extractor.sampling_rate)
        config = module.config
        self.audio_id = _config_id(config, "audio_token")
        self.audio_begin_id = int(config.audio_start_token_id)
        self.audio_end_id = int(config.audio_end_token_id)
        self._turn_ids = {text: self._control_id(text) for text in ("<|im_start|>", "<|im_end|>")}
        self.end_token_id = self._turn_ids["<|im_end|>"]
        self.end_token_ids = frozenset(_end_token_ids(module, tokenizer) | {self.end_token_id})
        self.banned_token_ids = torch.tensor(sorted(self._banned()), dtype=torch.long)
        self._newline = self.encode("\n")

    # --- text ---------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text. A control token that occurs in it is encoded as ordinary text."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def encode_response(self, text: str) -> list[int]:
        """Tokens of a response. The `>` of every `</seg>` is a token of its own, as the engine produces it."""
        ids: list[int] = []
        pieces = text.split(CLOSING[0])
        for piece in pieces[:-1]:
            ids += self._closed(piece)
        return ids + self.encode(pieces[-1])

    def _closed(self, piece: str) -> list[int]:
        whole = self.encode(piece + CLOSING[0])
        if self.decode(whole[:-1]) == piece:  # the vocabulary has the tag as one token
            return whole
        return self.encode(piece + CLOSING[1]) + self.encode(">")

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens. Control and audio tokens give no text."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def prompt(
        self, question: str, choices: Sequence[str], format: Format, num_samples: int | None
    ) -> tuple[list[int], int | None]:
        """The prompt in ChatML, with the recording first in the user's turn, and the index of its first audio token."""
        begin, end = self._turn_ids["<|im_start|>"], self._turn_ids["<|im_end|>"]
        ids: list[int] = []
        if self.prompts.system is not None:
            ids += [begin, *self.encode("system\n" + self.prompts.system), end, *self._newline]
        ids += [begin, *self.encode("user\n")]
        at = None
        if num_samples is not None:
            at = len(ids) + 1
            ids += self.audio_tokens(num_samples)
        ids += [*self.encode(self.prompts.text(question, choices, format)), end, *self._newline]
        return [*ids, begin, *self.encode("assistant\n")], at

    # --- audio --------------------------------------------------------------------------------------------------

    def num_frames(self, num_samples: int) -> int:
        """Number of mel frames of a piece of audio: one for each hop, rounded up."""
        return -(-num_samples // int(self.feature_extractor.hop_length))

    def num_audio_tokens(self, num_samples: int) -> int:
        """Number of audio tokens: two strides of two over the mel frames (25 a second at a hop of 160 samples)."""
        after_conv = (self.num_frames(num_samples) - 1) // 2 + 1
        return max(0, (after_conv - 2) // 2 + 1)

    def audio_tokens(self, num_samples: int) -> list[int]:
        """Begin, one placeholder for each audio token, end."""
        return [self.audio_begin_id, *[self.audio_id] * self.num_audio_tokens(num_samples), self.audio_end_id]

    def features(self, audio: Audio) -> Tensor:
        """Log-mel [mel bins, frames] of one piece of audio.

        It is equal, bit by bit, to what the extractor computes when it pads to 30 s and the result is cut.
        """
        if audio.rate != self.rate:
            raise ValueError(f"audio at {audio.rate} Hz; this model takes {self.rate} Hz")
        extractor, num_samples = self.feature_extractor, len(audio.samples)
        frames = self.num_frames(num_samples)
        padded = np.zeros(frames * extractor.hop_length + extractor.n_fft, dtype=np.float32)
        padded[:num_samples] = audio.samples
        with torch.autocast("cpu", enabled=False):  # in float32, whatever the precision of the forward
            mel = extractor(padded, sampling_rate=self.rate, padding="do_not_pad", truncation=False)
        return torch.from_numpy(np.asarray(mel["input_features"][0], dtype=np.float32)[:, :frames])

    # --- forward ------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        features: Sequence[Tensor],
        attention_mask: Tensor | None,
        cache: Any = None,
        keep: tuple[Tensor, Tensor] | None = None,
        module: Any = None,
    ) -> Tensor:
        """Logits of one chunk; see `AudioLM.forward`."""
        device = input_ids.device
        mask: Any
        attends: AbstractContextManager[None]
        audio: dict[str, Tensor] = {}
        if features:
            stacked, mask = pad_features(features)
            audio = {"input_features": stacked.to(device), "feature_attention_mask": mask.to(device)}
        if isinstance(cache, AttendingCache):
            mask, attends = None, attending(self.module, cache)
        else:
            mask, attends = self._mask(attention_mask, input_ids), nullcontext()
        with attends, self._keep(keep) if keep is not None else nullcontext():
            logits: Tensor = (module or self.module)(
                input_ids=input_ids,
                # Audio and text alone: the three rotary axes are equal, so positions are plain counting.
                position_ids=position_ids[None].expand(3, -1, -1),
                # A mapping is taken as it is; a bare tensor would be remade by transformers' own mask code.
                attention_mask={"full_attention": mask},
                past_key_values=cache,
                use_cache=cache is not None,
                **audio,
            ).logits
        return logits

    def _mask(self, mask: Tensor | None, input_ids: Tensor) -> Tensor | None:
        """The mask as the configured attention takes it."""
        kind, device, length = self.module.config._attn_implementation, input_ids.device, input_ids.shape[1]
        if mask is None and kind != "sdpa" and length > 1:  # with no mask, sdpa alone is causal
            mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        if mask is None or kind != "eager":
            return mask
        # Eager attention adds its mask to the scores. The other kinds take a boolean mask.
        lowest = torch.finfo(self.module.dtype).min
        return torch.zeros(mask.shape, dtype=self.module.dtype, device=device).masked_fill_(~mask, lowest)

    @contextmanager
    def _keep(self, keep: tuple[Tensor, Tensor]) -> Iterator[None]:
        """Inside this, only the wanted positions are projected onto the vocabulary."""
        handle = self.module.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0][keep],))
        try:
            yield
        finally:
            handle.remove()

    def save(self, folder: Path, dtype: torch.dtype | None = None, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the model and its prompts in the layout of transformers; see `AudioLM.save`."""
        own = self.module.state_dict() if weights is None else weights
        written = {name: v.to(dtype or v.dtype).contiguous() for name, v in own.items()}
        saving = foreign(folder, "the model cannot be saved there")
        with saving, replacing_files(folder, stale="model*.safetensors*") as part:
            self.module.save_pretrained(part, state_dict=written)
            self.tokenizer.save_pretrained(part)
            self.feature_extractor.save_pretrained(part)
            prompts = json.dumps(asdict(self.prompts), indent=2)
            (part / "prompts.json").write_text(prompts + "\n", encoding="utf-8")

    # --- ids ----------------------------------------------------------------------------------------------------

    def _control_id(self, text: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(text)
        if token_id is None or token_id == self.tokenizer.unk_token_id:
            raise ValueError(f"{self.name}: its tokenizer has no {text} token; is this a Qwen2.5-Omni folder?")
        return int(token_id)

    def _banned(self) -> set[int]:
        """Ids that are never sampled: placeholders, which the forward takes for media, and ids past the vocabulary."""
        config = self.module.config
        ids = {self.audio_id, self.audio_begin_id, self.audio_end_id, self._turn_ids["<|im_start|>"]}
        ids |= {_config_id(config, "image_token"), _config_id(config, "video_token")}
        for text in ("<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>"):
            token_id = self.tokenizer.convert_tokens_to_ids(text)
            ids |= {int(token_id)} if token_id is not None and token_id != self.tokenizer.unk_token_id else set()
        size = int(config.text_config.vocab_size)
        return {i for i in ids | set(range(len(self.tokenizer), size)) if 0 <= i < size}


def _config_id(config: Any, name: str) -> int:
    """transformers renamed `audio_token_index` to `audio_token_id`; both releases are supported."""
    return int(getattr(config, f"{name}_id", None) or getattr(config, f"{name}_index"))


def _end_token_ids(module: Qwen2_5OmniThinkerForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    found = module.generation_config.eos_token_id if module.generation_config else None
    # Qwen's models were trained to end with either; a folder without generation_config.json names only one of them.
    known = tokenizer.get_vocab()
    ids = set(found if isinstance(found, list) else [found]) | {tokenizer.eos_token_id, known.get("<|endoftext|>")}
    return {int(i) for i in ids if i is not None}


def load(
    folder: Path, dtype: str = "auto", device: str = "auto", device_map: Any = None, weights: bool = True
) -> Qwen2_5Omni:
    """Load a full or a Thinker-only checkpoint from a folder. Raises ValueError, in one line, when it is not one.

    Without `weights`, the module lies on the meta device: it has shapes and settings, and cannot run.
    """
    where = pick_device(device)
    prompts = read_prompts(folder)
    config = _config(folder, checked(folder, weights))
    feature_extractor = _feature_extractor(folder, config)
    with foreign(folder / "tokenizer.json", "cannot be loaded as a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        check_tokenizer(tokenizer, int(config.text_config.vocab_size))
    if not weights:
        with foreign(folder, "cannot be used"), torch.device("meta"):
            module = Qwen2_5OmniThinkerForConditionalGeneration(config)
            if (folder / "generation_config.json").exists():
                module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        return Qwen2_5Omni(module, tokenizer, feature_extractor, prompts, str(folder), read_scope(folder))
    with foreign(folder, "cannot be loaded as Qwen2.5-Omni"):
        module, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
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
        model = Qwen2_5Omni(module, tokenizer, feature_extractor, prompts, str(folder), read_scope(folder))
        if device_map is None:
            module.to(where)
            # Where there is a GPU, a model on the CPU is on its way to it: FSDP moves only its part.
            if where.type == "cpu" and not torch.cuda.is_available():
                lay_out_for_cpu(module)
        try_out(model)
    return model


def _config(folder: Path, shapes: Shapes | None) -> Qwen2_5OmniThinkerConfig:
    """The Thinker's configuration, once it fits the weights' shapes. Raises ValueError where it does not.

    shapes: None if the weights are not there.
    """
    path = folder / "config.json"
    raw = read_json(path)
    own = raw.get("thinker_config", raw)
    for part, (name, pattern) in LAYERS.items():
        settings = own.get(part) if isinstance(own, dict) else None
        if not isinstance(settings, dict):
            raise ValueError(f"{path}: {part} is not a JSON object; a Qwen2.5-Omni model has one")
        if name in settings:
            check_layers(path, f"{part}.{name}", settings[name], shapes, pattern)
    with foreign(path):
        config = Qwen2_5OmniThinkerConfig.from_dict(own)
        for part, (name, pattern) in LAYERS.items():
            check_layers(path, f"{part}.{name}", getattr(getattr(config, part), name), shapes, pattern)
        with torch.device("meta"):
            module = Qwen2_5OmniThinkerForConditionalGeneration(config)
        if shapes is not None:
            check_plausible(folder, module, shapes)
        ids = [_config_id(config, f"{name}_token") for name in ("audio", "image", "video")]
        ids += [int(config.audio_start_token_id), int(config.audio_end_token_id)]
        if not all(0 <= i < int(config.text_config.vocab_size) for i in ids):
            raise ValueError(f"{path}: names a token that the vocabulary does not have; correct it")
        if config.audio_config.max_source_positions < config.audio_config.n_window or config.audio_config.n_window < 1:
            raise ValueError(f"{path}: audio_config.n_window is not 1 to max_source_positions; correct it")
    return config


LAYERS = {
    "text_config": ("num_hidden_layers", r"layers\.(\d+)\."),
    "audio_config": ("encoder_layers", r"audio_tower\.layers\.(\d+)\."),
    "vision_config": ("depth", r"visual\.blocks\.(\d+)\."),
}
"""Each part's setting for its number of layers, and where the weights' names tell it."""
MEL = {
    "feature_size": (1, 1024), "sampling_rate": (1_000, 384_000), "hop_length": (1, 100_000), "n_fft": (2, 65_536),
    "chunk_length": (1, 100_000),
}  # fmt: skip
"""What the settings of the log-mel may be: mel bins, Hz, samples, samples, seconds."""


def _feature_extractor(folder: Path, config: Qwen2_5OmniThinkerConfig) -> WhisperFeatureExtractor:
    """The log-mel, made from the five settings that matter. Raises ValueError where they are missing or implausible."""
    path = folder / "preprocessor_config.json"
    if not path.exists():
        raise ValueError(f"{path}: is missing; a model folder has the settings of its feature extractor")
    written = read_json(path)
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


MEL_DEFAULTS = {"sampling_rate": 16_000, "hop_length": 160, "n_fft": 400, "chunk_length": 30}


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


logging.getLogger("transformers.modeling_rope_utils").setLevel(logging.ERROR)  # mrope keys it does not know: harmless
