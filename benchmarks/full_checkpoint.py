"""A checkpoint of Qwen2.5-Omni-7B's shape with random weights is written shard by shard, loaded, and asked.

    python -m benchmarks.full_checkpoint out/random-7b                 # 18 GB on disk, 18 GB of memory
    python -m benchmarks.full_checkpoint out/random-14 --layers 14     # half of the text model's layers

No more than one tensor is in memory while it is written. The model is asked in a process of its own, whose memory is
watched: `anonymous` is what it holds itself, `resident` has in addition the pages of files that the kernel keeps for it
and takes back when memory is short.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

from benchmarks.full_size import TINY_LAYERS, settings
from relisten.cli import main, standalone
from relisten.training.dry_run import seven

INDEX = "model.safetensors.index.json"


def write(folder: Path, layers: int | None = None) -> int:
    """Write the checkpoint; returns its bytes. layers: of the text model (None: all 28; 2: everything is tiny)."""
    config, vocab, bins = settings(layers)
    if layers != TINY_LAYERS:
        config.vision_config = seven().config.vision_config  # it is never used, but a real checkpoint has it
    config.dtype = torch.bfloat16
    config.architectures = ["Qwen2_5OmniThinkerForConditionalGeneration"]
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    vocab.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=bins, sampling_rate=16_000, hop_length=160, n_fft=400).save_pretrained(folder)
    with torch.device("meta"):
        module = Qwen2_5OmniThinkerForConditionalGeneration(config)
    places: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(_shards(module)):
        file = f"model-{number:05d}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        places |= dict.fromkeys(shard, file)
        total += sum(tensor.nbytes for tensor in shard.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    return total


def _shards(module: torch.nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Random weights as in `full_size.fill`, a few at a time, under the names that they have in a file."""
    block = (torch.randn(1_000_003) * 0.02).bfloat16()
    for name, parameter in module.named_parameters():
        shape = parameter.shape
        if len(shape) < 2:
            tensor = torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.bfloat16)
        else:
            tensor = block.repeat(-(-shape.numel() // len(block)))[: shape.numel()].view(shape).contiguous()
        yield {name.removeprefix("model.").replace("language_model.", "model."): tensor}


ASKING = """
import json, sys
from itertools import islice
from time import perf_counter
import numpy as np
import relisten
from relisten.engine.engine import Engine, GenerationConfig, Text
from relisten.types import Audio, Example

folder, num = sys.argv[1], int(sys.argv[2])
started = perf_counter()
model = relisten.load(folder, device="cpu")
loaded = perf_counter()
noise = Audio(np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32), 16_000)
events = Engine(model).stream(Example("a", noise, "a"), GenerationConfig("conditioned"))
texts = [event.text for event in islice((e for e in events if isinstance(e, Text)), num)]
print(json.dumps({"load_s": round(loaded - started, 1), "ask_s": round(perf_counter() - loaded, 1),
                  "parameters": sum(p.numel() for p in model.module.parameters()),
                  "dtype": str(model.module.dtype), "pieces": len(texts)}))
"""
"""What the watched process does: load, and write the first pieces of an answer about a second of noise."""


def ask(folder: Path, num_pieces: int) -> dict[str, Any]:
    """Load the model in another process and let it write. Returns the seconds and the most memory (GB) that it took."""
    most = {"RssAnon": 0, "VmHWM": 0}
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, "-c", ASKING, str(folder), str(num_pieces)]
        asking = subprocess.Popen(command, stdout=output)
        while asking.poll() is None:
            for name, kilobytes in _status(asking.pid):
                most |= {name: max(most[name], kilobytes)} if name in most else {}
            sleep(0.05)
        if asking.returncode:
            raise ValueError(f"{folder}: cannot be asked; exit code {asking.returncode}")
        output.seek(0)
        found: dict[str, Any] = json.load(output)
    return found | {
        "anonymous_GB": round(most["RssAnon"] * 1024 / 1e9, 2), "resident_GB": round(most["VmHWM"] * 1024 / 1e9, 2),
    }  # fmt: skip


def _status(pid: int) -> Iterator[tuple[str, int]]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return
    for line in lines:
        name, _, value = line.partition(":")
        if value.endswith("kB"):
            yield name, int(value.split()[0])


def full_checkpoint(folder: Path, /, *, layers: int | None = None, pieces: int = 4) -> int:
    """Write a checkpoint of random weights at the 7B's shape, load it, let it write, and print what that took.

    Parameters
    ----------
    folder
        Where the checkpoint is written.
    layers
        Layers of the text model; all 28 if nothing is given.
    pieces
        How many pieces of text (tokens, mostly) of an answer are awaited.
    """
    started = perf_counter()
    written = write(folder, layers)
    print(json.dumps({"weights_GB": round(written / 1e9, 2), "written_s": round(perf_counter() - started, 1)}))
    print(json.dumps(ask(folder, pieces)))
    return 0


commands = standalone(full_checkpoint, "python -m benchmarks.full_checkpoint")

if __name__ == "__main__":
    main(commands=commands)
