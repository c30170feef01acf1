"""What both trainers share: memory."""

from __future__ import annotations

import platform
import subprocess
import sys

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
