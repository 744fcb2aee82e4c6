"""The coordinator: plan, dispatch, merge. It knows neither gRPC nor Ray.

Merging usually costs nothing: one output is allocated for a chain of steps, and each shard writes into its slice of
it. Only a cut along input channels adds terms.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from groupconv.convolution.plan import Plan
from groupconv.convolution.report import Report, ShardReport
from groupconv.convolution.steps import Result, Step
from groupconv_server.coordinator.compiled import CompiledCall
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.problems import checked_problems
from groupconv_server.coordinator.resident import ResidentStep
from groupconv_server.executors.base import Executor
from groupconv_server.planner import KnownPlan, PlannedChain, Planner, empty_plan, request_plan
from groupconv_server.telemetry.metrics import Metrics
from groupconv_server.telemetry.request import current
from groupconv_server.telemetry.traces import Times, Traces
from groupconv_worker.contract import Array, device_of
from groupconv_worker.job import Job


class LazyResult(Result):
    """A result whose report is made on first use: most clients want none."""

    _ran: tuple[Sequence[PlannedChain], Sequence[Times], Mapping[str, float]]

    def __init__(
        self, output: Array, chains: Sequence[PlannedChain], timeline: Sequence[Times], phases: Mapping[str, float]
    ) -> None:
        self.__dict__.update(output=output, _ran=(chains, timeline, phases))  # a result takes no assignments

    @cached_property
    def report(self) -> Report:
        """The plan, each shard's worker and times, the times of each phase."""
        chains, timeline, phases = self._ran
        steps = (step for times in timeline for step in zip(*times.ran, strict=True))
        return Report(request_plan(chains), tuple(steps), phases)


class Coordinator:
    """Cuts convolutions into shards, has the executor run them, and merges the results.

    Args:
        executor: runs shards on workers.
        limits: of a request.
        planner: chooses the cuts; None makes one that assumes default rates until `calibrate_workers`.
        metrics: counts requests; None makes new ones.
        traces: gets the times of requests that are traced.
        inside: counts the requests in the server, running or waiting, which share the workers.
    """

    def __init__(
        self,
        executor: Executor,
        limits: Limits | None = None,
        planner: Planner | None = None,
        metrics: Metrics | None = None,
        traces: Traces | None = None,
        inside: Callable[[], int] = lambda: 0,
    ) -> None:
        self.executor, self.limits = executor, limits or Limits()
        self.planner, self.metrics = planner or Planner(), metrics or Metrics()
        self.traces, self._inside = traces or Traces(), inside
        self.started, self.requests, self.streams = time.monotonic(), 0, 0
        self.calibration_shards: Counter[str] = Counter()
        self._running, self._count = 0, threading.Lock()

    @property
    def running(self) -> int:
        """Requests and bands of streams that are being computed."""
        return self._running

    def count(self, requests: int) -> None:
        """Count requests that are run by `run`."""
        with self._count:
            self.requests += requests

    def count_stream(self) -> None:
        """Count a stream."""
        with self._count:
            self.streams += 1

    def compile(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        steps: Sequence[Step],
        *,
        reordering: bool = False,
        cut: str = "",
    ) -> CompiledCall:
        """Compile `steps` for inputs of this shape and dtype. The call is kept with a layer's version.

        Args:
            shape: (N, C, *spatial).
            dtype: of the input.
            steps: at least one, with arrays.
            reordering: whether a sum over input channels may be taken in parts, which changes its rounding.
            cut: that was requested, by its name; "" leaves it to the planner.

        Raises:
            InvalidArgumentError: naming the field at fault.
            ResourceExhaustedError: a step over a limit.
        """
        first = steps[0] if steps else None
        if not isinstance(first, ResidentStep):
            return self._compiled(shape, dtype, steps, reordering=reordering, cut=cut)
        key = shape, dtype, reordering, cut
        call: CompiledCall | None = first.calls.known.get(key)
        if call is None:
            call = self._compiled(shape, dtype, steps, reordering=reordering, cut=cut)
            first.calls.add(key, call)
        return call

    def _compiled(
        self, shape: tuple[int, ...], dtype: np.dtype, steps: Sequence[Step], *, reordering: bool, cut: str
    ) -> CompiledCall:
        problems = checked_problems(self.limits, shape, dtype, steps)
        return CompiledCall(problems, steps, reordering=reordering, cut=cut)

    def convolve(self, x: Array, steps: Sequence[Step], *, job: Job | None = None, reordering: bool = False) -> Result:
        """Compile `steps` for `x` and run them; arguments and errors as of `compile` and `execute`."""
        return self.execute(self.compile(x.shape, x.dtype, steps, reordering=reordering), x, job)

    def execute(self, call: CompiledCall, x: Array, job: Job | None = None, output: Array | None = None) -> Result:
        """Run a call.

        Args:
            call: compiled for inputs like `x`.
            x: (N, C, *spatial).
            job: the request's deadline and cancellation; None has neither.
            output: (N, M, *spatial), any strides, to be filled; None allocates it.

        Raises:
            DeadlineExceededError, CancelledError, UnavailableError: from the executor.
        """
        self.count(1)
        if not len(x):
            empty = np.empty(call.output_shape, call.output_dtype) if output is None else output
            return Result(empty, Report(empty_plan(call.problems), ()))
        return self.run(call, x, job, output)

    def run(self, call: CompiledCall, x: Array, job: Job | None = None, output: Array | None = None) -> Result:
        """As `execute`, without counting a request: the call is a part of one, or joins several. N is at least 1."""
        start, job = time.perf_counter(), job or Job()
        workers = self.executor.workers() or self.executor.wait(job.deadline)
        at_most = len(workers)
        if at_most > 1 and (gpu := device_of(x, output)) is not None:  # arrays on a GPU stay there: not cut
            workers, at_most = tuple(w for w in workers if self.executor.gpus[w].ordinal == gpu.ordinal), 1
        if len(workers) == 1:
            chains = self._plan(call, workers, 1).chains
        else:  # requests in flight share the workers: cutting one would make the others wait
            busy = max(self._running + 1, self._inside())
            chains = self.planner.rotated(self._plan(call, workers, max(1, at_most // busy)), workers)
            if busy == 1 and at_most > 1 and not call.cut:
                chains = self.planner.explore(chains, workers)
        return self.run_plan(chains, x, call, job, output, planning=time.perf_counter() - start)

    def _plan(self, call: CompiledCall, workers: tuple[str, ...], at_most: int) -> KnownPlan:
        """The plan of a call: the one it keeps, unless the measurements that it rests on have changed."""
        plan = call.plans.get((workers, at_most))
        if plan is not None and plan.version == self.planner.statistics.version:
            for history, changes in plan.rests_on:
                if history.changes != changes:
                    break
            else:
                return plan
        plan = self.planner.known(call.problems, workers, reordering=call.reordering, at_most=at_most, cut=call.cut)
        call.keep(workers, at_most, plan)
        return plan

    def run_plan(
        self,
        chains: Sequence[PlannedChain],
        x: Array,
        call: CompiledCall,
        job: Job | None = None,
        output: Array | None = None,
        *,
        planning: float = 0.0,
    ) -> Result:
        """Run a call as a plan cuts it.

        Args:
            chains: the plan, for workers that are present.
            x: (N, C, *spatial).
            call: compiled for inputs like `x`.
            job: as of `execute`.
            output: (N, M, *spatial), any strides, to be filled; None allocates it.
            planning: seconds that the plan took, for the report.
        """
        begun, job = time.perf_counter(), job or Job()
        timeline: list[Times] = []
        shards: list[Sequence[ShardReport]] = []
        phases = {"plan": planning, "execute": 0.0, "merge": 0.0}
        with self._count:
            self._running += 1
            alone = self._running == 1
        try:
            for chain in chains:
                start = time.perf_counter()
                parts = len(chain.workers)
                if parts > 1:
                    self.executor.expect(parts)
                dispatched_chain = call.dispatch(chain, x, output if chain is chains[-1] else None)
                dispatched = time.perf_counter()
                ran = self.executor.run(dispatched_chain.tasks, job=job, among=max(self._running, self._inside()))
                executed = merged = time.perf_counter()
                if dispatched_chain.sums is not None:
                    with job:
                        dispatched_chain.sums.add()
                    merged = time.perf_counter()
                phases["execute"] += executed - start
                phases["merge"] += merged - executed
                if alone and self._running == 1:  # else another request's shards ran in between
                    chain.history.observe(chain.cut, merged - start, chain.prediction.seconds)
                    if parts > 1:
                        measured = [sum(r.compute_seconds for r in shard) for shard in ran]
                        predicted = map(sum, chain.prediction.compute)
                        self.planner.statistics.observe_workers(chain.workers, predicted, measured)
                shards += ran
                timeline.append(Times(start, dispatched, executed, merged, ran))
                x = dispatched_chain.output
        finally:
            with self._count:
                self._running -= 1
        self.metrics.shards.ran(shards, phases)
        if (request := current.get()) is not None and request.traced:
            self.traces.chains(begun - planning, begun, timeline)
        return LazyResult(x, chains, timeline, phases)

    def plan(
        self,
        shape: Sequence[int],
        dtype: np.dtype,
        steps: Sequence[Step],
        *,
        reordering: bool = False,
        cut: str = "",
    ) -> Plan:
        """The plan that `compile` and `execute` would follow.

        Args:
            shape: (N, C, *spatial).
            dtype: of the input.
            steps: kernels are arrays, or `steps.Shaped`.
            reordering: as of `compile`.
            cut: as of `compile`.

        Raises:
            InvalidArgumentError, ResourceExhaustedError: as of `compile`.
        """
        problems = checked_problems(self.limits, shape, dtype, steps)
        self.limits.check_answer(problems[-1])
        if not problems[-1].geometry.batch:
            return empty_plan(problems)
        return request_plan(self.planner.plan(tuple(problems), self.workers(), reordering=reordering, cut=cut))

    def workers(self, deadline: float | None = None) -> tuple[str, ...]:
        """The present workers. Without one it waits for the first that returns."""
        return self.executor.workers() or self.executor.wait(deadline)
