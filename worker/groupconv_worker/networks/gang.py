"""The workers of this process as a gang: a network that is cut runs on all of them at the same time."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from groupconv.errors import DeadlineExceededError
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.contract import Array
from groupconv_worker.job import Job

if TYPE_CHECKING:
    from groupconv_worker.cpu.network.sharded import PartRun, ShardedNetwork
    from groupconv_worker.cpu.threads import Team


class Member(NamedTuple):
    """A worker of a gang.

    Attributes:
        id: of the worker.
        budget: of its threads.
        team: the threads.
    """

    id: str
    budget: ThreadBudget
    team: "Team"


class Gang:
    """Runs networks that are cut, one at a time: two of them would each hold workers that the other one waits for.

    Args:
        members: the workers.

    Attributes:
        members: as given.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self._order = ThreadBudget()
        self._threads = ThreadPoolExecutor(max(1, len(members) - 1), "gang")

    @property
    def idle(self) -> bool:
        """Whether no worker has anything to do."""
        return not any(member.budget.inside for member in self.members)

    def run(
        self,
        network: "ShardedNetwork",
        inputs: Mapping[str, Array],
        job: Job,
        into: Mapping[str, Array] | None = None,
    ) -> "tuple[dict[str, Array], list[PartRun]]":
        """Wait for all workers, and run a network on them.

        Returns:
            The outputs by name, and the runs of the workers' parts.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            InternalError: a part failed.
        """
        held: list[tuple[ThreadBudget, int]] = []
        try:
            for budget in (self._order, *(member.budget for member in self.members)):
                left = job.left
                timeout = -1.0 if left is None else min(left, threading.TIMEOUT_MAX)
                alone = budget is self._order
                got = 0 if job.look() else budget.acquire(timeout, whole=True, alone=alone, over=job.look)
                if not got:
                    job.look()
                    job.check()
                    raise DeadlineExceededError("the deadline passed before the network was started")
                held.append((budget, got))
            return network.run(inputs, job, self._threads, [got for _, got in held[1:]], into)
        finally:
            for budget, got in reversed(held):
                budget.release(got)

    def close(self) -> None:
        """End its threads."""
        self._threads.shutdown()
