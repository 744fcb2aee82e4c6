"""The Ray actor: one engine on the device Ray gave it."""

import logging
import os
import socket
import time
from typing import Any

import numpy as np
import ray

from groupconv.errors import DeadlineExceededError
from groupconv_worker.engines import create_engine
from groupconv_worker.engines.base import Array, DeviceLostError
from groupconv_worker.shard import Ran, Stage, run_shard

log = logging.getLogger(__name__)

DEVICE_LOST = 70
"""Exit status of an actor whose device failed (EX_SOFTWARE of sysexits.h)."""


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

    def run(self, stages: tuple[Stage, ...], x: Array, expires: float | None = None) -> tuple[Array, tuple[Ran, ...]]:
        """One shard (see `run_shard`); the arrays arrive as read-only views of the object store.

        Args:
            stages: of the shard.
            x: (N, C, *input).
            expires: on the clock of time.time(), the one that hosts share; a shard past it is not started.

        Returns:
            The output (N, M, *output) and what came of each stage.

        Raises:
            DeadlineExceededError: the shard waited here past its deadline.
        """
        if expires is not None and time.time() > expires:
            raise DeadlineExceededError("the deadline passed before the shard was started")
        last = stages[-1].problem
        out = np.empty(last.geometry.output_shape, dtype=last.types.output)
        try:
            ran = run_shard(self.engine, stages, x, out)
        except DeviceLostError:
            # A broken context cannot be mended in the process that has it. Ray starts another one and the
            # executor runs the shard again; an orderly exit would count as wanted and restart nothing.
            log.exception("the device is lost; this worker ends")
            logging.shutdown()
            os._exit(DEVICE_LOST)
        return out, ran
