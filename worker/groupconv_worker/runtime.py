"""What a worker is wherever it runs: an engine, the kernels that stay prepared there, and a budget of threads."""

import threading
import time
from collections.abc import Callable, Sequence

from groupconv.errors import DeadlineExceededError
from groupconv_worker.activity import ACTIVITY
from groupconv_worker.budget import ThreadBudget, granted
from groupconv_worker.contract import Array, Engine, Prepared, new_empty
from groupconv_worker.cpu.kernels.forms import deferred
from groupconv_worker.engines import create_engine
from groupconv_worker.improvement import InterimKernel
from groupconv_worker.job import Job, current
from groupconv_worker.resident import ResidentKernels, WeightsMissingError
from groupconv_worker.shard import Stage, StageRun, run_chain


class WorkerRuntime:
    """Runs shards, in whichever threads bring them.

    Args:
        engine: its name.
        threads: of the engine.
        capacity: bytes of resident layers' weights that stay prepared.
        budget: makes the budget of so many threads.
        device: the number of the engine's GPU, if it has one (see `create_engine`).

    Attributes:
        engine: its threads go to one shard, or are shared by those that come at the same time, if it can do several.
        resident: kernels that stay prepared.
        budget: of the threads, shared by those that run.
        device: what the engine computes on, with the number of its GPU in this process.
    """

    def __init__(
        self,
        engine: str,
        threads: int,
        capacity: int,
        budget: Callable[[int], ThreadBudget] = ThreadBudget,
        device: int = 0,
    ) -> None:
        self.engine = create_engine(engine, threads=threads, device=device)
        gpu = self.engine.gpu
        self.device = self.engine.device() + ("" if gpu is None else f", GPU {gpu.ordinal}")
        self.resident = ResidentKernels(capacity)
        self.budget = budget(self.engine.threads if self.engine.at_once > 1 else 1)

    def run(
        self,
        stages: Sequence[Stage],
        x: Array,
        out: Array,
        job: Job,
        *,
        among: float | None = None,
        borrowed: bool = False,
    ) -> tuple[StageRun, ...]:
        """Wait for threads and run a shard on them (see `run_shard`). The calling thread is in the job.

        Args:
            stages: of the shard. While a resident kernel is prepared for a GPU, its shard has all threads.
            x: (N, C, *input) of the first stage.
            out: (N, M, *output) of the last, to be filled.
            job: that the shard is a part of.
            among: how many shards share the threads now; None counts those that came here.
            borrowed: the caller reuses the arrays afterwards, so weights that are kept are copied.

        Raises:
            DeadlineExceededError, CancelledError: the job was over before the shard was; `out` is not complete.
            WeightsMissingError: as of `run_shard`.
        """
        new = False
        for stage in stages:
            kernel = stage.kept
            if stage.key is not None and (
                kernel is None or kernel.store is not self.resident or kernel.prepared is None
            ):
                stage.keep(self.resident.find(stage.key, stage.one))
                new = new or stage.kept is None
        if among is None:
            among = min(self.budget.inside + 1, self.engine.at_once)
        # an engine of a GPU measures its candidates in here; on the CPU another process does
        threads = self._acquire(job, among, whole=new and self.engine.gpu is not None)
        token = granted.set(threads)
        try:
            return run_shard(self.engine, stages, x, out, self.resident, borrowed=borrowed)
        finally:
            granted.reset(token)
            self.budget.release(threads)
            ACTIVITY.leave()

    def _acquire(self, job: Job, among: float, *, whole: bool) -> int:
        timeout = -1.0
        if job.deadline is not None:
            timeout = min(max(0.0, job.deadline - time.monotonic()), threading.TIMEOUT_MAX)
        ACTIVITY.enter()
        threads = self.budget.acquire(timeout, among=among, whole=whole, over=job.poll)
        if job.word.value or not threads:
            if threads:
                self.budget.release(threads)
            ACTIVITY.leave()
            job.poll()
            job.check()
            raise DeadlineExceededError("the deadline passed before the shard was started")
        return threads


def run_shard(
    engine: Engine,
    stages: Sequence[Stage],
    x: Array,
    out: Array,
    resident: ResidentKernels | None = None,
    *,
    borrowed: bool = False,
) -> tuple[StageRun, ...]:
    """Run the stages of one shard on `x`, the output of each being the input of the next, the last into `out`.

    Args:
        engine: of this worker.
        stages: at least one.
        x: (N, C, *input) of the first, any strides, not changed. Of no samples nothing is prepared or run.
        out: (N, M, *output) of the last, any strides; every element is written.
        resident: the worker's store of prepared kernels; None prepares every kernel for this shard alone.
        borrowed: the caller reuses the weights' memory afterwards, so those that are kept are copied.

    Raises:
        WeightsMissingError: a stage of a resident layer has no weights, and they are not prepared here.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> from groupconv_worker.contract import Problem
        >>> x, w = np.ones((1, 2, 4)), np.ones((2, 1, 3))
        >>> out = np.empty((1, 2, 2))
        >>> problem = Problem(resolve(ConvSpec(groups=2), x.shape, w.shape), types_of(x.dtype, w.dtype))
        >>> (ran,) = run_shard(create_engine("reference"), [Stage(problem, w)], x, out)
        >>> ran.algorithm, out.tolist()
        ('reference', [[[3.0, 3.0], [3.0, 3.0]]])
    """
    if not x.shape[0]:
        return (StageRun("none", 0.0),) * len(stages)
    if engine.gpu is not None and len(stages) > 1:
        kernels = (_prepared(engine, stage, resident, borrowed=borrowed) for stage in stages)
        if (chained := run_chain(kernels, x, out)) is not None:
            return chained
    job, last, ran = current(), len(stages) - 1, []
    for i, stage in enumerate(stages):
        if job.word.value:
            job.check()
        start = time.perf_counter()
        prepared = _prepared(engine, stage, resident, borrowed=borrowed)
        problem = stage.problem
        y = out if i == last else new_empty(x, problem.geometry.output_shape, problem.types.output)
        prepared.run(x, y)
        improving = type(prepared) is InterimKernel and not prepared.improvement.over
        ran.append(StageRun(prepared.algorithm, time.perf_counter() - start, improving))
        x = y
    return tuple(ran)


def _prepared(engine: Engine, stage: Stage, resident: ResidentKernels | None, *, borrowed: bool) -> Prepared:
    """The kernel of a stage: the one that it remembers, one of the store, or one that is prepared now."""
    kernel = stage.kept
    if kernel is not None and kernel.store is resident and (prepared := kernel.prepared) is not None:
        kernel.used = next(kernel.store.clock)
        return prepared
    with deferred():  # nobody waits for a compiler
        return _newly_prepared(engine, stage, resident, borrowed=borrowed)


def _newly_prepared(engine: Engine, stage: Stage, resident: ResidentKernels | None, *, borrowed: bool) -> Prepared:
    """The kernel of a stage that remembers none."""
    if stage.key is None or resident is None:
        return engine.prepare(stage.problem, stage.weight, stage.bias)
    kernel = resident.find(stage.key, stage.one)
    prepared = None if kernel is None else kernel.prepared
    if prepared is None:
        if stage.weight.size == 0:
            raise WeightsMissingError
        weight, bias = stage.weight, stage.bias
        if borrowed:  # engines may keep views of them
            weight, bias = weight.copy(), None if bias is None else bias.copy()
        prepared = engine.prepare(stage.one, weight, bias, resident=True)
        kernel = resident.add(stage.key, stage.one, prepared)
    stage.keep(kernel)
    return prepared
