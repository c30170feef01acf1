"""Two runs over the same questions: is their difference larger than chance explains?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

FEWEST = 6
"""With fewer questions on which two runs differ, p cannot be below 0.05, and a bootstrap interval is too narrow."""
_AT_ONCE = 1_000_000
"""Numbers drawn together in a bootstrap."""


@dataclass(frozen=True)
class Paired:
    """The comparison of two runs over the questions that both have."""

    num: int
    accuracy: tuple[float, float]
    difference: float
    """Accuracy of the second run minus that of the first."""
    interval: tuple[float, float]
    """95 % of the difference, by a paired bootstrap over questions."""
    better: tuple[int, int]
    """Questions on which only the first, only the second is right (more often right, with several samples)."""
    p: float
    """McNemar's exact test, two-sided (a sign test, with several samples)."""

    @property
    def surely(self) -> int:
        """1 better, -1 worse, 0 unsure (the interval holds 0, or too few questions differ for any test)."""
        if sum(self.better) < FEWEST:
            return 0
        return (self.interval[0] > 0) - (self.interval[1] < 0)


def paired(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Paired:
    """Compare two runs, given for each question how often it was answered rightly, 0 to 1."""
    if len(first) != len(second) or not len(first):
        raise ValueError(f"two runs are compared on the same questions: {len(first)} and {len(second)} were given")
    a, b = np.asarray(first, float), np.asarray(second, float)
    better = int((a > b).sum()), int((b > a).sum())
    accuracy = float(a.mean()), float(b.mean())
    return Paired(len(a), accuracy, accuracy[1] - accuracy[0], bootstrap(b - a, seed=seed), better, mcnemar(*better))


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact p: how likely a split at least as uneven is if neither run is better."""
    num = only_first + only_second
    tail = sum(comb(num, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**num))


def bootstrap(values: Sequence[float] | NDArray[np.float64], num: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean: the values are resampled with replacement `num` times."""
    given = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // len(given))
    means = [
        given[rng.integers(0, len(given), (min(rows, num - done), len(given)))].mean(axis=1)
        for done in range(0, num, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
