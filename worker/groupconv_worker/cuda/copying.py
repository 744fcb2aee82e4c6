"""Copies between the caller's arrays and pinned memory, on the threads of the engine."""

import numpy as np

from groupconv.convolution.dtypes import BFLOAT16
from groupconv_worker.contract import Array
from groupconv_worker.cpu.kernels.layout import BLOCK, copied
from groupconv_worker.cpu.program import Program
from groupconv_worker.cpu.stages import KernelStage, X, Y
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool

LEAST = 2**20
"""Bytes of a copy that a second thread helps with. Less is copied before the thread wakes."""

SHARE = 2**19
"""Bytes for each thread, at least."""

MOST = 4
"""Threads of a copy. On an H200's machine eight were faster for some layers and slower for others (bench/gpu.py)."""

KEPT = 256
"""Sizes whose programs are kept."""


class Copier:
    """Copies arrays of the same shape and dtype. Safe to call from several threads.

    Args:
        threads: at most.

    Example:
        >>> copier, x = Copier(2), np.arange(2**20)
        >>> out = np.zeros_like(x)
        >>> copier(out, x)
        >>> int(out[-1])
        1048575
        >>> copier.close()
    """

    def __init__(self, threads: int) -> None:
        self._team, self._buffers = Team(threads), BufferPool()
        self._programs: dict[int, Program] = {}  # by bytes

    def __call__(self, out: Array, x: Array) -> None:
        """Copy x to out; any strides, without the GIL."""
        if out.nbytes >= LEAST and self._team.threads > 1:
            if out.flags.c_contiguous and x.flags.c_contiguous:
                out, x = out[np.newaxis], x[np.newaxis]
            size = out.nbytes // len(out)
            if size >= LEAST and out[0].flags.c_contiguous and x[0].flags.c_contiguous:
                self._program(size).run(x, out)
                return
        if out.dtype == BFLOAT16:  # NumPy can only copy its bits
            out, x = out.view(np.uint16), x.view(np.uint16)
        np.copyto(out, x)

    def _program(self, size: int) -> Program:
        if (program := self._programs.get(size)) is None:
            stage = KernelStage(copied(), (X, Y, size), -(-size // BLOCK))
            program = Program(self._team, self._buffers, [stage], threads=min(MOST, size // SHARE))
            if len(self._programs) >= KEPT:
                self._programs.clear()
            self._programs[size] = program
        return program

    def close(self) -> None:
        """End the threads."""
        self._team.close()
