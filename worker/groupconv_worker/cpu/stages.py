"""The stages of a program: compiled work, its arguments, and addresses known when the program runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groupconv_worker.contract import Array


class Address(NamedTuple):
    """An address known when a program runs: so many bytes into one of the bases.

    The bases are scratch memory, the word of the job, and what the caller of the program gives: for a convolution
    x, y, w, bias and notes; for a network its inputs and outputs.
    """

    base: int
    offset: int = 0

    def plus(self, offset: int) -> "Address":
        """The address so many bytes further on."""
        return Address(self.base, self.offset + offset)


SCRATCH, OVER, X, Y, WEIGHT, BIAS, NOTE = (Address(base) for base in range(7))


class Scratch:
    """The layout of a program's scratch memory.

    Example:
        >>> scratch = Scratch()
        >>> scratch.room(3, np.dtype("float32")), scratch.room(1, np.dtype("float32")), scratch.bytes
        (Address(base=0, offset=0), Address(base=0, offset=64), 128)
    """

    def __init__(self) -> None:
        self.bytes = 0

    def room(self, count: int, dtype: np.dtype) -> Address:
        """The address of `count` elements, on cache lines of their own."""
        place = Address(0, self.bytes)
        self.bytes += -(-count * dtype.itemsize // 64) * 64
        return place


@dataclass(frozen=True, slots=True)
class KernelStage:
    """Compiled work.

    Attributes:
        function: address of a job (`kernels.atomic.job`).
        words: its arguments; an array stands for its address and is kept.
        tasks: into how many tasks the work is cut.
    """

    function: int
    words: Sequence[int | Address | Array]
    tasks: int
