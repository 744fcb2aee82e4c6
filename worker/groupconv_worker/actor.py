"""The Ray actor: one engine on the device Ray gave it."""

import os
import socket
from typing import Any

import numpy as np
import ray

from groupconv_worker.engines import create_engine
from groupconv_worker.engines.base import Array
from groupconv_worker.shard import Ran, Stage, run_shard


class Worker:
    """Runs shards; the executor makes an actor of it.

    Args:
        engine: name of the engine.
        threads: CPU threads it may use.
    """

    def __init__(self, engine: str, threads: int) -> None:
        self.engine = create_engine(engine, threads=threads)

    def describe(self) -> dict[str, Any]:
        """Where and on what it runs: node, pid, engine, device, threads."""
        return {
            "node": socket.gethostname(),
            "node_id": ray.get_runtime_context().get_node_id(),
            "pid": os.getpid(),
            "engine": self.engine.name,
            "device": self.engine.device(),
            "threads": self.engine.threads,
        }

    def run(self, stages: tuple[Stage, ...], x: Array) -> tuple[Array, tuple[Ran, ...]]:
        """One shard (see `run_shard`); the arrays arrive as read-only views of the object store.

        Returns:
            The output (N, M, *output) and what came of each stage.
        """
        last = stages[-1].problem
        out = np.empty(last.geometry.output_shape, dtype=last.types.output)
        ran = run_shard(self.engine, stages, x, out)
        return out, ran
