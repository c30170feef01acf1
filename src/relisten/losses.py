"""Losses: tensors in, loss out; no model, no files."""

from __future__ import annotations

from torch import Tensor

from relisten.sampling import token_logprobs


def sft_loss(logits: Tensor, targets: Tensor, banned: Tensor, num_targets: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of the tokens that are learnt, divided by their number.

    logits: [K, V]; targets: [K]; banned: ids [N] that sampling leaves out, and so does this. num_targets: over how many
    the mean goes, when the K tokens are a part of a larger batch (gradient accumulation); K otherwise.
    """
    total = -token_logprobs(logits, targets, banned).sum()
    return total / (len(targets) if num_targets is None else num_targets)
