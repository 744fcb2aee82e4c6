"""The coordinator: plan, dispatch, merge. It knows neither gRPC nor Ray.

Merging costs nothing here: one output is allocated for a step, every shard gets its slice of it, and the executor
makes each result land there.
"""

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groupconv.dtypes import Types, types_of
from groupconv.errors import InvalidArgumentError, UnavailableError
from groupconv.geometry import Geometry
from groupconv.plan import Plan, Report, ShardReport
from groupconv.requests import Result, Step, geometries
from groupconv.spec import ConvSpec
from groupconv_server.executors.base import Executor, Task
from groupconv_server.limits import Limits
from groupconv_server.planner import PlannedStep, plan_step
from groupconv_worker.engines.base import Array, Problem


class Coordinator:
    """Cuts convolutions into shards, has them run, and puts the results together.

    Args:
        executor: brings shards to workers.
        limits: of a request.
    """

    def __init__(self, executor: Executor, limits: Limits | None = None) -> None:
        self.executor, self.limits = executor, limits or Limits()
        self.started = time.monotonic()
        self.requests = 0
        self._count = threading.Lock()
        self._turn = itertools.count()

    def convolve(self, x: Array, steps: Sequence[Step], *, deadline: float | None = None) -> Result:
        """Run `steps` one after another on `x`.

        Args:
            x: (N, C, *spatial).
            steps: at least one, with arrays.
            deadline: on the clock of time.monotonic().

        Raises:
            InvalidArgumentError: naming the field at fault.
            ResourceExhaustedError: a step over a limit.
            DeadlineExceededError, UnavailableError: from the executor.
        """
        with self._count:
            self.requests += 1
        clock = _Clock()
        kernels = [s.kernel for s in steps]
        biases = [s.bias for s in steps]
        problems = self._problems(x.shape, x.dtype, [s.spec for s in steps], kernels, biases)
        planned = self._plan(problems)
        clock.phase("plan")
        reports: list[tuple[ShardReport, ...]] = []
        for step, problem, one in zip(steps, problems, planned, strict=True):
            y = np.empty(problem.geometry.output_shape, dtype=problem.types.output)
            tasks = list(_tasks(one, x, step, y))
            reports.append(tuple(self.executor.run(tasks, deadline=deadline)))
            x = y
        clock.phase("execute")
        return Result(x, Report(Plan(tuple(p.plan for p in planned)), tuple(reports), clock.phases))

    def plan(
        self,
        shape: Sequence[int],
        dtype: np.dtype,
        specs: Sequence[ConvSpec],
        kernels: Sequence[tuple[Sequence[int], np.dtype]],
    ) -> Plan:
        """The plan `convolve` would follow for an input (N, C, *spatial) and kernels of these shapes and dtypes.

        Raises:
            InvalidArgumentError, ResourceExhaustedError: as `convolve`.
        """
        kinds = [_Shaped(tuple(s), d) for s, d in kernels]
        problems = self._problems(shape, dtype, specs, kinds, [None] * len(kinds))
        return Plan(tuple(p.plan for p in self._plan(problems)))

    def _problems(
        self,
        shape: Sequence[int],
        dtype: np.dtype,
        specs: Sequence[ConvSpec],
        kernels: Sequence["Array | _Shaped"],
        biases: Sequence[Array | None],
    ) -> list[Problem]:
        """Every step checked, shapes, dtypes and limits, before the first is run."""
        if not 1 <= len(specs) <= self.limits.steps:
            raise InvalidArgumentError("steps", f"1 to {self.limits.steps} steps", len(specs))
        problems = []
        for i, g in enumerate(geometries(specs, shape, [k.shape for k in kernels])):
            types = _types(i, dtype, kernels[i].dtype, biases[i], g)
            problem = Problem(g, types)
            self.limits.check(problem, f"steps[{i}]")
            problems.append(problem)
            dtype = types.output
        self.limits.check_answer(problems[-1])
        return problems

    def _plan(self, problems: Sequence[Problem]) -> list[PlannedStep]:
        workers = self.executor.workers()
        if not workers:
            raise UnavailableError("no worker is there to run this; try again when one has joined")
        # requests begin with another worker each, so small ones spread
        first = next(self._turn) % len(workers)
        workers = workers[first:] + workers[:first]
        return [plan_step(problem, workers) for problem in problems]


def _tasks(planned: PlannedStep, x: Array, step: Step, y: Array) -> "itertools.chain[Task]":
    """Each shard with its slices: views, no copy."""
    return itertools.chain(
        Task(
            index=shard.index,
            worker=shard.worker,
            problem=problem,
            x=x[tuple(r.slice for r in shard.input)],
            weight=step.kernel[tuple(r.slice for r in shard.kernel)],
            bias=None if step.bias is None else step.bias[shard.output[1].slice],
            out=y[tuple(r.slice for r in shard.output)],
        )
        for shard, problem in zip(planned.plan.shards, planned.problems, strict=True)
    )


def _types(i: int, x: np.dtype, kernel: np.dtype, bias: Array | None, g: Geometry) -> Types:
    if bias is not None and bias.shape != (g.out_channels,):
        expected = f"[{g.out_channels}], the output channels"
        raise InvalidArgumentError(f"steps[{i}].bias.shape", expected, list(bias.shape))
    try:
        return types_of(x, kernel, None if bias is None else bias.dtype, g.activation)
    except InvalidArgumentError as error:
        if error.field.startswith("input"):
            raise
        raise error.within(f"steps[{i}].spec" if error.field == "activation" else f"steps[{i}]") from None


@dataclass(frozen=True)
class _Shaped:
    """Shape and dtype without elements: what planning needs of a kernel."""

    shape: tuple[int, ...]
    dtype: np.dtype


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._last = time.perf_counter()

    def phase(self, name: str) -> None:
        now = time.perf_counter()
        self.phases[name], self._last = now - self._last, now
