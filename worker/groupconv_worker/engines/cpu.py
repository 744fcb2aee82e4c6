"""The cpu engine: a portfolio of algorithms over NumPy arrays."""

import platform
from contextlib import AbstractContextManager

import numpy as np
import scipy.special
from threadpoolctl import threadpool_limits

from groupconv_worker.algorithms.gemm import Gemm
from groupconv_worker.engines.base import Array, Prepared, Problem


class CpuEngine:
    """Runs every convolution on the CPU within a budget of threads.

    Args:
        threads: how many threads the libraries below may use together.
    """

    name = "cpu"

    def __init__(self, *, threads: int = 1) -> None:
        self.threads = threads
        self.algorithms = (Gemm(np, scipy.special.erf),)
        # NumPy's BLAS would take every core for itself, in each worker
        self._blas: AbstractContextManager[object] = threadpool_limits(limits=threads, user_api="blas")

    def device(self) -> str:
        """The processor and the budget."""
        return f"cpu: {platform.processor() or platform.machine()}, {self.threads} threads"

    def prepare(
        self, problem: Problem, weight: Array, bias: Array | None = None, *, resident: bool = False
    ) -> Prepared:
        """The first algorithm that supports the problem takes the weights."""
        algorithm = next(a for a in self.algorithms if a.supports(problem))
        return algorithm.prepare(problem, weight, bias, resident=resident)

    def close(self) -> None:
        """Nothing is held."""
