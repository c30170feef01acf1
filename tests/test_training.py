"""What both trainers share: memory, and what is said of bfloat16."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import TINY

from relisten import cpu
from relisten.commands.doctor import _device
from relisten.models import load, nano
from relisten.training import trainer as training
from relisten.training.config import SftConfig

FAULTS = """
import resource, torch
from relisten.cpu import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, kept = faults(), keep_freed_memory()
faults()
print(first, kept, faults())
"""


def test_freed_memory_is_used_again_without_asking_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    first, kept, then = done.stdout.split()
    if platform.libc_ver()[0] == "glibc":
        assert kept == "True" and int(then) < int(first) / 10
    else:
        assert kept == "False"


@pytest.mark.parametrize(
    ("machine", "has", "emulated"),
    [
        ("x86_64", (), True),
        ("AMD64", ("avx512_bf16",), False),
        ("x86_64", ("amx_tile",), False),
        ("x86_64", ("onednn",), True),  # which says yes on any AVX-512
        ("aarch64", (), True),
        ("arm64", ("onednn",), False),
        ("riscv64", (), False),  # not known: nothing is said
    ],
)
def test_which_processors_emulate_bfloat16(
    monkeypatch: pytest.MonkeyPatch, machine: str, has: tuple[str, ...], emulated: bool
) -> None:
    processor(monkeypatch, machine, has)
    assert cpu.emulates_bfloat16() == emulated


def processor(monkeypatch: pytest.MonkeyPatch, machine: str, has: tuple[str, ...] = ()) -> None:
    """Be on another one."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "avx512_bf16" in has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: "amx_tile" in has)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: "onednn" in has)


def test_emulated_bfloat16_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A step took ten times as long, and nothing said why."""
    nano.create(["user assistant <think></think><answer></answer>"] * 2, TINY).save(tmp_path / "tiny")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = SftConfig("no:data", tmp_path / "run", model=str(tmp_path / "tiny"))

    def told(has: tuple[str, ...]) -> list[str]:
        processor(monkeypatch, "x86_64", has)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "relisten"):
            training.prepare(settings)
            load(tmp_path / "tiny", dtype="bfloat16", device="cpu")
            load(tmp_path / "tiny", device="cpu")
        return [record.getMessage() for record in caplog.records]

    assert told(("avx512_bf16",)) == [] and "bfloat16" not in _device().found
    assert [line.partition("float32: ")[2] for line in told(())] == [
        "set bf16 to false (--no-bf16)", "load it as float32 (--dtype float32)",
    ]  # fmt: skip
    assert "bfloat16 is emulated" in _device().found
