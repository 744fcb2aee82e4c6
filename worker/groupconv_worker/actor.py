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
from groupconv_worker.resident import CAPACITY, Resident
from groupconv_worker.shard import Ran, Stage, run_shard

log = logging.getLogger(__name__)

DEVICE_LOST = 70
"""Exit status of an actor whose device failed (EX_SOFTWARE of sysexits.h)."""


class Worker:
    """Runs shards; the executor makes an actor of it.

    Args:
        engine: name of the engine.
        threads: CPU threads it may use.
        capacity: bytes of resident layers' weights it keeps prepared.
        share: of its GPU's memory that it may take where it has a part of one; None is all of it.
    """

    def __init__(self, engine: str, threads: int, capacity: int = CAPACITY, share: float | None = None) -> None:
        if share:
            os.environ.setdefault("CUPY_GPU_MEMORY_LIMIT", f"{share:.0%}")  # read when CuPy's pool is made
        self.engine = create_engine(engine, threads=threads)
        self.resident = Resident(capacity)

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

    def run(
        self, stages: tuple[Stage, ...], x: Array, expires: float | None = None
    ) -> tuple[Array | None, tuple[Ran, ...] | None]:
        """One shard (see `run_shard`); the arrays arrive as read-only views of the object store.

        Args:
            stages: of the shard; one of a resident layer may come without its weight, an empty array in its place.
            x: (N, C, *input).
            expires: on the clock of time.time(), the one that hosts share; a shard past it is not started.

        Returns:
            The output (N, M, *output) and what came of each stage; (None, None) if a weight that was not sent is not
            kept here, as after a restart: the executor then sends the shard again with its weights.

        Raises:
            DeadlineExceededError: the shard waited here past its deadline.
        """
        if expires is not None and time.time() > expires:
            raise DeadlineExceededError("the deadline passed before the shard was started")
        if any(_missing(stage, self.resident) for stage in stages):
            return None, None
        last = stages[-1].problem
        out = np.empty(last.geometry.output_shape, dtype=last.types.output)
        try:
            ran = run_shard(self.engine, stages, x, out, self.resident)
        except DeviceLostError:
            # A broken context cannot be mended in the process that has it. Ray starts another one and the
            # executor runs the shard again; an orderly exit would count as wanted and restart nothing.
            log.exception("the device is lost; this worker ends")
            logging.shutdown()
            os._exit(DEVICE_LOST)
        return out, ran

    def forget(self, layer: str, version: int) -> None:
        """Drop what is kept of a layer's version."""
        self.resident.forget(layer, version)


def _missing(stage: Stage, resident: Resident) -> bool:
    return stage.key is not None and stage.weight.size == 0 and not resident.has(stage.key, stage.problem)
