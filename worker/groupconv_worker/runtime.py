"""What a worker is wherever it runs: an engine, the kernels that stay prepared there, and turns at its threads."""

import contextlib
import threading
from collections.abc import Sequence

from groupconv.errors import DeadlineExceededError
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.contract import Array
from groupconv_worker.cpu.kernels.forms import deferred
from groupconv_worker.cpu.threads import keep_to
from groupconv_worker.engines import create_engine
from groupconv_worker.job import Job
from groupconv_worker.resident import Resident
from groupconv_worker.shard import Ran, Stage, run_shard


class WorkerRuntime:
    """Runs shards, in whichever threads bring them.

    Args:
        engine: its name.
        threads: of the engine.
        capacity: bytes of resident layers' weights that stay prepared.

    Attributes:
        engine: its threads go to one shard, or are shared by those that come at the same time, if it can do several.
        resident: kernels that stay prepared.
        budget: of the threads, shared by those that run.
    """

    def __init__(self, engine: str, threads: int, capacity: int) -> None:
        self.engine = create_engine(engine, threads=threads)
        self.resident = Resident(capacity)
        self.budget = ThreadBudget(self.engine.threads if self.engine.at_once > 1 else 1)

    def enter(self, stages: Sequence[Stage], job: Job, among: float | None = None) -> int:
        """Wait for threads to run a shard on.

        Args:
            stages: of the shard. What is to be prepared, and tuned, has the threads and the processor for itself.
            job: that the shard is a part of.
            among: how many shards share the threads now; None counts those that came here.

        Returns:
            How many it got, for `run` and for `budget.release`.

        Raises:
            DeadlineExceededError, CancelledError: the job was over before it got any.
        """
        left = job.left
        timeout = -1.0 if left is None else min(left, threading.TIMEOUT_MAX)
        new = not all(stage.key is None or self.resident.has(stage.key, stage.one) for stage in stages)
        if among is None:
            among = min(self.budget.inside + 1, self.engine.at_once)
        got = 0 if job.look() else self.budget.acquire(timeout, among=among, whole=new, over=job.look)
        if got and job.look():
            self.budget.release(got)
            got = 0
        if not got:
            job.look()
            job.check()
            raise DeadlineExceededError("the deadline passed before the shard was started")
        return got

    def run(self, stages: Sequence[Stage], x: Array, out: Array, threads: int, job: Job) -> tuple[Ran, ...]:
        """Run a shard (see `run_shard`) on so many threads.

        Others wait meanwhile, so no form is compiled for kernels that came with their request (cpu/kernels/forms.py).

        Raises:
            DeadlineExceededError, CancelledError: the job was over before the shard was; `out` is not complete.
        """
        keep_to(threads)
        one_shot = all(stage.key is None for stage in stages)
        try:
            with job, deferred() if one_shot else contextlib.nullcontext():
                return run_shard(self.engine, stages, x, out, self.resident)
        finally:
            keep_to(None)
