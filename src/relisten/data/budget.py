"""What a build may spend, what it has spent, and what the calls in flight will probably cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from relisten.data.store import Call, Spent

Prices = tuple[float, float]
"""Prices of a million tokens of prompt and of a million tokens of reply, in one currency."""


class Stopped(Exception):  # noqa: N818
    """The build ends early: the budget is spent, or the server cannot be reached."""


class Budget:
    """Counts cost and tokens over all runs into a folder, and stops before a limit is passed."""

    def __init__(self, spent: Spent, max_cost: float = 0.0, max_tokens: int = 0) -> None:
        """spent: sums over earlier runs. max_cost, max_tokens: 0 sets no limit."""
        self.spent = spent
        self.max_cost, self.max_tokens = max_cost, max_tokens
        self._reserved_cost = self._reserved_tokens = 0.0

    def book(self, call: Call) -> None:
        """Add a call's cost and tokens."""
        self.spent = Spent(
            self.spent.calls + 1,
            self.spent.failed + bool(call.error),
            self.spent.attempts + call.attempts,
            self.spent.prompt_tokens + call.prompt_tokens,
            self.spent.completion_tokens + call.completion_tokens,
            self.spent.cost + call.cost,
        )

    @contextmanager
    def reserve(self, asked: float, replied: float, prices: Prices) -> Iterator[None]:
        """Reserve the tokens that a call will probably take until it is over, so that all calls in flight fit together.

        Raises Stopped if they do not fit into what is left.
        """
        tokens, cost = asked + replied, (asked * prices[0] + replied * prices[1]) / 1e6
        if self.max_tokens and self.spent.tokens + self._reserved_tokens + tokens > self.max_tokens:
            raise Stopped(f"the budget of {self.max_tokens:,} tokens is spent ({self.spent.tokens:,} so far)")
        if self.max_cost and self.spent.cost + self._reserved_cost + cost > self.max_cost:
            raise Stopped(f"the budget of {self.max_cost:g} is spent ({self.spent.cost:.4g} so far)")
        self._reserved_cost += cost
        self._reserved_tokens += tokens
        try:
            yield
        finally:
            self._reserved_cost -= cost
            self._reserved_tokens -= tokens
