"""CUDA's errors as errors of this package: some calls may be tried again, others need a new process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from groupconv.errors import InternalError
from groupconv_worker.contract import DeviceLostError

STICKY = frozenset(
    {
        214,  # cudaErrorECCUncorrectable
        220,  # cudaErrorNvlinkUncorrectable
        226,  # cudaErrorContained
        700,  # cudaErrorIllegalAddress
        702,  # cudaErrorLaunchTimeout
        709,  # cudaErrorContextIsDestroyed
        710,  # cudaErrorAssert
        714,  # cudaErrorHardwareStackError
        715,  # cudaErrorIllegalInstruction
        716,  # cudaErrorMisalignedAddress
        717,  # cudaErrorInvalidAddressSpace
        718,  # cudaErrorInvalidPc
        719,  # cudaErrorLaunchFailure
        721,  # cudaErrorTensorMemoryLeak
        810,  # cudaErrorMpsClientTerminated
        911,  # cudaErrorExternalDevice
        999,  # cudaErrorUnknown
    }
)
"""Codes after which every later call in this process fails too. Source: CUDA Runtime API, cudaError_t."""


@contextmanager
def cuda_errors(cupy: Any) -> Iterator[None]:
    """Translate errors of CuPy. Out-of-memory passes through, as the caller can try with less.

    Raises:
        DeviceLostError: the context is broken; the process must be replaced.
        InternalError: any other refusal of CUDA, cuBLAS, cuFFT or cuDNN.
    """
    try:
        yield
    except RuntimeError as error:
        status = getattr(error, "status", None)  # the only thing that CuPy's error classes have in common
        if status is None:
            raise
        if is_sticky(cupy, error):
            raise DeviceLostError(f"the CUDA context is lost ({error}); the worker must be restarted") from error
        raise InternalError(f"CUDA: {error}") from error


def is_sticky(cupy: Any, error: RuntimeError) -> bool:
    """Whether the context is broken. A library reports that with a status of its own, so the runtime is asked."""
    runtime = cupy.cuda.runtime
    if isinstance(error, (runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)):
        return getattr(error, "status", 0) in STICKY
    try:
        runtime.deviceSynchronize()
    except runtime.CUDARuntimeError as sticky:
        return getattr(sticky, "status", 0) in STICKY
    return False
