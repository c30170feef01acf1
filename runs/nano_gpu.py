"""Trains a new nano on a GPU within a number of seconds: clips, the gate between two ears, base, the cold start.

It has run on a CPU with tiny batches only; nobody has trained a nano with it yet.

usage: python runs/nano_gpu.py tokenizer FOLDER                     (first: the vocabulary of both worlds)
       python runs/nano_gpu.py train OUT --ear own|EAR.safetensors --tokenizer FOLDER --bank FOLDER [--seconds N] ...

THE RULE OF THE GATE, written before the first run. Two processes train side by side, one with nano's own ear, one with
Whisper's encoder frozen; data, seconds and steps are the same. After the clips and GATE_STEPS steps of base each judges
itself on the same held-out scenes at the microphone (other voices, other recordings) by three shares, teacher-forced:
onsets in captions within 0.15 s, right labels in captions, clips told without a fault. The arm with the higher mean of
the three goes on, and the other one ends. If the means differ by less than 0.01, the own ear goes on, because it is
smaller. If one arm fails, the other goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from gpu_data import STARTED, Batches, Supply, own_banks, read_bank, tell
from gpu_model import BatchedMuon, GpuNano, Lean, Tensors, Waves, encode_audio, parts_of
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from whisper_ear import graft

from relisten.data.worlds import curriculum, microphone, scenes
from relisten.data.worlds.microphone import TRAINED, microphone_questions, microphone_scene
from relisten.data.worlds.scene_questions import make_questions
from relisten.data.worlds.sounds import SHIPPED
from relisten.types import Example, Format, SftExample

GATE_STEPS = 500
JUDGING_SEED = 77_000_000


# --- training -------------------------------------------------------------------------------------------------------


class Trainer:
    """Steps on one model; `good` are the latest weights with a finite loss."""

    def __init__(self, model: GpuNano, ear: float = 1.0) -> None:
        self.model, self.slower, self.ear = model, 1.0, ear
        self.lean = Lean(model, torch.bfloat16 if model.module.device.type == "cuda" else torch.float32)
        self.optimizer = BatchedMuon(model.module, ear)
        self.trained = {name: p for name, p in model.module.named_parameters() if p.requires_grad}
        self.good = {name: p.detach().clone() for name, p in self.trained.items()}

    def step(self, batch: Tensors, rate: float) -> Tensor:
        """One step. Returns the loss, which is not waited for."""
        loss = F.cross_entropy(self.lean.logits(batch), batch["labels"])
        loss.backward()
        self.lean.give()
        torch.nn.utils.clip_grad_norm_(list(self.trained.values()), 1.0)
        self.optimizer.step(rate * self.slower)
        self.lean.read()
        return loss.detach()

    def check(self, loss: Tensor) -> float:
        """Keep the weights if the loss is finite, else go back to the last good ones and learn more slowly."""
        value, total = float(loss), sum(p.detach().sum() for p in self.trained.values())
        if np.isfinite(value) and np.isfinite(float(total)):
            self.good = {name: p.detach().clone() for name, p in self.trained.items()}
        else:
            with torch.no_grad():
                for name, p in self.trained.items():
                    p.copy_(self.good[name])
            self.lean.read()
            self.optimizer, self.slower = BatchedMuon(self.model.module, self.ear), self.slower / 2
            tell("the loss was not finite: back to the last good weights, half the rate")
        return value


def train(
    trainer: Trainer, batches: Supply, name: str, seconds: float, peak: float,
    stop: Callable[[int], bool] = lambda step: False, floor: float = 0.02,
) -> int:  # fmt: skip
    """Steps for so many seconds, with a warm-up of 3 % and a cosine over the time. Returns how many were made."""
    begun, shown, step, num, waited, rows = time.perf_counter(), time.perf_counter(), 0, 0, 0.0, 0
    while (gone := time.perf_counter() - begun) < seconds:
        at = gone / seconds
        rate = peak * min(1.0, (step + 1) / 60, at / 0.03 + 0.05) * max(floor, 0.5 * (1 + np.cos(np.pi * at)))
        asked = time.perf_counter()
        batch = batches.next()
        waited += time.perf_counter() - asked
        loss = trainer.step(batch, rate)
        step, num, rows = step + 1, num + 1, rows + len(batch["input_ids"])
        if time.perf_counter() - shown > 5.0 or step in (1, 10):
            value, spent = trainer.check(loss), time.perf_counter() - shown
            tell(
                f"{name} step {step} loss {value:.3f} rate {rate:.1e} steps/s {num / spent:.1f}"
                f" scenes/s {rows / spent:.0f} waited {waited / spent:.2f}"
                f" new {batches.num_new} again {batches.num_old}"
            )
            shown, num, waited, rows = time.perf_counter(), 0, 0.0, 0
        if stop(step):
            break
    return step


def save(model: GpuNano, name: str, options: argparse.Namespace) -> None:
    """The model's folder, and what was trained of it as one small file in OUT."""
    model.save(options.work / name, dtype=torch.float16)
    every = {n: p.detach().half().cpu().contiguous() for n, p in model.module.named_parameters() if "visual" not in n}
    for part, own in (("ear", True), ("text", False)):  # two files, for what comes back is limited by the file
        chosen = {n: p for n, p in every.items() if ("audio_tower.layers" in n or "audio_tower.conv" in n) == own}
        save_file(chosen, options.out / f"{name}-{part}.safetensors")
    with tarfile.open(options.out / "folder.tar.gz", "w:gz") as tar:
        for path in sorted((options.work / name).glob("*.json")):
            tar.add(path, path.name)
    sizes = [path.stat().st_size / 2**20 for path in sorted(options.out.glob(f"{name}-*"))]
    for older in ("base",):
        if name != older:  # at most eight files come back
            for path in options.out.glob(f"{older}-*"):
                path.unlink()
    tell("saved", name, *(f"{size:.1f} MiB" for size in sizes))


# --- judging --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def judge(lean: Lean, options: argparse.Namespace) -> dict[str, float]:
    """The three figures of the gate on held-out scenes, teacher-forced."""
    right: dict[str, list[float]] = {"onset": [], "label": [], "clip": []}
    for kind, batch in _judged(lean.model, options):
        _mark(lean, batch, kind, right)
    figures = {name: float(np.mean(values)) for name, values in right.items()}
    return figures | {"mean": float(np.mean(list(figures.values())))}


def _judged(model: GpuNano, options: argparse.Namespace) -> list[tuple[str, Tensors]]:
    """Batches of captions and of clips of held-out scenes, made once."""
    made: list[tuple[str, Tensors]] = vars(options).setdefault("judged", [])
    if made:
        return made
    batches, sounds = Batches(Waves.of(model), "base", 1.0, 0), options.banks["heldout"]
    for seconds, num in (((3.0, 8.0), 128), ((8.0, 16.0), 64), ((16.0, 30.0), 32)):
        seeds = range(JUDGING_SEED, JUDGING_SEED + round(num * min(1, options.scale)) + 2)
        clips = [microphone_scene(seed, sounds, seconds) for seed in seeds]
        rng = np.random.default_rng(3)
        rows: dict[str, list[list[SftExample]]] = {
            "caption": [[(curriculum.tell(clip), "conditioned")] for clip in clips],
            "clip": [[(curriculum.close_listen(rng, clip), "conditioned")] for clip in clips for _ in range(3)],
        }
        for kind, own in rows.items():
            made.append((kind, {n: v.to(model.module.device) for n, v in batches.packed(own).items()}))
    return made


def _mark(lean: Lean, batch: Tensors, kind: str, right: dict[str, list[float]]) -> None:
    guessed, model = lean.logits(batch).argmax(-1), lean.model
    texts = [model.tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in (batch["labels"], guessed)]
    rows, clean = batch["rows"].tolist(), dict[int, bool]()
    for row, true, said in zip(rows, *texts, strict=True):
        if kind == "clip":
            clean[row] = clean.get(row, True) and true == said
        elif re.fullmatch(r"\d+\.\d", true):
            right["onset"].append(
                float(bool(re.fullmatch(r"\d+\.\d", said)) and abs(float(said) - float(true)) <= 0.151)
            )
        elif re.search(r"[a-z]", true) and "answer" not in true:
            right["label"].append(float(true == said))
    right["clip"] += [float(value) for value in clean.values()]


def gate(name: str, figures: dict[str, float], options: argparse.Namespace) -> None:
    """Write this arm's figures."""
    part = options.shared / f"gate-{name}.part"
    part.write_text(json.dumps(figures))
    part.rename(options.shared / f"gate-{name}.json")
    tell("gate", name, json.dumps(figures))


def lost(name: str, options: argparse.Namespace) -> bool | None:
    """Whether the other arm has won; None while it has not said anything."""
    other = "whisper" if name == "own" else "own"
    if (options.shared / f"failed-{other}").exists():
        return False
    path = options.shared / f"gate-{other}.json"
    if not path.exists():
        return None
    mine = json.loads((options.shared / f"gate-{name}.json").read_text())["mean"]
    theirs = json.loads(path.read_text())["mean"]
    return theirs - mine >= 0.01 if name == "own" else mine - theirs < 0.01


def answers(model: GpuNano, examples: Sequence[Example], format: Format) -> float:
    """The share of right answers, greedy."""
    from relisten.engine.answer import answered
    from relisten.engine.engine import Engine
    from relisten.engine.generation import GenerationConfig

    config = GenerationConfig(format=format, temperature=0.0, max_new_tokens=220)
    right = 0
    for index, _, trace in Engine(model, max_rows=512).run(examples, config):
        example = examples[index]
        right += answered(trace, example.choices, 0.0).choice == example.answer
    return right / len(examples)


def heldout_questions(world: str, num: int, options: argparse.Namespace) -> list[Example]:
    """Questions about held-out scenes: `own` is the set of docs/nano.md, `desk` scenes at the microphone."""
    if world == "own":
        sounds = scenes.bank("heldout")
        found = [make_questions(s, scenes.make_scene(s, sounds), sounds, 2) for s in range(500_000, 500_000 + num // 2)]
        return [question for two in found for question in two]
    sounds = options.banks["heldout"]
    clips = ((seed, microphone_scene(seed, sounds, (3.0, 16.0))) for seed in range(600_000, 600_000 + num // 2))
    found = [microphone_questions(s, c, sounds, 2, TRAINED, 0.0, 0.0, 0.0) for s, c in clips]
    return [question for two in found for question in two]


# --- the run --------------------------------------------------------------------------------------------------------


def prepared(options: argparse.Namespace) -> GpuNano:
    """The model to start from, on the device, with everything frozen that is not trained."""
    vocab = PreTrainedTokenizerFast.from_pretrained(options.tokenizer)
    model = GpuNano.of(graft(None if options.ear == "own" else load_file(options.ear), vocab))
    model.module.set_attn_implementation("sdpa")
    model.module.to("cuda" if torch.cuda.is_available() else "cpu")
    frozen = ("visual", "audio_bos_eos_token") if options.ear == "own" else ("visual", "audio_tower")
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad = not any(part in name for part in frozen) or "audio_tower.proj." in name
    return model


def unfreeze(model: GpuNano) -> None:
    """From here on the ear's layers are trained, too, with a small share of the learning rate."""
    for name, parameter in model.module.named_parameters():
        if "audio_tower.layers." in name or "audio_tower.ln_post." in name:
            parameter.requires_grad = True


@torch.no_grad()
def standardised(model: GpuNano, batch: Tensors) -> None:
    """Fold zero mean and unit variance of the frozen ear's states into its last norm."""
    tower, norm = parts_of(model.module)[0], parts_of(model.module)[0].ln_post
    waves, lengths = batch["long_waves"].float() / 32767, batch["long_lengths"]
    mel = model.log_mel(waves, lengths)
    states = encode_audio(tower, mel, -(-lengths // int(model.feature_extractor.hop_length)))
    states = states.flatten(0, 1).index_select(0, batch["long_source"]).float()
    mean, deviation = states.mean(0), states.std(0) + 1e-4
    norm.weight.copy_(norm.weight / deviation)
    norm.bias.copy_((norm.bias - mean) / deviation)


def run(options: argparse.Namespace) -> None:
    """One arm, from the start to the end."""
    name = "own" if options.ear == "own" else "whisper"
    end = STARTED + options.seconds
    sounds = read_bank(options.bank, options.workers or 1)
    wide = {split: scenes.bank_of(sounds, split, options.bank) for split in ("train", "heldout")}
    options.banks = {split: microphone.widened(found, wide["train"]) for split, found in wide.items()}
    shipped = own_banks(read_bank(SHIPPED, options.workers), wide["train"])
    for module in (curriculum, microphone):
        module.microphone_bank = options.banks.__getitem__  # type: ignore[attr-defined]
    for module in (curriculum, scenes):
        module.bank = shipped.__getitem__  # type: ignore[attr-defined]
    tell(name, f"{len(sounds)} sounds, {sum(len(s.samples) for s in sounds) / 16_000 / 60:.0f} minutes")
    model = prepared(options)
    tell("model", f"{sum(p.numel() for p in model.module.parameters() if p.requires_grad):,} weights are trained")
    half = max(1, options.workers // 2) if options.rival else options.workers
    clips = Supply(model, "clips", options, half if options.workers else 0, 0)
    base = Supply(model, "base", options, half if options.workers else 0, 1_000_000)
    if name == "whisper":
        standardised(model, base.next())
    trainer = Trainer(model)
    left = end - time.perf_counter()
    train(trainer, clips, "clips", 0.08 * left, 2e-3, floor=0.5)
    clips.close()

    decided = not options.rival

    def stop(step: int) -> bool:
        nonlocal decided
        if step == options.gate_steps:
            model.module.eval()
            gate(name, judge(trainer.lean, options), options)
        if (
            not decided
            and step >= options.gate_steps
            and step % min(20, options.gate_steps) == 0
            and (result := lost(name, options)) is not None
        ):
            decided = True
            tell("gate:", name, "ends" if result else "goes on")
            if result:
                os._exit(0)
            return True  # go on with all processes
        return False

    budget = 0.44 * left
    begun = time.perf_counter()
    steps = train(trainer, base, "base", budget, 1.5e-3, stop)
    base.close()
    if (more := budget - (time.perf_counter() - begun)) > 1.0:
        if name == "whisper" and options.ear_rate:
            unfreeze(model)
            trainer = Trainer(model, options.ear_rate)
        done = 1 - more / budget
        base = Supply(model, "base", options, options.workers, 2_000_000)
        train(trainer, base, "base", more, 1.5e-3 * 0.5 * (1 + np.cos(np.pi * done)))
        base.close()
    save(model, "base", options)
    tell("base", json.dumps(judge(trainer.lean, options)), steps)
    sft = Supply(model, "sft", options, options.workers, 3_000_000)
    train(trainer, sft, "sft", 0.41 * left, 1.2e-3)
    sft.close()
    save(model, "sft", options)
    tell("sft", json.dumps(judge(trainer.lean, options)))
    report(model, "sft", options, end)
    tell("done")


def report(model: GpuNano, name: str, options: argparse.Namespace, end: float) -> None:
    """Accuracies on held-out questions, as long as there is time."""
    figures: dict[str, float] = {}
    num = max(4, round(400 * min(1.0, options.scale)))
    asked = {world: heldout_questions(world, num, options) for world in ("own", "desk")}
    for format in ("interleaved", "grounded"):
        for world, examples in asked.items():
            if time.perf_counter() < end:
                figures[f"{world} {format}"] = answers(model, examples, format)  # type: ignore[arg-type]
                tell(name, world, format, figures[f"{world} {format}"], len(examples))
    (options.out / f"report-{name}.json").write_text(json.dumps(figures, indent=1))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokenizer", "train"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--ear", default="own")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--bank", type=Path)
    parser.add_argument("--seconds", type=float, default=380.0)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--scale", type=float, default=1.0, help="the size of batches as a share of LENGTHS")
    parser.add_argument("--gate-steps", type=int, default=GATE_STEPS)
    parser.add_argument("--ear-rate", type=float, default=0.03, help="for a given ear, after the gate; 0: frozen")
    parser.add_argument("--rival", action="store_true", help="another process trains the other arm")
    options = parser.parse_args()
    if options.what == "tokenizer":
        from relisten.models.nano import tokenizer

        tokenizer(curriculum.vocabulary(wide=True), 4096).save_pretrained(options.out)
        return
    options.work = Path(os.environ.get("NANO_WORK", "/tmp/nano_work"))
    options.shared = options.work.parent / f"{options.work.name}-gate"
    for folder in (options.out, options.work, options.shared):
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    try:
        run(options)
    except BaseException:
        (options.shared / f"failed-{'own' if options.ear == 'own' else 'whisper'}").touch()
        raise


if __name__ == "__main__":
    sys.exit(main())
