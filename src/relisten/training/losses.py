"""Losses: tensors in, loss out. No model and no files are needed.

K is the number of sampled tokens, including the end token. Audio, prompt and forced text are never among the K, so they
are in no term and in no denominator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from relisten.engine.sampling import NOWHERE, token_logprobs

CHUNK = 2**26
"""How many logits are in memory at a time (256 MB in float32): 441 positions of Qwen's vocabulary."""
MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this, because the exponential would soon be infinite and means no more than "very far"."""


def sft_loss(logprobs: Tensor, num_targets: Tensor | float | None = None) -> Tensor:
    """Mean cross-entropy of the tokens that are learnt.

    logprobs: [K]. num_targets: the number of tokens in the whole batch, if the K tokens are a part of it (gradient
    accumulation, several processes); K by default.
    """
    return -logprobs.sum() / (len(logprobs) if num_targets is None else num_targets)


def token_scores(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    token_ids: Tensor,
    banned: Tensor,
    vocab_size: int,
    temperature: float = 1.0,
) -> Tensor:
    """Log-probability and entropy (nats) of tokens, from the hidden states before the output layer: float32 [K, 2].

    hidden: [K, H]; head: [n, H] -> [n, vocab_size]; token_ids: [K]; banned: ids [N] that are excluded, as in sampling.
    temperature: that at which the tokens were sampled; logits are divided by it. Logits exist for one chunk at a time,
    forward and backward. The entropy has no gradient.
    """
    size = max(1, CHUNK // vocab_size)
    scores = partial(_chunk_scores, head=head, banned=banned, temperature=temperature)
    if len(hidden) <= size:
        return scores(hidden, token_ids)
    chunks = zip(hidden.split(size), token_ids.split(size), strict=True)
    return torch.cat([checkpoint(scores, states, ids, use_reentrant=False) for states, ids in chunks])


def _chunk_scores(
    hidden: Tensor, token_ids: Tensor, head: Callable[[Tensor], Tensor], banned: Tensor, temperature: float
) -> Tensor:
    logits = head(hidden).float()
    if temperature != 1:
        logits = logits / temperature
    return torch.stack([token_logprobs(logits, token_ids, banned), _entropy(logits.detach(), banned)], dim=-1)


def _entropy(logits: Tensor, banned: Tensor) -> Tensor:
    logprobs = torch.log_softmax(logits.index_fill(-1, banned.to(logits.device), NOWHERE), dim=-1)
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(-1)


def group_advantages(rewards: Tensor, normalise: bool = True, leave_one_out: bool = False) -> Tensor:
    """How much better each answer did than its group. Exactly zero if all answers of a group earned the same.

    rewards: [N, G], one row for each prompt. normalise: divide by the standard deviation of the group, as GRPO does.
    leave_one_out: compare with the mean of the other answers, instead of the mean of the group.
    """
    exact = rewards.double()
    differences = exact - exact.mean(1, keepdim=True)
    group = rewards.shape[1]
    if leave_one_out and group > 1:
        differences = differences * (group / (group - 1))
    if normalise and group > 1:
        differences = differences / (exact.std(1, keepdim=True) + 1e-6)
    # Equal rewards may differ from their mean in the last bit, and dividing by a tiny deviation would amplify that.
    equal = (exact == exact[:, :1]).all(1, keepdim=True)
    return differences.masked_fill(equal, 0.0).to(rewards.dtype)


def token_weights(lengths: Tensor, kept: Tensor, mean: Literal["trace", "token"], total: float) -> Tensor:
    """The weight of each of the K tokens in the loss. Over the whole batch the weights add up to 1.

    lengths: int [N], sampled tokens of each trace; kept: bool [N], whether the trace counts at all. mean: `trace` gives
    every trace the same weight (the paper's 1/|trace|), `token` gives every token the same. total: the number of kept
    traces, or of their tokens, in the whole batch, of which these N may be a part.
    """
    each = kept / lengths.clamp(min=1) if mean == "trace" else kept.float()
    return (each / max(total, 1)).repeat_interleave(lengths)


def grpo_loss(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    weights: Tensor,
    reference: Tensor | None = None,
    clip: float = 0.2,
    clip_high: float | None = None,
    kl: float = 0.04,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy term plus the KL to the reference, both over the same K tokens with the same weights.

    logprobs, old, reference: [K] nats, of the policy that is trained, the policy that sampled, and the policy to stay
    near; advantages: [K], for each token that of its trace; weights: [K], see `token_weights`. clip_high: the upper
    limit, if it differs from `clip` (clip-higher). The KL is estimated by e^d - d - 1 with d = reference - logprobs
    ("k3"). Metrics are sums over the K tokens, weighted like the loss, except `ratio_max`, a maximum.
    """
    ratio = (logprobs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    policy = -torch.minimum(ratio * advantages, clipped * advantages)
    loss = (weights * policy).sum()
    metrics = {
        "policy_loss": loss.detach(),
        "clipped": (weights * (clipped * advantages < ratio * advantages)).sum().detach(),
        "ratio_max": ratio.detach().amax() if len(ratio) else ratio.new_ones(()),
    }
    if reference is not None:
        difference = (reference - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        divergence = (weights * (difference.exp() - difference - 1)).sum()
        metrics["kl"] = divergence.detach()
        loss = loss + kl * divergence
    return loss, metrics
