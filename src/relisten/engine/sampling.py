"""From logits to a sampled token and its log-probability. Training computes the same log-probability again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

NOWHERE = float("-inf")


def token_logprobs(logits: Tensor, token_ids: Tensor, banned: Tensor) -> Tensor:
    """Log-probabilities (nats) of tokens at temperature 1, with `banned` ids excluded from the support; differentiable.

    logits: [..., V] of any float type; token_ids: [...]; banned: [K]. Returns float32 [...]. The value of a banned
    token itself (audio positions hold such tokens) has no meaning, but it is finite, so that a mask of zero removes it.
    """
    logits = logits.float()
    total = torch.logsumexp(logits.index_fill(-1, banned.to(logits.device), NOWHERE), dim=-1)
    return logits.gather(-1, token_ids[..., None]).squeeze(-1) - total


def allow_only(allowed: Sequence[Collection[int] | None], logits: Tensor) -> Tensor:
    """Logits [N, V] of rows each of which may be followed by these tokens alone (None: by any)."""
    if all(token_ids is None for token_ids in allowed):
        return logits
    masked = logits.clone()
    for index, token_ids in enumerate(allowed):
        if token_ids is not None:
            kept = torch.tensor(sorted(token_ids), device=logits.device)
            masked[index] = NOWHERE
            masked[index, kept] = logits[index, kept]
    return masked


def choose(
    logits: Tensor, banned: Tensor, uniforms: list[float], temperature: float, top_p: float = 1.0, top_k: int = 0
) -> tuple[list[int], list[float]]:
    """Choose one token for each row of logits [N, V]. Returns the tokens and their log-probabilities at the temperature
    that sampled them (top_p and top_k left aside), or at temperature 1 for greedy tokens.

    uniforms: a number in 0 .. 1 for each row, which alone decides what the row draws. At temperature 0 the most likely
    token is taken.
    """
    logits = logits.float()
    allowed = logits.index_fill(-1, banned.to(logits.device), NOWHERE)
    if temperature <= 0:
        token_ids = allowed.argmax(-1)
    else:
        allowed = allowed / temperature
        token_ids = _drawn(allowed, torch.tensor(uniforms, device=logits.device), top_p, top_k)
    logprobs = allowed.gather(-1, token_ids[:, None]).squeeze(-1) - torch.logsumexp(allowed, -1)
    return token_ids.tolist(), logprobs.tolist()


def _drawn(logits: Tensor, uniforms: Tensor, top_p: float, top_k: int) -> Tensor:
    """The token at which the cumulative distribution, in the order of the vocabulary, passes the number of the row."""
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, NOWHERE)
    # float64 keeps the sum over a vocabulary of 150,000 exact enough; MPS does not have it.
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    probabilities = torch.softmax(logits.to(exact), dim=-1)
    if top_p < 1:
        probabilities = _nucleus(probabilities, top_p)
    sums = probabilities.cumsum(-1)
    passed = torch.searchsorted(sums, uniforms.to(exact)[:, None] * sums[:, -1:], right=True).squeeze(-1)
    return passed.clamp_(max=logits.shape[-1] - 1)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probabilities sum to at least `top_p`."""
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    outside = ranked.cumsum(-1) - ranked >= top_p
    outside[:, 0] = False
    return probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)


def row_generator(seed: int, example_id: str, sample: int) -> np.random.Generator:
    """The random generator of one row. It depends only on the seed, the id of the example and the sample's number."""
    digest = blake2b(example_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "big"), sample])
