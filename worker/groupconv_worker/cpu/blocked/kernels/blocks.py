"""Blocks of pixels whose sums stay in registers: their sizes, and loops that LLVM does not unroll."""

from typing import Any

from llvmlite import ir
from numba import njit

from groupconv_worker.cpu.kernels import simd

LANES = simd.lanes(4)
"""Channels of a block: float32 elements of one vector."""
PIXELS = (0, 12, 6, 4) if simd.ACCUMULATORS < 28 else (0, 14, 14)
"""Most pixels of a block, by its vectors of filters. Of 16 registers, 12 hold sums; of 32, 28."""
VECTORS = len(PIXELS) - 1
"""Vectors of filters of a block, at most."""


@njit(inline="always")
def cut(columns, most):
    """As few blocks of a row as can be, of two sizes that differ by one: how many, the larger size, how many of it.

    Example:
        >>> cut(55, 14), cut(9, 8)
        ((4, 14, 3), (2, 5, 1))
    """
    count = (columns + most - 1) // most
    size = (columns + count - 1) // count
    return count, size, columns - count * (size - 1)


def keep_rolled(builder: Any, end: Any) -> None:
    """Keep LLVM from unrolling the loop whose body ends in the block `end`: with all registers in use it would spill.

    The metadata of a loop is a node that names itself first.
    """
    module = builder.module
    disable = module.add_metadata(["llvm.loop.unroll.disable"])
    node = ir.values.MDValue(module, [disable], name=str(len(module.metadata)))
    node.operands = (node, disable)
    end.terminator.set_metadata("llvm.loop", node)
