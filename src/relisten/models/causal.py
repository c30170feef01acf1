"""What the audio-language models of transformers have in common: text, the ChatML prompt, banned ids, forward, saving.

A base derives a class from `CausalAudioLM` and says what is its own: the log-mel, the number of audio tokens, and the
names under which its module takes audio.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, WhisperFeatureExtractor

from relisten import tags
from relisten.files import replacing_files
from relisten.models.attention import AttendingCache, attending
from relisten.models.base import Prompts
from relisten.models.folder import foreign
from relisten.models.scope import Scope
from relisten.types import Audio, Format


class CausalAudioLM:
    """A model of transformers with its tokenizer and feature extractor; most of `models.base.AudioLM`."""

    PUBLISHED: ClassVar[str] = ""
    """The name under which the model is known, for error lines."""
    TURNS: ClassVar[tuple[str, ...]] = ("<|im_start|>", "<|im_end|>")
    """The control tokens of the prompt's template. The last one ends an answer; the others are never sampled."""
    ENDS: ClassVar[tuple[str, ...]] = ("<|endoftext|>",)
    """Further tokens that end an answer, if the vocabulary has them."""
    AROUND: ClassVar[tuple[str, str]] = ("", "")
    """The text before and after the recording in the user's turn."""
    PROMPTS: ClassVar[Prompts] = Prompts()
    """The prompts of a folder that has no `prompts.json`."""
    max_seconds: float | None = None
    banned_token_ids: Tensor

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        feature_extractor: WhisperFeatureExtractor,
        prompts: Prompts | None = None,
        name: str = "",
        scope: Scope | None = None,
    ) -> None:
        self.name = name or type(self).PUBLISHED
        self.scope = scope
        self.module: Any = module.eval()
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.prompts = prompts or type(self).PROMPTS
        self.rate = int(feature_extractor.sampling_rate)
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._turn_ids = {text: self._control_id(text) for text in self.TURNS}
        self.audio_id, self.audio_begin_id, self.audio_end_id = self._audio_ids()
        self.num_begin_tokens = int(self.audio_begin_id is not None)
        self.end_token_id = self._turn_ids[self.TURNS[-1]]
        self.end_token_ids = frozenset(self._end_token_ids())
        banned = self._banned() - self.end_token_ids
        size = int(self.module.config.get_text_config().vocab_size)
        past = set(range(len(tokenizer), size))
        self.banned_token_ids = torch.tensor(sorted(i for i in banned | past if 0 <= i < size), dtype=torch.long)
        controls = [tokenizer.convert_ids_to_tokens(i) for i in banned | self.end_token_ids if i < len(tokenizer)]
        self._controls = frozenset(self._vocabulary[text] for text in controls if text in self._vocabulary)
        inside = "|".join(f"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in controls if text)
        self._inside_control = re.compile(inside)

    # --- ids ----------------------------------------------------------------------------------------------------

    def _audio_ids(self) -> tuple[int, int | None, int | None]:
        """The placeholder of audio, and the tokens that stand before and after all placeholders, if there are some."""
        raise NotImplementedError

    def _control_id(self, text: str) -> int:
        token_id = self._vocabulary.get(text)
        if token_id is None:
            raise ValueError(f"{self.name}: its tokenizer has no {text} token; is this a {self.PUBLISHED} folder?")
        return int(token_id)

    def _banned(self) -> set[int]:
        """Ids that are never sampled: the template's and those that the forward takes for media."""
        ids = {self.audio_id, self.audio_begin_id, self.audio_end_id, *self._turn_ids.values()}
        return {i for i in ids if i is not None} - {self.end_token_id}

    def _end_token_ids(self) -> set[int]:
        # Models were trained to end with any of these; a folder without generation_config.json names only one.
        settings = self.module.generation_config
        found = settings.eos_token_id if settings else None
        known = [self._vocabulary.get(text) for text in self.ENDS]
        ids = [*(found if isinstance(found, list) else [found]), self.tokenizer.eos_token_id, *known, self.end_token_id]
        return {int(i) for i in ids if i is not None}

    # --- text ---------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text. A control token that occurs in it is encoded as ordinary text."""
        ids = self._tokens(text)
        if self._controls.isdisjoint(ids):
            return ids
        # Not every tokenizer declares its control tokens as such. In two pieces, their text is only text.
        return [token_id for piece in self._inside_control.split(text) for token_id in self._tokens(piece)]

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def encode_response(self, text: str) -> list[int]:
        """Tokens of a response. The `>` of every closing tag of a segment is a token of its own, as in the engine."""
        *closed, rest = tags.split(text, ("seg", *self.prompts.operations))
        return [token_id for piece in closed for token_id in self._closed(piece)] + self.encode(rest)

    def _closed(self, piece: str) -> list[int]:
        """Tokens of a text that ends with a closing tag. The vocabulary would merge its `>` with the text that follows,
        but the audio has to start on a token boundary."""
        whole = self.encode(piece)
        if self.decode(whole[:-1]) == piece[: piece.rindex("<")]:  # the vocabulary has the tag as one token
            return whole
        return self.encode(piece[:-1]) + self.encode(">")

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens. Control and audio tokens give no text."""
        text = [i for i in token_ids if i not in self._controls]
        return str(self.tokenizer.decode(text, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def prompt(
        self, question: str, choices: Sequence[str], format: Format, num_samples: int | None
    ) -> tuple[list[int], int | None]:
        """The prompt in ChatML, with the recording first in the user's turn, and the index of its first audio token.

        Raises ValueError, in one line, for a recording that is longer than the model takes.
        """
        begin, end, newline = *self._turn_ids.values(), self.encode("\n")
        ids: list[int] = []
        if self.prompts.system is not None:
            ids += [begin, *self.encode("system\n" + self.prompts.system), end, *newline]
        user, at = self._user_turn("user\n", self.prompts.text(question, choices, format), num_samples)
        at = None if at is None else len(ids) + 1 + at
        return [*ids, begin, *user, end, *newline, begin, *self.encode("assistant\n")], at

    def _user_turn(self, role: str, text: str, num_samples: int | None) -> tuple[list[int], int | None]:
        """Tokens of the role, the recording and the text, and the index of the first audio token."""
        if num_samples is None:
            return [*self.encode(role), *self.encode(text)], None
        self.check_length(num_samples)
        before, after = self.AROUND
        ids = self.encode(role + before)
        return [*ids, *self.audio_tokens(num_samples), *self.encode(after + text)], len(ids) + self.num_begin_tokens

    # --- audio --------------------------------------------------------------------------------------------------

    def num_frames(self, num_samples: int) -> int:
        """Number of mel frames of a piece of audio: one for each hop, rounded up."""
        return -(-num_samples // int(self.feature_extractor.hop_length))

    def num_audio_tokens(self, num_samples: int) -> int:
        """See `AudioLM.num_audio_tokens`."""
        raise NotImplementedError

    def num_encoder_frames(self, num_samples: int) -> int:
        """See `AudioLM.num_encoder_frames`: as in most models, two for each audio token."""
        return 2 * self.num_audio_tokens(num_samples)

    def audio_tokens(self, num_samples: int) -> list[int]:
        """Begin, one placeholder for each audio token, end."""
        around = [[] if i is None else [i] for i in (self.audio_begin_id, self.audio_end_id)]
        return [*around[0], *[self.audio_id] * self.num_audio_tokens(num_samples), *around[1]]

    def check_length(self, num_samples: int) -> None:
        """Raise ValueError, in one line, for a piece of audio that is longer than the model takes."""
        if self.max_seconds is not None and num_samples > self.max_seconds * self.rate:
            raise ValueError(
                f"{self.name}: {self.PUBLISHED} takes at most {self.max_seconds:g} s of audio at once, and this has"
                f" {num_samples / self.rate:.1f} s; cut the recording, or take another model"
            )

    def check_rate(self, audio: Audio) -> None:
        """Raise ValueError for audio at another rate than the model's."""
        if audio.rate != self.rate:
            raise ValueError(f"audio at {audio.rate} Hz; this model takes {self.rate} Hz")

    # --- forward ------------------------------------------------------------------------------------------------

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
        """Logits of one chunk; see `AudioLM.forward`."""
        attends: AbstractContextManager[None] = nullcontext()
        mask = None
        if isinstance(cache, AttendingCache):
            attends = attending(self.module, cache)
        else:
            mask = self._mask(attention_mask, input_ids)
        audio = self._audio_inputs(features, input_ids.device) if features else {}
        with attends, self._keep(keep) if keep is not None else nullcontext():
            logits: Tensor = (module or self.module)(
                input_ids=input_ids,
                past_key_values=cache,
                use_cache=cache is not None,
                **self._text_inputs(position_ids, mask),
                **audio,
            ).logits
        return logits

    def _audio_inputs(self, features: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
        """What the module's forward is given for some pieces of audio."""
        raise NotImplementedError

    def _text_inputs(self, position_ids: Tensor, mask: Tensor | None) -> dict[str, Any]:
        """What the module's forward is given for positions [B, L] and a mask that its attention takes."""
        return {"position_ids": position_ids, "attention_mask": mask}

    def _mask(self, mask: Tensor | None, input_ids: Tensor) -> Tensor | None:
        """The mask as the configured attention takes it."""
        kind, device, length = self.module.config._attn_implementation, input_ids.device, input_ids.shape[1]
        if mask is None and kind != "sdpa" and length > 1:  # with no mask, sdpa alone is causal
            mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        if mask is None or kind != "eager":
            return mask
        # Eager attention adds its mask to the scores. The other kinds take a boolean mask.
        lowest = torch.finfo(self.module.dtype).min
        return torch.zeros(mask.shape, dtype=self.module.dtype, device=device).masked_fill_(~mask, lowest)

    @contextmanager
    def _keep(self, keep: tuple[Tensor, Tensor]) -> Iterator[None]:
        """Inside this, only the wanted positions are projected onto the vocabulary."""
        handle = self.module.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0][keep],))
        try:
            yield
        finally:
            handle.remove()

    def save(self, folder: Path, dtype: torch.dtype | None = None, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the model and its prompts in the layout of transformers; see `AudioLM.save`."""
        own = self.module.state_dict() if weights is None else weights
        written = {name: v.to(dtype or v.dtype).contiguous() for name, v in own.items()}
        saving = foreign(folder, "the model cannot be saved there")
        with saving, replacing_files(folder, stale="model*.safetensors*") as part:
            self.module.save_pretrained(part, state_dict=written)
            self.tokenizer.save_pretrained(part)
            self.feature_extractor.save_pretrained(part)
            prompts = json.dumps(asdict(self.prompts), indent=2)
            (part / "prompts.json").write_text(prompts + "\n", encoding="utf-8")
