"""An optimiser's state in parts: each process writes what it holds, so that no process needs the memory for all of it.

The tensors are in safetensors (torch's distributed checkpoints, in the layout of Hugging Face), the settings in JSON.
Any number of processes can read them, and nothing in them is executed.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from relisten import records

FOLDER = "optimizer"
"""In a checkpoint. An optimiser that is not in parts is in `optimizer.pt`."""


def write(memory: dict[str, Any], folder: Path, writer: bool) -> None:
    """Write an optimiser's state, its parameters by name. All processes must call; `writer` also writes the settings.

    Raises OSError if it cannot be written.
    """
    try:
        save(_flat(memory), storage_writer=HuggingFaceStorageWriter(path=str(folder), save_distributed=True))
    except CheckpointException as error:  # a BaseException, which holds the error of each process
        raise OSError("; ".join(str(failure[0]) for failure in error.failures.values())) from error
    if writer:
        records.write_atomic(folder / "groups.json", json.dumps(memory["param_groups"], indent=1))


def read(memory: dict[str, Any], folder: Path) -> None:
    """Fill an optimiser's state, its parameters by name, with what was written. All processes must call.

    Raises ValueError if something else was written.
    """
    flat, reader = _flat(memory), HuggingFaceStorageReader(path=str(folder))
    if flat.keys() != reader.read_metadata().state_dict_metadata.keys():
        raise ValueError(f"{folder}: is the optimiser of another model; delete this checkpoint to go on from an older")
    load(flat, storage_reader=reader)
    for group, written in zip(memory["param_groups"], _groups(folder), strict=True):
        group.update({key: value for key, value in written.items() if key != "params"})


def whole(folder: Path) -> dict[str, Any]:
    """An optimiser's whole state, its parameters by name. This process reads it alone."""
    reader = HuggingFaceStorageReader(path=str(folder))
    told = reader.read_metadata().state_dict_metadata
    flat: dict[str, Any] = {
        name: torch.empty(one.size, dtype=one.properties.dtype)
        for name, one in told.items()
        if isinstance(one, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no other process takes part, which is what is asked for
        load(flat, storage_reader=reader, no_dist=True)
    state: dict[str, dict[str, Tensor]] = {}
    for name, value in flat.items():
        parameter, _, key = name.rpartition(".")
        state.setdefault(parameter, {})[key] = value
    return {"state": state, "param_groups": _groups(folder)}


def _flat(memory: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, values in memory["state"].items() for key, value in values.items()}


def _groups(folder: Path) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = json.loads((folder / "groups.json").read_text(encoding="utf-8"))
    return groups
