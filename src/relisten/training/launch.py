"""How models are split among processes, as `accelerate launch` says in the environment. Does not import torch."""

from __future__ import annotations

import importlib.util
import os

from relisten.extras import install_hint


def kind() -> str:
    """How models are split: `fsdp`, `deepspeed`, or "" if they are not split."""
    return "deepspeed" if true("ACCELERATE_USE_DEEPSPEED") else "fsdp" if true("ACCELERATE_USE_FSDP") else ""


def check(optimizer: str, lora: int) -> None:
    """Raises ValueError, in one line, for settings that do not work with split models."""
    if optimizer == "muon":
        raise ValueError(f"muon needs whole matrices, which {kind()} splits; set optimizer to adamw")
    if lora:
        raise ValueError(f"lora under {kind()} is not supported; adapters fit without it, so start with torchrun (DDP)")
    if kind() == "deepspeed":
        if importlib.util.find_spec("deepspeed") is None:
            raise ValueError(f"DeepSpeed is not installed; {install_hint('deepspeed')}")
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("FSDP 1 is not supported; set fsdp_version to 2 (runs/accelerate_fsdp2.yaml does)")
    for name, instead in (
        ("OFFLOAD_PARAMS", "every process needs its weights for rollouts"),
        ("ACTIVATION_CHECKPOINTING", "use gradient_checkpointing of the run's own settings instead"),
        ("CPU_RAM_EFFICIENT_LOADING", "every process reads the model's file itself"),
    ):
        if true(f"FSDP_{name}"):
            raise ValueError(f"fsdp_{name.lower()} is not supported; set it to false: {instead}")


def true(name: str) -> bool:
    """Whether a variable of the environment is set to one of the words that accelerate takes for yes."""
    return os.environ.get(name, "false").lower() in ("1", "true", "yes", "on", "t", "y")
