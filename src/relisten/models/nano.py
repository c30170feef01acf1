"""nano: a model of the same class as the paper's, small enough to train and run on a laptop CPU.

Configuration, tokenizer, prompts and random weights are made here. The model is saved in the layout of Hugging Face, so
that both `Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained` and `relisten.load` can read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from relisten.models.base import Prompts
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.tags import OPERATIONS

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
)
# Tags and tenths of a second are single tokens, because a small model learns short sequences more easily.
PIECES = rf" ?</?(?:seg|think|answer|{'|'.join(OPERATIONS)})>" + r"|\d+\.\d(?!\d)|, | ?\p{L}+|\p{N}|\s|[^\s\p{L}\p{N}]"


@dataclass(frozen=True)
class NanoConfig:
    """Sizes. The defaults make about 4 M parameters."""

    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_key_value_heads: int = 2
    intermediate_size: int = 640
    audio_width: int = 192
    audio_layers: int = 3
    audio_heads: int = 3
    audio_intermediate_size: int = 576
    audio_block: int = 200
    """Half a block of the audio tower, in mel frames (`n_window`). With 200, a block is 8 s; Qwen's blocks are 2 s."""
    num_mel_bins: int = 64
    hop_length: int = 320
    """Samples between mel frames. With 320 there are 12.5 audio tokens a second, half of Qwen's rate."""
    n_fft: int = 512
    context: int = 4096
    """The longest sequence, in tokens."""


def prompts() -> Prompts:
    """nano's short prompt. For such a small model, every token of the prompt costs training time."""
    return Prompts(
        system=None,
        choose="{question}\n {choices}",  # with the blank, a choice has the same tokens as in a sentence
        open="{question}",
        choice_separator="\n ",
        instructions={"conditioned": "", "grounded": "\nlisten", "interleaved": "\nlisten"},
    )


def tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which each word, tag and tenth of a second in `texts` is one token. It can encode any text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[AddedToken(text, special=True) for text in CONTROL_TOKENS],
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )


def config(size: NanoConfig, vocab: PreTrainedTokenizerFast) -> Qwen2_5OmniThinkerConfig:
    """The configuration of the class. Its vision tower is never used and as small as possible."""
    ids = {text: vocab.convert_tokens_to_ids(text) for text in CONTROL_TOKENS}
    half = size.hidden_size // size.num_heads // 2
    width = half // 8
    return Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": -(-len(vocab) // 64) * 64,
            "hidden_size": size.hidden_size,
            "intermediate_size": size.intermediate_size,
            "num_hidden_layers": size.num_layers,
            "num_attention_heads": size.num_heads,
            "num_key_value_heads": size.num_key_value_heads,
            "max_position_embeddings": size.context,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [half - 6 * width, 3 * width, 3 * width],
            },
            "tie_word_embeddings": True,
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "bos_token_id": ids["<|endoftext|>"],
        },
        audio_config={
            "num_mel_bins": size.num_mel_bins,
            "d_model": size.audio_width,
            "encoder_layers": size.audio_layers,
            "encoder_attention_heads": size.audio_heads,
            "encoder_ffn_dim": size.audio_intermediate_size,
            "n_window": size.audio_block,
            "output_dim": size.hidden_size,
            "max_source_positions": 1500,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 1,
            "out_hidden_size": size.hidden_size,
        },
        audio_token_index=ids["<|AUDIO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        image_token_index=ids["<|IMAGE|>"],
        video_token_index=ids["<|VIDEO|>"],
        vision_start_token_id=ids["<|IMAGE|>"],  # transformers' own forward asks for one
        tie_word_embeddings=True,
        dtype="float32",
    )


def create(
    texts: Iterable[str] | PreTrainedTokenizerFast, size: NanoConfig = NanoConfig(), seed: int = 0
) -> Qwen2_5Omni:
    """A nano model with random weights whose vocabulary covers `texts`, or is the tokenizer that is given."""
    vocab = texts if isinstance(texts, PreTrainedTokenizerFast) else tokenizer(texts)
    torch.manual_seed(seed)
    module = Qwen2_5OmniThinkerForConditionalGeneration(config(size, vocab)).float()
    module.generation_config = GenerationConfig(
        eos_token_id=[vocab.eos_token_id, vocab.pad_token_id], pad_token_id=vocab.pad_token_id, do_sample=False
    )
    extractor = WhisperFeatureExtractor(
        feature_size=size.num_mel_bins,
        sampling_rate=16_000,
        hop_length=size.hop_length,
        n_fft=size.n_fft,
        chunk_length=30,
    )
    return Qwen2_5Omni(module, vocab, extractor, prompts(), name="nano")
