"""The CUDA engine without a GPU: kernels run as C++ on the CPU, CuPy is played by NumPy."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from emulation.kernels import SETTINGS
from emulation.libcuda import as_libcuda
from emulation.stand_in import as_cupy
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.options import CudaOptions

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulation compiles kernels with g++")


@contextmanager
def emulated_engine(
    *, descending: bool = False, sanitizer: str = "", with_cudnn: bool = False, device: int = 0, **options: Any
) -> Iterator[CudaEngine]:
    """The engine on the stand-in; `descending` runs the threads of a block from last to first."""
    before = dict(SETTINGS)
    SETTINGS.update(descending=descending, sanitizer=sanitizer)
    try:
        with as_cupy(with_cudnn=with_cudnn, devices=device + 1):
            engine = CudaEngine(options=CudaOptions(**options), device=device)
        yield engine
        engine.close()
    finally:
        SETTINGS.update(before)


@contextmanager
def emulated_engines(count: int, **options: Any) -> Iterator[list[CudaEngine]]:
    """An engine on each of several devices of one process, with a driver by which their streams wait."""
    with ExitStack() as stack:
        module = stack.enter_context(as_cupy(devices=count))
        stack.enter_context(as_libcuda(module.ipc))
        engines = [CudaEngine(options=CudaOptions(**options), device=device) for device in range(count)]
        for engine in engines:
            stack.callback(engine.close)
        yield engines
