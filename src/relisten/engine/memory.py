"""How many tokens the cache may hold, and how many tokens an answer is likely to need."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field

import torch

from relisten.models.base import AudioLM

SHARE = 0.8
"""The part of the free memory of a GPU that keys and values may take. The rest is for the forwards themselves: in a
7B model, 8,192 tokens of prompts and the logits of 64 rows take two to three GB."""
FIRST = 512
"""Tokens after the prompt that an answer is expected to need as long as none has finished: a few sentences and two or
three segments."""
GROWTH = 64
"""Tokens that every answer is expected to go on for, however long it is. So a row is not admitted only to be put back
in the next step."""
SEEN = 256
"""How many of the latest answers the expected length is taken from."""
QUANTILE = 0.9
"""Nine of ten answers are expected to need no more. A row takes as much memory as the longest beside it, so the mean
would be too little."""


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU that can be used: what its driver calls free, and what PyTorch holds without using it.

    PyTorch keeps freed memory for itself. After a training step, most of what the driver calls used is of this kind.
    Returns None for a device that is no CUDA GPU.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def bytes_per_token(model: AudioLM) -> int:
    """Bytes of the keys and values of one token. Under autocast they have its type, whatever that of the weights."""
    config, module = model.module.config.get_text_config(), model.module
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kind = module.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else module.dtype
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * width * dtype.itemsize)


def max_tokens(model: AudioLM, max_cache_bytes: int | None) -> int | None:
    """How many tokens the cache may hold; None for no bound.

    max_cache_bytes: what the user allows (None: a share of the free memory on a CUDA device, no bound elsewhere).
    """
    if max_cache_bytes is None:
        free = free_bytes(model.module.device)
        if free is None:
            return None
        max_cache_bytes = int(SHARE * free)
    return max(1, max_cache_bytes // bytes_per_token(model))


class Lengths:
    """The lengths of the latest answers, in tokens after the prompt: written, forced and heard."""

    def __init__(self) -> None:
        self._seen: deque[int] = deque(maxlen=SEEN)

    def add(self, length: int) -> None:
        """Note the length of a finished answer."""
        self._seen.append(length)

    @property
    def likely(self) -> int:
        """Tokens that the next answer will hardly exceed."""
        if not self._seen:
            return FIRST
        return sorted(self._seen)[int(QUANTILE * (len(self._seen) - 1))]


@dataclass
class Usage:
    """What a session has used so far."""

    forwards: dict[str, int] = field(default_factory=lambda: {"prefill": 0, "listen": 0, "decode": 0})
    """Number of forward passes for prompts, for inserted audio, and for sampled tokens."""
    rows: int = 0
    """The most answers that were decoded side by side."""
    cache_tokens: int = 0
    """The most tokens that the cache had memory for, over all rows."""
    max_cache_tokens: int | None = None
    """How many it may have; None for no bound."""
    put_back: int = 0
    """How often an answer had to wait again, because the others needed its memory."""

    def merged(self, later: Usage) -> Usage:
        """What this session and a later one have used together."""
        return Usage(
            {name: number + later.forwards[name] for name, number in self.forwards.items()},
            max(self.rows, later.rows),
            max(self.cache_tokens, later.cache_tokens),
            self.max_cache_tokens,
            self.put_back + later.put_back,
        )

    def figures(self) -> dict[str, float]:
        """The same as numbers with names, for a file of metrics."""
        plain = {name: float(value) for name, value in asdict(self).items() if isinstance(value, int)}
        forwards = {f"{name}_forwards": float(number) for name, number in self.forwards.items()}
        return {f"engine_{name}": value for name, value in (plain | forwards).items()}
