"""A build on Ray: each worker builds one shard, on any machine of the cluster; then this process joins the shards.

All machines must see the folders of the source and of the sets under the same paths, and have relisten installed. If a
worker dies, Ray starts it again on another machine, and it finds in its shard's store what was done.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sqlite3
import sys
import threading
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
"""Seconds between two looks at the progress of the shards."""


def over_ray(build: Callable[[BuildConfig], dict[str, Any]], config: BuildConfig) -> str:
    """Do every shard with `build`; gives why one of them stopped early, or "". Raises ValueError as a build does."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError(f"workers need Ray; {install_hint('ray')}") from None
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
    jobs = [(build, replace(config, workers=0, shard=f"{n}/{num}")) for n in range(num)]
    parts = [{"job": pickle.dumps(job)} | here for job in jobs]
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
    """Build one shard, inside a Ray worker."""
    sys.path += [place for place in json.loads(row["path"]) if place not in sys.path]
    os.environ["TQDM_DISABLE"] = "1"  # the process that waits for this one draws one bar for all
    os.chdir(row["folder"])  # paths in the settings may be relative to it
    try:
        build, config = pickle.loads(row["job"])
        return {"stopped": build(config)["stopped"], "error": ""}
    except ValueError as error:
        return {"stopped": "", "error": str(error)}


class _Progress:
    """A progress bar of finished clips, read from the shards' stores."""

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
    """How many clips of a shard are finished; 0 where it has not begun, or its store cannot be read now."""
    with suppress(sqlite3.Error):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as store:
            [(most,)] = store.execute("SELECT max(rowid) FROM outcomes")
            return int(most or 0)
    return 0
