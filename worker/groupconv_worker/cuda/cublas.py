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


class Product:
    """Products on the current stream. Products that follow one another share this object and its workspace.

    Args:
        cupy: the module.
        budget: bytes that the workspace should not exceed.
    """

    def __init__(self, cupy: Any, budget: int) -> None:
        self._library, self._error = load(cupy.cuda.cublas.__file__), cupy.cuda.cublas.CUBLASError
        self._handle = cupy.cuda.device.get_cublas_handle()
        self._workspace = cupy.empty(max(LEAST_WORKSPACE, min(WORKSPACE, budget)), np.uint8)
        self._call("cublasSetStream_v2", cupy.cuda.get_current_stream().ptr)
        self._call("cublasSetWorkspace_v2", self._workspace.data.ptr, self._workspace.size)

    def __call__(self, *arguments: int) -> None:
        """`cublasGemmStridedBatchedEx`, from `transa` on."""
        self._call("cublasGemmStridedBatchedEx", *arguments)

    def _call(self, name: str, *arguments: int) -> None:
        if status := getattr(self._library, name)(self._handle, *arguments):
            raise self._error(status)


@cache
def load(extension: str) -> Any:
    """The cuBLAS library that an extension module is linked with."""
    library = ctypes.CDLL(extension)  # finds names in the libraries that it needs, too
    for name, types in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, _INT
    return library
