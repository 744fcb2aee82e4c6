"""Chunks of a run: some samples, or some groups of one sample, that fit in so many bytes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from groupconv.convolution import cost
from groupconv_worker.contract import Problem

CHUNK_MACS = 2**36
"""Multiply-adds of a chunk, 2 to 40 ms. A kernel that runs cannot be stopped, so a run can end early between chunks."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some samples of some groups."""

    samples: slice
    groups: slice

    def channels(self, per_group: int) -> tuple[slice, slice]:
        """The index of the chunk in an array (N, groups · per_group, …)."""
        return self.samples, slice(self.groups.start * per_group, self.groups.stop * per_group)


def chunk_size(batch: int, groups: int, group_bytes: int, target: int) -> tuple[int, int]:
    """Samples and groups of a chunk of about `target` bytes: whole samples if one fits, else groups of one sample.

    Args:
        batch: samples of the run.
        groups: groups of the run.
        group_bytes: bytes of one group of one sample.
        target: bytes of a chunk.

    Example:
        >>> chunk_size(64, 32, 1000, 100_000), chunk_size(64, 32, 1000, 8_000), chunk_size(2, 2, 1000, 1)
        ((3, 32), (1, 8), (1, 1))
    """
    if group_bytes * groups <= target:
        return min(batch, target // (group_bytes * groups)), groups
    return 1, max(1, min(groups, target // group_bytes))


def chunks(batch: int, groups: int, most_samples: int, most_groups: int) -> Iterator[Chunk]:
    """Chunks of at most so many samples and groups, of about the same size, in order. The first is the largest.

    Example:
        >>> [(c.samples.stop, c.groups.start) for c in chunks(4, 2, 3, 2)]
        [(2, 0), (4, 0)]
    """
    for samples in _even(batch, most_samples):
        for some_groups in _even(groups, most_groups):
            yield Chunk(samples, some_groups)


def _even(count: int, most: int) -> Iterator[slice]:
    parts = -(-count // most)
    for i in range(parts):
        yield slice(-(-count * i // parts), -(-count * (i + 1) // parts))


@dataclass(frozen=True, slots=True)
class Maps:
    """Input and output of a run, as its copies see them: the maps of one sample, cut into groups.

    Attributes:
        x, y: (channels of a group, *spatial) of input and output.
        x_dtype, y_dtype: of the arrays that a caller has.
        groups: that can be computed one by one.
        macs: multiply-adds of one sample.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import Types
        >>> f32 = np.dtype("float32")
        >>> types = Types(f32, f32, f32, f32)
        >>> first, second = (Problem(resolve(ConvSpec(groups=2), (1, 4, n), (4, 2, 3)), types) for n in (9, 7))
        >>> maps_of(first)
        Maps(x=(2, 9), y=(2, 7), x_dtype=dtype('float32'), y_dtype=dtype('float32'), groups=2, macs=168)
        >>> maps_of(first).then(maps_of(second)).y  # all channels: a group of the second step needs others of the first
        (4, 5)
    """

    x: tuple[int, ...]
    y: tuple[int, ...]
    x_dtype: np.dtype
    y_dtype: np.dtype
    groups: int
    macs: int

    @property
    def nbytes(self) -> int:
        """Bytes of input and output of one group of one sample."""
        return math.prod(self.x) * self.x_dtype.itemsize + math.prod(self.y) * self.y_dtype.itemsize

    def shapes(self, samples: int, groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of input and output of so many samples and groups."""
        return (samples, groups * self.x[0], *self.x[1:]), (samples, groups * self.y[0], *self.y[1:])

    def chunk_bytes(self, most: int) -> int:
        """Bytes of a chunk of input and output: at most `most` and `CHUNK_MACS` of work, but one group at least.

        Example:
            >>> import numpy as np
            >>> from groupconv import ConvSpec, resolve
            >>> from groupconv.convolution.dtypes import Types
            >>> f32 = np.dtype("float32")
            >>> types = Types(f32, f32, f32, f32)
            >>> g = resolve(ConvSpec(), (32, 64, 10, 10), (64, 64, 1, 1))
            >>> maps_of(Problem(g, types)).chunk_bytes(600_000)
            600000
            >>> g = resolve(ConvSpec(padding=30), (32, 64, 256, 256), (64, 64, 61, 61))  # 10^12 for each sample
            >>> found = maps_of(Problem(g, types))
            >>> found.chunk_bytes(2**30) == found.nbytes
            True
        """
        return max(self.nbytes, min(most, CHUNK_MACS * self.nbytes // max(1, self.macs // self.groups)))

    def then(self, other: "Maps") -> "Maps":
        """The maps of a run after which another one takes its output. It is not cut along groups."""
        (_, *x), (_, *y) = self.shapes(1, self.groups)[0], other.shapes(1, other.groups)[1]
        return Maps(tuple(x), tuple(y), self.x_dtype, other.y_dtype, 1, self.macs + other.macs)


def maps_of(problem: Problem) -> Maps:
    """The maps of a convolution."""
    g, types = problem.geometry, problem.types
    x, y = (g.in_channels // g.groups, *g.input), (g.out_channels // g.groups, *g.output)
    return Maps(x, y, types.input, types.output, g.groups, cost.multiply_adds(g.with_batch(1)))


def chunk_problem(problem: Problem, most: int) -> Problem:
    """The problem with as many samples as its largest chunk of at most `most` bytes.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import Types
        >>> f32 = np.dtype("float32")
        >>> problem = Problem(resolve(ConvSpec(), (32, 64, 10, 10), (64, 64, 1, 1)), Types(f32, f32, f32, f32))
        >>> chunk_problem(problem, 600_000).geometry.batch  # 51,200 bytes a sample, and three chunks
        11
    """
    g, maps = problem.geometry, maps_of(problem)
    samples, groups = chunk_size(g.batch, g.groups, maps.nbytes, maps.chunk_bytes(most))
    first = next(chunks(g.batch, g.groups, samples, groups)).samples
    return problem if first.stop == g.batch else Problem(replace(g, batch=first.stop), problem.types)
