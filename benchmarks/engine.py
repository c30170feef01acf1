"""`python -m benchmarks.engine`: what the engine costs beside the naive loop, and beside itself.

The model has random weights, and what it writes is scripted, so that every side does equal work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import measure, median, noise, ratio, scripted, show, spread, with_threads
from relisten.cli import main, standalone
from relisten.engine.generation import GenerationConfig
from relisten.engine.naive import Script, naive
from relisten.engine.scripted import ScriptedEngine
from relisten.engine.session import Session
from relisten.models import nano
from relisten.models.base import lay_out_for_cpu
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.reports.table import Table
from relisten.types import Audio, Trace

SECONDS = 30.0
"""Length of the recording."""
NUM_SAMPLED = 110
"""Tokens that the model writes, the end token and three tags among them."""
TAGS = ("<seg>03.0, 06.0</seg", "<seg>13.0, 16.0</seg", "<seg>23.0, 26.0</seg")
ROWS = 8
STEPS = 20
"""Steps that are timed at once, where steps alone are timed."""
RATIOS = {
    "naive loop / engine, one row": ("naive", "one"),
    "naive loop with the mel padded to 30 s / engine, one row": ("naive, 30 s mel", "one"),
    "naive loop with the mel padded to 300 s / engine, one row": ("naive, 300 s mel", "one"),
    f"{ROWS} rows one after another / {ROWS} rows together": ("singles", "together"),
    "three pauses / none, one row": ("one", "no pause"),
    f"{ROWS} questions about {ROWS} recordings / about one": ("recordings", "one recording"),
    "a step of one row / its floor": ("step, 1", "floor, 1"),
    f"a step of {ROWS} rows / its floor": (f"step, {ROWS}", f"floor, {ROWS}"),
    f"the products in a step of {ROWS} rows / its floor": (f"products, {ROWS}", f"floor, {ROWS}"),
}


def engine(*, repeats: int = 3, threads: int = 1, out: Path | None = None) -> int:
    """Measure the engine on this machine's CPU, with a random model of about 100 M parameters; takes minutes.

    Parameters
    ----------
    repeats
        How often every side is run. The table shows the median ratio, the lowest and the highest.
    threads
        Threads of torch. More threads than free cores make every figure worse.
    out
        A JSON file for all figures.
    """
    if repeats < 1 or threads < 1:
        raise ValueError(f"repeats and threads must be at least 1, not {repeats} and {threads}")
    model = random_model()
    with with_threads(threads):
        times, traces = measure(sides(model), repeats)
        times |= measure(steps(model, repeats), repeats)[0]
    table, result = report(times, traces)
    millions = sum(p.numel() for p in model.module.parameters()) / 1e6
    show([table], result | {"repeats": repeats, "threads": threads, "parameters": millions}, out)
    return 0


def random_model(texts: Sequence[str] = (), **changes: Any) -> Qwen2_5Omni:
    """About 100 M parameters of the real class, 8 M of them its audio tower, in the proportions of the 7B.

    It hears as Qwen does (128 mel bins, 25 tokens a second, blocks of 2 s). Its vocabulary is bytes and the words of
    `texts`, so that the projection onto the vocabulary counts for nothing. changes: other sizes.
    """
    size = {
        "hidden_size": 768, "num_layers": 16, "num_heads": 12, "num_key_value_heads": 4, "intermediate_size": 2048,
        "audio_width": 320, "audio_layers": 6, "audio_heads": 5, "audio_intermediate_size": 1280, "audio_block": 100,
        "num_mel_bins": 128, "hop_length": 160, "n_fft": 400, "context": 8192,
    }  # fmt: skip
    model = nano.create(texts, nano.NanoConfig(**(size | changes)))
    lay_out_for_cpu(model.module)  # as `relisten.load` does
    return model


def sides(model: Qwen2_5Omni) -> dict[str, Callable[[], Trace]]:
    """What is timed; sides that are compared stand beside each other."""
    [example] = noise(model, SECONDS)
    config = GenerationConfig(max_new_tokens=NUM_SAMPLED + 1)
    paused, plain = scripted(model, TAGS, NUM_SAMPLED), scripted(model, (), NUM_SAMPLED)

    def run(script: Script, rows: int) -> Trace:
        return ScriptedEngine(model, lambda i, s: script, rows).generate([example], config, rows)[0][0]

    def questions(audios: Sequence[Audio]) -> Trace:
        asked = [replace(example, audio=audio) for audio in audios]
        return ScriptedEngine(model, lambda i, s: paused, ROWS).generate(asked, config)[0][0]

    own = example.audio
    assert isinstance(own, Audio)

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
        "singles": lambda: [run(paused, 1) for _ in range(ROWS)][-1],
        "recordings": lambda: questions([replace(own) for _ in range(ROWS)]),
        "one recording": lambda: questions([own] * ROWS),
    }


def steps(model: Qwen2_5Omni, repeats: int) -> dict[str, Callable[[], None]]:
    """Steps of decoding after a long prompt, each side called `repeats` times, and their floors.

    The floor of a step is the time to read all weights, and the keys and values of its rows, once: in products of one
    row, which wait for memory alone. The products of a step are those of all its rows with the weights.
    """
    [example] = noise(model, SECONDS)
    script = scripted(model, (), STEPS * repeats + 3)
    config = GenerationConfig(max_new_tokens=STEPS * repeats + 3)
    parts = model.module.named_modules()
    layers = [part for name, part in parts if isinstance(part, nn.Linear) and "audio_tower" not in name]
    text = model.module.config.get_text_config()
    width = int(text.hidden_size) // int(text.num_attention_heads)
    heads = 2 * int(text.num_hidden_layers) * int(text.num_key_value_heads)

    def repeated(step: Callable[[], object]) -> None:
        for _ in range(STEPS):
            step()

    @torch.no_grad()
    def products(rows: int) -> None:
        for layer in layers:
            layer(torch.ones(rows, layer.in_features))

    found: dict[str, Callable[[], None]] = {}
    for rows in (1, ROWS):
        session = Session(ScriptedEngine(model, lambda i, s: script, rows))
        session.submit(example, config, rows)
        session.step()  # the prompt
        prompt = len(model.prompt(example.question, example.choices, "interleaved", round(SECONDS * model.rate))[0])
        cache = torch.ones(heads * (prompt + rows * STEPS * repeats // 2), width)

        def floor(cache: Tensor = cache) -> None:
            products(1)
            torch.mv(cache, cache[0])

        found[f"step, {rows}"] = partial(repeated, session.step)
        found[f"floor, {rows}"] = partial(repeated, floor)
        found[f"products, {rows}"] = partial(repeated, partial(products, rows))
    return found


def _padded_mel(model: Qwen2_5Omni, audio: Audio, seconds: float) -> Tensor:
    """The mel as the processor makes it: of the piece and of silence up to `seconds`, then cut."""
    padded = np.zeros(max(len(audio.samples), round(seconds * audio.rate)), np.float32)
    padded[: len(audio.samples)] = audio.samples
    return model.features(Audio(padded, audio.rate))[:, : model.num_frames(len(audio.samples))]


def report(times: dict[str, list[dict[str, float]]], traces: dict[str, Trace]) -> tuple[Table, dict[str, Any]]:
    """The table, and every figure. AssertionError where sides did unequal work."""
    one = traces["one"]
    assert all(t.token_ids == one.token_ids for name, t in traces.items() if name != "no pause"), "unequal work"
    counts = {"prompt": one.num_prompt, "sampled": sum(one.sampled), "all": len(one.token_ids)}
    ratios = {label: {clock: ratio(times, *pair, clock) for clock in ("cpu", "wall")} for label, pair in RATIOS.items()}
    rows = [[label, *spread(found["cpu"]), f"{found['wall']['median']:.2f}"] for label, found in ratios.items()]
    seconds = ", ".join(f"{name} {median(found):.2f}" for name, found in times.items())
    note = (
        f"{counts['prompt']} tokens of prompt, {counts['sampled']} sampled, {counts['all']} in all. CPU s: {seconds}."
    )
    table = Table(["", "CPU time", "lowest to highest", "wall time"], rows, note, "ratios, median of all repeats")
    return table, {"tokens": counts, "times": times, "ratios": ratios}


commands = standalone(engine, "python -m benchmarks.engine")

if __name__ == "__main__":
    main(commands=commands)
