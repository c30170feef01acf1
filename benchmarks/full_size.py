"""A model of Qwen2.5-Omni-7B's shape with random weights, and what the GPU check watches of its forwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor
from transformers.initialization import no_init_weights

from relisten.models import nano
from relisten.models.base import Prompts
from relisten.models.qwen2_5_omni import Qwen2_5Omni

TIMES = [f"{tenth / 10:04.1f}" for tenth in range(600)]
FILLER = "a"
MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
TINY_LAYERS = 2


def settings(layers: int | None) -> tuple[Any, Any, int]:
    """The configuration of `build`, its tokenizer, and its number of mel bins."""
    vocab = nano.tokenizer([FILLER, *TIMES, "<seg> </seg>"] * 2)
    if layers == TINY_LAYERS:
        size = nano.NanoConfig(num_layers=TINY_LAYERS, num_mel_bins=16, hop_length=160, audio_block=100)
        config, bins = nano.config(size, vocab), 16
    else:
        config, bins = nano.config(nano.NanoConfig(), vocab), 128
        real = type(config)()
        config.audio_config = real.audio_config
        changed = {"num_hidden_layers": layers, "max_window_layers": layers, "layer_types": None} if layers else {}
        config.text_config = type(real.text_config)(
            **real.text_config.to_dict() | changed | {"pad_token_id": vocab.pad_token_id, "rope_parameters": MROPE}
        )
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    return config, vocab, bins


def build(layers: int | None, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Qwen2_5Omni:
    """Random weights at the 7B's shape (the defaults of its class) with as many layers, or tiny ones for 2 layers.

    The vocabulary has the 7B's size, but its tokenizer knows only what the check writes.
    """
    config, vocab, bins = settings(layers)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device, no_init_weights():
            module = Qwen2_5OmniThinkerForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    fill(module)
    extractor = WhisperFeatureExtractor(feature_size=bins, sampling_rate=16_000, hop_length=160, n_fft=400)
    return Qwen2_5Omni(module, vocab, extractor, Prompts(), name="random")


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Random matrices, biases of 0, norms of 1. On a CPU one block of numbers is repeated, which takes seconds."""
    block = torch.randn(1_000_003) * 0.02
    for name, parameter in module.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        elif parameter.device.type != "cpu":
            parameter.normal_(0.0, 0.02)
        else:
            flat = parameter.view(-1)
            for first in range(0, len(flat), len(block)):
                part = flat[first : first + len(block)]
                part.copy_(block[: len(part)])


def seven_layers() -> Qwen2_5Omni:
    """The 7B's shape with a quarter of its layers, on the CPU, for full fine-tuning under FSDP2."""
    return build(7, torch.device("cpu"))


def tiny_model() -> Qwen2_5Omni:
    """The model of --tiny, for full fine-tuning."""
    return build(TINY_LAYERS, torch.device("cpu"), torch.float32)


def text_model(model: Qwen2_5Omni) -> Any:
    """The text model, which transformers keeps at different places from version to version."""
    return next(part for part in model.module.modules() if type(part).__name__.endswith("ThinkerTextModel"))


@contextmanager
def forwards(model: Qwen2_5Omni) -> Iterator[list[int]]:
    """Counts the forwards of the text model: the list gets one entry for each."""
    seen: list[int] = []
    hook = text_model(model).register_forward_pre_hook(lambda *_: seen.append(1))
    try:
        yield seen
    finally:
        hook.remove()


class Watched:
    """Profiles some consecutive forwards of the text model, with all that happens between them."""

    def __init__(self, model: Qwen2_5Omni, at: int, num: int, cuda: bool, events: list[Any]) -> None:
        self.model, self.at, self.num, self.events, self.seen, self.seconds = model, at, num, events, 0, 0.0
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self.profile = profile(activities=activities)

    def __enter__(self) -> None:
        self.hook = text_model(self.model).register_forward_pre_hook(self._before)

    def _before(self, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.at:
            self.profile.__enter__()
            self.started = perf_counter()
        if self.seen == self.at + self.num:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds = perf_counter() - self.started
            self.profile.__exit__(None, None, None)
            self.events += self.profile.events() or []

    def __exit__(self, *_: Any) -> None:
        self.hook.remove()
