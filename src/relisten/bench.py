"""`relisten bench engine`: what the engine costs beside the naive loop, beside itself, and beside the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from relisten.engine import Engine, GenerationConfig
from relisten.models.base import AudioLM
from relisten.naive import Script
from relisten.row import Row
from relisten.sampling import token_logprobs


class ScriptedEngine(Engine):
    """An engine whose rows write what a script says, so that random weights pause and equal work can be timed.

    scripts: (example's index, sample's index) -> the row's script. The recorded log-probabilities are the model's own.
    """

    def __init__(
        self,
        model: AudioLM,
        scripts: Callable[[int, int], Script],
        max_rows: int = 32,
        max_cache_bytes: int | None = None,
    ) -> None:
        super().__init__(model, max_rows=max_rows, max_cache_bytes=max_cache_bytes)
        self.scripts = scripts

    def _choose(self, config: GenerationConfig, rows: Sequence[Row], logits: Tensor) -> list[tuple[int, float]]:
        chosen = super()._choose(config, rows, logits)
        for i, row in enumerate(rows):
            token_id = self.scripts(row.question.index, row.sample)(row.num_sampled)
            if token_id is not None:
                logprob = token_logprobs(logits[i], torch.tensor(token_id), self.model.banned_token_ids)
                chosen[i] = token_id, float(logprob)
        return chosen
