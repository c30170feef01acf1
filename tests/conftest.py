"""Random tiny models of the real class, with a tokenizer cut out of the real vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training import plots
from relisten.types import Audio, Example

FIXTURES = Path(__file__).parent / "fixtures"
torch.set_num_threads(1)
# A busy machine is no fault of the code.
settings.register_profile("relisten", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relisten")


training_curves = plots.training_curves
plots.training_curves = lambda metrics, picture: None  # drawing takes longer than a tiny model's whole training


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that uses this trains as users do: the curves are drawn."""
    monkeypatch.setattr(plots, "training_curves", training_curves)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every token of Qwen's vocabulary that occurs in a page of prompts and answers: exact on such text."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(FIXTURES / "qwen_bpe.json"), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def thinker_config(
    tokenizer: PreTrainedTokenizerFast, layers: int = 4, context: int = 4096
) -> Qwen2_5OmniThinkerConfig:
    """A config of the real class: 64 wide, heads of 32, an audio tower of two layers."""
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen2_5OmniThinkerConfig(
        audio_config={
            "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
            "num_mel_bins": 16, "n_window": 100, "output_dim": 64, "max_source_positions": 1500,
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 64,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": len(tokenizer) + 5, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": layers,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": context,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
            "pad_token_id": token_id("<|endoftext|>"), "eos_token_id": token_id("<|im_end|>"),
            "use_sliding_window": False, "tie_word_embeddings": False,
        },
        audio_token_index=token_id("<|AUDIO|>"),
        audio_start_token_id=token_id("<|audio_bos|>"),
        audio_end_token_id=token_id("<|audio_eos|>"),
        image_token_index=token_id("<|IMAGE|>"),
        video_token_index=token_id("<|VIDEO|>"),
        vision_start_token_id=token_id("<|vision_bos|>"),
        vision_end_token_id=token_id("<|vision_eos|>"),
        initializer_range=0.2,
    )  # fmt: skip


def make_model(layers: int = 4, context: int = 4096, hop: int = 160, seed: int = 0) -> Qwen2_5Omni:
    """Random weights, large enough that what was heard decides what is said."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    module = Qwen2_5OmniThinkerForConditionalGeneration(thinker_config(tokenizer, layers, context)).float()
    extractor = WhisperFeatureExtractor(feature_size=16, sampling_rate=16_000, hop_length=hop, n_fft=400)
    return Qwen2_5Omni(module, tokenizer, extractor, name="tiny")


def make_audio(seconds: float, seed: int = 0, rate: int = 16_000) -> Audio:
    """Noise that swells and fades, different at every seed."""
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * rate)
    swell = np.sin(np.linspace(0, 9 + seed, num_samples)) ** 2
    return Audio((rng.standard_normal(num_samples) * swell * 0.3).astype(np.float32), rate)


def make_example(seconds: float = 4.0, seed: int = 0, question: str = "What is heard after the siren?") -> Example:
    """A question about a recording of noise."""
    return Example(f"example-{seed}", make_audio(seconds, seed), question, ("a dog", "two knocks"), "two knocks")


@pytest.fixture(scope="session")
def model() -> Qwen2_5Omni:
    """Two layers, random."""
    return make_model(layers=2)


@pytest.fixture(scope="session")
def build_model() -> Callable[..., Qwen2_5Omni]:
    """`make_model`, for tests that need another size, context or hop."""
    return make_model
