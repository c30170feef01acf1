"""A model's tokenizer, as generation needs it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relisten.models.base import AudioLM


class Words:
    """A model's tokenizer with a cache: each step spells one token for each row, and these repeat often."""

    def __init__(self, model: AudioLM) -> None:
        self.encode = lru_cache(maxsize=256)(lambda text: tuple(model.encode(text)))
        self.decode = lru_cache(maxsize=65_536)(lambda *token_ids: model.decode(token_ids))
        self.longest_rest = lru_cache(maxsize=16)(self._longest_rest)
        self._rest = lru_cache(maxsize=4096)(self._rest_of)

    def next_ones(self, written: str, held: Sequence[int], wanted: Iterable[str]) -> frozenset[int] | None:
        """The tokens each of which leads on from a written text to a wanted one; None if no wanted text begins so.

        held: tokens after the written text that are not a whole character yet.
        """
        rests = [self._rest(written, text) for text in wanted if text.startswith(written)]
        num = len(held)
        return frozenset(rest[num] for rest in rests if len(rest) > num and rest[:num] == tuple(held)) or None

    def _longest_rest(self, text: str) -> int:
        """The most tokens that any ending of `text` takes: one of `/answer>` may take more than the whole tag."""
        return max(len(self.encode(text[start:])) for start in range(len(text)))

    def _rest_of(self, written: str, wanted: str) -> tuple[int, ...]:
        """Tokens that lead from a written text to a wanted one, spelled as they would be if it were encoded at once."""
        whole = self.encode(wanted)
        for count in range(len(whole)):
            if self.decode(*whole[:count]) == written:
                return whole[count:]
        return self.encode(wanted[len(written) :])
