"""The networks of one worker: a session for each version that it was asked to run."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from groupconv.errors import DeadlineExceededError
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.session import NetworkSession
from groupconv_worker.job import Job

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class NetworkCall:
    """One call of a network.

    Attributes:
        network, version: what is called.
        inputs: by name, of the network's dtypes.
        outputs: names of those wanted.
        into: contiguous arrays to be filled, of outputs whose shape is known.
        peak_bytes: that it is expected to hold at once.
    """

    network: str
    version: int
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    into: Mapping[str, Array] = field(default_factory=dict)
    peak_bytes: int = 0


class NetworkRan(NamedTuple):
    """The outputs of a call by name, and its seconds in the runtime."""

    outputs: dict[str, Array]
    seconds: float


class ModelMissingError(LookupError):
    """A worker has no session of a network's version; it has to be sent the model."""


class NetworkRunner:
    """Runs networks on the threads of a worker.

    Args:
        budget: of the worker's threads, which shards of convolutions share.
        threads: of a session.
    """

    def __init__(self, budget: ThreadBudget, threads: int) -> None:
        self._budget, self._threads = budget, threads
        self._sessions: dict[tuple[str, int], NetworkSession] = {}
        self._making: dict[tuple[str, int], threading.Lock] = {}

    def prepare(self, network: str, version: int, model: Callable[[], Model]) -> NetworkSession:
        """The session of a version, made if there is none.

        Args:
            network: its name.
            version: of it.
            model: gives the model; called only if there is no session.

        Raises:
            InvalidArgumentError: the runtime refuses the model.
        """
        key = network, version
        session = self._sessions.get(key)
        if session is not None:
            return session
        try:
            with self._making.setdefault(key, threading.Lock()):  # calls of other networks go on meanwhile
                session = self._sessions.get(key)
                if session is None:
                    session = self._sessions[key] = NetworkSession(model(), self._threads)
                return session
        finally:
            self._making.pop(key, None)

    def run(self, call: NetworkCall, model: Callable[[], Model], job: Job) -> NetworkRan:
        """Wait for the worker's threads and run a call.

        Args:
            call: what to run.
            model: as of `prepare`.
            job: that this is a part of.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            InvalidArgumentError, ResourceExhaustedError: as of `NetworkSession.run`.
        """
        left = job.left
        timeout = -1.0 if left is None else min(left, threading.TIMEOUT_MAX)
        got = 0 if job.look() else self._budget.acquire(timeout, whole=True, over=job.look)
        if not got:
            job.look()
            job.check()
            raise DeadlineExceededError("the deadline passed before the network was started")
        try:
            session = self.prepare(call.network, call.version, model)
            start = time.perf_counter()
            outputs = session.run(call.inputs, call.outputs, job, call.into, peak_bytes=call.peak_bytes)
            return NetworkRan(outputs, time.perf_counter() - start)
        finally:
            self._budget.release(got)

    def forget(self, network: str, version: int) -> None:
        """Drop the session of a version. A call that runs on it goes on to its end."""
        self._sessions.pop((network, version), None)
