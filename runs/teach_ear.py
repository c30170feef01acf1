"""Teaches nano's own ear to hear words as Whisper's encoder does, before its text model is trained further.

usage: python runs/teach_ear.py NANO EAR.SAFETENSORS PACKAGES OUT [STEPS]

NANO is the folder of a nano that knows the first world (`runs/nano.sh`), EAR.SAFETENSORS is Whisper's encoder
(`runs/whisper_ear.py`), PACKAGES is the folder where `runs/make_bank.py` keeps the packages that it has fetched, and
RELISTEN_BANK names the bank that it has made. NANO's vocabulary is widened to the world at the microphone. OUT/model
becomes the new nano. If it is stopped, run it again: it continues where it was.

Only the ear, its projection and the embeddings of new names are trained, by three losses:

- states: a linear map of the ear's states gives what words differ by in Whisper's states, and voices do not. Whisper
  hears the whole scene where nano's ear hears a piece of it, so the ear learns to hear short pieces as well;
- kept: what the text model reads stays near to what it has been trained to read;
- names: the mean of a sound's tokens is near to the embeddings of its name.
"""

from __future__ import annotations

import copy
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from bank.packages import fetch_debian, files
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast
from whisper_ear import ear_states, encoded, tower_of, whisper

from relisten.audio import load as load_audio
from relisten.data.worlds.curriculum import close_listen, quick_scene, vocabulary
from relisten.data.worlds.microphone import drawn_config, microphone_bank, microphone_scene, word_scene
from relisten.data.worlds.scenes import RATE, Bank, SceneConfig, make_scene
from relisten.data.worlds.sounds import Sound
from relisten.models import load, nano
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio, Clip

SPEECH = (
    "asterisk-core-sounds-fr-wav", "asterisk-core-sounds-it-wav", "asterisk-core-sounds-ru-wav", "klettres-data",
    "ktuberling-data", "tuxpaint-stamps-default",
)  # fmt: skip
"""Packages with speech by people, in many languages. It has no labels here; Whisper's states are all that is used."""
DESCRIPTION = re.compile(r"/stamps/(?!symbols/).*_(?:be|bg|ca|da|el|es|fr|lt|nl|ro|ru)\.ogg$")
"""Spoken descriptions of Tux Paint. Its digits and letters are kept for judging, and so is who speaks English there."""
FILES_A_FOLDER = 150
TOKEN = 1280
"""Samples of one token of nano's ear (80 ms). Whisper's tokens are half as long."""
FIRST, FIRST_MEASURED = 300_000_000, 350_000_000
"""Numbers of the first scene that is taught, and of the first one in which words are measured for the directions."""
REMEMBERED, BATCH, NEW = 1536, 12, 3
"""Scenes that are remembered, the scenes of a step, and how many of those are new."""
DIRECTIONS, PARTS, SCENES = 192, 4, 700
"""How many directions of Whisper's states are taught. They tell apart the quarters of words in so many scenes."""
WEIGHTS = {"states": 1.0, "kept": 0.5, "names": 0.15}
LEARNING_RATES = {"muon": 2e-3, "adamw": 1.5e-3}
SAVE_EACH = 200


Named = tuple[int, int, list[int]]
"""Of a sound: its first token, the token after its last one, and the text tokens of its name."""


@dataclass(frozen=True)
class Lesson:
    """A scene and what is known of it."""

    samples: NDArray[np.float16]
    """[tokens * TOKEN] mono at 16 kHz."""
    states: Tensor
    """[tokens, directions] what nano's ear is to hear, as float16."""
    named: list[Named]
    spoken: bool
    """Whether the scene holds nothing but speech, so that it may be changed as another throat would change it."""


def speech(packages: Path) -> tuple[Sound, ...]:
    """Pieces of speech of up to 3 s, no more than FILES_A_FOLDER from a folder or language."""
    fetch_debian(packages, SPEECH)
    folders: dict[str, list[Path]] = {}
    for name in SPEECH:
        for file in files(packages / name):
            if not name.startswith("tuxpaint"):
                folders.setdefault(str(file.parent), []).append(file)
            elif DESCRIPTION.search(str(file)):
                folders.setdefault(file.stem[-2:], []).append(file)
    rng, found = np.random.default_rng(4), list[Sound]()
    for _, several in sorted(folders.items()):
        for index in rng.permutation(len(several))[:FILES_A_FOLDER]:
            try:
                samples = load_audio(several[int(index)], RATE).samples[: 3 * RATE]
            except ValueError:  # some of the packages' files are empty
                continue
            if len(samples) > 0.25 * RATE and np.abs(samples).max() > 0.01:
                found.append(Sound("speech", "word", samples, split="train"))
    return tuple(found)


def scene(number: int, people: Bank) -> Clip:
    """In turn a scene of the first world, one at the microphone, two rows of words, two of people."""
    sounds, kind = microphone_bank("train"), number % 6
    if kind == 0:
        return quick_scene(number, (3.0, 8.0))[0]
    if kind == 1:
        return microphone_scene(number, sounds, (3.0, 12.0))
    if kind < 4:
        return make_scene(number, replace(sounds, groups=(sounds.words,)), dense(number, (4.0, 10.0), 6, 12))
    return make_scene(number, people, dense(number, (5.0, 10.0), 5, 9))


def dense(number: int, seconds: tuple[float, float], fewest: int, most: int) -> SceneConfig:
    """A scene with hardly a pause, over any background and through any microphone."""
    config = drawn_config(np.random.default_rng([number, 59]), seconds)
    return replace(config, min_events=fewest, max_events=most, max_gap=0.4, speed=0.2, repeat=0.0, quiet=0.3)


def whisper_states(teacher: Qwen2_5Omni, samples: NDArray[Any]) -> Tensor:
    """[tokens, 768] two of Whisper's tokens for each of nano's. samples: [T] at 16 kHz."""
    found = ear_states(teacher, Audio(samples, RATE))
    num = min(len(found) // 2, len(samples) // TOKEN)
    return found[: 2 * num].reshape(num, -1)


class Lessons(IterableDataset[Lesson]):
    """Scenes from a number on. target: mean and directions of Whisper's states; without it they are whole."""

    def __init__(self, teacher: Qwen2_5Omni, people: Bank, names: dict[str, list[int]], first: int) -> None:
        self.teacher, self.people, self.names, self.first = teacher, people, names, first
        self.target: tuple[Tensor, Tensor] | None = None

    def __iter__(self) -> Iterator[Lesson]:
        torch.set_num_threads(1)
        number = self.first
        while True:
            clip, number = scene(number, self.people), number + 1
            assert isinstance(clip.audio, Audio)
            samples = clip.audio.samples[: len(clip.audio.samples) // TOKEN * TOKEN]
            states, named = whisper_states(self.teacher, samples), []
            if self.target is not None:
                states = (states - self.target[0]) @ self.target[1]
            for event in clip.events:
                first, last = (round(seconds * RATE / TOKEN) for seconds in (event.start, event.end))
                if event.label in self.names and first < len(states):
                    last = max(first + 1, min(last, len(states)))
                    named.append((first, last, self.names[event.label]))
            yield Lesson(samples.astype(np.float16), states.half(), named, (number - 1) % 6 > 1)


def directions(lessons: Lessons) -> tuple[Tensor, Tensor]:
    """Mean [768], and directions [768, DIRECTIONS] in which parts of words differ, and voices, rooms and noise do not.

    They are those of linear discriminant analysis, each weighted by the share of its variance that lies between parts.
    """
    found: dict[tuple[int, int], list[Tensor]] = {}
    spoken = (lesson for lesson in lessons if lesson.named and lesson.spoken)
    for _, lesson in zip(tqdm(range(SCENES), desc="directions"), spoken, strict=False):
        for first, last, tokens in lesson.named:
            for token in range(first, last):
                part = PARTS * (token - first) // (last - first)
                found.setdefault((tokens[0], part), []).append(lesson.states[token].double())
    classes = [torch.stack(states) for states in found.values() if len(states) > 2]
    every = torch.cat(classes)
    mean = every.mean(0)
    apart = torch.cat([(states.mean(0) - mean).expand_as(states) for states in classes])
    around = every - mean - apart
    within = around.T @ around / len(every)
    within += 0.05 * torch.diag(within.diagonal())
    ratios, vectors = scipy.linalg.eigh((apart.T @ apart / len(every)).numpy(), within.numpy())
    ratios, vectors = ratios[: -DIRECTIONS - 1 : -1], vectors[:, : -DIRECTIONS - 1 : -1]
    chosen = torch.from_numpy(vectors * np.sqrt(np.maximum(ratios, 0) / (1 + ratios)))
    chosen /= ((every - mean) @ chosen).square().mean().sqrt()
    return mean.float(), chosen.float()


def another_voice(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """[mel bins, frames] as of a shorter or longer throat, through another microphone."""
    num = len(mel)
    where = torch.arange(num) * float(rng.uniform(0.86, 1.16))
    below = where.floor().clamp(0, num - 2).long()
    share = (where - below).clamp(0, 1)[:, None]
    response = torch.from_numpy(rng.normal(0, 0.06, (1, 1, 6))).float()
    response = functional.interpolate(response, size=num, mode="linear", align_corners=True)[0, 0]
    return mel[below] * (1 - share) + mel[below + 1] * share + response[:, None]


class Pupil:
    """nano's ear, its projection and the names, as they are trained."""

    def __init__(self, model: Qwen2_5Omni, new: Tensor) -> None:
        """new: [tokens, 1] which tokens' embeddings are trained."""
        self.model, self.tower = model, tower_of(model)
        self.before = copy.deepcopy(self.tower).requires_grad_(False)
        self.head = torch.nn.Linear(len(self.tower.ln_post.weight), DIRECTIONS)
        self.new = new
        self.classes = model.module.get_input_embeddings().weight[: len(self.new)].detach().clone()
        apart = torch.randn(self.classes.shape, generator=torch.Generator().manual_seed(1))
        self.length = self.classes[~self.new.squeeze(1)].norm(dim=1).mean()
        self.changed = (self.classes + 0.3 * self.length * functional.normalize(apart, dim=1)).requires_grad_()
        model.module.requires_grad_(False)
        self.parts = torch.nn.ModuleList([self.tower, self.head]).requires_grad_(True)
        inner = {name: value for name, value in self.tower.named_parameters() if "positional" not in name}
        matrices = {name: value for name, value in inner.items() if value.ndim == 2 and name != "proj.weight"}
        rest = [value for name, value in inner.items() if name not in matrices]
        rest += [*self.head.parameters(), self.changed]
        self.parameters = [*matrices.values(), *rest]
        self.optimizers = {
            "muon": torch.optim.Muon(matrices.values(), weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            "adamw": torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0),
        }

    def losses(self, lessons: Sequence[Lesson], rng: np.random.Generator) -> dict[str, Tensor]:
        """Each of the three losses, and the share of sounds whose name is nearest."""
        mels, targets, named = zip(*(self.piece(lesson, rng) for lesson in lessons), strict=True)
        states = encoded(self.tower, mels)
        told = [self.tower.proj(one) for one in states]
        with torch.no_grad():
            kept = self.before.proj(torch.cat(encoded(self.before, mels)))
        heard = [(one[first:last].mean(0), tokens) for one, sounds in zip(told, named, strict=True)
                 for first, last, tokens in sounds if first < len(one)]  # fmt: skip
        wanted = torch.zeros(len(heard), len(self.classes))
        for row, (_, tokens) in enumerate(heard):
            wanted[row, tokens] = 1 / len(tokens)
        names = functional.normalize(torch.where(self.new, self.changed, self.classes), dim=1)
        scores = 16 * functional.normalize(torch.stack([mean for mean, _ in heard]), dim=1) @ names.T
        errors = [(self.head(one[: len(t)]) - t[: len(one)]).square() for one, t in zip(states, targets, strict=True)]
        return {
            "states": torch.cat(errors).mean(),
            "kept": (torch.cat(told) - kept).square().mean() / kept.square().mean(),
            "names": -(wanted * scores.log_softmax(1)).sum(1).mean(),
            "right": (wanted.gather(1, scores.argmax(1)[:, None]) > 0).float().mean(),
        }

    def piece(
        self, lesson: Lesson, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, list[tuple[int, int, list[int]]]]:
        """A scene or half of the time a piece of it: its mel, what is to be heard, and the sounds that are whole."""
        first, last = 0, len(lesson.states)
        if rng.random() < 0.5:
            span = int(rng.integers(8, 40))
            first = int(rng.integers(0, max(1, last - span)))
            last = min(last, first + span)
        samples = lesson.samples[first * TOKEN : last * TOKEN].astype(np.float32)
        mel = self.model.features(Audio(samples * np.float32(10 ** rng.uniform(-0.5, 0.2)), RATE))
        if lesson.spoken and rng.random() < 0.6:
            mel = another_voice(mel, rng)
        whole = [(a - first, b - first, tokens) for a, b, tokens in lesson.named if a >= first and b <= last]
        return mel, lesson.states[first:last].float(), whole

    def step(self, losses: dict[str, Tensor], share: float) -> None:
        """Change the weights. share: of the highest learning rate."""
        sum(weight * losses[name] for name, weight in WEIGHTS.items()).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = share * LEARNING_RATES[name]
            optimizer.step()
            optimizer.zero_grad()

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Save the whole nano."""
        embeddings = self.model.module.get_input_embeddings().weight
        embeddings[: len(self.new)] = torch.where(
            self.new, functional.normalize(self.changed, dim=1) * self.length, self.classes
        )
        self.model.save(folder, dtype=torch.float32)

    def state(self) -> dict[str, Any]:
        """All that a stopped run needs."""
        return {"parts": self.parts.state_dict(), "changed": self.changed.data} | {
            name: optimizer.state_dict() for name, optimizer in self.optimizers.items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` has given."""
        self.parts.load_state_dict(state["parts"])
        self.changed.data.copy_(state["changed"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])


def teach(pupil: Pupil, lessons: Lessons, steps: int, saved: Path) -> None:
    """Train for so many steps, from the last one that `saved` holds."""
    begun = 0
    if saved.is_file():
        begun = (state := torch.load(saved))["step"]
        pupil.restore(state)
    lessons.first += NEW * begun
    feed = iter(DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=16))
    remembered, rng = deque((next(feed) for _ in range(64)), REMEMBERED), np.random.default_rng(begun)
    for step in (bar := tqdm(range(begun, steps), initial=begun, total=steps, desc="ear")):
        remembered.extend(next(feed) for _ in range(NEW))
        drawn = [*range(-NEW, 0), *(int(n) for n in rng.integers(0, len(remembered), BATCH - NEW))]
        losses = pupil.losses([remembered[index] for index in drawn], rng)
        pupil.step(losses, min(1.0, (step + 1) / 50, max(0.02, 2.5 * (1 - step / steps))))
        bar.set_postfix({name: round(value.item(), 3) for name, value in losses.items()})
        if (step + 1) % SAVE_EACH == 0:
            torch.save({"step": step + 1} | pupil.state(), saved.with_suffix(".part"))
            saved.with_suffix(".part").replace(saved)


def widened(old: Qwen2_5Omni, texts: Iterable[str] | PreTrainedTokenizerFast) -> Qwen2_5Omni:
    """A nano with a vocabulary for these texts. Tokens that are new to it begin with the mean embedding."""
    model = nano.create(texts)
    state, given = model.module.state_dict(), old.module.state_dict()
    with torch.no_grad():
        for name, value in given.items():
            if not any(part in name for part in ("visual", "embed_tokens", "lm_head", "positional_embedding")):
                state[name].copy_(value)
        rows, known = old.module.get_input_embeddings().weight, old.tokenizer.get_vocab()
        embeddings = model.module.get_input_embeddings().weight
        embeddings.copy_(rows.mean(0).expand_as(embeddings))
        for token, index in model.tokenizer.get_vocab().items():
            if token in known:
                embeddings[index] = rows[known[token]]
    return model


def new_tokens(old: Qwen2_5Omni, model: Qwen2_5Omni) -> Tensor:
    """[tokens, 1] which tokens of a widened nano the old one does not know."""
    vocab, known = model.tokenizer.get_vocab(), old.tokenizer.get_vocab()
    return torch.tensor([[token not in known] for token in sorted(vocab, key=vocab.__getitem__)])


@torch.no_grad()
def told_words(model: Qwen2_5Omni, num: int = 300) -> float:
    """The share of words by held-out voices, each alone over a background, whose name is nearest to the projection."""
    names, sounds = microphone_bank("train").words, microphone_bank("heldout")
    takes = [take for word in sounds.words for take in sounds.sounds[word]]
    takes = [takes[int(n)] for n in np.random.default_rng(1).permutation(len(takes))]
    rows = model.module.get_input_embeddings().weight[[model.encode(" " + name)[0] for name in names]]
    rng, right = np.random.default_rng(2), 0
    for number in range(88_000_000, 88_000_000 + num):
        clip = word_scene(number, sounds, takes)
        piece = close_listen(rng, clip).audio
        assert isinstance(piece, Audio)
        told = tower_of(model).proj(ear_states(model, piece).mean(0))
        right += names[int(functional.cosine_similarity(told[None], rows).argmax())] == clip.events[0].label
    return right / num


def main(first: Path, ear: Path, packages: Path, out: Path, steps: int) -> None:
    """Carry out the usage."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    old, teacher = load(str(first), "float32", "cpu"), whisper(ear)
    assert isinstance(old, Qwen2_5Omni)
    model = widened(old, nano.tokenizer(vocabulary(wide=True), 4096))
    sounds = microphone_bank("train")
    labels = {label for bank in (sounds, quick_scene(0, (3.0, 8.0))[1]) for group in bank.groups for label in group}
    names = {label: [token for word in label.split() for token in model.encode(" " + word)] for label in labels}
    people = Bank({"speech": speech(packages)}, (("speech",),), "train", sounds.beds)
    lessons = Lessons(teacher, people, names, FIRST)
    if not (out / "directions.pt").is_file():
        torch.save(directions(Lessons(teacher, people, names, FIRST_MEASURED)), out / "directions.pt")
    lessons.target = torch.load(out / "directions.pt")
    pupil = Pupil(model, new_tokens(old, model))
    teach(pupil, lessons, steps, out / "state.pt")
    pupil.save(out / "model")
    print(f"by the projection alone, {told_words(model):.3f} of 300 words by held-out voices are told")


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:5]), steps=int(sys.argv[5]) if sys.argv[5:] else 4000)
