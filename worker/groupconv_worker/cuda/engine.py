"""The cuda engine: a portfolio of algorithms on one GPU, through CuPy.

CuPy is imported here, when an engine is made, and handed on: no other module names it.
"""

import logging
import os
from functools import partial
from importlib import import_module
from threading import Lock

from cachetools import LRUCache

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv_worker.autotune import enabled
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cuda.algorithms.cudnn import Cudnn, CudnnKernel
from groupconv_worker.cuda.algorithms.depthwise import Depthwise
from groupconv_worker.cuda.algorithms.direct import CudaDirect
from groupconv_worker.cuda.algorithms.fft import CudaFft
from groupconv_worker.cuda.algorithms.gemm import CudaGemm
from groupconv_worker.cuda.algorithms.grouped import CudaGrouped
from groupconv_worker.cuda.algorithms.separable import CudaSeparable
from groupconv_worker.cuda.algorithms.stencil import Stencil
from groupconv_worker.cuda.choice import by_rule, time_on_device
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.ipc import DeviceMemory, find_device
from groupconv_worker.cuda.kernel import CudaAlgorithm, DeviceKernel
from groupconv_worker.cuda.options import CudaOptions
from groupconv_worker.cuda.run import OnDevice
from groupconv_worker.cuda.transfer import of_a_piece

AT_ONCE = 4
"""Runs at a time: while one computes, the inputs of others arrive and their outputs leave."""

TUNED = 4096
"""Problems whose fastest algorithm is remembered."""
TRANSFORMS = {"fft", "separable"}
"""Algorithms that do not sum an output's own products: not for a convolution that is to be exact."""

log = logging.getLogger(__name__)


def why_unavailable() -> str:
    """Why this engine cannot run here, in one line; empty if it can."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed (pip install 'groupconv[cuda12]' or 'groupconv[cuda13]')"
    if not cupy.cuda.is_available():
        return "CuPy finds no CUDA device or driver on this machine"
    return ""


def open_memory(handle: bytes, device: int, size: int) -> DeviceMemory:
    """Device memory that another process shares (see `DeviceMemory`)."""
    import cupy

    return DeviceMemory(cupy, handle, device, size)


def device_with(uuid: bytes) -> int | None:
    """The ordinal of a device of this process (see `find_device`)."""
    import cupy

    return find_device(cupy, uuid)


class CudaEngine:
    """Runs every convolution on the current CUDA device.

    Args:
        threads: CPU threads; copies are the only work of the CPU.
        options: memory, precision, determinism; by default those of the environment.
    """

    name = "cuda"

    def __init__(self, *, threads: int = 1, options: CudaOptions | None = None) -> None:
        import cupy

        self.threads, self.at_once = threads, min(threads, AT_ONCE)
        self.gpu = self._device = Device(cupy, options or CudaOptions.from_environ(os.environ), threads)
        kinds = (CudaDirect, CudaGemm, Depthwise, Stencil, CudaGrouped, CudaFft, CudaSeparable)
        made: list[CudaAlgorithm] = [kind(self._device) for kind in kinds]
        if cudnn := _cudnn(self._device):
            made.append(cudnn)
        self._algorithms = {algorithm.name: algorithm for algorithm in made}
        self._tuned: LRUCache[Problem, str] = LRUCache(TUNED)  # under `_tuning`
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
        # host arrays come in pieces, so that is what the algorithm meets
        piece = of_a_piece(problem, self._device.options.chunk)
        while True:
            try:
                with self._device.lane():
                    kernel = self._choose(piece, weight, bias, resident=resident)
                return OnDevice(self._device, kernel, problem)
            except self._device.cupy.cuda.memory.OutOfMemoryError as error:
                if not self._device.make_room():
                    needed = weight.size * problem.types.accumulate.itemsize
                    reason = f"cuda: the weights need {needed} bytes of device memory: {error}"
                    raise ResourceExhaustedError(reason) from error

    def close(self) -> None:
        """Give device and pinned memory back."""
        self._device.close()

    def _choose(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> DeviceKernel:
        candidates = self._candidates(problem, weight)
        measuring = resident and enabled() and not self._device.options.deterministic
        if measuring and len(candidates) > 1:
            return self._fastest(candidates, problem, weight, bias)
        return self._first(candidates, problem, weight, bias)

    def _candidates(self, problem: Problem, weight: Array) -> list[CudaAlgorithm]:
        """What can take the problem, in order of preference; "direct" is always among them."""
        options = self._device.options
        names = [options.algorithm] if options.algorithm else by_rule(problem, deterministic=options.deterministic)
        if problem.geometry.exact:
            rounded = {"gemm", "cudnn"} if options.math != "float32" else set()
            names = [name for name in names if name not in TRANSFORMS | rounded]
        found = [self._algorithms[name] for name in names if name in self._algorithms]
        found = [
            a for a in found if a.supports(problem) and (not isinstance(a, CudaSeparable) or a.accepts(problem, weight))
        ]
        if not found and not (found := [a for a in (self._algorithms["direct"],) if a.supports(problem)]):
            raise InvalidArgumentError("input.shape", "padded extents below 2^31", problem.geometry.input)
        return found

    def _first(
        self, candidates: list[CudaAlgorithm], problem: Problem, weight: Array, bias: Array | None
    ) -> DeviceKernel:
        """The first candidate that does not refuse; cuDNN may only find out now."""
        for algorithm in candidates:
            if (kernel := self._prepare(algorithm, problem, weight, bias)) is not None:
                return kernel
        return self._algorithms["direct"].prepare(problem, weight, bias)

    def _fastest(
        self, candidates: list[CudaAlgorithm], problem: Problem, weight: Array, bias: Array | None
    ) -> DeviceKernel:
        """The candidate with the least time on the device, remembered for the problem."""
        with self._tuning:
            if (name := self._tuned.get(problem)) is not None:
                known = [a for a in candidates if a.name == name]
                return self._first(known or candidates, problem, weight, bias)
            best: tuple[float, DeviceKernel] | None = None
            for algorithm in candidates:
                if (kernel := self._prepare(algorithm, problem, weight, bias)) is None:
                    continue
                measure = partial(time_on_device, self._device, kernel, problem)
                try:
                    took = kernel.tune(measure) if isinstance(kernel, CudnnKernel) else measure()
                except self._device.cupy.cuda.memory.OutOfMemoryError:
                    continue  # it may still run in pieces, but not by being the fastest
                if best is None or took < best[0]:
                    best = took, kernel
            if best is None:
                return self._first(candidates, problem, weight, bias)
            self._tuned[problem] = best[1].algorithm
            return best[1]

    @staticmethod
    def _prepare(algorithm: CudaAlgorithm, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel | None:
        """None if cuDNN has no engine for the problem."""
        if not isinstance(algorithm, Cudnn):
            return algorithm.prepare(problem, weight, bias)
        try:
            return algorithm.prepare(problem, weight, bias)
        except algorithm.cudnn.cudnnGraphNotSupportedError:
            return None


def _cudnn(device: Device) -> Cudnn | None:
    """cuDNN, if the frontend is installed and finds its library."""
    try:
        return Cudnn(device, import_module("cudnn"))
    except ImportError:
        return None
    except (OSError, RuntimeError) as error:
        log.warning("the cudnn frontend is installed but unusable: %s", error)
        return None
