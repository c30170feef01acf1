"""`python -m benchmarks.engine`: what the engine costs beside the naive loop, beside itself, and beside the machine.

Everything runs in one process, one repeat after another, so that a ratio compares neighbours in time. The model has
random weights; what it writes is scripted, so that every side does equal work.
"""

from __future__ import annotations

import json as json_module
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from relisten import records
from relisten.cli import main, standalone
from relisten.engine.engine import Engine, GenerationConfig
from relisten.engine.naive import Script, naive
from relisten.engine.row import Row
from relisten.engine.sampling import token_logprobs
from relisten.models import nano
from relisten.models.base import AudioLM, lay_out_for_cpu
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.types import Audio, Example, Trace

SECONDS = 30.0
"""Of the recording."""
NUM_SAMPLED = 110
"""Tokens the model writes, the end token and three tags among them."""
TAGS = ("<seg>03.0, 06.0</seg", "<seg>13.0, 16.0</seg", "<seg>23.0, 26.0</seg")
"""As far as the model writes them: the engine and the naive loop both force the `>`."""
ROWS = 8
RATIOS = {
    "naive loop / engine, one row": ("naive", "one"),
    "naive loop with the mel padded to 30 s / engine, one row": ("naive, 30 s mel", "one"),
    "naive loop with the mel padded to 300 s / engine, one row": ("naive, 300 s mel", "one"),
    f"{ROWS} rows one after another / {ROWS} rows together": ("singles", "together"),
    "three pauses / none, one row": ("one", "no pause"),
}


class ScriptedEngine(Engine):
    """An engine whose rows write what a script says, so that random weights pause and equal work can be timed.

    scripts: (example's index, sample's index) -> the row's script. The recorded log-probabilities are the model's own.
    """

    def __init__(
        self,
        model: AudioLM,
        scripts: Callable[[int, int], Script],
        max_rows: int = 32,
        max_cache_bytes: int | None = None,
    ) -> None:
        super().__init__(model, max_rows=max_rows, max_cache_bytes=max_cache_bytes)
        self.scripts = scripts
        self._made: dict[tuple[int, int], Script] = {}

    def _choose(self, config: GenerationConfig, rows: Sequence[Row], logits: Tensor) -> list[tuple[int, float]]:
        told = [self._script(row)(row.num_sampled) for row in rows]
        free = [i for i, token_id in enumerate(told) if token_id is None]
        made = super()._choose(config, [rows[i] for i in free], logits[free]) if free else []
        own = dict(zip(free, (token_id for token_id, _ in made), strict=True))
        token_ids = [own[i] if token_id is None else token_id for i, token_id in enumerate(told)]
        wanted = torch.tensor(token_ids, device=logits.device)
        return list(zip(token_ids, token_logprobs(logits, wanted, self.model.banned_token_ids).tolist(), strict=True))

    def _script(self, row: Row) -> Script:
        """A row's script, made once: what making it takes is no part of an answer."""
        place = row.question.index, row.sample
        if place not in self._made:
            self._made[place] = self.scripts(*place)
        return self._made[place]


def engine(*, repeats: int = 3, threads: int = 1, out: Path | None = None) -> int:
    """Measure the engine on this machine's CPU, with a random model of about 100 M parameters; takes minutes.

    Parameters
    ----------
    repeats
        How often every side is run; a table shows the median, the lowest and the highest ratio.
    threads
        Threads of torch; more than the free cores make every figure worse.
    out
        A JSON file for all figures.
    """
    if repeats < 1 or threads < 1:
        raise ValueError(f"repeats and threads must be at least 1, not {repeats} and {threads}")
    result = measure(repeats, threads)
    for table in _tables(result):
        Console().print(table)
    if out is not None:
        records.write_atomic(out, (json_module.dumps(result, indent=2) + "\n").encode(), follow=True)
    return 0


def measure(repeats: int = 3, threads: int = 1, model: Qwen2_5Omni | None = None) -> dict[str, Any]:
    """Every figure, ready for JSON. `model` may be a smaller one, for a test of this function."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = model or random_model()
        rates = machine_rates()
        sides = _sides(model)
        times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        traces: dict[str, Trace] = {}
        for name, run in tqdm([*sides.items()] * repeats, desc="bench", unit="run"):
            cpu, wall = process_time(), perf_counter()
            traces[name] = run()
            times[name].append({"cpu": process_time() - cpu, "wall": perf_counter() - wall})
        assert all(len(t.token_ids) == len(traces["one"].token_ids) for n, t in traces.items() if n != "no pause")
        floors = {name: _floor(model, rates, traces[name], rows, name == "naive") for name, rows in _FLOORS.items()}
    finally:
        torch.set_num_threads(before)
    return {
        "repeats": repeats,
        "threads": threads,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "processor": platform.processor() or platform.machine(),
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "tokens": _counts(traces["one"]),
        "rates": rates,
        "times": times,
        "ratios": {label: _ratios(times, *pair) for label, pair in RATIOS.items()},
        "floors": {
            name: {**floor, "cpu / floor": statistics.median(t["cpu"] for t in times[name]) / sum(floor.values())}
            for name, floor in floors.items()
        },
    }


def random_model(texts: Sequence[str] = ()) -> Qwen2_5Omni:
    """About 100 M parameters of the real class, 8 M of them its audio tower, as many in proportion as the 7B has.

    It hears as Qwen does (128 mel bins, 25 tokens a second, blocks of 2 s) and its vocabulary is bytes and the words of
    `texts`, so that the projection onto the vocabulary, which a naive loop may or may not repeat for a whole prompt,
    counts for nothing.
    """
    size = nano.NanoConfig(
        hidden_size=768, num_layers=16, num_heads=12, num_key_value_heads=4, intermediate_size=2048,
        audio_width=320, audio_layers=6, audio_heads=5, audio_intermediate_size=1280, audio_block=100,
        num_mel_bins=128, hop_length=160, n_fft=400, context=8192,
    )  # fmt: skip
    model = nano.create(texts, size)
    lay_out_for_cpu(model.module)  # as `relisten.load` does
    return model


def machine_rates() -> dict[str, float]:
    """What this machine reaches in this process: bytes a second through a matrix, and floating-point operations."""
    matrix, vector = torch.randn(16_384, 6_144), torch.randn(1, 6_144)
    read = min(_cpu(lambda: torch.nn.functional.linear(vector, matrix)) for _ in range(7))
    left, right = torch.randn(800, 768), torch.randn(2048, 768)
    product = min(_cpu(lambda: torch.nn.functional.linear(left, right), 8) for _ in range(7))
    return {"bytes": matrix.numel() * 4 / read, "flop": 2 * 800 * 768 * 2048 / product}


def _cpu(call: Callable[[], object], times: int = 1) -> float:
    started = process_time()
    for _ in range(times):
        call()
    return (process_time() - started) / times


def _sides(model: Qwen2_5Omni) -> dict[str, Callable[[], Trace]]:
    """What is timed; those that are compared stand beside each other."""
    noise = np.random.default_rng(0).standard_normal(round(SECONDS * model.rate)) * 0.1
    example = Example("noise", Audio(noise.astype(np.float32), model.rate), "What is it?")
    config = GenerationConfig(max_new_tokens=NUM_SAMPLED + 1)
    paused, plain = _script(model, TAGS), _script(model, ())

    def run(script: Script, rows: int) -> Trace:
        return ScriptedEngine(model, lambda i, s: script, rows).generate([example], config, rows)[0][0]

    def one_after_another() -> Trace:
        traces = [run(paused, 1) for _ in range(ROWS)]
        return traces[0]

    def loop(seconds: float | None) -> Trace:
        features = None if seconds is None else lambda audio: _padded_mel(model, audio, seconds)
        return naive(model, example, config, features, paused)

    return {
        "naive": lambda: loop(None),
        "one": lambda: run(paused, 1),
        "naive, 30 s mel": lambda: loop(30.0),
        "naive, 300 s mel": lambda: loop(300.0),
        "no pause": lambda: run(plain, 1),
        "together": lambda: run(paused, ROWS),
        "singles": one_after_another,
    }


def _script(model: Qwen2_5Omni, tags: Sequence[str]) -> Script:
    """As many tokens whatever the tags: filler before, between and after them, and the end token."""
    filler = model.encode("a")
    written = [model.encode(tag) for tag in tags]
    left = NUM_SAMPLED - 1 - sum(map(len, written))
    stretch = left // (len(tags) + 1)
    ids = [token_id for tag in written for token_id in [*filler * stretch, *tag]]
    ids += filler * (NUM_SAMPLED - 1 - len(ids))
    return dict(enumerate([*ids, model.end_token_id])).get


def _padded_mel(model: Qwen2_5Omni, audio: Audio, seconds: float) -> Tensor:
    """As the processor does it: the mel of the piece and of the silence up to `seconds`, then cut."""
    padded = np.zeros(max(len(audio.samples), round(seconds * audio.rate)), np.float32)
    padded[: len(audio.samples)] = audio.samples
    return model.features(Audio(padded, audio.rate))[:, : model.num_frames(len(audio.samples))]


# --- what the machine could do at best ------------------------------------------------------------------------------

_FLOORS = {"naive": 1, "one": 1, "no pause": 1, "together": ROWS}


def _counts(trace: Trace) -> dict[str, int]:
    return {
        "prompt": trace.num_prompt,
        "sampled": sum(trace.sampled),
        "inserted": sum(listen.num_tokens + 2 for listen in trace.listens[1:]),
        "all": len(trace.token_ids),
    }


def _floor(model: Qwen2_5Omni, rates: dict[str, float], trace: Trace, rows: int, anew: bool) -> dict[str, float]:
    """Seconds that the arithmetic of prompt and insertions, and the reading of each step's weights and cache, take.

    anew: a pause costs everything before it, as in the naive loop; the ratio of two floors is the best a loop can win.
    """
    config = model.module.config
    text, audio = config.text_config, config.audio_config
    counts = _counts(trace)
    width = text.hidden_size // text.num_attention_heads
    weights: int = text.num_hidden_layers * (
        2 * text.hidden_size**2 + 2 * text.hidden_size * text.num_key_value_heads * width
        + 3 * text.hidden_size * text.intermediate_size
    )  # fmt: skip

    def read(new: int, length: float) -> float:
        """Operations to forward new tokens which look back on `length` tokens on average."""
        per_pair: int = 4 * text.num_hidden_layers * text.hidden_size
        return 2.0 * weights * new + per_pair * new * length

    def heard(num_tokens: int) -> float:
        """Operations to encode audio: convolutions, layers (blocks of 2 s look at themselves), projection."""
        frames, positions, wide = 4 * num_tokens, 2 * num_tokens, audio.d_model
        convolutions = 6 * frames * audio.num_mel_bins * wide + 6 * positions * wide**2
        layer = 8 * wide**2 + 4 * wide * audio.encoder_ffn_dim + 4 * audio.n_window * wide
        return float(convolutions + positions * audio.encoder_layers * layer + 2 * num_tokens * wide * text.hidden_size)

    prompt = read(counts["prompt"], counts["prompt"] / 2) + heard(trace.listens[0].num_tokens)
    inserted = 0.0
    for index, listen in enumerate(trace.listens[1:], 2):
        end = listen.at + listen.num_tokens + 1
        again = sum(heard(h.num_tokens) for h in trace.listens[:index]) if anew else heard(listen.num_tokens)
        inserted += again + (read(end, end / 2) if anew else read(listen.num_tokens + 2, listen.at))
    steps = counts["sampled"] - 1 - len(trace.listens[1:])
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * width * (counts["prompt"] + counts["all"]) / 2
    return {
        "prefill": prompt / rates["flop"],
        "listen": rows * inserted / rates["flop"],
        "decode": steps * max((weights + rows * cache) * 4 / rates["bytes"], 2.0 * rows * weights / rates["flop"]),
    }


# --- the report -----------------------------------------------------------------------------------------------------


def _ratios(times: dict[str, list[dict[str, float]]], first: str, second: str) -> dict[str, dict[str, float]]:
    """Of neighbours in time: median, lowest, highest."""
    found = {}
    for clock in ("cpu", "wall"):
        each = [a[clock] / b[clock] for a, b in zip(times[first], times[second], strict=True)]
        found[clock] = {"median": statistics.median(each), "low": min(each), "high": max(each)}
    return found


def _tables(result: dict[str, Any]) -> list[Table]:
    rates, tokens = result["rates"], result["tokens"]
    title = f"{result['parameters'] / 1e6:.0f} M parameters, {result['repeats']} repeats"
    ratios = Table(title=title, title_justify="left")
    for name in ("", "CPU time", "lowest to highest", "wall time"):
        ratios.add_column(name, justify="left" if not name else "right")
    for label, found in result["ratios"].items():
        cpu = found["cpu"]
        spread = f"{cpu['low']:.2f} to {cpu['high']:.2f}"
        ratios.add_row(label, f"{cpu['median']:.2f}", spread, f"{found['wall']['median']:.2f}")
    floors = Table(
        title=f"{tokens['prompt']} tokens of prompt, {tokens['sampled']} sampled, {tokens['inserted']} inserted;"
        f" {rates['bytes'] / 1e9:.1f} GB/s, {rates['flop'] / 1e9:.0f} GFLOP/s",
        title_justify="left",
    )
    for name in ("engine", "CPU s", "floor s", "CPU / floor"):
        floors.add_column(name, justify="left" if name == "engine" else "right")
    for name, floor in result["floors"].items():
        cpu = statistics.median(t["cpu"] for t in result["times"][name])
        floors.add_row(name, f"{cpu:.2f}", f"{cpu / floor['cpu / floor']:.2f}", f"{floor['cpu / floor']:.2f}")
    return [ratios, floors]


commands = standalone(engine, "python -m benchmarks.engine")

if __name__ == "__main__":
    main(commands=commands)
