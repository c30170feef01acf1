"""What a small model was trained for, and whether a question lies outside of it.

A folder of weights may hold `scope.json` and `scope.safetensors`. They say how long the recordings of the model's
world are, which words its questions have, and how its audio tower sees them. Large models come without these files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from relisten.files import SCOPE
from relisten.models.base import AudioLM
from relisten.types import Audio, Trace

LARGER = "--model Qwen/Qwen2.5-Omni-7B"
"""What to use for recordings that a small model does not know."""
MOST_NEW_WORDS = 1 / 3
"""Share of a question's words that may be new to the model."""
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Scope:
    """The world that a model was trained in."""

    about: str
    """A noun phrase for people: "scenes of 5 to 16 s, mixed from 76 known sounds"."""
    seconds: tuple[float, float]
    """How long its recordings are, from the shortest to the longest."""
    words: frozenset[str]
    """Every word of its questions and choices, in lower case."""
    centre: Tensor
    """[D], float32: the mean over its recordings of `pooled`."""
    whitening: Tensor
    """[D, D], float32: takes a difference from the centre, times the square root of the recording's seconds, to one of
    unit variance in every direction."""
    threshold: float
    """A recording that lies farther from the centre than this sounds unlike its world."""

    def distance(self, embedding: Tensor, seconds: float) -> float:
        """Mahalanobis distance of a pooled embedding [D] from the centre, for a recording of so many seconds.

        The mean over a longer recording varies less. One that is shorter than the world's is taken as the shortest.
        """
        apart = float((self.whitening @ (embedding - self.centre)).norm())
        return apart * math.sqrt(max(seconds, self.seconds[0]))

    def reasons(self, seconds: float, sound: Tensor | None, question: str, choices: Sequence[str]) -> list[str]:
        """Why a question lies outside, as clauses for people; empty where nothing speaks against it.

        seconds: length of the recording. sound: [D], `pooled` of it; None if that is not known, then it is not judged.
        """
        found: list[str] = []
        if not choices:
            found.append("this question offers no choices")
        unknown = [choice for choice in choices if not _WORD.search(choice) or not set(_words(choice)) <= self.words]
        if unknown:
            found.append(f"it has no words for {' and '.join(map(repr, unknown[:2]))}")
        asked = _words(question)
        if not asked or sum(word not in self.words for word in asked) > MOST_NEW_WORDS * len(asked):
            found.append("this question is worded unlike those that it knows")
        if seconds > self.seconds[1] + 0.05:
            found.append(f"this recording lasts {seconds:.0f} s")
        elif sound is not None and self.distance(sound, seconds) > self.threshold:
            found.append("this recording sounds unlike those that it knows")
        return found


def notice(model: AudioLM, audio: Audio, question: str, choices: Sequence[str]) -> str | None:
    """One sentence for people if a question lies outside the model's scope; None if it does not, or there is no scope.

    audio: as the model takes it (`engine.question.audible`). The audio tower encodes it; `notice_of` needs no encoding.
    """
    heard = model.scope is not None and model.module.device.type != "meta"
    return _notice(model, audio.duration, pooled(model, audio) if heard else None, question, choices)


def notice_of(model: AudioLM, trace: Trace, question: str, choices: Sequence[str]) -> str | None:
    """The same once there is an answer, from what the engine has told of the recording."""
    sound = None if trace.sound is None else torch.tensor(trace.sound)
    return _notice(model, trace.listens[0].segment.end, sound, question, choices)


def _notice(model: AudioLM, seconds: float, sound: Tensor | None, question: str, choices: Sequence[str]) -> str | None:
    scope = model.scope
    reasons = scope.reasons(seconds, sound, question, choices) if scope else []
    if scope is None or not reasons:
        return None
    listed = reasons[0] if len(reasons) == 1 else ", ".join(reasons[:-1]) + " and " + reasons[-1]
    return (
        f"{model.name} knows only {scope.about}, and {listed}, so do not rely on this answer; for such a question use a"
        f" larger model, for example {LARGER}."
    )


@torch.no_grad()
def pooled(model: AudioLM, audio: Audio) -> Tensor:
    """What the audio tower makes of a recording at the model's rate, averaged over its tokens: [D], float32."""
    features = model.features(audio)[None].to(model.module.device, model.module.dtype)
    mask = torch.ones(1, features.shape[-1], dtype=torch.long, device=features.device)
    found = model.module.get_audio_features(features, mask)
    tokens = getattr(found, "last_hidden_state", found)
    mean: Tensor = tokens.reshape(-1, tokens.shape[-1]).float().mean(0)
    return mean.cpu()


@contextmanager
def tapped(model: AudioLM) -> Iterator[list[Tensor]]:
    """Inside this, a list collects what the audio tower makes: [tokens, D] for each forward, of all recordings in it.

    It stays empty for a model without a scope.
    """
    found: list[Tensor] = []
    if model.scope is None:
        yield found
        return
    tower = getattr(model.module, "audio_tower", None) or model.module.model.audio_tower
    handle = tower.register_forward_hook(lambda *given: found.append(given[-1].last_hidden_state))
    try:
        yield found
    finally:
        handle.remove()


def sounds(found: Sequence[Tensor], counts: Sequence[int]) -> list[tuple[float, ...] | None]:
    """`pooled` of each recording in a forward inside `tapped`; None for one that has no tokens, or without a scope.

    counts: how many audio tokens each has, in the forward's order.
    """
    if not found:
        return [None] * len(counts)
    parts = found[0].split(list(counts))
    return [tuple(part.float().mean(0).tolist()) if len(part) else None for part in parts]


def fit(
    about: str,
    seconds: tuple[float, float],
    texts: Iterable[str],
    recordings: Sequence[tuple[float, Tensor]],
    others: Sequence[tuple[float, Tensor]],
    false_warnings: float,
) -> Scope:
    """A scope from the texts and the recordings of a world.

    recordings, others: seconds and `pooled` of each of two sets of its recordings. The first gives mean and covariance,
    the second the distance that a share `false_warnings` of them exceeds.
    """
    embeddings = torch.stack([embedding for _, embedding in recordings])
    centre = embeddings.mean(0)
    lengths = torch.tensor([length for length, _ in recordings], dtype=torch.double)
    covariance = torch.cov(((embeddings - centre).double() * lengths.sqrt()[:, None]).T)
    size = len(covariance)
    covariance = 0.99 * covariance + 0.01 * torch.eye(size, dtype=torch.double) * covariance.trace() / size
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).float().contiguous()
    words = frozenset(word for text in texts for word in _words(text))
    scope = Scope(about, seconds, words, centre, whitening, float("inf"))
    distances = torch.tensor([scope.distance(embedding, length) for length, embedding in others])
    return replace(scope, threshold=float(distances.quantile(1 - false_warnings)))


def save_scope(scope: Scope, folder: Path) -> None:
    """Write a scope beside a model's weights."""
    save_file({"centre": scope.centre, "whitening": scope.whitening}, folder / SCOPE)
    told = {"about": scope.about, "seconds": scope.seconds, "threshold": round(scope.threshold, 4)}
    text = json.dumps(told | {"words": sorted(scope.words)}, ensure_ascii=False, indent=1)
    (folder / "scope.json").write_text(text + "\n", encoding="utf-8")


def read_scope(folder: Path, width: int) -> Scope | None:
    """The scope that lies beside a model's weights, or None. Raises ValueError on files that do not fit.

    width: D, the size of what the model's audio tower gives for a token.
    """
    path = folder / "scope.json"
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(folder / SCOPE)
        centre, whitening = tensors["centre"].float(), tensors["whitening"].float()
        if centre.shape != (width,) or whitening.shape != (width, width):
            shapes = f"{list(centre.shape)} and {list(whitening.shape)}"
            raise ValueError(f"centre and whitening have the shapes {shapes}, audio tokens the size {width}")
        if not (centre.isfinite().all() and whitening.isfinite().all()):
            raise ValueError("centre or whitening has values that are no numbers")
        about, words = told["about"], told["words"]
        if not isinstance(about, str) or not isinstance(words, list):
            raise ValueError("about is no text, or words is no list")
        (shortest, longest), threshold = map(float, told["seconds"]), float(told["threshold"])
        if not (0 < shortest <= longest < float("inf") and 0 < threshold < float("inf")):
            raise ValueError(
                f"seconds are {shortest}, {longest} and threshold {threshold}; all must be positive numbers"
            )
        return Scope(about, (shortest, longest), frozenset(map(str, words)), centre, whitening, threshold)
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(f"{path}: not a scope ({error}); delete it to use the model without its notices") from None


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if not word.isdigit()]
