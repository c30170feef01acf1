"""A model that was just loaded is tried once, so that a wrong file is told before an hour of answers, not after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from relisten.types import Audio

if TYPE_CHECKING:
    from relisten.models.base import AudioLM

PROBE = "<think>A dog barks <seg>3.2, 4.8</seg>, then:\n a bell.</think><answer>two (2)</answer>"


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raise ValueError where a tokenizer loses text, or has tokens for which the model has no embedding."""
    ids = tokenizer(PROBE, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if back != PROBE:
        raise ValueError("it does not give back the text that it is given")
    if max(tokenizer.get_vocab().values()) >= vocab_size:
        raise ValueError(f"it has tokens past the {vocab_size} of the model")


@torch.no_grad()
def try_out(model: AudioLM) -> None:
    """Raise where a model cannot read a prompt with one second of silence, or answers it with NaN."""
    if not all(parameter.numel() for parameter in model.module.parameters()):
        return  # split among processes: none of them can run it alone
    samples = np.zeros(model.rate, dtype=np.float32)
    for choices in ((), ("a", "b")):
        for format in ("conditioned", "grounded", "interleaved"):
            ids, _ = model.prompt("What?", choices, format, len(samples))  # type: ignore[arg-type]
    device = model.module.device
    positions = torch.arange(len(ids), device=device)[None]
    features = [model.features(Audio(samples, model.rate))]
    logits = model.forward(torch.tensor([ids], device=device), positions, features, None)
    if logits.shape[-1] <= max(ids) or torch.isnan(logits).any():
        raise ValueError("it answers silence with what are not numbers; are the weights damaged?")
