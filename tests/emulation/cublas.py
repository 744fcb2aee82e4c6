"""cuBLAS by NumPy: a library with the C interface, and what CuPy has beside it."""

import ctypes
import threading
from functools import cache
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from emulation import build
from emulation.streams import current

RUNTIME_DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}
COMPUTE = {68: np.float32, 70: np.float64, 77: np.float32, 74: np.float32, 75: np.float32}


def tf32(values: np.ndarray) -> np.ndarray:
    """float32 as tensor cores read it for TF32: the lower 13 bits are cut off."""
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


ROUNDING = {  # what FAST_TF32, FAST_16F and FAST_16BF make of the operands
    77: tf32,
    74: lambda values: values.astype(np.float16),
    75: lambda values: values.astype(ml_dtypes.bfloat16),
}
CALLS: list[SimpleNamespace] = []
HANDLE = 1


class _Set(threading.local):
    """What the handle was told: CuPy has one for each thread."""

    stream = workspace = 0


_SET = _Set()


class CUBLASError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"CUBLAS status {status}")
        self.status = status


def _gemm(
    handle: int,
    transa: int,
    transb: int,
    m: int,
    n: int,
    k: int,
    alpha: int,
    A: int,
    Atype: int,
    lda: int,
    strideA: int,
    B: int,
    Btype: int,
    ldb: int,
    strideB: int,
    beta: int,
    C: int,
    Ctype: int,
    ldc: int,
    strideC: int,
    batchCount: int,
    computeType: int,
    algo: int,
    *more: int,
) -> None:
    """C[i] = alpha · A[i] · B[i] + beta · C[i], column by column; only without transposition."""
    assert (handle, transa, transb, algo) == (HANDLE, 0, 0, -1)
    wide = COMPUTE[computeType]
    one = (ctypes.c_float if wide is np.float32 else ctypes.c_double).from_address
    assert (one(alpha).value, one(beta).value) == (1.0, 0.0)
    CALLS.append(SimpleNamespace(m=m, n=n, k=k, batch=batchCount, compute=computeType))

    def run() -> None:
        for i in range(batchCount):
            a = _columns(A, Atype, m, k, lda, i * strideA)
            b = _columns(B, Btype, k, n, ldb, i * strideB)
            if computeType in ROUNDING:
                a, b = (ROUNDING[computeType](np.ascontiguousarray(x)) for x in (a, b))
            with np.errstate(all="ignore"):
                _columns(C, Ctype, m, n, ldc, i * strideC)[...] = a.astype(wide) @ b.astype(wide)

    current().enqueue(run, A, B, C, *more)


def _columns(address: int, dtype: int, rows: int, cols: int, ld: int, offset: int) -> np.ndarray:
    """A column-major matrix in memory, as a view."""
    assert ld >= rows
    kind = np.dtype(RUNTIME_DTYPES[dtype])
    length = (cols - 1) * ld + rows
    memory = (ctypes.c_uint8 * (length * kind.itemsize)).from_address(address + offset * kind.itemsize)
    flat = np.frombuffer(memory, dtype=kind)
    strides = (kind.itemsize, ld * kind.itemsize)
    return np.lib.stride_tricks.as_strided(flat, shape=(rows, cols), strides=strides)


@cache
def _library() -> tuple[str, Any]:
    """The path of a library whose functions call back, and what they call."""
    path = build.compiled((build.HERE / "cublas.cpp").read_text())
    library = ctypes.CDLL(str(path))
    pointer, number, step = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    matrix = (pointer, number, number, step)
    shape = (pointer, *(number,) * 5, pointer, *matrix, *matrix, pointer, *matrix, number, number, number)

    def set_stream(handle: int, stream: int) -> int:
        _SET.stream, _SET.workspace = stream, 0
        return 0

    def set_workspace(handle: int, workspace: int, size: int) -> int:
        _SET.workspace = workspace
        return 0

    def gemm(*arguments: int) -> int:
        assert _SET.stream == current().ptr
        assert _SET.workspace, "memory of cuBLAS's own would be shared among graphs, and streams"
        _gemm(*arguments, _SET.workspace)
        return 0

    calls = {
        "set_stream": ctypes.CFUNCTYPE(number, pointer, pointer)(set_stream),
        "set_workspace": ctypes.CFUNCTYPE(number, pointer, pointer, ctypes.c_size_t)(set_workspace),
        "gemm": ctypes.CFUNCTYPE(number, *shape)(gemm),
    }
    for name, call in calls.items():
        ctypes.c_void_p.in_dll(library, name).value = ctypes.cast(call, ctypes.c_void_p).value
    return str(path), (library, calls)


class _Cublas(SimpleNamespace):
    @property
    def __file__(self) -> str:
        return _library()[0]


cublas = _Cublas(
    CUBLASError=CUBLASError,
    CUBLAS_OP_N=0,
    CUBLAS_GEMM_DEFAULT=-1,
    CUBLAS_COMPUTE_32F=68,
    CUBLAS_COMPUTE_64F=70,
    CUBLAS_COMPUTE_32F_FAST_16F=74,
    CUBLAS_COMPUTE_32F_FAST_16BF=75,
    CUBLAS_COMPUTE_32F_FAST_TF32=77,
)
