"""The cpu engine: a portfolio of algorithms over NumPy arrays.

A one-shot kernel gets the algorithm a heuristic names. A resident one gets the fastest of the candidates, measured on
its own shape. The heuristic's rules were fitted to the measurements in docs/performance.md.

Requests wait for neither a compiler nor a measurement (`forms.deferred`): they get what is compiled, and what would
have been better is prepared by another process (compiler.py).
"""

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from groupconv_worker.activity import Activity
from groupconv_worker.contract import Algorithm, Array, Prepared, Problem
from groupconv_worker.cpu.algorithms.cells import Cells
from groupconv_worker.cpu.algorithms.direct import Direct
from groupconv_worker.cpu.algorithms.fft import Fft
from groupconv_worker.cpu.algorithms.gemm import Gemm
from groupconv_worker.cpu.algorithms.grouped import Grouped, blocks, fold
from groupconv_worker.cpu.algorithms.onnx import OnnxRuntime
from groupconv_worker.cpu.algorithms.plane import Plane, phases, zero_padded
from groupconv_worker.cpu.algorithms.separable import Separable
from groupconv_worker.cpu.algorithms.winograd import Winograd
from groupconv_worker.cpu.compiler import COMPILER
from groupconv_worker.cpu.compiler_tasks import KernelTask, TaskResult
from groupconv_worker.cpu.kernels import simd
from groupconv_worker.cpu.kernels.forms import Form, NotCompiledError, is_deferred
from groupconv_worker.cpu.kernels.target import is_restricted
from groupconv_worker.cpu.processor import machine, processor
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.improvement import Improvement, InterimKernel
from groupconv_worker.pieces import erf
from groupconv_worker.resident import of_one_sample
from groupconv_worker.taps import padding_dominates
from groupconv_worker.tuning import autotune

THIN = 16
"""Filters per group up to which lanes along a row beat lanes over filters."""
NARROW = simd.WIDTH == 32
"""Whether kernels have 16 registers, of which few are left to use a loaded vector again."""
RAW_CHANNELS, RAW_CELLS = (128, math.inf) if NARROW else (math.inf, 1024)
"""Channels and output cells up to which a one-shot pointwise kernel is read as it lies: with more cells, packing its
filters first costs little and saves more."""
FEW_CELLS = 32
"""Output cells below which packing a one-shot kernel's filters costs more than it saves."""
MANY_CELLS = 150
"""Output cells from which Winograd saves one-shot kernels more than transforming filters costs."""
AT_ONCE = 8
"""Runs that share the threads, at most: more would take caches and interpreter from one another."""
PROBLEMS = 512
"""Problems of which it is remembered what the rules say: working it out takes a tenth of a small one-shot kernel."""
TUNED_MACS = 100_000
"""Multiply-adds below which every algorithm is quick and measuring is not worth it."""


class CpuEngine:
    """Runs every convolution on the CPU within a budget of threads.

    Args:
        threads: how many threads all libraries below may use together.
        tuning: the file of remembered choices; by default in the user's cache directory.
        activity: of a process whose shards must not run while candidates are measured.

    Raises:
        InvalidArgumentError: the variable of tuning is neither on nor off.
    """

    name = "cpu"
    gpu = None

    def __init__(self, *, threads: int = 1, tuning: Path | None = None, activity: Activity | None = None) -> None:
        autotune.enabled()  # a wrong variable is told at the start, not to the first caller
        self.threads, self.at_once = threads, min(threads, AT_ONCE)
        self.team, buffers = Team(threads), BufferPool()
        self.gemm = Gemm(np, erf, team=self.team)
        self.onnx = OnnxRuntime(self.team)
        self.grouped, self.direct = Grouped(self.team, buffers), Direct(self.team, buffers)
        self.cells = Cells(self.team, buffers)
        self.separable, self.fft = Separable(self.team, buffers), Fft(self.team)
        self.winograd = Winograd(self.team, buffers)
        self._rules = functools.lru_cache(PROBLEMS)(self._by_rules)
        self.tuner = autotune.Tuner(threads, tuning or autotune.default_path(), machine(), activity)
        # NumPy's BLAS would take every core for itself, in each worker, and spin on it for 25 ms after each product
        self._blas: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")

    def device(self) -> str:
        """The processor and the budget."""
        return f"cpu: {processor()}, {self.threads} thread{'s' * (self.threads != 1)}"

    def prepare(
        self, problem: Problem, weight: Array, bias: Array | None = None, *, resident: bool = False
    ) -> Prepared:
        """Large rank-1 kernels by their factors; else the heuristic's choice, or for resident kernels the fastest.

        What wants compiled code that is not to be had (cpu/kernels/forms.py) gets a general algorithm.
        """
        factored = self.separable.supports(problem) and self.separable.accepts(problem, weight)
        measured = not factored and resident and autotune.enabled() and _macs(problem) >= TUNED_MACS
        if measured and not is_deferred():
            candidates: dict[str, Callable[[], Prepared]] = {
                a.name: functools.partial(a.prepare, problem, weight, bias, resident=True)
                for a in self.candidates(problem)
            }
            return self.tuner.choose(problem, candidates)
        name, sure = self.tuner.known(problem) if measured else (None, True)
        algorithm = (
            self.separable
            if factored
            else self.named(problem, name)
            if name
            else self.heuristic(problem, resident=resident)
        )
        try:
            prepared = algorithm.prepare(problem, weight, bias, resident=resident)
        except NotCompiledError as missing:
            prepared = self._general(problem).prepare(problem, weight, bias, resident=resident)
            better = self._compile(problem, algorithm, missing.form, resident=resident)
        else:
            better = None if sure else self._tune(problem)
        return prepared if better is None else InterimKernel(prepared, better)

    def named(self, problem: Problem, name: str) -> Algorithm:
        """The algorithm of this name; the heuristic's if there is none for the problem."""
        algorithms = [self.separable, self.heuristic(problem, resident=False), *self.candidates(problem)]
        return next((a for a in algorithms if a.name == name), self.heuristic(problem, resident=True))

    def _general(self, problem: Problem) -> Algorithm:
        """The best of those that need nothing compiled."""
        return next((a for a in (self.fft, self.onnx) if a.supports(problem)), self.gemm)

    def _compile(
        self, problem: Problem, algorithm: Algorithm, form: Form | None, *, resident: bool
    ) -> Improvement | None:
        """Have what an algorithm needs compiled: for a layer's kernel at once, else from the second time on."""
        if form is None:
            return None
        task = KernelTask(of_one_sample(problem), self.threads, algorithm.name, resident)
        return COMPILER.submit(task, form=form, now=resident)

    def _tune(self, problem: Problem) -> Improvement | None:
        """Have the candidates for a layer's kernel measured."""
        task = KernelTask(of_one_sample(problem), self.threads, None, resident=True)

        def learn(result: TaskResult) -> None:
            self.tuner.learn(problem, result.algorithm, sure=result.undisturbed)

        return COMPILER.submit(task, learn, now=True)

    def heuristic(self, problem: Problem, *, resident: bool) -> Algorithm:
        """The algorithm for a kernel that nothing was measured for."""
        return self._rules(problem, resident)

    def _by_rules(self, problem: Problem, resident: bool) -> Algorithm:
        kernel_phases = () if padding_dominates(problem.geometry) else phases(zero_padded(problem.geometry))
        plane = kernel_phases[0].plane if kernel_phases else None
        if self.fft.supports(problem):
            return self.fft
        if plane and plane.filters <= THIN and self.grouped.supports(problem):
            return self.grouped
        pointwise = bool(plane and plane.kernel == (1, 1)) and not problem.geometry.transposed
        cells = math.prod(problem.geometry.output)
        if self.winograd.supports(problem) and (resident or (cells >= MANY_CELLS and self.winograd.pays_once(problem))):
            return self.winograd
        if not resident and self.cells.supports(problem):
            return self.cells
        few = not resident and cells < FEW_CELLS
        if plane and pointwise and not (resident or few) and self._reads_them_raw(problem, plane):
            return self.grouped
        if self.onnx.supports(problem) and (resident or few or not plane):
            return self.onnx
        accumulate = problem.types.accumulate
        # the products of BLAS are faster than ours there
        product = pointwise and (accumulate != np.float32 or (NARROW and self.threads == 1))
        blas = accumulate.kind == "f" and (product or few)
        return self.direct if plane and not blas and self.direct.supports(problem) else self.gemm

    def _reads_them_raw(self, problem: Problem, plane: Plane) -> bool:
        """Whether a one-shot pointwise kernel is best left unpacked, in blocks of several filters."""
        several = blocks(fold(plane), simd.lanes(4))[0][0] > 2
        few = plane.channels <= RAW_CHANNELS and math.prod(plane.output) <= RAW_CELLS
        return several and few and problem.types.accumulate == np.float32 and self.grouped.supports(problem)

    def candidates(self, problem: Problem) -> list[Algorithm]:
        """The algorithms worth timing, the heuristic's first."""
        kernel_phases = () if padding_dominates(problem.geometry) else phases(zero_padded(problem.geometry))
        first = self.heuristic(problem, resident=True)
        others: list[Algorithm] = [self.heuristic(problem, resident=False), self.winograd, self.onnx, self.fft]
        if kernel_phases:
            plane = fold(kernel_phases[0].plane)
            others += self._grouped(plane)
            if plane.channels > 1:
                others.append(self.direct)
            if plane.kernel == (1, 1):
                others.append(self.gemm)
        named = {a.name: a for a in [first, *others] if a.supports(problem)}
        if is_restricted() and len(named) > 1:  # its kernels use all instructions of the machine
            named.pop(self.onnx.name, None)
        return list(named.values())

    def _grouped(self, plane: Plane) -> list[Algorithm]:
        """The row kernel in several blocks, where groups are thin or pointwise."""
        if plane.filters > 4 * THIN and plane.kernel != (1, 1):
            return []
        lanes = simd.lanes(4)
        return [self.grouped, *(Grouped(self.team, self.grouped.buffers, b) for b in blocks(plane, lanes)[1:])]

    def close(self) -> None:
        """End the team's threads."""
        self.team.close()


def _macs(problem: Problem) -> int:
    """Multiply-adds of one sample."""
    g = problem.geometry
    per_output = math.prod(g.weight_shape[1:]) if not g.transposed else g.in_channels // g.groups
    return g.out_channels * math.prod(g.output) * per_output
