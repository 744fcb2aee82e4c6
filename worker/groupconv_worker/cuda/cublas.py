"""cuBLAS's batched product, also where it is recorded.

CuPy refuses every call of cuBLAS while a stream captures, though cuBLAS itself may be captured (cuBLAS documentation,
"CUDA Graphs support"). So there the library that CuPy has loaded is called by its C interface, on CuPy's handle, with
a workspace that stays with the graph.
"""

import ctypes
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

WORKSPACE = 8 * 2**20
"""Bytes for a product that sums in several parts."""

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


Product = Callable[..., None]
"""`cublasGemmStridedBatchedEx`, from `transa` on."""


def product_on(cupy: Any) -> Product:
    """The function for products on the current stream, in order: what captures one after another shares a workspace.

    Args:
        cupy: the module.
    """
    handle, stream = cupy.cuda.device.get_cublas_handle(), cupy.cuda.get_current_stream()
    if not stream.is_capturing():
        return partial(cupy.cuda.cublas.gemmStridedBatchedEx, handle)
    library, workspace = load(cupy.cuda.cublas.__file__), cupy.empty(WORKSPACE, np.uint8)

    def call(name: str, *arguments: int) -> None:
        if status := getattr(library, name)(handle, *arguments):
            raise cupy.cuda.cublas.CUBLASError(status)

    call("cublasSetStream_v2", stream.ptr)
    call("cublasSetWorkspace_v2", workspace.data.ptr, WORKSPACE)
    return partial(call, "cublasGemmStridedBatchedEx")


@cache
def load(extension: str) -> Any:
    """The cuBLAS that an extension module is linked with."""
    library = ctypes.CDLL(extension)  # looks names up in what it needs, too
    for name, types in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, _INT
    return library
