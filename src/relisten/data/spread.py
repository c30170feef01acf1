"""A build on Ray: each worker does a shard, on any machine of the cluster; then this process puts them together.

The folders of source and sets must be seen under the same paths by all machines, and relisten be installed on them. A
worker that dies is begun again on another, and finds in its shard's store what was done.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sqlite3
import sys
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from relisten.data import shards

if TYPE_CHECKING:
    from relisten.data.build import BuildConfig

LOOK = 1.0
"""Seconds between two looks at how far the shards are."""


def over_ray(config: BuildConfig) -> str:
    """Do every shard; why one of them stopped early, or an empty text. Raises ValueError as a build does."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("workers need Ray; pip install 'relisten[ray]'") from None
    from relisten.data.build import survey

    survey(config)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    if ours:
        # By RAY_ADDRESS alone: a cluster that somebody left running is not ours to use.
        address = os.environ.get("RAY_ADDRESS") or "local"
        cpus = {"num_cpus": config.workers} if address == "local" else {}
        ray.init(address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR, **cpus)
    num = config.workers
    here = {"folder": str(Path.cwd()), "path": json.dumps(sys.path)}
    parts = [{"config": pickle.dumps(replace(config, workers=0, shard=f"{n}/{num}"))} | here for n in range(num)]
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        whole = ray.data.from_items(parts, override_num_blocks=num)
        done = whole.map(_shard, compute=ray.data.TaskPoolStrategy(size=num), num_cpus=1)
        with _Progress(config.out, num):
            rows = list(done.iter_rows())
    finally:
        if ours:
            ray.shutdown()
    if errors := [row["error"] for row in rows if row["error"]]:
        raise ValueError(errors[0])
    return next((row["stopped"] for row in rows if row["stopped"]), "")


def _shard(row: dict[str, Any]) -> dict[str, str]:
    """One shard, in a worker of Ray's."""
    sys.path += [place for place in json.loads(row["path"]) if place not in sys.path]
    from relisten.data.build import build

    os.environ["TQDM_DISABLE"] = "1"  # the process that waits for this one draws one bar for all
    os.chdir(row["folder"])  # paths in the settings may be relative to it
    try:
        return {"stopped": build(pickle.loads(row["config"]))["stopped"], "error": ""}
    except ValueError as error:
        return {"stopped": "", "error": str(error)}


class _Progress:
    """A bar of the clips that came out so far, read from the shards' stores."""

    def __init__(self, out: Path, num: int) -> None:
        self._paths = [shards.place(out, (n, num)) for n in range(num)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        with tqdm(desc=f"{len(self._paths)} shards", unit="clip") as bar:
            while not self._over.wait(LOOK):
                bar.update(sum(map(_done, self._paths)) - bar.n)


def _done(path: Path) -> int:
    """How many clips came out in a shard; 0 where it has not begun, or cannot be read now."""
    with suppress(sqlite3.Error):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as store:
            [(most,)] = store.execute("SELECT max(rowid) FROM outcomes")
            return int(most or 0)
    return 0
