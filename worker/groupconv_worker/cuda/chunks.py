"""Chunks of a run: some samples, or some groups of one sample, that fit in so many bytes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from groupconv.convolution import cost
from groupconv.convolution.dtypes import Types
from groupconv.convolution.geometry import Geometry
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


def group_bytes(g: Geometry, types: Types) -> int:
    """Bytes of input and output of one group of one sample."""
    x = g.in_channels // g.groups * math.prod(g.input) * types.input.itemsize
    y = g.out_channels // g.groups * math.prod(g.output) * types.output.itemsize
    return x + y


def chunk_bytes(g: Geometry, types: Types, most: int) -> int:
    """Bytes of a chunk of input and output: at most `most` and `CHUNK_MACS` of work, but one group at least.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> f32 = np.dtype("float32")
        >>> types = Types(f32, f32, f32, f32)
        >>> chunk_bytes(resolve(ConvSpec(), (32, 64, 10, 10), (64, 64, 1, 1)), types, 600_000)
        600000
        >>> g = resolve(ConvSpec(padding=30), (32, 64, 256, 256), (64, 64, 61, 61))  # 10^12 for each sample
        >>> chunk_bytes(g, types, 2**30) == group_bytes(g, types)
        True
    """
    least = group_bytes(g, types)
    macs = max(1, cost.multiply_adds(g.with_batch(1)) // g.groups)
    return max(least, min(most, CHUNK_MACS * least // macs))


def chunk_problem(problem: Problem, most: int) -> Problem:
    """The problem with as many samples as its largest chunk of at most `most` bytes.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> f32 = np.dtype("float32")
        >>> problem = Problem(resolve(ConvSpec(), (32, 64, 10, 10), (64, 64, 1, 1)), Types(f32, f32, f32, f32))
        >>> chunk_problem(problem, 600_000).geometry.batch  # 51,200 bytes a sample, and three chunks
        11
    """
    g, types = problem.geometry, problem.types
    samples, groups = chunk_size(g.batch, g.groups, group_bytes(g, types), chunk_bytes(g, types, most))
    first = next(chunks(g.batch, g.groups, samples, groups)).samples
    return problem if first.stop == g.batch else Problem(replace(g, batch=first.stop), types)
