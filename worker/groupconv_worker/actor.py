"""The Ray actor: one engine on the device Ray gave it."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from groupconv.errors import DeadlineExceededError
from groupconv_worker.contract import Array, DeviceLostError
from groupconv_worker.lanes.endpoint import Address, Endpoint
from groupconv_worker.resident import CAPACITY, WeightsMissingError
from groupconv_worker.runtime import Station
from groupconv_worker.shard import Ran, Stage

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
        self._station = Station(engine, threads, capacity)
        self.engine, self.resident = self._station.engine, self._station.resident
        self._endpoints: dict[tuple[bytes, bool], Endpoint] = {}

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

    def lane(self, key: bytes, node_id: str) -> Address:
        """Where a coordinator on the node `node_id` that knows `key` may connect (see `groupconv_worker.lanes`)."""
        near = node_id == ray.get_runtime_context().get_node_id()
        if (key, near) not in self._endpoints:
            host = None if near else ray.util.get_node_ip_address()
            self._endpoints[key, near] = Endpoint(self.compute, key, host)
        return self._endpoints[key, near].address

    def echo(self, x: Array) -> Array:
        """A copy: what bringing an array and its result costs without computing."""
        return x.copy()

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
        last = stages[-1].problem
        out = np.empty(last.geometry.output_shape, dtype=last.types.output)
        ran = self.compute(stages, x, out, expires)
        return (None, None) if ran is None else (out, ran)

    def compute(
        self,
        stages: Sequence[Stage],
        x: Array,
        out: Array,
        expires: float | None,
        *,
        dropped: Callable[[], bool] = lambda: False,
        borrowed: bool = False,
    ) -> tuple[Ran, ...] | None:
        """One shard into `out`, when its turn has come; from whatever thread.

        Args:
            stages: as of `run`.
            x: likewise.
            out: (N, M, *output), any strides.
            expires: likewise.
            dropped: asked when it is the shard's turn; if so it is not started.
            borrowed: whether the arrays are the caller's again afterwards: what is kept is copied.

        Returns:
            What came of each stage; None if a weight that was not sent is not kept here.

        Raises:
            DeadlineExceededError: it waited past its deadline, or was dropped.
        """
        left = -1.0 if expires is None else min(max(0.0, expires - time.time()), threading.TIMEOUT_MAX)
        threads = self._station.enter(stages, left)
        if not threads:
            raise DeadlineExceededError("the deadline passed before the shard was started")
        try:
            if (expires is not None and time.time() > expires) or dropped():
                raise DeadlineExceededError("the deadline passed before the shard was started")
            if borrowed:
                stages = [_own(stage) for stage in stages]
            return self._station.run(stages, x, out, threads)
        except WeightsMissingError:
            return None
        except DeviceLostError:
            # A broken context cannot be mended in the process that has it. Ray starts another one and the
            # executor runs the shard again; an orderly exit would count as wanted and restart nothing.
            log.exception("the device is lost; this worker ends")
            logging.shutdown()
            os._exit(DEVICE_LOST)
        finally:
            self._station.turn.release(threads)

    def forget(self, layer: str, version: int) -> None:
        """Drop what is kept of a layer's version; not while a shard runs that counts on it."""
        with self._station.turn:
            self.resident.forget(layer, version)


def _own(stage: Stage) -> Stage:
    """A resident layer's stage with weights of its own: engines may keep views of them."""
    if stage.key is None or stage.weight.size == 0:
        return stage
    return replace(stage, weight=stage.weight.copy(), bias=None if stage.bias is None else stage.bias.copy())
