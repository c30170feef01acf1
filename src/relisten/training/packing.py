"""How rows are divided among forward passes, so that each pass has at most so many tokens."""

from __future__ import annotations

from collections.abc import Sequence

from relisten.training.batch import Encoded


def num_tokens(row: Sequence[Encoded]) -> int:
    """The number of tokens in a packed row of these traces. What they share counts once."""
    shared = {one.recording: one.shared for one in row}
    return sum(shared.values()) + sum(len(one.trace.token_ids) - one.shared for one in row)


def divided(row: Sequence[Encoded], most_tokens: int) -> list[list[Encoded]]:
    """The row as it is, or cut into as many rows as it needs so that each has at most `most_tokens`.

    A trace that is longer by itself is a row of its own.
    """
    rows: list[list[Encoded]] = []
    for one in row:
        if rows and num_tokens([*rows[-1], one]) <= most_tokens:
            rows[-1].append(one)
        else:
            rows.append([one])
    return rows


def forwards(lengths: Sequence[int], most_tokens: int, most_rows: int = 0) -> list[list[int]]:
    """Which rows go through the model together: their places in `lengths`, rows of similar length together.

    lengths: tokens of each row. most_tokens: the most in one pass, with the padding up to its longest row; a row that
    is longer by itself goes alone. most_rows: the most rows in one pass; 0 sets no limit. Shorter passes come first.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    found: list[list[int]] = []
    while order:
        num = max(1, most_tokens // lengths[order[-1]])
        num = min(num, most_rows or num)
        found.append(order[-num:])
        del order[-num:]
    return found[::-1]
