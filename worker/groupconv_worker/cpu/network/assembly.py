"""The stages of a network before it is known where its tensors lie."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.layout import aligned
from groupconv_worker.cpu.kernels.forms import Form, NotCompiledError
from groupconv_worker.cpu.network.arena import Lifetime, place
from groupconv_worker.cpu.stages import SCRATCH, Address, KernelStage

BLOCKS = 2**20
"""Bases from this one on are blocks of the arena; those below are a program's own (cpu/stages.py)."""
SLACK = 512
"""Bytes behind the arena, which kernels may read and do not use."""


class Assembly:
    """Collects stages and the blocks of memory that they use.

    Attributes:
        stages: in order, their addresses still relative to blocks.
        ends: the first output of each node, and the number of stages once it was lowered.
        missing: the kernels that are not compiled, as far as is known.

    Example:
        >>> assembly = Assembly()
        >>> a, b = assembly.block(100), assembly.block(100)
        >>> assembly.add(0, (a, b), 1)
        >>> assembly.add(0, (b, assembly.block(100)), 1)
        >>> stages, size = assembly.placed()
        >>> [stage.words for stage in stages], size - SLACK
        ([(Address(base=0, offset=0), Address(base=0, offset=128)), (Address(base=0, offset=128), \
Address(base=0, offset=0))], 228)
    """

    def __init__(self) -> None:
        self.stages: list[KernelStage] = []
        self.ends: list[tuple[str, int]] = []
        self.missing: dict[Form, None] = {}
        self._sizes: list[int] = []

    def block(self, nbytes: int) -> Address:
        """Memory of the arena that is alive from the first stage that has its address to the last one."""
        self._sizes.append(nbytes)
        return Address(BLOCKS + len(self._sizes) - 1)

    def kernel(self, make: Callable[..., int], *key: object) -> int:
        """The address of a kernel; 0 if it has to be compiled first, elsewhere.

        Raises:
            NotCompiledError: there may be no more kernels in this process.
        """
        try:
            return make(*key)
        except NotCompiledError as error:
            if error.form is None:
                raise
            self.missing[error.form] = None
            return 0

    def add(self, function: int, words: Sequence[int | Address | Array], tasks: int) -> None:
        """One more stage."""
        self.stages.append(KernelStage(function, words, tasks))

    def extend(self, stages: Iterable[KernelStage], bases: Sequence[Address]) -> None:
        """Stages whose addresses are relative to these bases."""
        for stage in stages:
            words = [
                Address(bases[word.base].base, bases[word.base].offset + word.offset)
                if isinstance(word, Address)
                else word
                for word in stage.words
            ]
            self.stages.append(replace(stage, words=words))

    def placed(self) -> tuple[list[KernelStage], int]:
        """The stages with addresses in the arena, and the arena's bytes."""
        lives: dict[int, list[int]] = {}
        for number, stage in enumerate(self.stages):
            for word in stage.words:
                if isinstance(word, Address) and word.base >= BLOCKS:
                    lives.setdefault(word.base, []).append(number)
        used = list(lives)
        offsets, size = place([Lifetime(self._sizes[b - BLOCKS], lives[b][0], lives[b][-1]) for b in used])
        at = dict(zip(used, offsets, strict=True))
        stages = []
        for stage in self.stages:
            words = tuple(
                Address(SCRATCH.base, at[word.base] + word.offset)
                if isinstance(word, Address) and word.base >= BLOCKS
                else word
                for word in stage.words
            )
            stages.append(replace(stage, words=words))
        return stages, size + SLACK


def aligned_copy(array: Array) -> Array:
    """A flat copy as float32 from the start of a cache line on, with `SLACK` bytes of zeros behind it."""
    flat = np.ascontiguousarray(array, np.float32).reshape(-1)
    copy = aligned(flat.size + SLACK // 4)
    copy[: flat.size], copy[flat.size :] = flat, 0
    return copy
