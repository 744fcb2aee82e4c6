"""cuBLAS and cuFFT as far as the engine uses them, by NumPy, on the current stream."""

import ctypes
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from emulation.memory import empty, ndarray
from emulation.streams import current

RUNTIME_DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}
COMPUTE = {68: np.float32, 70: np.float64, 77: np.float32, 74: np.float32, 75: np.float32}
ROUNDING = {74: np.float16, 75: ml_dtypes.bfloat16}  # what FAST_16F and FAST_16BF make of the operands
CALLS: list[SimpleNamespace] = []


def gemmStridedBatchedEx(  # noqa: N802 - the library's name and arguments
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
) -> None:
    """C[i] = alpha · A[i] · B[i] + beta · C[i], column by column; only without transposition."""
    assert (transa, transb) == (0, 0)
    wide = COMPUTE[computeType]
    one = (ctypes.c_float if wide is np.float32 else ctypes.c_double).from_address
    assert (one(alpha).value, one(beta).value) == (1.0, 0.0)
    CALLS.append(SimpleNamespace(m=m, n=n, k=k, batch=batchCount, compute=computeType))

    def run() -> None:
        for i in range(batchCount):
            a = _columns(A, Atype, m, k, lda, i * strideA)
            b = _columns(B, Btype, k, n, ldb, i * strideB)
            if computeType in ROUNDING:
                a, b = a.astype(ROUNDING[computeType]), b.astype(ROUNDING[computeType])
            with np.errstate(all="ignore"):
                _columns(C, Ctype, m, n, ldc, i * strideC)[...] = a.astype(wide) @ b.astype(wide)

    current().enqueue(run)


def _columns(address: int, dtype: int, rows: int, cols: int, ld: int, offset: int) -> np.ndarray:
    """A column-major matrix in memory, as a view."""
    assert ld >= rows
    kind = np.dtype(RUNTIME_DTYPES[dtype])
    length = (cols - 1) * ld + rows
    memory = (ctypes.c_uint8 * (length * kind.itemsize)).from_address(address + offset * kind.itemsize)
    flat = np.frombuffer(memory, dtype=kind)
    strides = (kind.itemsize, ld * kind.itemsize)
    return np.lib.stride_tricks.as_strided(flat, shape=(rows, cols), strides=strides)


def rfftn(x: ndarray, s: tuple[int, ...], axes: tuple[int, ...]) -> ndarray:
    shape = (*x.shape[: -len(s)], *s[:-1], s[-1] // 2 + 1)
    return _transformed(np.fft.rfftn, x, s, axes, shape, np.result_type(x.dtype, np.complex64))


def irfftn(x: ndarray, s: tuple[int, ...], axes: tuple[int, ...]) -> ndarray:
    return _transformed(np.fft.irfftn, x, s, axes, (*x.shape[: -len(s)], *s), x.dtype.char.lower())


def _transformed(transform: Any, x: ndarray, s: Any, axes: Any, shape: tuple[int, ...], dtype: Any) -> ndarray:
    """CuPy transforms axis by axis what is contiguous in both orders, and then leaves the first of them innermost."""
    order = list(range(len(shape)))
    if len(axes) > 1 and x.host.flags.f_contiguous:
        order.append(order.pop(axes[0]))
    result = empty(tuple(shape[i] for i in order), dtype).transpose(tuple(np.argsort(order)))

    def run() -> None:
        with np.errstate(all="ignore"):
            result.host[...] = transform(x.host, s=s, axes=axes)

    current().enqueue(run)
    return result


cublas = SimpleNamespace(
    gemmStridedBatchedEx=gemmStridedBatchedEx,
    CUBLAS_OP_N=0,
    CUBLAS_GEMM_DEFAULT=-1,
    CUBLAS_COMPUTE_32F=68,
    CUBLAS_COMPUTE_64F=70,
    CUBLAS_COMPUTE_32F_FAST_16F=74,
    CUBLAS_COMPUTE_32F_FAST_16BF=75,
    CUBLAS_COMPUTE_32F_FAST_TF32=77,
)
fft = SimpleNamespace(rfftn=rfftn, irfftn=irfftn)
