"""Addresses of a block's pixels inside emitted code."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from groupconv_worker.cpu.kernels.simd import i64


class Pixels:
    """Addresses of pixels that are `step` elements apart, in registers: few bases, and multiples of the step.

    A processor adds 1, 2, 4 or 8 times a register to an address for nothing.
    """

    BASES = (0, 3, 6, 9, 12)
    SCALES = (0, 1, 2, 4, 8)

    def __init__(self, b: Any, step: Any, count: int) -> None:
        self.b, self.step = b, step
        self.parts = {base + scale: (base, scale) for base in self.BASES[::-1] for scale in self.SCALES[::-1]}
        self.bases = {
            base: cgutils.alloca_once(b, ir.FloatType().as_pointer())
            for base in dict.fromkeys(self.parts[p][0] for p in range(count))
        }

    def start(self, address: Any) -> None:
        """Begin at this address."""
        for base, place in self.bases.items():
            self.b.store(self.b.gep(address, [self.b.mul(self.step, i64(base))]), place)

    def address(self, p: int) -> Any:
        """The address of pixel p."""
        base, scale = self.parts[p]
        start = self.b.load(self.bases[base])
        return self.b.gep(start, [self.b.mul(self.step, i64(scale))]) if scale else start

    def advance(self) -> None:
        """Go on by one element."""
        for place in self.bases.values():
            self.b.store(self.b.gep(self.b.load(place), [i64(1)]), place)
