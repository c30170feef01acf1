"""The questions that GRPO asks, one by one, with their recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch.utils.data import Dataset

from relisten import audio
from relisten.training import trainer as training
from relisten.training.trainer import TrainingConfig
from relisten.types import Audio, Example


class Questions(Dataset[Example]):
    """Examples by index, their recordings in memory."""

    def __init__(self, rate: int, make: Callable[[int], Sequence[Example]], num: int) -> None:
        self.rate, self.make, self.num = rate, make, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Example:
        found = self.make(index)
        if len(found) != 1:
            raise ValueError(f"the function that `data` names gave {len(found)} examples for {index}; it must give one")
        [example], heard = found, found[0].audio
        if isinstance(heard, Audio):
            return example
        try:
            return replace(example, audio=audio.load(heard, self.rate))
        except (ValueError, OSError):
            return example  # the engine will say why it cannot be asked; one file does not end a run


def together(examples: list[Example]) -> dict[str, list[Example]]:
    """A batch of questions, as `Trainer` passes it on."""
    return {"examples": examples}


def read_questions(config: TrainingConfig) -> tuple[Callable[[int], Sequence[Example]], int]:
    """The questions of `config.data`, a list of one by index, and how many. Raises ValueError on unusable data."""
    examples = training.read_data(config)
    if callable(examples):
        return examples, config.steps * config.batch_size
    if len(examples) < config.batch_size:
        raise ValueError(f"{config.data}: {len(examples)} questions are fewer than batch_size {config.batch_size}")
    return partial(_file_question, examples), len(examples)


def _file_question(examples: Sequence[Example], index: int) -> list[Example]:
    return [examples[index]]  # a function of the module, since processes that prepare data may pickle it
