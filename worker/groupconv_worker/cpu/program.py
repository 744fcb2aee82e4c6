"""Programs: the compiled stages of a kernel, which one call runs on all threads of a team.

No thread needs the interpreter between the stages: handing work over takes a tenth of a microsecond, where taking the
GIL from each other took tens (kernels/program.py).
"""

from collections.abc import Sequence

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.kernels.program import LINE, launch
from groupconv_worker.cpu.stages import OVER, Address, KernelStage, Scratch
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.job import current

PARTS = 4
"""Parts of a stage for each thread."""


class Program:
    """Stages, one after another.

    Args:
        team: the threads.
        buffers: scratch memory.
        stages: each begins when the one before is done.
        scratch: the memory that they share.
        threads: how many of the team's threads to use at most; None for all.
    """

    def __init__(
        self,
        team: Team,
        buffers: BufferPool,
        stages: Sequence[KernelStage],
        scratch: Scratch | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        self.team, self.buffers = team, buffers
        self.threads = shares = team.threads if threads is None else min(team.threads, threads)
        given_words = [(OVER, *stage.words) for stage in stages]
        self.kept = [word for stage in stages for word in stage.words if isinstance(word, np.ndarray)]
        lines = 1 + len(stages) * (2 + shares) + sum(-(-len(some) // LINE) for some in given_words)
        inner, size = 0 if scratch is None else scratch.bytes, lines * LINE * 8
        words, places = [0] * (lines * LINE), []
        words[:2] = len(stages), shares
        arguments_at = (1 + len(stages) * (2 + shares)) * LINE
        for number, (stage, some) in enumerate(zip(stages, given_words, strict=True)):
            at = (1 + number * (2 + shares)) * LINE
            parts = min(PARTS, -(-stage.tasks // shares))
            words[at : at + 4] = stage.function, arguments_at * 8 + 8, stage.tasks, parts
            places += [at + 1, 0]
            for i, word in enumerate(some, start=arguments_at):
                if isinstance(word, Address):
                    # what lies in scratch memory lies behind the words
                    words[i] = word.offset + (0 if word.base else size)
                    places += [i, word.base]
                else:
                    words[i] = address(word) if isinstance(word, np.ndarray) else word
            arguments_at += -(-len(some) // LINE) * LINE
        self.template, self.places = np.array(words, np.int64), np.array(places, np.int64)
        self.bytes = size + inner

    @property
    def nbytes(self) -> int:
        """Bytes of its words and of the arrays that its stages read."""
        arrays = {id(array): array.nbytes for array in (self.template, self.places, *self.kept)}
        return sum(arrays.values())

    def run(self, x: Array, y: Array, weights: tuple[int, int] = (0, 0), notes: Array | None = None) -> None:
        """Run a convolution on each sample.

        Args:
            x: (N, …), its samples contiguous.
            y: (N, …), its samples contiguous.
            weights: the addresses of w and bias, if the program was made without them.
            notes: (N,) int64, a word for each sample, if its stages write one.

        Raises:
            DeadlineExceededError, CancelledError: the job of this thread is over; y is not complete.
        """
        note = 0 if notes is None else address(notes)
        w, bias = weights
        self.start((address(x), x.strides[0], address(y), y.strides[0], w, 0, bias, 0, note, 8), len(x))

    def start(self, bases: Sequence[int], samples: int = 1) -> None:
        """Run once for each sample.

        Args:
            bases: of what the stages read and write, from base 2 on: address, bytes from sample to sample, and so on.
            samples: how many.

        Raises:
            DeadlineExceededError, CancelledError: the job of this thread is over; what it writes is not complete.
        """
        job = current()
        buffer = self.buffers.take(self.bytes)
        helpers = self.team.hire(self.threads - 1)
        try:
            words = np.array((buffer.address, 0, job.address, 0, *bases), np.int64)
            launch(self.template, self.places, words, samples, helpers.words)
        finally:
            self.team.dismiss(helpers)
            self.buffers.give(buffer)
        if job.word.value:
            job.check()


def address(array: Array) -> int:
    """The address of an array's first element."""
    return array.ctypes.data
