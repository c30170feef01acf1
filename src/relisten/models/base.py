"""What the engine and the trainers need of a large audio-language model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from relisten.models.folder import read_json
from relisten.types import Audio, Format

if TYPE_CHECKING:
    from relisten.models.scope import Scope


@dataclass(frozen=True)
class Prompts:
    """The words around a question; a folder's `prompts.json` replaces the default, so that they travel with weights.

    The default is the paper's inference prompt; `conditioned` is the same without the request for segments.
    """

    system: str | None = "You are a helpful assistant."
    choose: str = "{question} Choose the answer from {choices}."
    """Used where there are choices."""
    open: str = "{question}"
    """Used where there are none."""
    choice_separator: str | None = None
    """What stands between choices; None writes a Python list, as the paper does."""
    instructions: dict[str, str] = field(
        default_factory=lambda: {
            "conditioned": " Think step-by-step. Answer in the format of <think>...</think><answer>...</answer>.",
            "grounded": _PAPER_INSTRUCTION,
            "interleaved": _PAPER_INSTRUCTION,
        }
    )
    """What follows the question, for each format."""

    def text(self, question: str, choices: Sequence[str], format: Format) -> str:
        """The user's turn, without the audio."""
        listed = str(list(choices)) if self.choice_separator is None else self.choice_separator.join(choices)
        pattern = self.choose if choices else self.open
        # One pass over the pattern: a question that contains "{choices}" is left as it is.
        before, _, after = pattern.partition("{question}")
        return before + question + after.replace("{choices}", listed) + self.instructions[format]


_PAPER_INSTRUCTION = (
    " Think step-by-step. Refer to the specific audio segments while thinking, and indicate the corresponding"
    " timestamps. Answer in the format of <think>...</think><answer>...</answer>."
)


class AudioLM(Protocol):
    """A causal language model that hears; one file in this folder implements it for each `model_type`."""

    name: str
    module: PreTrainedModel
    """What is trained; generation and training both call its own `forward`."""
    rate: int
    """Samples a second (Hz) of the audio it takes."""
    prompts: Prompts
    scope: Scope | None
    """What a small model was trained for; None: not said. Training saves none, for it may change the model's world."""
    end_token_id: int
    """Ends an answer in training data, and where the engine ends one."""
    end_token_ids: frozenset[int]
    """Any of these ends an answer."""
    banned_token_ids: Tensor
    """[K] ids that may never be sampled (placeholders); the log-prob function must leave them out as well."""

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text: control tokens that stand in it are spelled out as text, never obeyed."""

    def encode_response(self, text: str) -> list[int]:
        """Tokens of a response, cut so that every `</seg>` ends a token, exactly as the engine produces it."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of sampled or forced tokens; control and audio tokens give nothing."""

    def prompt(
        self, question: str, choices: Sequence[str], format: Format, num_samples: int | None
    ) -> tuple[list[int], int | None]:
        """The prompt's tokens and the index of its first audio token, for a recording of `num_samples` (None: none)."""

    def num_audio_tokens(self, num_samples: int) -> int:
        """How many audio tokens a piece of that many samples takes; 0 when it is too short to encode."""

    def audio_tokens(self, num_samples: int) -> list[int]:
        """Tokens of a piece of audio put into the sequence: begin, placeholders, end."""

    def features(self, audio: Audio) -> Tensor:
        """Log-mel of one piece of audio: float32 [mel bins, frames], no padding."""

    def save(self, folder: Path, dtype: torch.dtype | None = None, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write weights, tokenizer, feature extractor and prompts so that `relisten.load` reads them back.

        dtype: of the file (None: the weights' own). weights: by name, where the module does not hold them whole.
        """

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        features: Sequence[Tensor],
        attention_mask: Tensor | None,
        cache: Any = None,
        keep: tuple[Tensor, Tensor] | None = None,
        module: Any = None,
    ) -> Tensor:
        """Logits of one chunk, through the own forward of `module` (None: `self.module`; a trainer passes its wrapper).

        input_ids and position_ids: [B, L]. features: one [mel, frames] for each run of placeholders, row by row.
        attention_mask: bool [B, 1, L, T], True where a token may look; None: at itself and all before it, with no
        padding before it. cache: something with transformers' `Cache.update`, or None. keep: (rows [K], columns [K]) of
        the positions whose logits are wanted; the output is then [K, V], else [B, L, V].
        """


def pad_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack log-mels of different lengths: [N, mel, frames] float32 and their mask [N, frames] int64."""
    frames = max(f.shape[1] for f in features)
    stacked = torch.zeros(len(features), features[0].shape[0], frames)
    mask = torch.zeros(len(features), frames, dtype=torch.long)
    for row, feature in enumerate(features):
        stacked[row, :, : feature.shape[1]] = feature
        mask[row, : feature.shape[1]] = 1
    return stacked, mask


def lay_out_for_cpu(module: torch.nn.Module) -> None:
    """Store linear weights column by column (their shape and values stay).

    A product of a few rows with a large matrix, which is what generation does, is then up to a third faster: MKL takes
    a path that need not repack the matrix each time.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    for part in module.modules():
        # A weight that is also the embedding is read row by row: it stays as it is.
        if isinstance(part, torch.nn.Linear) and part.weight.is_floating_point() and id(part.weight) not in embeddings:
            part.weight.data = part.weight.data.t().contiguous().t()


def read_prompts(folder: Path) -> Prompts:
    """The prompts that came with a checkpoint, or the paper's. Raises ValueError on a file that is not ours."""
    path = folder / "prompts.json"
    if not os.path.lexists(path):
        return Prompts()
    written = read_json(path)
    try:
        prompts = Prompts(**written)
        for name, text in {**vars(prompts), **prompts.instructions}.items():
            optional = name in ("system", "choice_separator")
            if name != "instructions" and not (isinstance(text, str) or (text is None and optional)):
                raise TypeError(f"{name} is not a text")
            if isinstance(text, str) and len(text) > MAX_PROMPT:
                raise TypeError(f"{name} is longer than {MAX_PROMPT} characters")
        if absent := {"conditioned", "grounded", "interleaved"} - set(prompts.instructions):
            raise TypeError(f"instructions lack {min(absent)}")
        return prompts
    except (TypeError, AttributeError) as error:
        reason = str(error).replace("Prompts.__init__() got", "it has")[:200]
        raise ValueError(f"{path}: is not a prompts file ({reason}); delete it to use the paper's prompt") from None


MAX_PROMPT = 10_000
"""Characters of one text in prompts.json."""
