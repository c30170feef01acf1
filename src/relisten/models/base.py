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
from relisten.tags import OPERATIONS
from relisten.types import Audio, Format

if TYPE_CHECKING:
    from relisten.models.scope import Scope


@dataclass(frozen=True)
class Prompts:
    """The words around a question. They are saved as `prompts.json` beside the weights of a model.

    The default is the paper's inference prompt. `conditioned` is the same without the request for segments.
    """

    system: str | None = "You are a helpful assistant."
    choose: str = "{question} Choose the answer from {choices}."
    """Used if the question has choices."""
    open: str = "{question}"
    """Used if the question has no choices."""
    choice_separator: str | None = None
    """The text between two choices. None writes a Python list, as the paper does."""
    instructions: dict[str, str] = field(
        default_factory=lambda: {
            "conditioned": " Think step-by-step. Answer in the format of <think>...</think><answer>...</answer>.",
            "grounded": _PAPER_INSTRUCTION,
            "interleaved": _PAPER_INSTRUCTION,
        }
    )
    """The text after the question, for each format."""
    operations: dict[str, str] = field(default_factory=dict)
    """The operations that the model may use beside <seg> (names of `tags.OPERATIONS`), and what the prompt says about
    each after the instruction. The text may be empty, if the model has learnt them. None by default."""

    def text(self, question: str, choices: Sequence[str], format: Format) -> str:
        """The text of the user's turn, without the audio."""
        listed = str(list(choices)) if self.choice_separator is None else self.choice_separator.join(choices)
        pattern = self.choose if choices else self.open
        # The pattern is filled in one pass, so that a question that contains "{choices}" stays as it is.
        before, _, after = pattern.partition("{question}")
        told = "" if format == "conditioned" else "".join(self.operations.values())
        return before + question + after.replace("{choices}", listed) + self.instructions[format] + told


_PAPER_INSTRUCTION = (
    " Think step-by-step. Refer to the specific audio segments while thinking, and indicate the corresponding"
    " timestamps. Answer in the format of <think>...</think><answer>...</answer>."
)


class AudioLM(Protocol):
    """A causal language model that hears. For each `model_type`, one file in this folder implements it."""

    name: str
    module: PreTrainedModel
    """The module that is trained. Generation and training both call its own `forward`. Only `forward` and `save` may
    use it: processes that prepare data for training have a model without it."""
    rate: int
    """Sample rate (Hz) of the audio that it takes."""
    max_seconds: float | None
    """The longest piece of audio that it takes; None: only the context limits it."""
    num_begin_tokens: int
    """How many of `audio_tokens` come before the first placeholder: 1, or 0 for a model without a begin token."""
    prompts: Prompts
    scope: Scope | None
    """What a small model was trained for; None: not said. Training saves none, for it may change the model's world."""
    end_token_id: int
    """The token that ends an answer in training data, and when the engine forces an end."""
    end_token_ids: frozenset[int]
    """Each of these tokens ends an answer."""
    banned_token_ids: Tensor
    """[K] ids that are never sampled (placeholders). Log-probabilities exclude them too."""

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text. A control token that occurs in it is encoded as ordinary text and has no effect."""

    def encode_response(self, text: str) -> list[int]:
        """Tokens of a response. Every closing tag of a segment ends at a token boundary, exactly as the engine produces
        it: `</seg>`, and those of the operations of the prompts (see `tags.split`)."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of sampled or forced tokens. Control and audio tokens give no text."""

    def prompt(
        self, question: str, choices: Sequence[str], format: Format, num_samples: int | None
    ) -> tuple[list[int], int | None]:
        """Tokens of the prompt and the index of its first audio token; num_samples: of the audio (None: no audio).

        Raises ValueError, in one line, for audio that is longer than `max_seconds`.
        """

    def num_audio_tokens(self, num_samples: int) -> int:
        """How many audio tokens a piece of audio of that many samples takes; 0 if it is too short to encode."""

    def num_encoder_frames(self, num_samples: int) -> int:
        """How many frames the layers of its audio encoder compute for a piece of audio of that many samples, with the
        silence that a window is filled up with. The memory that training needs is calculated from it."""

    def audio_tokens(self, num_samples: int) -> list[int]:
        """The tokens that stand for a piece of audio in the sequence: begin, placeholders, end.

        Some models have no begin token or no end token.
        """

    def features(self, audio: Audio) -> Tensor:
        """Log-mel of one piece of audio as `forward` takes it: float32 [mel bins, frames], without padding to a window.

        Raises ValueError for audio at another rate, or longer than `max_seconds`.
        """

    def save(self, folder: Path, dtype: torch.dtype | None = None, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write weights, tokenizer, feature extractor and prompts, so that `relisten.load` can read them.

        dtype: precision in the file (None: that of the weights). weights: by name, if the module does not hold them
        whole.
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
        """Logits of one chunk.

        input_ids, position_ids: [B, L]. features: one [mel, frames] for each run of placeholders, row by row.
        attention_mask: bool [B, 1, L, T], True where a token may attend; None: a token attends to itself and all before
        it. cache: a `models.attention.AttendingCache`, which computes the attention and needs no mask; a cache of
        transformers; or None. keep: (rows [K], columns [K]) of the
        positions whose logits are wanted; the result is then [K, V], otherwise [B, L, V]. module: whose forward is
        called (None: `self.module`; a trainer passes its wrapper).
        """


def pad_features(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack log-mels of different lengths: float32 [N, mel, frames], and their mask, int64 [N, frames].

    They stay on the device of the first, so that a batch on a GPU does not go through the CPU.
    """
    frames, device = max(f.shape[1] for f in features), features[0].device
    stacked = torch.zeros(len(features), features[0].shape[0], frames, device=device)
    mask = torch.zeros(len(features), frames, dtype=torch.long, device=device)
    for row, feature in enumerate(features):
        stacked[row, :, : feature.shape[1]] = feature
        mask[row, : feature.shape[1]] = 1
    return stacked, mask


def lay_out_for_cpu(module: torch.nn.Module) -> None:
    """Store float32 weights of linear layers column by column; their shape and values stay the same.

    The products in generation (a few rows times a large matrix) are then up to a third faster, because MKL need not
    repack the matrix each time. Products in bfloat16 are computed by another library, which this would slow down.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    for part in module.modules():
        # A weight that is also the embedding is read row by row, so it stays as it is.
        if (
            isinstance(part, torch.nn.Linear)
            and part.weight.dtype == torch.float32
            and id(part.weight) not in embeddings
        ):
            part.weight.data = part.weight.data.t().contiguous().t()


def read_prompts(folder: Path, otherwise: Prompts = Prompts()) -> Prompts:
    """The prompts that came with a checkpoint, or else others. Raises ValueError on a file that is not ours."""
    path = folder / "prompts.json"
    if not os.path.lexists(path):
        return otherwise
    written = read_json(path)
    try:
        prompts = Prompts(**written)
        if unknown := set(prompts.operations) - set(OPERATIONS):
            raise TypeError(f"operations has {min(unknown)!r}, where {', '.join(OPERATIONS)} are known")
        for name, text in {**vars(prompts), **prompts.instructions, **prompts.operations}.items():
            optional = name in ("system", "choice_separator")
            if name not in ("instructions", "operations") and not (
                isinstance(text, str) or (text is None and optional)
            ):
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
