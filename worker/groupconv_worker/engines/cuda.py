"""The cuda engine: convolutions on one GPU through CuPy."""

from typing import Any

from groupconv_worker.algorithms.gemm import Gemm
from groupconv_worker.engines.base import Array, Prepared, Problem


def why_unavailable() -> str:
    """Why this engine cannot run here, in one line; empty if it can."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed (pip install 'groupconv[cuda12]' or 'groupconv[cuda13]')"
    if not cupy.cuda.is_available():
        return "CuPy finds no CUDA device or driver on this machine"
    return ""


class CudaEngine:
    """Runs every convolution on the current CUDA device.

    Args:
        threads: CPU threads for what surrounds the kernels.
    """

    name = "cuda"

    def __init__(self, *, threads: int = 1) -> None:
        import cupy
        import cupyx.scipy.special

        self.threads = threads
        self._cupy: Any = cupy
        self._gemm = Gemm(cupy, cupyx.scipy.special.erf)

    def device(self) -> str:
        """Name and memory of the device."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._cupy.cuda.Device().id)
        memory = properties["totalGlobalMem"] / 2**30
        return f"cuda: {properties['name'].decode()}, {memory:.0f} GiB"

    def prepare(
        self, problem: Problem, weight: Array, bias: Array | None = None, *, resident: bool = False
    ) -> Prepared:
        """Send the weights to the device."""
        return _OnDevice(self._cupy, self._gemm.prepare(problem, weight, bias, resident=resident))

    def close(self) -> None:
        """Give the pooled device memory back."""
        self._cupy.get_default_memory_pool().free_all_blocks()


class _OnDevice:
    """Brings arrays of the host to the device and back."""

    def __init__(self, cupy: Any, prepared: Prepared) -> None:
        self._cupy, self._prepared = cupy, prepared
        self.algorithm = prepared.algorithm

    def run(self, x: Array, out: Array) -> None:
        on_device = self._cupy.empty(out.shape, dtype=out.dtype)
        self._prepared.run(self._cupy.asarray(x), on_device)
        out[...] = self._cupy.asnumpy(on_device)
