"""The state of a GPU check, its findings, and the work that it gives to the engine."""

from __future__ import annotations

import gc
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.full_size import FILLER, TINY_LAYERS, build
from benchmarks.timing import noise
from relisten.engine.engine import GenerationConfig
from relisten.engine.naive import Script
from relisten.engine.scripted import ScriptedEngine
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Example


@dataclass(frozen=True)
class Size:
    """How much work the check does."""

    layers: int | None = None
    """Layers of the text model; None for the 7B's 28."""
    seconds: float = 30.0
    """Length of a recording."""
    sampled: int = 110
    """Tokens of an answer."""
    listens: int = 2
    rows: tuple[int, ...] = (1, 8, 64, 256)
    rank: int = 64
    """Of the LoRA adapters."""
    questions: int = 8
    """In a rollout of GRPO, with eight answers each."""


FULL, TINY = Size(), Size(layers=TINY_LAYERS, seconds=4.0, sampled=40, rows=(1, 4), rank=4, questions=2)


class Check:
    """The state of one check: the size of the work, the model, and what was found."""

    def __init__(self, size: Size, out: Path) -> None:
        self.size, self.out, self.failed = size, out, False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bytes_per_second = 0.0
        self._started = perf_counter()
        self._model: Qwen2_5Omni | None = None

    @property
    def model(self) -> Qwen2_5Omni:
        """The model of random weights, made when it is first needed."""
        if self._model is None:
            started = self.now()
            self._model = build(self.size.layers, self.device)
            count = sum(p.numel() for p in self._model.module.parameters())
            self.say("build", seconds=self.now() - started, parameters=count, **self.memory())
        return self._model

    def forget(self) -> None:
        """Free the model; the next use makes a new one."""
        self._model = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def run(self, name: str, part: Callable[[Check], None]) -> None:
        """Run one part. If it breaks, that is a finding, and the others still run."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            part(self)
        except Exception as error:
            self.failed = True
            self.say(name, failed=repr(error)[:500], where=traceback.format_exc()[-2500:])
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def say(self, part: str, **found: Any) -> None:
        """Print a finding and append it to the file."""
        rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in found.items()}
        line = json.dumps({"part": part, "at": round(self.elapsed(), 1), **rounded})
        print(line, flush=True)
        with self.out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def elapsed(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    def now(self) -> float:
        """Seconds, once the device has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter()

    def memory(self) -> dict[str, float]:
        """GiB on the device: in use, held by torch's allocator, the most so far, and what the driver calls free."""
        if self.device.type != "cuda":
            return {}
        held = torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()
        names = ("allocated", "reserved", "peak", "free")
        return {n: round(v / 2**30, 2) for n, v in zip(names, (*held, torch.cuda.mem_get_info()[0]), strict=True)}


def script(model: Qwen2_5Omni, size: Size, sample: int, listens: int) -> Script:
    """An answer with `listens` tags, which stand at other places in every sample."""
    filler, length = model.encode(FILLER), min(3.0, size.seconds / 4)
    tags = [model.encode(f"<seg>{1 + n:04.1f}, {1 + n + length:04.1f}</seg") for n in range(listens)]
    ids = filler * (size.sampled - 1 - sum(map(len, tags)))
    for number, tag in reversed(list(enumerate(tags))):
        at = (37 * sample + 11) % (len(filler) * 20) + number * 20
        ids[at:at] = tag
    return dict(enumerate([*ids, model.end_token_id])).get


def engine(check: Check, rows: int, listens: int) -> ScriptedEngine:
    """An engine whose rows write scripts; eight rows to a question."""
    scripts = {n: script(check.model, check.size, n, listens) for n in range(rows)}
    return ScriptedEngine(check.model, lambda i, s: scripts[(8 * i + s) % rows], rows)


def questions(check: Check, num: int, seconds: float | None = None) -> list[Example]:
    """Questions about noise."""
    asked = noise(check.model, seconds or check.size.seconds, num)
    return [replace(one, choices=("a dog", "two knocks"), answer="two knocks") for one in asked]


def config(check: Check) -> GenerationConfig:
    """Room for the whole script."""
    return GenerationConfig(max_new_tokens=check.size.sampled + 1)
