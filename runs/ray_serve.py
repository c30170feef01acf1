"""Replicas of `relisten serve` behind one address, with Ray Serve: one for each GPU of a cluster.

    pip install -e '.[serve]' 'ray[serve]'
    RELISTEN_MODEL=nano RELISTEN_REPLICAS=2 RELISTEN_GPUS=0 serve run runs.ray_serve:app

Ray starts the replicas, restarts one that dies, and sends each request to one that has room. The page, the API and the
limits are those of `relisten serve`; its options are set below. Each replica holds the whole model.
"""

from __future__ import annotations

import os

from ray import serve

from relisten.commands.options import ModelOptions
from relisten.commands.serve import served
from relisten.engine.generation import GenerationConfig
from relisten.serving.app import Guard, build
from relisten.serving.limits import Limits
from relisten.serving.service import Service

MODEL = os.environ.get("RELISTEN_MODEL", "nano")
LIMITS = Limits()


def server() -> Guard:
    """The application of one replica. It is made in the replica's process."""
    options = ModelOptions(model=MODEL)
    model = served(options, LIMITS.max_rows)
    return build(
        lambda: Service(model, LIMITS, GenerationConfig(), options.max_seconds),
        api_key=os.environ.get("RELISTEN_API_KEY"),
    )


@serve.deployment(
    num_replicas=int(os.environ.get("RELISTEN_REPLICAS", "1")),
    max_ongoing_requests=LIMITS.max_rows + LIMITS.max_waiting,
    ray_actor_options={"num_gpus": float(os.environ.get("RELISTEN_GPUS", "1"))},
)
@serve.ingress(server)
class Relisten:
    """One replica."""


app = Relisten.bind()
