"""The cuda engine: a portfolio of algorithms on one GPU, through CuPy.

CuPy is imported here, when an engine is made, and handed on: no other module names it.
"""

import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np

from groupconv.convolution.spec import Math
from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cuda.algorithms.base import DeviceKernel, UnsupportedProblemError
from groupconv_worker.cuda.algorithms.cudnn import Cudnn
from groupconv_worker.cuda.algorithms.depthwise import Depthwise
from groupconv_worker.cuda.algorithms.direct import Direct
from groupconv_worker.cuda.algorithms.fft import Fft
from groupconv_worker.cuda.algorithms.gemm import Gemm
from groupconv_worker.cuda.algorithms.grouped import Grouped
from groupconv_worker.cuda.algorithms.separable import Separable
from groupconv_worker.cuda.algorithms.stencil import Stencil
from groupconv_worker.cuda.chain import ChainedKernel
from groupconv_worker.cuda.choice import Choice, Choices, by_rule, kind_of, time_on_device, version_of
from groupconv_worker.cuda.chunks import chunk_problem
from groupconv_worker.cuda.device import Device, device_types
from groupconv_worker.cuda.ipc import DeviceMemory, find_device
from groupconv_worker.cuda.options import CudaOptions
from groupconv_worker.cuda.prepared import CudaPrepared
from groupconv_worker.tuning.autotune import enabled

ALGORITHMS: tuple[type[DeviceKernel], ...] = (Direct, Gemm, Depthwise, Stencil, Grouped, Fft, Separable, Cudnn)

AT_ONCE = 4
"""Runs at a time: while one computes, the inputs of others arrive and their outputs leave."""


def why_unavailable() -> str:
    """The reason why this engine cannot run on this machine, in one line; empty if it can."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed (pip install 'groupconv[cuda12]' or 'groupconv[cuda13]')"
    if not cupy.cuda.is_available():
        return "CuPy finds no CUDA device or driver on this machine"
    return ""


def count_devices() -> int:
    """GPUs of this process; 0 where this engine cannot run."""
    if why_unavailable():
        return 0
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


def open_memory(handle: bytes, device: int, size: int) -> DeviceMemory:
    """Device memory that another process shares (see `DeviceMemory`)."""
    import cupy

    return DeviceMemory(cupy, handle, device, size)


def device_with(uuid: bytes) -> int | None:
    """The ordinal of a device of this process (see `find_device`)."""
    import cupy

    return find_device(cupy, uuid)


def with_math(problem: Problem, default: Math) -> Problem:
    """The problem with the precision of its products: its own or the default; float32 where nothing may be rounded.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> f32 = types_of(np.dtype("float32"), np.dtype("float32"))
        >>> g = resolve(ConvSpec(exact=True), (1, 2, 4), (2, 2, 3))
        >>> with_math(Problem(g, f32), "tf32").geometry.math
        'float32'
    """
    g = problem.geometry
    may_round = not g.exact and device_types(problem.types).input == np.float32
    math: Math = (g.math or default) if may_round else "float32"
    return problem if g.math == math else replace(problem, geometry=replace(g, math=math))


class CudaEngine:
    """Runs every convolution on the current CUDA device.

    Args:
        threads: CPU threads; copies are the only work of the CPU.
        options: memory, precision, determinism; by default those of the environment.
        tuning: the file of measured choices; None keeps them for the life of the engine only.
        device: the number of the GPU in this process. Numbers beyond the last GPU begin anew.
    """

    name = "cuda"

    def __init__(
        self, *, threads: int = 1, options: CudaOptions | None = None, tuning: Path | None = None, device: int = 0
    ) -> None:
        import cupy

        self.threads, self.at_once = threads, min(threads, AT_ONCE)
        options, device = options or CudaOptions.from_environ(os.environ), device % cupy.cuda.runtime.getDeviceCount()
        self.gpu = self._device = Device(cupy, options, threads, device)
        self._algorithms = {kind.algorithm: kind for kind in ALGORITHMS if kind.available(self._device)}
        cudnn = self._device.cudnn.version() if self._device.cudnn else ""
        version = version_of(cupy, self._device, cudnn)
        self._choices = Choices(tuning, version)  # under `_tuning`
        self._tuning = Lock()  # one at a time: two would measure each other
        only = self._device.options.algorithm
        if only and only not in self._algorithms:
            raise InvalidArgumentError("cuda.algorithm", f"one of {', '.join(self._algorithms)}", only)

    def device(self) -> str:
        """Name and memory of the device."""
        return self._device.describe()

    def prepare(
        self, problem: Problem, weight: Array, bias: Array | None = None, *, resident: bool = False
    ) -> Prepared:
        """Send the weights to the device, in the layout of the algorithm chosen.

        Raises:
            ResourceExhaustedError: the weights do not fit the device's memory.
            DeviceLostError: the device failed; the process must be replaced.
        """
        problem = with_math(problem, self._device.options.math)
        # host arrays come in chunks, so a chunk is what the algorithm computes
        chunk = chunk_problem(problem, self._device.options.chunk)
        while True:
            try:
                with self._device.streams():
                    kernel = self._choose(chunk, weight, bias, resident=resident)
                return CudaPrepared(self._device, ChainedKernel.of(kernel, problem))
            except self._device.cupy.cuda.memory.OutOfMemoryError as error:
                if not self._device.make_room():
                    needed = weight.size * problem.types.accumulate.itemsize
                    reason = f"cuda: the weights need {needed} bytes of device memory: {error}"
                    raise ResourceExhaustedError(reason) from error

    def kernel(
        self, problem: Problem, weight: Array, bias: Array | None = None, *, resident: bool = False
    ) -> DeviceKernel:
        """The algorithm that is chosen for a problem, with its weights on the device, for a caller who launches it.

        It is called inside `gpu.streams()`, where CuPy's out-of-memory error may be raised.
        """
        return self._choose(with_math(problem, self._device.options.math), weight, bias, resident=resident)

    def close(self) -> None:
        """Free device and pinned memory."""
        self._device.close()

    def _choose(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> DeviceKernel:
        candidates = self._candidates(problem)
        measuring = resident and enabled() and not self._device.options.deterministic
        if measuring and len(candidates) > 1:
            return self._fastest(candidates, problem, weight, bias)
        return self._first(candidates, problem, weight, bias)

    def _candidates(self, problem: Problem) -> list[type[DeviceKernel]]:
        """Algorithms that support the problem, in order of preference."""
        options = self._device.options
        names = [options.algorithm] if options.algorithm else by_rule(problem)
        kinds = [kind for name in names if (kind := self._algorithms.get(name)) and kind.supports(problem)]
        if problem.geometry.exact:
            kinds = [kind for kind in kinds if kind.sums_products]
        if options.deterministic and not options.algorithm:
            kinds = [kind for kind in kinds if not kind.by_library]
        if kinds or Direct.supports(problem):
            return kinds or [Direct]
        raise InvalidArgumentError("input.shape", "padded extents below 2^31", problem.geometry.input)

    def _first(
        self, candidates: list[type[DeviceKernel]], problem: Problem, weight: Array, bias: Array | None
    ) -> DeviceKernel:
        """The first candidate that does not refuse."""
        for algorithm in candidates:
            with suppress(UnsupportedProblemError):
                return algorithm(self._device, problem, weight, bias)
        return Direct(self._device, problem, weight, bias)

    def _fastest(
        self, candidates: list[type[DeviceKernel]], problem: Problem, weight: Array, bias: Array | None
    ) -> DeviceKernel:
        """The candidate with the least time on the device, remembered for the problem."""
        with self._tuning:
            if (known := self._known(candidates, problem, weight, bias)) is not None:
                return known
            with self._choices.file.alone():  # another process may use the same device
                known = self._known(candidates, problem, weight, bias)  # and have measured meanwhile
                return known or self._measured(candidates, problem, weight, bias)

    def _measured(
        self, candidates: list[type[DeviceKernel]], problem: Problem, weight: Array, bias: Array | None
    ) -> DeviceKernel:
        best: tuple[float, DeviceKernel] | None = None
        for algorithm in candidates:
            try:
                kernel = algorithm(self._device, problem, weight, bias)
            except UnsupportedProblemError:
                continue
            try:
                took = kernel.tune(partial(time_on_device, self._device, kernel, problem))
            except self._device.cupy.cuda.memory.OutOfMemoryError:
                continue  # it may still run in smaller chunks, but is not the fastest
            if best is None or took < best[0]:
                best = took, kernel
        if best is None:
            return self._first(candidates, problem, weight, bias)
        kind = kind_of(candidates, problem, weight, bias)
        self._choices.add(problem, kind, Choice(best[1].algorithm, best[1].variant()))
        return best[1]

    def _known(
        self, candidates: list[type[DeviceKernel]], problem: Problem, weight: Array, bias: Array | None
    ) -> DeviceKernel | None:
        """The candidate that was the fastest when the problem was measured; None if it was not, or cannot be used."""
        choice = self._choices.find(problem, kind_of(candidates, problem, weight, bias))
        for algorithm in candidates:
            if choice is not None and algorithm.algorithm == choice.algorithm:
                with suppress(UnsupportedProblemError):
                    kernel = algorithm(self._device, problem, weight, bias)
                    kernel.take(choice.variant)
                    return kernel
        return None
