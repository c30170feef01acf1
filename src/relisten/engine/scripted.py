"""Scripted answers: an engine whose rows write given text, for tests and benchmarks.

Pauses, crops, the cache, limits and log-probabilities are real; only the choice of tokens is replaced. So a model with
random weights can be made to pause, and two sides of a benchmark can be given equal work.

    engine = ScriptedEngine(model, lambda index, sample: script(model, "<think>", "<seg>0.5, 1.5</seg>", 3, END))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from relisten import tags
from relisten.engine.engine import Engine
from relisten.engine.naive import Script
from relisten.engine.operations import Operation
from relisten.engine.row import Row
from relisten.engine.sampling import token_logprobs
from relisten.models.base import AudioLM

END = "<end>"
"""In a script: the token that ends an answer."""


def script(model: AudioLM, *parts: str | int) -> Script:
    """A script that writes texts; a number stands for that many tokens that the model chooses itself.

    The final `>` of a closing tag is left out where the engine forces it.
    """
    planned: list[int | None] = []
    for part in parts:
        planned += [None] * part if isinstance(part, int) else _sampled(model, part)
    return lambda num_sampled: planned[num_sampled] if num_sampled < len(planned) else None


def _sampled(model: AudioLM, text: str) -> list[int]:
    if text == END:
        return [model.end_token_id]
    *closed, rest = tags.split(text, ("seg", *model.prompts.operations))
    tokens: list[int] = []
    for piece in closed:
        tokens += model.encode_response(piece)
        if model.decode(tokens[-1:]) == ">":
            tokens.pop()
    return tokens + model.encode(rest)


class ScriptedEngine(Engine):
    """An engine whose rows write what their scripts say.

    scripts: (index of the example, index of the sample) -> the script of that row. The other arguments are those of
    `Engine`. The recorded log-probabilities are the model's own.
    """

    def __init__(
        self,
        model: AudioLM,
        scripts: Callable[[int, int], Script],
        max_rows: int = 32,
        max_cache_bytes: int | None = None,
        operations: Mapping[str, Operation] | None = None,
    ) -> None:
        super().__init__(model, operations, max_rows, max_cache_bytes)
        self.scripts = scripts
        self._made: dict[tuple[int, int], Script] = {}

    def choose(self, rows: Sequence[Row], logits: Tensor) -> list[tuple[int, float]]:
        """The tokens that the scripts name; where a script leaves one open, the model's own choice."""
        told = [self._script(row)(row.num_sampled) for row in rows]
        free = [i for i, token_id in enumerate(told) if token_id is None]
        made = super().choose([rows[i] for i in free], logits[free]) if free else []
        own = dict(zip(free, (token_id for token_id, _ in made), strict=True))
        token_ids = [own[i] if token_id is None else token_id for i, token_id in enumerate(told)]
        wanted = torch.tensor(token_ids, device=logits.device)
        temperatures = [row.config.temperature or 1.0 for row in rows]
        logits = logits.float() / torch.tensor(temperatures, device=logits.device)[:, None]
        return list(zip(token_ids, token_logprobs(logits, wanted, self.model.banned_token_ids).tolist(), strict=True))

    def _script(self, row: Row) -> Script:
        """The script of a row. It is made only once, so that its cost is not part of a timed answer."""
        if row.place not in self._made:
            self._made[row.place] = self.scripts(*row.place)
        return self._made[row.place]
