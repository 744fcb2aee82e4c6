"""What an executor is: it brings shards to workers and results back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from groupconv.plan import ShardReport
from groupconv_worker.engines.base import Array, Problem


@dataclass(frozen=True, slots=True)
class Task:
    """A shard with its arrays.

    Attributes:
        index: position in its step.
        worker: id of the worker the plan gave it; another one may run it if that one is lost.
        problem: shapes and dtypes of the shard.
        x, weight, bias: slices of the step's arrays, not copied.
        out: the slice of the step's output that the result lands in.
    """

    index: int
    worker: str
    problem: Problem
    x: Array
    weight: Array
    bias: Array | None
    out: Array


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as people see it."""

    id: str
    node: str
    engine: str
    device: str
    threads: int
    shards: int = 0
    restarts: int = 0


class Executor(Protocol):
    """Runs the shards of one step at a time; safe to call from several threads."""

    name: str

    def workers(self) -> tuple[str, ...]:
        """Ids of the workers that take shards now, in a stable order."""

    def describe(self) -> list[WorkerInfo]:
        """Those workers, for people."""

    def run(self, tasks: Sequence[Task], *, deadline: float | None) -> list[ShardReport]:
        """Run every task; when it returns, each result is in its task's `out`.

        Args:
            tasks: of one step.
            deadline: on the clock of time.monotonic(); a shard whose deadline has passed is not started.

        Raises:
            DeadlineExceededError: the deadline passed; results still on their way are dropped.
            UnavailableError: no worker is left, or a shard was tried too often.
        """

    def close(self) -> None:
        """Let the workers go."""
