"""A build on Ray: each worker builds one shard, on any machine of the cluster; then this process joins the shards.

All machines must see the folders of the source and of the sets under the same paths, and have relisten installed. If a
worker dies, Ray starts it again on another machine, and it finds in its shard's store what was done.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from relisten.data import shards
from relisten.extras import install_hint

if TYPE_CHECKING:
    from relisten.data.build_config import BuildConfig

LOOK = 1.0
"""Seconds between two updates of the progress bar."""


def over_ray(build: Callable[[BuildConfig], dict[str, Any]], config: BuildConfig) -> str:
    """Do every shard with `build`. Returns why one of them stopped early, or "". Raises ValueError as a build does."""
    try:
        import ray
    except ImportError:
        raise ValueError(f"workers need Ray; {install_hint('ray')}") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    if ours:
        # By RAY_ADDRESS alone: a cluster that somebody left running is not ours to use.
        address = os.environ.get("RAY_ADDRESS") or "local"
        cpus = {"num_cpus": config.workers} if address == "local" else {}
        ray.init(address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR, **cpus)
    num = config.workers
    shard = ray.remote(num_cpus=1)(_shard)
    parts = [replace(config, workers=0, shard=f"{n}/{num}") for n in range(num)]
    stores = [shards.place(config.out, (n, num)) for n in range(num)]
    try:
        every = waiting = [shard.remote(build, part, Path.cwd(), sys.path) for part in parts]
        with tqdm(desc=f"{num} shards", unit="clip") as bar:
            while waiting:
                _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=LOOK)
                bar.update(sum(map(_done, stores)) - bar.n)
        ended: list[tuple[str, str]] = ray.get(every)
    finally:
        if ours:
            ray.shutdown()
    if error := next((error for _, error in ended if error), ""):
        raise ValueError(error)
    return next((stopped for stopped, _ in ended if stopped), "")


def _shard(
    build: Callable[[BuildConfig], dict[str, Any]], config: BuildConfig, folder: Path, path: list[str]
) -> tuple[str, str]:
    """Build one shard, inside a Ray worker. Returns why it stopped early, and the line of a ValueError."""
    sys.path += [place for place in path if place not in sys.path]
    os.environ["TQDM_DISABLE"] = "1"  # the process that waits for this one draws one bar for all
    os.chdir(folder)  # paths in the settings may be relative to it
    try:
        return build(config)["stopped"], ""
    except ValueError as error:
        return "", str(error)


def _done(path: Path) -> int:
    """How many clips of a shard are finished; 0 if it has not begun, or if its store cannot be read now."""
    with suppress(sqlite3.Error):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as store:
            [(most,)] = store.execute("SELECT max(rowid) FROM outcomes")
            return int(most or 0)
    return 0
