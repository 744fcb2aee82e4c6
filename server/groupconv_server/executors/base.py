"""What an executor is: it brings shards to workers and results back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from groupconv.convolution.report import ShardReport
from groupconv_server.executors.task import Task
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import NetworkCall, NetworkRun, States


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as people see it.

    Attributes:
        lane: how shards reach it beside Ray: "unix", "tcp", or "" where only Ray does.
        lane_limit: bytes of arrays up to which they go so.
    """

    id: str
    node: str
    engine: str
    device: str
    threads: int
    shards: int = 0
    restarts: int = 0
    lane: str = ""
    lane_limit: int = 0


class Executor(Protocol):
    """Runs the shards of a step, or of a chain of steps; safe to call from several threads.

    Attributes:
        name: for people.
        computes_here: how many shards the threads that bring requests compute at a time; 0 if others do it.
        gpus: by the worker's id, the `cuda.device.Device` whose arrays the tasks of that worker may have in place of
            host arrays; empty where tasks have host arrays only.
    """

    name: str
    computes_here: int
    gpus: Mapping[str, Any]

    def workers(self) -> tuple[str, ...]:
        """Ids of the workers that take shards now, in a stable order."""

    def wait(self, deadline: float | None) -> tuple[str, ...]:
        """Block until there is a worker, then return the ids as `workers` does.

        Raises:
            UnavailableError: none came in time.
        """

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """Have `prepare` called with the id of each worker that joins or returns from now on, before others see it."""

    def trouble(self) -> str:
        """Why it has fewer workers than it should, for people; empty if it has all of them."""

    def describe(self) -> list[WorkerInfo]:
        """The workers that take shards now, for people."""

    def expect(self, shards: int) -> None:
        """Wake threads for so many shards of one chain, which come in a moment."""

    def run(self, tasks: Sequence[Task], *, job: Job | None = None, among: int = 1) -> list[tuple[ShardReport, ...]]:
        """Run every task; when it returns, each result is in its task's `out`.

        Args:
            tasks: of one step, or of a chain of steps.
            job: that they are a part of; None has no end but the executor's.
            among: requests that share the workers now, this one among them.

        Returns:
            For each task a report of each of its stages.

        Raises:
            DeadlineExceededError: the deadline passed; what was still running is stopped within `job.PROMPT`.
            CancelledError: the caller has gone; what was still running is stopped within `job.PROMPT`.
            UnavailableError: no worker is left, a shard was tried too often, or the executor ends.
        """

    def prepare_network(self, network: str, version: int, model: Model) -> None:
        """Have a worker prepare a network's version: a model that no runtime takes is refused when it is loaded.

        Raises:
            InvalidArgumentError: the runtime refuses the model.
        """

    def run_network(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun]:
        """Run a call of a network on one worker, the one with least to do.

        Returns:
            The worker's id, and the outputs.

        Raises:
            DeadlineExceededError, CancelledError, UnavailableError: as of `run`.
            InvalidArgumentError, ResourceExhaustedError: the inputs do not fit the network, or the machine.
        """

    def network_states(self) -> States:
        """Who answers the calls of each network's version, on all workers that say it at once."""

    def forget(self, layer: str, version: int) -> None:
        """Have every worker drop what it keeps of a layer's or network's version; does not wait for them."""

    def interrupt(self) -> None:
        """Stop what runs, and refuse what comes: the server ends."""

    def close(self) -> None:
        """Let the workers go."""
