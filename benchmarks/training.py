"""`python -m benchmarks.training`: what a step of GRPO and one of SFT cost, beside the usual ways to make them.

Every side has the same model (random weights) and the same work (what an answer says is scripted), and stands in one
process with the side it is compared with, one repeat after another, so that a ratio compares neighbours in time.

- GRPO: our trainer, and the same trainer whose answers come one at a time, everything encoded and read anew for each
  answer and at each pause. Both have our update, so a step gains only what its rollout gains.
- SFT: our trainer, and transformers' own with the model's own forward and loss, on the same rows.
"""

from __future__ import annotations

import json as json_module
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.training_steps import LOOP, MEMORY, PLAIN, Figures, Size, Steps, Work
from relisten import records
from relisten.cli import main, standalone
from relisten.types import Trace

WORK = Work()
GROWTH: dict[str, tuple[Any, ...]] = {
    "group_size": (2, 4, 8),
    "questions": (1, 2, 4),
    "seconds": (5.0, 10.0, 20.0, 40.0),
    "segments": (0, 2, 4),
}
"""What of a step's work is varied, all else as in `WORK` with one question, half a group and answers half as long."""
WORDS = {"group_size": "answers a question (G)", "questions": "questions a step", "seconds": "seconds of a recording",
         "segments": "segments heard an answer"}  # fmt: skip


def train(
    *,
    repeats: int = 3,
    threads: int = 1,
    size: Size = "small",
    questions: int = WORK.questions,
    quick: bool = False,
    out: Path | None = None,
    plot: Path | None = None,
) -> int:
    """Measure training on this machine's CPU, with a random model and scripted answers; about five minutes.

    Parameters
    ----------
    repeats
        How often every side is run; tables show the median, the lowest and the highest ratio.
    threads
        Threads of torch; more than the free cores make every figure worse.
    size
        Of the random model: tiny, small (about 7 M parameters) or large (about 110 M; takes twenty times as long).
    questions
        How many are rolled out side by side, 8 answers each, beside the rollout of one.
    quick
        A tiny model, little work, one repeat: shows that it runs, and measures nothing.
    out
        A JSON file for all figures.
    plot
        A PNG of how a step's cost grows.
    """
    if min(repeats, threads, questions) < 1:
        raise ValueError(f"repeats ({repeats}), threads ({threads}) and questions ({questions}) must be at least 1")
    if quick:
        small = Work(questions=2, group_size=2, seconds=3.0, segments=1, sampled=24)
        result = measure(1, threads, "tiny", small, {name: GROWTH[name][:2] for name in ("group_size", "segments")})
    else:
        result = measure(repeats, threads, size, replace(WORK, questions=questions))
    for table in tables(result):
        Console().print(table)
    if out is not None:
        records.write_atomic(out, json_module.dumps(result, indent=2) + "\n", follow=True)
    if plot is not None:
        draw(result["growth"], plot)
    return 0


def measure(
    repeats: int = 3,
    threads: int = 1,
    size: Size = "small",
    work: Work = WORK,
    growth: Mapping[str, Sequence[Any]] = GROWTH,
) -> dict[str, Any]:
    """Every figure, ready for JSON."""
    before, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    one = replace(work, questions=1)
    base = replace(one, group_size=max(2, work.group_size // 2), sampled=work.sampled // 2)
    points = [(name, value, replace(base, **{name: value})) for name, values in growth.items() for value in values]
    grown: dict[Work, list[Figures]] = {point: [] for _, _, point in points}
    grpo: dict[str, list[Figures]] = {LOOP: [], "engine": []}
    together = f"engine, {work.questions} questions"
    rollout: dict[str, list[Figures]] = {**grpo, together: []}  # the lists of `grpo`, and one more
    sft: dict[str, list[Figures]] = {PLAIN: [], "ours": []}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            tqdm(total=repeats * (5 + len(grown)) + len(MEMORY) + 1, desc="bench") as bar,
        ):
            steps = Steps(size, Path(folder), bar)
            steps.grpo(Work(1, 2, 4.0, 1, 16), "engine")  # what is done once in a process is done
            for _ in range(repeats):
                for name in grpo:
                    grpo[name].append(steps.grpo(one, name))
                rollout[together].append(steps.rollout(work))
                for name in sft:
                    sft[name].append(steps.sft(base, name))
            num_tokens = steps.tokens
            memory = {name: steps.memory(one, name) for name in MEMORY}
            for _ in range(repeats):
                for point in grown:
                    grown[point].append(steps.grpo(point, "engine"))
    finally:
        torch.set_num_threads(before)
        transformers.logging.set_verbosity(verbosity)
    return {
        "repeats": repeats,
        "threads": threads,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "processor": platform.processor() or platform.machine(),
        "parameters": steps.parameters,
        "work": asdict(work),
        "tokens": _counts(steps.traces[LOOP, one], steps.traces["engine", one]) | {"SFT": num_tokens},
        "rollout": rollout,
        "grpo": grpo,
        "sft": sft,
        "losses": {name: steps.losses[name] for name in sft},
        "ratios": {
            "rollout": _ratios(rollout, "rollout cpu"),
            "step": _ratios(grpo, "cpu"),
            "sft": _ratios(sft, "cpu"),
        },
        "memory": memory,
        "growth": [{"what": name, "value": value, "times": grown[point]} for name, value, point in points],
    }


# --- the report -----------------------------------------------------------------------------------------------------


def _counts(loop: Sequence[Sequence[Trace]], engine: Sequence[Sequence[Trace]]) -> dict[str, int]:
    """Of a rollout's tokens; both sides must have done the same."""
    pairs = [pair for one, other in zip(loop, engine, strict=True) for pair in zip(one, other, strict=True)]
    assert all((a.token_ids, a.sampled) == (b.token_ids, b.sampled) for a, b in pairs), "the sides did other work"
    traces = [trace for _, trace in pairs]
    return {
        "answers": len(traces),
        "all": sum(len(trace.token_ids) for trace in traces),
        "sampled": sum(sum(trace.sampled) for trace in traces),
        "heard again": sum(len(trace.listens) - 1 for trace in traces),
    }


def _ratios(times: Mapping[str, Sequence[Figures]], clock: str) -> dict[str, Figures]:
    """First side / each other side, of neighbours in time."""
    first, *others = times
    ratios = {}
    for other in others:
        each = [a[clock] / b[clock] for a, b in zip(times[first], times[other], strict=True)]
        ratios[other] = {"median": statistics.median(each), "low": min(each), "high": max(each)}
    return ratios


def _median(times: Sequence[Figures], name: str) -> float:
    return statistics.median(one[name] for one in times)


def tables(result: dict[str, Any]) -> list[Table]:
    """What a person reads."""
    return [_rates(result), _memory(result), _growth(result)]


def _rates(result: dict[str, Any]) -> Table:
    tokens = result["tokens"]
    table = _table(
        f"{result['parameters'] / 1e6:.1f} M parameters, {result['repeats']} repeats, rates by CPU time\na step: 1"
        f" question, {tokens['answers']} answers, {tokens['sampled']} sampled tokens, {tokens['heard again']} segments",
        ("", "side", "rate", "ratio", "spread"),
    )
    table.columns[1].justify = "left"
    for label, kind, times, clock, scale in (
        ("traces a minute", "rollout", result["rollout"], "rollout cpu", 60 * tokens["answers"]),
        ("GRPO steps an hour", "step", result["grpo"], "cpu", 3600),
        ("SFT tokens a second", "sft", result["sft"], "cpu", tokens["SFT"]),
    ):
        for index, (side, found) in enumerate(times.items()):
            ratio = result["ratios"][kind].get(side)
            cells = (f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}") if ratio else ("", "")
            table.add_row("" if index else label, side, f"{scale / _median(found, clock):,.0f}", *cells)
        table.add_section()
    return table


def _memory(result: dict[str, Any]) -> Table:
    table = _table("The most memory within a step, weights not counted, on the same answers", ("", "MB", "ratio"))
    first = result["memory"][PLAIN]
    for name, peak in result["memory"].items():
        table.add_row(name, f"{peak / 1e6:,.0f}", f"{peak / first:.2f}")
    return table


def _growth(result: dict[str, Any]) -> Table:
    table = _table("How a step of GRPO grows, CPU seconds", ("", "", "rollout", "rest of the step", "step"))
    before = None
    for point in result["growth"]:
        if before not in (None, point["what"]):
            table.add_section()
        rollout, step = _median(point["times"], "rollout cpu"), _median(point["times"], "cpu")
        label = WORDS[point["what"]] if before != point["what"] else ""
        table.add_row(label, f"{point['value']:g}", f"{rollout:.2f}", f"{step - rollout:.2f}", f"{step:.2f}")
        before = point["what"]
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table


def draw(growth: Sequence[dict[str, Any]], picture: Path) -> None:
    """A panel for each thing that is varied: CPU seconds of the rollout and of the rest of a step."""
    from matplotlib import pyplot

    from relisten.plotting import COLOURS

    names = list(dict.fromkeys(point["what"] for point in growth))
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 3), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        points = [point for point in growth if point["what"] == name]
        rollout = [_median(point["times"], "rollout cpu") for point in points]
        rest = [_median(point["times"], "cpu") - r for point, r in zip(points, rollout, strict=True)]
        at = range(len(points))
        axis.bar(at, rollout, color=COLOURS[0], label="rollout")
        axis.bar(at, rest, bottom=rollout, color=COLOURS[4], label="rewards and update")
        axis.set_xticks(at, [f"{point['value']:g}" for point in points])
        axis.set_xlabel(WORDS[name])
    axes[0][0].set_ylabel("CPU seconds a step")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


commands = standalone(train, "python -m benchmarks.training")

if __name__ == "__main__":
    main(commands=commands)
