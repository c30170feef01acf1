"""`python -m benchmarks.gpu`: what relisten does on one GPU with a model of Qwen2.5-Omni-7B's real shape.

The weights are random and made on the device, so nothing is downloaded. What the model writes is scripted, so that it
pauses and listens. Each finding is one line of JSON, printed and appended to a file as soon as it is known.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.full_size import Watched, forwards, text_model
from benchmarks.gpu_check import FULL, TINY, Check, config, engine, questions, script
from benchmarks.timing import noise
from benchmarks.training import run_quietly
from relisten.cli import main, standalone
from relisten.engine.graphs import Capture, Run, cuda_capture
from relisten.engine.naive import naive
from relisten.engine.scripted import ScriptedEngine
from relisten.models import load
from relisten.models.base import AudioLM
from relisten.models.qwen2_5_omni import Qwen2_5Omni
from relisten.training import trainer as training
from relisten.training.batch import encode, pack, replay
from relisten.training.config import GrpoConfig, SftConfig
from relisten.training.grpo import GrpoTrainer
from relisten.training.sft import SftTrainer
from relisten.types import Audio, Example, Format, Trace


def gpu(
    *, tiny: bool = False, budget: float = 520.0, parts: tuple[str, ...] = (), out: Path = Path("gpu.jsonl")
) -> int:
    """Check one GPU with random weights at the 7B's shape; ten minutes at most on an H100. It needs 80 GB.

    Parameters
    ----------
    tiny
        A tiny model on whatever device there is. It shows that the check runs, and measures nothing.
    budget
        Seconds after which no further part is begun.
    parts
        Run only these parts (default: all): machine, decode, profile, graph, others, equal, grpo, sft, full, load.
    out
        Findings are appended to this JSONL file.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"there is no part {unknown[0]}; choose from {', '.join(PARTS)}")
    if not tiny and not torch.cuda.is_available():
        raise ValueError("no GPU is found by torch; --tiny runs the same code on this machine's processor")
    transformers.logging.set_verbosity_error()
    check = Check(TINY if tiny else FULL, out)
    for name in parts or PARTS:
        if check.elapsed() > budget:
            check.say(name, skipped=f"{budget:g} s are over")
            continue
        check.run(name, PARTS[name])
    check.say("done")
    return 1 if check.failed else 0


def early(response: Any, example: Example) -> float:
    """A reward that differs within a group: how early the first tag stands."""
    return -0.01 * float(response.text.find("<seg>"))


# --- the parts --------------------------------------------------------------------------------------------------------


def machine(check: Check) -> None:
    """What the device can do: a copy, and products of a few rows with one large weight."""
    cuda = check.device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else "cpu"
    check.say("machine", device=name, torch=torch.__version__, transformers=transformers.__version__)
    source = torch.randn(2**30 if cuda else 2**20, device=check.device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    seconds = _timed(check, lambda: target.copy_(source), 5)
    check.bytes_per_second = 2 * source.nbytes / seconds
    check.say("machine", copy_TB_per_s=check.bytes_per_second / 1e12)
    weight = torch.randn(18944 if cuda else 64, 3584 if cuda else 64, device=check.device, dtype=torch.bfloat16)
    for rows in (1, 64, 256, 2048):
        given = torch.randn(rows, weight.shape[1], device=check.device, dtype=torch.bfloat16)
        seconds = _timed(check, lambda given=given: torch.nn.functional.linear(given, weight), 20)  # type: ignore[misc]
        rate = weight.nbytes / seconds / 1e12
        flops = 2 * rows * weight.numel() / seconds / 1e12
        check.say("machine", gemm_rows=rows, us=1e6 * seconds, weight_TB_per_s=rate, TFLOP_per_s=flops)


def _timed(check: Check, work: Callable[[], Any], times: int) -> float:
    work()
    started = check.now()
    for _ in range(times):
        work()
    return (check.now() - started) / times


def decode(check: Check) -> None:
    """Tokens a second at several numbers of rows, without and with pauses."""
    _answers(check, 8, 1)  # what is done once in a process is done now
    for rows in check.size.rows:
        for listens in (0, check.size.listens):
            check.say("decode", **_answers(check, rows, listens), **check.memory())


def _answers(check: Check, rows: int, listens: int) -> dict[str, Any]:
    asked, side = questions(check, max(1, rows // 8)), engine(check, rows, listens)
    with forwards(check.model) as seen:
        started = check.now()
        traces = side.generate(asked, config(check), min(8, rows))
        wall = check.now() - started
    tokens = sum(sum(t.sampled) for group in traces for t in group)
    heard = sum(len(t.listens) - 1 for group in traces for t in group)
    seconds = {name: round(value, 3) for name, value in side.seconds.items()}
    found = {"rows": rows, "listens": listens, "heard": heard, "tokens": tokens, "wall": wall, **seconds}
    found |= {"forwards": len(seen), "tokens_per_s": tokens / wall}
    found["ms_per_token_step"] = 1e3 * side.seconds["decode"] / check.size.sampled
    if check.bytes_per_second:  # the weights are read once a step, except the embeddings, the audio and vision towers
        found["floor_ms"] = 1e3 * _read_bytes(check.model) / check.bytes_per_second
    return found


def _read_bytes(model: Qwen2_5Omni) -> int:
    layers = sum(p.nbytes for p in text_model(model).layers.parameters())
    return int(layers + model.module.get_output_embeddings().weight.nbytes)


def profiled(check: Check) -> None:
    """What a forward of one uncaptured decode step launches, and how long the device is busy with it."""
    cuda = check.device.type == "cuda"
    for rows in check.size.rows[1:3]:
        side, asked = engine(check, rows, 0), questions(check, max(1, rows // 8))
        events: list[Any] = []
        side.capture = lambda model: None  # a captured step runs no module, so there is nothing to hook
        watched = Watched(check.model, at=20, num=4, cuda=cuda, events=events)
        with watched:
            side.generate(asked, config(check), min(8, rows))
        kernels = [e for e in events if str(getattr(e, "device_type", "")).endswith("CUDA")]
        spent: dict[str, list[float]] = {}
        for one in kernels:
            spent.setdefault(one.name[:70], []).append(float(getattr(one, "device_time", 0.0)))
        top = sorted(spent.items(), key=lambda item: -sum(item[1]))[:8]
        check.say(
            "profile", rows=rows, wall_ms=1e3 * watched.seconds / 4, busy_ms=sum(map(sum, spent.values())) / 4e3,
            launches=len(kernels) // 4, synchronised=sum("Synchronize" in e.name for e in events) // 4,
            top={name: [round(sum(t) / 4e3, 3), len(t) // 4] for name, t in top},
        )  # fmt: skip


def graph(check: Check) -> None:
    """The same answers with and without captured steps: how fast, how many captures, and how far apart."""
    for rows in check.size.rows:
        traces: dict[str, list[list[Trace]]] = {}
        for name in ("plain", "captured"):
            recorded: list[float] = []

            def capture(model: AudioLM, recorded: list[float] = recorded) -> Capture | None:
                own = cuda_capture(model)

                def timed(run: Run) -> Run:
                    started = check.now()
                    step = own(run) if own else run
                    recorded.append(check.now() - started)
                    return step

                return timed

            side = engine(check, rows, check.size.listens)
            side.capture = capture if name == "captured" else lambda model: None
            started = check.now()
            traces[name] = side.generate(questions(check, max(1, rows // 8)), config(check), min(8, rows))
            wall = check.now() - started
            tokens = sum(sum(t.sampled) for group in traces[name] for t in group)
            check.say(
                "graph", rows=rows, steps=name, wall=wall, tokens_per_s=tokens / wall, captures=len(recorded),
                capture_s=sum(recorded), ms_per_token_step=1e3 * side.seconds["decode"] / check.size.sampled,
                **check.memory(),
            )  # fmt: skip
        plain, captured = (
            torch.tensor([p for group in traces[name] for t in group for p in t.logprobs]) for name in traces
        )
        difference = (plain - captured).abs()
        check.say("graph", rows=rows, differs_max=float(difference.max()), differs_mean=float(difference.mean()))


def others(check: Check) -> None:
    """The naive loop, and transformers' own `generate` without segments."""
    model, size, [one] = check.model, check.size, questions(check, 1)
    started = check.now()
    trace = naive(model, one, config(check), script=script(model, size, 0, size.listens))
    wall = check.now() - started
    check.say("naive", wall=wall, tokens_per_s=sum(trace.sampled) / wall, heard=len(trace.listens) - 1)
    assert isinstance(one.audio, Audio)
    ids, _ = model.prompt(one.question, one.choices, "interleaved", len(one.audio.samples))
    mel = model.features(one.audio)
    for rows in (1, 64) if size is FULL else (1, 4):
        inputs = {
            "input_ids": torch.tensor([ids] * rows, device=check.device),
            "attention_mask": torch.ones(rows, len(ids), dtype=torch.long, device=check.device),
            "input_features": mel[None].expand(rows, -1, -1).to(check.device, model.module.dtype),
            "feature_attention_mask": torch.ones(rows, mel.shape[1], dtype=torch.long, device=check.device),
        }
        length = {"max_new_tokens": size.sampled, "min_new_tokens": size.sampled, "do_sample": False}
        started = check.now()
        model.module.generate(**inputs, **length, pad_token_id=0, eos_token_id=model.end_token_id)
        wall = check.now() - started
        check.say("generate", rows=rows, wall=wall, tokens_per_s=rows * size.sampled / wall)


def equal(check: Check) -> None:
    """The log-probabilities of the same tokens: eight rows together, one alone, and one forward of whole traces."""
    for dtype in (torch.bfloat16, torch.float32):
        check.model.module.to(dtype)
        model, [asked] = check.model, questions(check, 1)
        assert isinstance(asked.audio, Audio)
        side = engine(check, 8, check.size.listens)
        [traces] = side.generate([asked], config(check), 8)
        third = script(model, check.size, 2, check.size.listens)
        alone = ScriptedEngine(model, lambda i, s, third=third: third, 1)  # type: ignore[misc]
        [[single]] = alone.generate([asked], config(check))
        batch = pack([replay(model, asked.audio, traces, side.operations)[:4]])
        inputs = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
        inputs["token_ids"] = inputs.pop("labels")
        inputs = {name: v.to(check.device) if isinstance(v, Tensor) else v for name, v in inputs.items()}
        with torch.no_grad():
            again = training.token_logprobs_of(model, inputs)[0].float().cpu()
        own = torch.tensor([p for t in traces[:4] for p, s in zip(t.logprobs, t.sampled, strict=True) if s])
        one, same = (
            torch.tensor([p for p, s in zip(t.logprobs, t.sampled, strict=True) if s]) for t in (single, traces[2])
        )
        found = {"packed_max": (own - again).abs().max(), "packed_mean": (own - again).abs().mean()}
        found["alone_max"] = (one - same).abs().max()
        check.say("equal", dtype=str(dtype), **{name: float(value) for name, value in found.items()})
    check.model.module.to(torch.bfloat16)


def grpo(check: Check) -> None:
    """Two steps of GRPO with LoRA: what they take, their most memory, and what a second rollout still gets."""
    size, model, folder = check.size, check.model, Path(tempfile.mkdtemp())
    settings = GrpoConfig(
        **_training(check, folder), batch_size=size.questions, mini_batch_size=size.questions // 2, group_size=8,
        device_batch_size=4, max_new_tokens=size.sampled + 1, rewards=("benchmarks.gpu:early",),
    )  # fmt: skip
    training.set_trained(model, settings)
    trainer = GrpoTrainer(
        model, settings, train_dataset=questions(check, size.questions, size.seconds / 3) * 2,
        args=_arguments(settings, model, size.questions),
    )  # fmt: skip
    side = engine(check, settings.rollout_rows, size.listens)
    trainer.engine, generate = side, side.generate
    rollouts: list[dict[str, Any]] = []

    def timed(*asked: Any, **options: Any) -> Any:
        with forwards(model) as seen:
            groups = generate(*asked, **options)
        rollouts.append({"forwards": len(seen), **{n: round(v, 2) for n, v in side.seconds.items()}, **check.memory()})
        return groups

    side.generate = timed  # type: ignore[method-assign]
    _steps(check, "grpo", trainer, rollouts)
    check.forget()  # it has adapters now


def sft(check: Check) -> None:
    """Two steps of SFT with LoRA, with the segments' audio inserted."""
    model, folder = check.model, Path(tempfile.mkdtemp())
    settings = SftConfig(
        **_training(check, folder), batch_size=8, device_batch_size=4, format="interleaved",
    )  # fmt: skip
    rows = [[row] for row in _encoded(check, 8, "interleaved")] * 2
    arguments = _arguments(settings, model, 8)
    training.set_trained(model, settings)
    trainer = SftTrainer(model, settings, train_dataset=rows, args=arguments)
    _steps(check, "sft", trainer, [])
    check.forget()


def _encoded(check: Check, num: int, format: Format) -> list[Any]:
    cot = "a <seg>01.0, 02.0</seg> a <seg>01.5, 02.5</seg>" + " a" * check.size.sampled
    asked = questions(check, num, check.size.seconds / 3)
    return [encode(check.model, replace(one, cot=cot), format) for one in asked]


def _training(check: Check, folder: Path) -> dict[str, Any]:
    return {
        "data": "scripted", "model": "scripted", "output": folder, "steps": 2, "workers": 0, "lora": check.size.rank,
        "bf16": check.device.type == "cuda", "gradient_checkpointing": True, "log_steps": 1,
    }  # fmt: skip


def _arguments(settings: Any, model: Qwen2_5Omni, size: int, **more: Any) -> Any:
    return training.arguments(settings, model, per_device_train_batch_size=size, save_strategy="no", **more)


def _steps(check: Check, name: str, trainer: Any, rollouts: Sequence[dict[str, Any]]) -> None:
    started = check.now()
    run_quietly(trainer)
    check.say(name, lora=check.size.rank, wall_2_steps=check.now() - started, rollouts=rollouts, **check.memory())
    wanted = ("loss", "grad_norm", "seconds", "share_rollout", "share_update", "logprob_difference", "kl",
              "traces_per_minute", "cache_rows", "cache_tokens")  # fmt: skip
    for line in trainer.state.log_history:
        if found := {key: value for key, value in line.items() if key in wanted}:
            check.say(name, step=line.get("step"), **found)


def full(check: Check) -> None:
    """Full fine-tuning of a quarter of the layers under FSDP2 in a process of its own, with a save at the end."""
    check.forget()
    folder = Path(tempfile.mkdtemp())
    split = ["-m", "accelerate.commands.launch", "--config-file", "runs/accelerate_fsdp2.yaml", "--num-processes", "1"]
    own = split if check.device.type == "cuda" else []
    model = "seven_layers" if check.size is FULL else "tiny_model"
    settings = ["--model", f"benchmarks.full_size:{model}", "--data", "benchmarks.gpu:scene", "--steps", "2"]
    settings += ["--batch-size", "4", "--device-batch-size", "2", "--lora", "0", "--workers", "0"]
    settings += [] if check.device.type == "cuda" else ["--no-bf16"]
    command = [sys.executable, *own, "-m", "relisten.cli", "train", "sft", *settings, "--output", str(folder / "run")]
    started = perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    found: dict[str, Any] = {"wall": perf_counter() - started, "exit": done.returncode}
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-1500:])
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found["loss"] = [json.loads(line).get("loss") for line in lines]
    check.say("full", **found, written_GB=sum(p.stat().st_size for p in (folder / "run" / "model").iterdir()) / 1e9)
    shutil.rmtree(folder)


def scene(index: int) -> list[Any]:
    """One example of SFT for `full`: noise, and a chain of thought with two segments."""
    class_ = type("Rate", (), {"rate": 16_000})
    [one] = noise(class_(), 10.0)
    cot = "a <seg>01.0, 02.0</seg> a <seg>01.5, 02.5</seg>" + " a" * 100
    return [(replace(one, id=f"noise-{index}", answer="a", cot=cot), "interleaved")]


def loading(check: Check) -> None:
    """Write the whole model and load it again (from the page cache): seconds, and this process's most memory."""
    import resource

    folder = Path(tempfile.mkdtemp())
    started = perf_counter()
    check.model.save(folder)
    saved = perf_counter() - started
    check.forget()
    started = check.now()
    loaded = load(str(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    module = loaded.module
    check.say("load", save_s=saved, load_s=check.now() - started, host_peak_GiB=peak, device=str(module.device),
              dtype=str(module.dtype), **check.memory())  # fmt: skip
    shutil.rmtree(folder)


PARTS: dict[str, Callable[[Check], None]] = {
    "machine": machine, "decode": decode, "profile": profiled, "graph": graph, "others": others, "equal": equal,
    "grpo": grpo, "sft": sft, "full": full, "load": loading,
}  # fmt: skip

commands = standalone(gpu, "python -m benchmarks.gpu")

if __name__ == "__main__":
    main(commands=commands)
