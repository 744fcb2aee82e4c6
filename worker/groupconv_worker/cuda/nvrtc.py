"""Compiles kernels to machine code without a device, and reads the report of the compiler.

CuPy compiles for the device at hand; this compiles for any, through NVRTC alone (the nvidia-cuda-nvrtc wheel), so
that every kernel can be checked for every architecture on a machine without a GPU.
"""

import ctypes
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from groupconv_worker.cuda.modules import FLUSH, STANDARD, source

ARCHITECTURES = {12: (70, 75, 80, 86, 87, 89, 90, 100, 103, 120, 121), 13: (75, 80, 86, 87, 89, 90, 100, 103, 120, 121)}
"""By the version of CUDA. V100, Turing, A100, RTX 30, Orin, RTX 40, H100, B200, B300, RTX 50, DGX Spark."""


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """The report of ptxas on one kernel.

    Attributes:
        registers: of a thread.
        shared: static bytes of a block.
        spilled: bytes that a thread stores in local memory because registers are full.
        stack: bytes of local memory, spills included.
    """

    registers: int
    shared: int
    spilled: int
    stack: int


def compile_kernels(
    file: str, expressions: Iterable[str], architecture: int, cuda: int = 13
) -> dict[str, CompiledKernel]:
    """Compile `expressions` of a kernel file to a cubin for one architecture.

    Args:
        file: a name in kernels/.
        expressions: kernels with their template arguments.
        architecture: 90 for sm_90.
        cuda: the version of NVRTC.

    Returns:
        The reports, by expression.

    Raises:
        RuntimeError: the sources do not compile; the message is the compiler's log.
    """
    nvrtc, names = library(cuda), list(expressions)
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source(file).encode(), file.encode(), 0, None, None)
    try:
        for name in names:
            nvrtc.nvrtcAddNameExpression(program, name.encode())
        options = [f"--gpu-architecture=sm_{architecture}".encode(), STANDARD.encode(), FLUSH.encode()]
        options.append(b"--ptxas-options=-v")
        status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        if status != 0:
            raise RuntimeError(f"{file} for sm_{architecture}:\n{log}")
        lowered = {_lowered(nvrtc, program, name): name for name in names}
        return {lowered[symbol]: kernel for symbol, kernel in _reports(log) if symbol in lowered}
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def library(cuda: int) -> ctypes.CDLL:
    """libnvrtc of the installed wheel for a version of CUDA.

    Raises:
        ImportError: there is none.
    """
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob(f"*/lib/libnvrtc.so.{cuda}")):
            return ctypes.CDLL(str(path))
    raise ImportError(
        f"libnvrtc of CUDA {cuda} is not installed (pip install nvidia-cuda-nvrtc, or nvidia-cuda-nvrtc-cu12)"
    )


def _reports(log: str) -> list[tuple[str, CompiledKernel]]:
    """Each entry function of a ptxas -v log."""
    reports = []
    for part in log.split("Compiling entry function '")[1:]:
        symbol = part[: part.index("'")]
        numbers = [
            int(match[1]) if (match := re.search(pattern, part)) else 0
            for pattern in (
                r"Used (\d+) registers",
                r"(\d+) bytes smem",
                r"(\d+) bytes spill stores",
                r"(\d+) bytes stack",
            )
        ]
        reports.append((symbol, CompiledKernel(*numbers)))
    return reports


def _lowered(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, name: str) -> str:
    symbol = ctypes.c_char_p()
    nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(symbol))
    return (symbol.value or b"").decode()


def _text(size_of: Any, read: Any, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    read(program, buffer)
    return buffer.value.decode()
