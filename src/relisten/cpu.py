"""What a CPU is good at, and what slows it down."""

from __future__ import annotations

import ctypes
import platform


def keep_freed_memory() -> bool:
    """Under glibc, let freed memory stay with this process; whether that could be set.

    By default every large tensor is mapped and unmapped anew, and the kernel clears its pages each time: on a CPU that
    was a third of a training step (LAB.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    options = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28))
    return all(ctypes.CDLL(None).mallopt(option, value) for option, value in options)
