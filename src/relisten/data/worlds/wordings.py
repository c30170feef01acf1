"""How people word the questions that nano is asked about recordings of their own.

Training uses WORDINGS. HELDOUT says the same in other words and is only used to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relisten.data.offline.phrases import HELDOUT_QUESTIONS, MORE_QUESTIONS, QUESTIONS

WORDINGS: Mapping[str, Sequence[str]] = {
    key: (*QUESTIONS.get(key, ())[:6], *MORE_QUESTIONS.get(key, ()))
    for key in dict.fromkeys([*QUESTIONS, *MORE_QUESTIONS])
}
"""The wordings of training. nano's first world uses the first one or two of each kind."""
HELDOUT = HELDOUT_QUESTIONS
