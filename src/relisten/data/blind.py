"""Measures how many answers the text alone gives away, with a guesser that never hears anything.

The guesser is a linear model over pairs of words (one of the question, one of the choice), the choice's place and its
length. It is trained on four fifths of the recordings and asked about the last fifth, in turn (cross-validation). Its
accuracy above chance is what questions and choices give away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from relisten.data.checks import words
from relisten.evals.scoring import wilson
from relisten.types import Example

FOLDS = 5
MOST = 5_000
"""Most questions that are used; more would hardly narrow the interval."""
WIDTH = 1 << 17
EPOCHS = 4
LEAST = 50
"""Fewest questions for which the guesser is trained at all."""


@dataclass(frozen=True)
class Blind:
    """The guesser's result."""

    num: int
    accuracy: float
    interval: tuple[float, float]
    """95 % (Wilson)."""
    chance: float
    margin: float
    """How far above chance the guesser may be."""

    @property
    def passed(self) -> bool:
        """Whether the lower end of the interval is at most the margin above chance."""
        return self.num < LEAST or self.interval[0] <= self.chance + self.margin

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"passed": self.passed}


def guess(examples: Sequence[Example], margin: float, seed: int = 0) -> Blind:
    """Measure the guesser on a finished set. All questions about one recording are in the same fold."""
    asked = [e for e in examples if e.answer in e.choices and len(e.choices) > 1]
    rng = np.random.default_rng([seed, 5])
    asked = [asked[int(n)] for n in rng.permutation(len(asked))[:MOST]]
    chance = float(np.mean([1 / len(e.choices) for e in asked] or [0.0]))
    if len(asked) < LEAST:
        return Blind(len(asked), 0.0, (0.0, 1.0), chance, margin)
    seen = [[_features(example, place) for place in range(len(example.choices))] for example in asked]
    gold = [e.choices.index(str(e.answer)) for e in asked]
    # By name, so that the figure does not depend on where the folder is.
    folds = [
        crc32((e.audio.name if isinstance(e.audio, Path) else e.id).encode(errors="replace")) % FOLDS for e in asked
    ]
    right = 0
    for fold in range(FOLDS):
        inside = [n for n in range(len(asked)) if folds[n] != fold]
        weights = _learn([seen[n] for n in inside], [gold[n] for n in inside], rng)
        right += sum(
            int(np.argmax(_scores(weights, seen[n]))) == gold[n] for n in range(len(asked)) if folds[n] == fold
        )
    return Blind(len(asked), right / len(asked), wilson(right, len(asked)), chance, margin)


def _features(example: Example, place: int) -> NDArray[np.int64]:
    """Hashes of what the guesser sees of a choice."""
    choice = words(example.choices[place]) or [""]
    question = words(example.question)
    lengths = sorted(len(c) for c in example.choices)
    names = [f"place {place} of {len(example.choices)}", f"rank {lengths.index(len(example.choices[place]))}"]
    names += [f"whole {' '.join(choice)}", f"asked {len(set(choice) & set(question))}", f"words {len(choice)}"]
    names += [f"word {word}" for word in choice[:12]]
    names += [f"{asked}|{word}" for asked in dict.fromkeys(question[:20]) for word in dict.fromkeys(choice[:6])]
    return np.unique([crc32(name.encode()) % WIDTH for name in names])


def _scores(weights: NDArray[np.float64], choices: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    return np.array([weights[choice].sum() for choice in choices])


def _learn(
    seen: Sequence[Sequence[NDArray[np.int64]]], gold: Sequence[int], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Weights of a softmax over the choices of each question, trained with AdaGrad."""
    weights, squares = np.zeros(WIDTH), np.full(WIDTH, 1.0)
    for _ in range(EPOCHS):
        for n in rng.permutation(len(seen)):
            scores = _scores(weights, seen[n])
            odds = np.exp(scores - scores.max())
            slopes = odds / odds.sum()
            slopes[gold[n]] -= 1
            for slope, choice in zip(slopes, seen[n], strict=True):
                squares[choice] += slope * slope
                weights[choice] -= 0.2 * slope / np.sqrt(squares[choice])
    return weights
