"""`python -m benchmarks.beside_vllm ENV`: the engine and vLLM's CPU build side by side, the same model and equal work.

The answers are those of `benchmarks.engine`: a random model, a recording of 30 s, several rows of one question, no
pause. Both sides read the recording and the prompt anew in each run, on one thread. vLLM runs in an environment of its
own; `runs/vllm_cpu.sh setup ENV` makes it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.engine import NUM_SAMPLED, SECONDS, random_model
from benchmarks.timing import noise, scripted, show, with_threads
from relisten.cli import main, standalone
from relisten.engine.generation import GenerationConfig
from relisten.engine.scripted import ScriptedEngine
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.remote.export import export_vllm
from relisten.reports.table import Table
from relisten.types import Audio


def beside_vllm(env: Path, /, *, rows: tuple[int, ...] = (1, 8, 32), repeats: int = 3, out: Path | None = None) -> int:
    """Measure the engine and vLLM in turn on this machine's CPU; takes minutes.

    Parameters
    ----------
    env
        The folder of vLLM's environment.
    rows
        Numbers of answers to one question that are generated together.
    repeats
        How often each side is run. The table shows the best of each.
    out
        A JSON file for all figures.
    """
    if not (env / "bin" / "python").exists():
        raise ValueError(f"{env}: has no bin/python; make the environment with runs/vllm_cpu.sh setup {env}")
    if repeats < 1 or not rows or min(rows) < 1:
        raise ValueError("--rows and --repeats must be at least 1")
    model = random_model()
    [example] = noise(model, SECONDS)
    script, config = scripted(model, (), NUM_SAMPLED), GenerationConfig(max_new_tokens=NUM_SAMPLED + 1)
    times: dict[int, dict[str, list[float]]] = {num: {"local": [], "vllm": []} for num in rows}
    with tempfile.TemporaryDirectory() as folder, with_threads(1), _vllm(env, Path(folder), model, max(rows)) as worker:
        for num in tqdm([*rows] * repeats, desc="bench", unit="pair"):
            started = process_time()
            [traces] = ScriptedEngine(model, lambda i, s: script, num).generate([example], config, num)
            times[num]["local"].append(process_time() - started)
            found = _asked(worker, num)
            times[num]["vllm"].append(found["cpu"])
            work = {"tokens": sum(sum(trace.sampled) for trace in traces), "prompt": traces[0].num_prompt}
            tqdm.write(f"{num} rows: local {times[num]['local'][-1]:.2f}, vLLM {found['cpu']:.2f} CPU s")
            assert work == {name: found[name] for name in work}, "unequal work"
    best = {num: {side: min(found) for side, found in sides.items()} for num, sides in times.items()}
    cells = [
        [str(n), *(f"{best[n][s]:.1f}" for s in times[n]), f"{b['local'] / b['vllm']:.2f}"] for n, b in best.items()
    ]
    note = f"{NUM_SAMPLED} sampled tokens a row, a recording of {SECONDS:g} s, float32, one thread. Best of {repeats}."
    table = Table(["rows of one question", "local engine", "vLLM", "local / vLLM"], cells, note, "CPU seconds")
    show([table], {"times": times, "repeats": repeats}, out)
    return 0


@contextmanager
def _vllm(env: Path, folder: Path, model: Qwen2_5Omni, most: int) -> Iterator[subprocess.Popen[str]]:
    """vLLM with the same weights and the same question, in a process of its own."""
    model.save(folder / "model")
    [example] = noise(model, SECONDS)
    assert isinstance(example.audio, Audio)
    samples = example.audio.samples
    ids, _ = model.prompt(example.question, example.choices, "interleaved", len(samples))
    # vLLM itself writes one placeholder as often as the recording takes it.
    once = [id_ for i, id_ in enumerate(ids) if id_ != model.audio_id or ids[i - 1] != model.audio_id]
    np.save(folder / "wave.npy", samples)
    work = {
        "model": str(export_vllm(str(folder / "model"), folder / "exported")), "wave": str(folder / "wave.npy"),
        "rate": model.rate, "token_ids": once, "sampled": NUM_SAMPLED, "context": 2048, "most": most,
    }  # fmt: skip
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
    # In one process, so that its CPU time is all of vLLM's.
    settings = {
        "OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [str(env.absolute() / "bin" / "python"), str(Path(__file__).with_name("vllm_worker.py").absolute())]
    with (folder / "log.txt").open("w+", encoding="utf-8") as log:
        worker = subprocess.Popen(
            [*command, str(folder / "work.json")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            cwd=folder, env={n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | settings,
        )  # fmt: skip
        try:
            yield worker
        except BrokenPipeError:
            log.seek(0)
            raise ValueError(f"vLLM ended: {log.read()[-1500:]}") from None
        finally:
            worker.kill()
            worker.wait()


def _asked(worker: subprocess.Popen[str], num: int) -> dict[str, Any]:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{num}\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("result "):
            found: dict[str, Any] = json.loads(line.removeprefix("result "))
            return found
    raise BrokenPipeError


commands = standalone(beside_vllm, "python -m benchmarks.beside_vllm")

if __name__ == "__main__":
    main(commands=commands)
