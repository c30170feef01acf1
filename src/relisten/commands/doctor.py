"""`relisten doctor`: what is installed, what is missing, which device there is, and whether a model answers."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.table import Table
from rich.text import Text

from relisten import __version__, cpu
from relisten.extras import install_hint
from relisten.reports.text import console, printable
from relisten.types import Audio

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Health = Literal["good", "missing", "bad"]
"""missing: an optional extra is not installed. bad: relisten cannot be used."""

IMPORT_NAMES = {"pyyaml": "yaml", "pytest-xdist": "xdist"}
"""Packages whose import name differs from their own."""
MARKS = {"good": ("✓", "green"), "missing": ("–", "yellow"), "bad": ("✗", "bold red")}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    found: str
    health: Health = "good"
    advice: str = ""
    """What the user should do; empty if nothing."""


def doctor(model: str = "nano", *, device: str = "auto", dtype: str = "auto") -> int:
    """Say what is installed, which extras are missing, which device there is, and whether a model answers.

    Exit code 0 when relisten can be used, else 1; missing extras do not count.

    Parameters
    ----------
    model
        nano (built in), a folder, or a hub name.
    device
        auto (CUDA, then MPS, then CPU) or a torch device such as cuda:1.
    dtype
        auto (the checkpoint's own), float32, bfloat16 or float16.
    """
    screen = console()
    findings: list[Finding] = []
    with console(stderr=True).status("examining …") as status:
        for finding in examine(model, device, dtype):
            findings.append(finding)
            status.update(f"{printable(finding.topic)} …")
    screen.print(_table(findings))
    missing = sorted({finding.advice for finding in findings if finding.health == "missing"})
    bad = [finding for finding in findings if finding.health == "bad"]
    for finding in bad:
        screen.print(Text(f"{finding.topic}: {finding.advice}", "bold red"), soft_wrap=True)
    if missing:
        screen.print(Text("Extras that are not installed: " + "; ".join(missing), "yellow"), soft_wrap=True)
    screen.print(Text("Not usable yet." if bad else "Ready.", "bold"))
    return int(bool(bad))


def _table(findings: list[Finding]) -> Table:
    """One row for each finding."""
    report = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    report.add_column(no_wrap=True)
    report.add_column(no_wrap=True)
    report.add_column(overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.health]
        found = Text(printable(finding.found), "" if finding.health == "good" else style)
        report.add_row(Text(mark, style), Text(printable(finding.topic), "bold"), found)
    return report


def examine(model: str = "nano", device: str = "auto", dtype: str = "auto") -> Iterator[Finding]:
    """Yield each finding as soon as it is known; the model is loaded last. Every failure becomes a finding."""
    yield Finding("relisten", __version__)
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    broken = False
    for finding in packages():
        broken |= finding.health == "bad"
        yield finding
    if broken:
        yield Finding(f"model {model}", "not tried", "bad", "install what is missing first")
        return
    yield _device()
    yield from _model(model, device, dtype)


def packages() -> Iterator[Finding]:
    """Check every requirement in relisten's metadata, those of the core first, then those of each extra."""
    try:
        from packaging.requirements import Requirement

        extras = metadata.metadata("relisten").get_all("Provides-Extra") or []
        requirements = [Requirement(line) for line in metadata.requires("relisten") or []]
    except ImportError as error:
        yield Finding("packages", f"not examined ({error})", "bad", "pip install packaging")
        return
    except metadata.PackageNotFoundError:
        advice = "pip install . in the checkout, so that its requirements are known"
        yield Finding(
            "packages", "not examined: relisten runs from its source without being installed", "missing", advice
        )
        return
    for extra in ["", *extras]:
        for requirement in requirements:
            if requirement.name == "relisten" or (requirement.marker is None) != (extra == ""):
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield _package(requirement, extra)
    from relisten.data.offline import ears

    if lacking := set(ears.missing()) - set(ears.PACKAGES):
        yield Finding("weights [ears]", f"{', '.join(lacking)}: not installed", "missing", ears.install())


def _package(requirement: Requirement, extra: str) -> Finding:
    """Check one requirement. A package of the core is also imported, because a broken installation fails then."""
    name, needed = requirement.name, str(requirement.specifier)
    topic = f"{name} [{extra}]" if extra else name
    advice = install_hint(extra) if extra else f"pip install '{name}{needed}'"
    wrong: Health = "missing" if extra else "bad"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(topic, "not installed", wrong, advice)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(topic, f"{version}, but {needed} is needed", wrong, advice)
    if extra:
        return Finding(topic, version)
    try:
        module = importlib.import_module(IMPORT_NAMES.get(name, name))
    except Exception as error:  # a broken binary wheel raises anything
        return Finding(topic, f"{version}, does not import ({error})", "bad", f"pip install --force-reinstall {name}")
    libraries = {"soundfile": "__libsndfile_version__", "av": "ffmpeg_version_info", "soxr": "__libsoxr_version__"}
    library = getattr(module, libraries.get(name, ""), "")
    return Finding(topic, f"{version} ({library})" if library else version)


def _device() -> Finding:
    """The device that `--device auto` takes, and the number of threads."""
    try:
        import torch

        threads = f"{torch.get_num_threads()} of {os.cpu_count()} threads"
        if torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(0).total_memory / 2**30
            return Finding("device", f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GiB; {threads}")
        if torch.backends.mps.is_available():
            return Finding("device", f"mps; {threads}")
        slow = "; bfloat16 is emulated: float32 is many times faster" if cpu.emulates_bfloat16() else ""
        return Finding("device", f"cpu; {threads}{slow}")
    except Exception as error:  # a driver may fail in any way
        return Finding("device", f"cannot be asked ({error})", "bad", "check the driver and the installation of torch")


def _model(name: str, device: str, dtype: str) -> Iterator[Finding]:
    """Load a model and let it answer a question about a tone."""
    topic, started = f"model {name}", time.perf_counter()
    try:
        from relisten import models
        from relisten.asking import ask
        from relisten.commands.options import hide_bars

        hide_bars()
        model = models.load(name, device=device, dtype=dtype)
        count = sum(parameter.numel() for parameter in model.module.parameters())
        loaded = time.perf_counter()
        where = f"{model.module.device}, {str(model.module.dtype).removeprefix('torch.')}"
        yield Finding(topic, f"{count / 1e6:,.1f} M parameters on {where}; loaded in {loaded - started:.1f} s")
        answer = ask(model, tone(), "What sound is it?", ["a tone", "a dog"])
        took = f"{time.perf_counter() - loaded:.1f} s"
    except Exception as error:  # any failure is what the doctor was asked to find
        line = " ".join(str(error).split())
        yield Finding(topic, line[:300] or type(error).__name__, "bad", "relisten doctor --debug shows where")
        if "--debug" in sys.argv:
            raise
        return
    heard = f"{len(answer.segments)} segment{'s' * (len(answer.segments) != 1)} heard again"
    if answer.answer is None:
        yield Finding("an answer", f"none in {took} ({heard})", "bad", "is it a model trained to answer in <answer>?")
    else:
        yield Finding("an answer", f"in {took} ({heard})")


def tone() -> Audio:
    """Three seconds with one second of A4 in the middle."""
    seconds = np.arange(3 * 16_000) / 16_000
    wave = np.where((seconds >= 1) & (seconds < 2), 0.3 * np.sin(2 * np.pi * 440 * seconds), 0.0)
    return Audio(wave.astype(np.float32))
