"""Rollouts on vLLM servers of this machine, which get the trainer's weights before each rollout.

The weights are written to a folder, and every server reads them from there. Then all its caches are cleared, because
what they hold was computed with the old weights. The server must be started with VLLM_SERVER_DEV_MODE=1, which opens
the commands for that to everybody who reaches its port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relisten.data.servers import CallFailed
from relisten.engine.operations import Operation
from relisten.engine.row import Row
from relisten.models.base import AudioLM
from relisten.remote.export import export_vllm
from relisten.remote.fleet import Fleet, Machine
from relisten.remote.session import Asked, RemoteSession
from relisten.remote.vllm import VllmEngine, connect

CACHES = ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache")
"""The prefix cache, the processor's cache of audio, and the cache of encoded audio."""


class RolloutEngine(VllmEngine):
    """A vLLM engine whose servers follow a model that is being trained.

    folder: where the weights are handed over; the servers must see it under the same path.
    """

    def __init__(
        self,
        model: AudioLM,
        operations: Mapping[str, Operation] | None = None,
        max_rows: int = 32,
        *,
        servers: Sequence[Machine],
        folder: Path,
    ) -> None:
        super().__init__(model, operations, max_rows, servers=servers)
        self.folder = folder.absolute()
        self.version = ""
        """The name of the weights that the servers must have."""
        self._given = 0

    def new_weights(self) -> None:
        """Hand the model's weights to all servers. Raises ValueError if one does not take them."""
        self._given += 1
        self.version = f"{self.folder}#{self._given}"
        self.model.save(self.folder / "model")
        export_vllm(str(self.folder / "model"), self.folder / "served")
        RemoteSession.alone(self._hand_over())

    async def _hand_over(self) -> None:
        fleet = Fleet(self.servers, self.model)
        try:
            await asyncio.gather(*(self._load(fleet, machine) for machine in self.servers))
        finally:
            await fleet.close()

    async def _load(self, fleet: Fleet, machine: Machine) -> None:
        load = {"method": "reload_weights", "kwargs": {"weights_path": str(self.folder / "served")}}
        try:
            await fleet.post(machine, "/collective_rpc", load)
            for path in CACHES:
                await fleet.post(machine, path, {})
            await fleet.post(machine, "/update_weight_version", {"new_version": self.version})
        except CallFailed as failed:
            hint = "start it with VLLM_SERVER_DEV_MODE=1" if str(failed).startswith("404") else "see its log"
            raise ValueError(f"{machine.url}: it does not take new weights ({failed}); {hint}") from None
        machine.sent.clear()

    def _push(self, machine: Machine, row: Row, reply: dict[str, Any], asked: Asked) -> bool:
        """As in `VllmEngine`. Raises ValueError if the reply was sampled with other weights than the trainer's."""
        choices = reply.get("choices")
        spans = (choices[0].get("weight_versions") if isinstance(choices, list) and choices else None) or []
        if odd := [span for span in spans if isinstance(span, dict) and span.get("version") != self.version]:
            raise ValueError(
                f"{machine.url}: it answers with other weights than the trainer's ({str(odd[0].get('version'))[:80]});"
                " was it restarted? Start the training again, and it continues"
            )
        return super()._push(machine, row, reply, asked)


def connect_rollouts(engine: str, model: AudioLM, max_rows: int, folder: Path) -> RolloutEngine:
    """The engine for the rollouts of a model. Raises ValueError, in one line, if a server cannot be used for them."""
    servers = connect(engine, model)
    for machine in servers:
        if not machine.checked:
            raise ValueError(f"{machine.url}: it does not answer; rollouts need all servers of --engine")
        if not machine.processed:
            raise ValueError(f"{machine.url}: rollouts need a server that was started with --logprobs-mode"
                             " processed_logprobs")  # fmt: skip
    return RolloutEngine(model, max_rows=max_rows, servers=servers, folder=folder)
