"""What is installed, what is missing, which device there is, and whether a model loads and answers."""

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

from relisten import __version__, cpu
from relisten.extras import install_hint
from relisten.types import Audio

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Health = Literal["good", "missing", "bad"]
"""missing: an extra that relisten can do without. bad: relisten does not work like this."""

IMPORT_NAMES = {"pyyaml": "yaml", "pytest-xdist": "xdist"}
"""Where a package's import name is not its own."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    found: str
    health: Health = "good"
    advice: str = ""
    """What to do, where something is to be done."""


def examine(model: str = "nano", device: str = "auto", dtype: str = "auto") -> Iterator[Finding]:
    """Findings as they are made; loading the model comes last. Never raises, but for a bug."""
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
    """Every requirement of relisten by its own metadata, core first, then extra by extra."""
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
    """One requirement. Packages of the core are imported as well, for a broken one imports badly."""
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
    """What `--device auto` will be, and with how many threads."""
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
    """Load it and let it answer a question about a recording made here."""
    topic, started = f"model {name}", time.perf_counter()
    try:
        from transformers.utils.logging import disable_progress_bar

        from relisten import models
        from relisten.asking import ask

        disable_progress_bar()

        model = models.load(name, device=device, dtype=dtype)
        count = sum(parameter.numel() for parameter in model.module.parameters())
        loaded = time.perf_counter()
        where = f"{model.module.device}, {str(model.module.dtype).removeprefix('torch.')}"
        yield Finding(topic, f"{count / 1e6:,.1f} M parameters on {where}; loaded in {loaded - started:.1f} s")
        answer = ask(model, tone(), "What sound is it?", ["a tone", "a dog"])
        took = f"{time.perf_counter() - loaded:.1f} s"
    except Exception as error:  # whatever it is, it is what the doctor was asked to find
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
