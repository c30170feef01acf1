"""Losses: tensors in, loss out; no model, no files."""

from __future__ import annotations

from torch import Tensor


def token_logprobs(logits: Tensor, token_ids: Tensor, banned: Tensor) -> Tensor:
    """Log-probability [K] (nats) of each chosen token, on the support that sampling has.

    logits: [K, V]; token_ids: [K]; banned: ids [N] that are never sampled and get no probability.
    """
    allowed = logits.float().index_fill(1, banned.to(logits.device), float("-inf"))
    chosen: Tensor = allowed.gather(1, token_ids[:, None])[:, 0]
    return chosen - allowed.logsumexp(dim=1)


def sft_loss(logits: Tensor, targets: Tensor, banned: Tensor, num_targets: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of the tokens that are learnt, divided by their number.

    logits: [K, V]; targets: [K]. num_targets: over how many the mean goes, when the K tokens are a part of a larger
    batch (gradient accumulation); K otherwise.
    """
    total = -token_logprobs(logits, targets, banned).sum()
    return total / (len(targets) if num_targets is None else num_targets)
