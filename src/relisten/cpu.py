"""Settings and warnings for training and generation on CPUs."""

from __future__ import annotations

import ctypes
import logging
import platform


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process (glibc only). Returns whether this could be set.

    By default every large tensor is mapped again, and the kernel clears its pages each time. On a CPU this took a third
    of a training step (LAB.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # malloc.h
    options = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28))
    return all(ctypes.CDLL(None).mallopt(option, value) for option, value in options)


def emulates_bfloat16() -> bool:
    """Whether this processor has no instructions for bfloat16, so that float32 is many times faster.

    On x86, oneDNN cannot be asked: it reports support for any AVX-512. False if it is not known.
    """
    import torch

    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    if machine in ("aarch64", "arm64") and torch.backends.mkldnn.is_available():
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return False


def tell_of_bfloat16(instead: str) -> None:
    """Warn if bfloat16 would be emulated. instead: what the user can do."""
    if emulates_bfloat16():
        logging.getLogger("relisten").warning(
            "bfloat16 is emulated on this processor, and up to ten times slower than float32: %s", instead
        )
