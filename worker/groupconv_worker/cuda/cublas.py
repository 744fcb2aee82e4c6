"""cuBLAS's batched product, with a workspace of its own.

A handle that several streams have used has no workspace for most of them, and computes a long sum of few results in one
part: in 152 µs instead of 30. CuPy cannot set a workspace. It also refuses every call of cuBLAS while a stream
captures, though cuBLAS itself can be captured (cuBLAS documentation, "CUDA Graphs support"). So the library that CuPy
has loaded is called through its C interface, with CuPy's handle.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np

WORKSPACE = 32 * 2**20
"""Bytes for a product that sums in several parts. Source: cuBLAS documentation, cublasSetWorkspace, for Hopper."""
LEAST_WORKSPACE = 256

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
_MATRIX = (_POINTER, _INT, _INT, _LONG)  # address, type, leading dimension, step
_ARGUMENTS = {
    "cublasSetStream_v2": (_POINTER, _POINTER),
    "cublasSetWorkspace_v2": (_POINTER, _POINTER, ctypes.c_size_t),
    "cublasGemmStridedBatchedEx": (
        *(_POINTER, *(_INT,) * 5, _POINTER),  # handle, transpositions, extents, alpha
        *(*_MATRIX, *_MATRIX, _POINTER, *_MATRIX),  # A, B, beta, C
        *(_INT, _INT, _INT),  # batch, how to compute, algorithm
    ),
}
"""Source: cublas_api.h."""

COMPUTE = {
    "float32": "CUBLAS_COMPUTE_32F",
    "tf32": "CUBLAS_COMPUTE_32F_FAST_TF32",
    "float16": "CUBLAS_COMPUTE_32F_FAST_16F",
    "bfloat16": "CUBLAS_COMPUTE_32F_FAST_16BF",
}
"""cuBLAS's names for `Geometry.math`."""

RUNTIME_TYPE = {"float16": "CUDA_R_16F", "bfloat16": "CUDA_R_16BF", "float32": "CUDA_R_32F", "float64": "CUDA_R_64F"}

Matrix = tuple[int, int, int]
"""Its address, its leading dimension, and elements from one of a batch to the next."""


class Product:
    """Products on the current stream. Products that follow one another share this object and its workspace.

    Args:
        cupy: the module.
        budget: bytes that the workspace should not exceed.
    """

    def __init__(self, cupy: Any, budget: int) -> None:
        self._cuda, self._library = cupy.cuda, load(cupy.cuda.cublas.__file__)
        self._handle = cupy.cuda.device.get_cublas_handle()
        self._workspace = cupy.empty(max(LEAST_WORKSPACE, min(WORKSPACE, budget)), np.uint8)
        self._call("cublasSetStream_v2", cupy.cuda.get_current_stream().ptr)
        self._call("cublasSetWorkspace_v2", self._workspace.data.ptr, self._workspace.size)

    def __call__(
        self, dtype: np.dtype, math: str, extents: tuple[int, int, int], a: Matrix, b: Matrix, c: Matrix, batch: int
    ) -> None:
        """c = a @ b in cuBLAS's terms, which reads columns first: a row-major product w @ x is its x @ w.

        Args:
            dtype: of all three.
            math: of `Geometry.math`.
            extents: rows of c, its columns, and what is summed over.
            a: the first matrix of the batch.
            b: the first of those that it is multiplied with.
            c: the first result.
            batch: how many products.
        """
        cuda, wide = self._cuda, np.dtype(np.float64 if dtype == np.float64 else np.float32)
        kind = getattr(cuda.runtime, RUNTIME_TYPE[str(dtype)])
        compute = getattr(cuda.cublas, "CUBLAS_COMPUTE_64F" if wide == np.float64 else COMPUTE[math])
        one, zero, none = np.array(1, wide), np.array(0, wide), cuda.cublas.CUBLAS_OP_N
        self._call(
            "cublasGemmStridedBatchedEx",
            *(none, none, *extents, one.ctypes.data),
            *(a[0], kind, *a[1:], b[0], kind, *b[1:], zero.ctypes.data, c[0], kind, *c[1:]),
            *(batch, compute, cuda.cublas.CUBLAS_GEMM_DEFAULT),
        )

    def _call(self, name: str, *arguments: int) -> None:
        if status := getattr(self._library, name)(self._handle, *arguments):
            raise self._cuda.cublas.CUBLASError(status)


@cache
def load(extension: str) -> Any:
    """The cuBLAS library that an extension module is linked with."""
    library = ctypes.CDLL(extension)  # finds names in the libraries that it needs, too
    for name, types in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, _INT
    return library
