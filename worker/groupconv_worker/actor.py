"""The Ray actor: one engine on the device Ray gave it."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from groupconv_worker.contract import Array, DeviceLostError
from groupconv_worker.graph.model import Model, read_model
from groupconv_worker.lanes.endpoint import LaneEndpoint, refuse
from groupconv_worker.lanes.sockets import Address
from groupconv_worker.networks.messages import answer
from groupconv_worker.networks.part import parts_of
from groupconv_worker.networks.part_calls import PartCalls
from groupconv_worker.networks.part_info import PartAddress, PartKey
from groupconv_worker.networks.runner import (
    ModelMissingError,
    NetworkCall,
    NetworkRun,
    NetworkRunner,
    States,
    takeover_of,
)
from groupconv_worker.networks.worker_process import expiring, leave
from groupconv_worker.resident import CAPACITY, WeightsMissingError
from groupconv_worker.runtime import WorkerRuntime
from groupconv_worker.shard import Stage, StageRun

log = logging.getLogger(__name__)

DROPPED = 4096
"""Numbers of dropped shards that are remembered: some of them were done already."""
CONTROL = "control"
"""The concurrency group of calls that must not wait for shards."""


class Worker(PartCalls):
    """Runs shards; the executor makes an actor of it.

    Args:
        engine: name of the engine.
        threads: CPU threads it may use.
        capacity: bytes of resident layers' weights it keeps prepared.
        share: of its GPU's memory that it may take where it has a part of one; None is all of it.
        device: the number of its GPU in this process.

    Attributes:
        engine: that computes.
        resident: kernels that stay prepared.
        device: what it computes on, for people.
    """

    def __init__(
        self, engine: str, threads: int, capacity: int = CAPACITY, share: float | None = None, device: int = 0
    ) -> None:
        if share:
            os.environ.setdefault("GROUPCONV_CUDA_MEMORY_FRACTION", str(share))  # read when the engine is made
        self._runtime = WorkerRuntime(engine, threads, capacity, device=device)
        super().__init__(parts_of(self._runtime))
        self.device = self._runtime.device
        self.engine, self.resident = self._runtime.engine, self._runtime.resident
        self._networks = NetworkRunner(self._runtime.budget, self.engine.threads, takeover_of(self._runtime))
        self._endpoints: dict[tuple[bytes, bool], LaneEndpoint] = {}
        self._opening = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """Where and on what it runs: node, pid, engine, device, threads, GPUs (as CUDA_VISIBLE_DEVICES names them)."""
        import ray  # here, as workers that Ray did not start need none

        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        device = self.engine.device()
        if gpus:
            device += f", GPU {', '.join(gpus)}{' (not used)' * (self.engine.name != 'cuda')}"
        return {
            "node": socket.gethostname(),
            "node_id": context.get_node_id(),
            "pid": os.getpid(),
            "engine": self.engine.name,
            "device": device,
            "threads": self.engine.threads,
            "gpus": gpus,
        }

    def lane(self, key: bytes, node_id: str) -> Address:
        """Where a coordinator on the node `node_id` that knows `key` may connect (see `groupconv_worker.lanes`)."""
        return self._endpoint(key, node_id).address

    def listen(self, key: bytes, host: str | None = None) -> LaneEndpoint:
        """A new endpoint of this worker, for callers that know `key`; see `LaneEndpoint`."""
        gpu = self.engine.gpu
        lock = None if gpu is None else gpu.page_locked.register
        link = refuse if self.parts is None else self.parts.receive
        return LaneEndpoint(self.compute, key, host, lock=lock, networks=partial(answer, self), link=link)

    def echo(self, x: Array) -> Array:
        """A copy: what bringing an array and its result costs without computing."""
        return x.copy()

    def run(
        self, stages: tuple[Stage, ...], x: Array, expires: float | None = None, number: int = -1
    ) -> tuple[Array | None, tuple[StageRun, ...] | None]:
        """One shard (see `run_shard`); the arrays arrive as read-only views of the object store.

        Args:
            stages: of the shard; one of a resident layer may come without its weight, an empty array in its place.
            x: (N, C, *input).
            expires: on the clock of time.time(), the one that hosts share; a shard past it is not begun, or ends early.
            number: what `drop` calls it.

        Returns:
            The output (N, M, *output) and what came of each stage; (None, None) if a weight that was not sent is not
            kept here, as after a restart: the executor then sends the shard again with its weights.

        Raises:
            DeadlineExceededError: the shard waited here past its deadline.
        """
        last = stages[-1].problem
        out = np.empty(last.geometry.output_shape, dtype=last.types.output)
        ran = self.compute(stages, x, out, expires, dropped=lambda: number in self.dropped)
        self.dropped.discard(number)
        return (None, None) if ran is None else (out, ran)

    def drop(self, number: int) -> None:
        """Nobody waits any more for the shard that `run` was given with this number. In a thread of its own."""
        while len(self.dropped) >= DROPPED:
            self.dropped.pop()
        self.dropped.add(number)

    def compute(
        self,
        stages: Sequence[Stage],
        x: Array,
        out: Array,
        expires: float | None,
        *,
        dropped: Callable[[], bool] = lambda: False,
        borrowed: bool = False,
    ) -> tuple[StageRun, ...] | None:
        """Run one shard into `out`, once there are threads for it. Called from any thread.

        Args:
            stages: as of `run`.
            x: (N, C, *input).
            expires: as of `run`.
            out: (N, M, *output), any strides.
            dropped: called while the shard waits and runs; once it is True the shard is not started, or ends early.
            borrowed: whether the arrays are the caller's again afterwards: what is kept is copied.

        Returns:
            What came of each stage; None if a weight that was not sent is not kept here.

        Raises:
            DeadlineExceededError: its deadline passed before it was done.
            CancelledError: it was dropped.
        """
        job = expiring(expires, lambda: not dropped())
        job.poll()
        try:
            with job:
                return self._runtime.run(stages, x, out, job, borrowed=borrowed)
        except WeightsMissingError:
            return None
        except DeviceLostError as error:
            leave(error)

    def network_states(self) -> States:
        """Who answers the calls of all networks that this worker has."""
        return self._networks.states()

    def prepare_network(self, network: str, version: int, data: bytes) -> None:
        """Prepare a network's version.

        Raises:
            InvalidArgumentError: the runtime refuses the model.
        """
        self._networks.prepare(network, version, lambda: read_model(data))

    def run_network(
        self, call: NetworkCall, data: bytes | None, expires: float | None, number: int, *arrays: Array
    ) -> NetworkRun | None:
        """Run a call of a network.

        Args:
            call: its inputs have names alone; the arrays follow.
            data: the model; None if this worker should have it.
            expires: as of `run`.
            number: as of `run`.
            arrays: the inputs, in the order of their names.

        Returns:
            The outputs; None if the model was not sent and is not here.
        """
        call = replace(call, inputs=dict(zip(call.inputs, arrays, strict=True)))
        return self.compute_network(call, data, expires, lambda: number in self.dropped)

    def compute_network(
        self, call: NetworkCall, data: bytes | None, expires: float | None, dropped: Callable[[], bool]
    ) -> NetworkRun | None:
        """Run a call of a network. Called from any thread.

        Args:
            call: with its inputs.
            data: as of `run_network`.
            expires: as of `run`.
            dropped: as of `compute`.

        Returns:
            As of `run_network`.
        """

        def model() -> Model:
            if data is None:
                raise ModelMissingError
            return read_model(data)

        try:
            return self._networks.run(call, model, expiring(expires, lambda: not dropped()))
        except ModelMissingError:
            return None
        except DeviceLostError as error:
            leave(error)

    def part_address(self, key: PartKey, secret: bytes) -> PartAddress:
        """Where workers of other nodes that know the secret send boxes for a part that has its memory."""
        assert self.parts is not None
        return PartAddress(self._endpoint(secret, "").address, self.parts.ticket(key))

    def _endpoint(self, key: bytes, node_id: str) -> LaneEndpoint:
        """For those that know the key, on this node or on others. It listens from the first call on."""
        import ray

        near = node_id == ray.get_runtime_context().get_node_id()
        with self._opening:
            if (key, near) not in self._endpoints:
                self._endpoints[key, near] = self.listen(key, None if near else ray.util.get_node_ip_address())
            return self._endpoints[key, near]

    def forget(self, layer: str, version: int) -> None:
        """Drop what is kept of a layer's or network's version; what counts on it is sent again, with its weights."""
        self.resident.forget(layer, version)
        self._networks.forget(layer, version)
        if self.parts is not None:
            self.parts.forget(layer, version)
