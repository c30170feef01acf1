"""What the data loader of each trainer yields: encoded examples for SFT, questions with their recordings for GRPO."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from relisten import audio
from relisten.models.base import AudioLM
from relisten.training.batch import Encoded, encode
from relisten.training.plan import Rows
from relisten.types import Audio, Example, Format


class SftDataset(Dataset[list[Encoded]]):
    """Encoded examples by index. Those of one index share a recording, which is encoded once.

    format: that of examples for which the data gives none.
    """

    def __init__(self, model: AudioLM, rows: Rows, num: int, format: Format) -> None:
        self.model, self.rows, self.num, self.format = model, rows, num, format

    def __getstate__(self) -> dict[str, Any]:
        """What a process that prepares data is sent, where it is spawned: the model without its weights."""
        model = copy.copy(self.model)
        vars(model).pop("module", None)
        return vars(self) | {"model": model}

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> list[Encoded]:
        mel: dict[int, tuple[Audio, Tensor]] = {}
        given = self.rows(index)
        if not given:
            raise ValueError(f"data: index {index} has no examples; the function must give at least one")
        pairs = [(one, self.format) if isinstance(one, Example) else one for one in given]
        return [encode(self.model, example, format, mel) for example, format in pairs]


class QuestionDataset(Dataset[Example]):
    """The questions that GRPO asks, by index, with their recordings in memory."""

    def __init__(self, rate: int, rows: Rows, num: int) -> None:
        self.rate, self.rows, self.num = rate, rows, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Example:
        found = self.rows(index)
        if len(found) != 1:
            raise ValueError(f"data: the function gave {len(found)} examples for index {index}; it must give one")
        example: Example = found[0]
        recording = example.audio
        if isinstance(recording, Audio):
            return example
        try:
            return replace(example, audio=audio.load(recording, self.rate))
        except (ValueError, OSError):
            return example  # the engine will say why it cannot be asked; one file does not end a run


def together(items: list[Any]) -> dict[str, list[Any]]:
    """A batch in the form that `Trainer` passes on; the trainers themselves divide it into forward passes."""
    return {"items": items}
