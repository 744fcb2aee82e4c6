"""What a cut is, and which slices of input, kernel and output make a piece of it.

| cut along | a piece reads | and its results |
| --- | --- | --- |
| group | its channels, its filters | are concatenated on channels |
| batch | its samples, all filters | are concatenated on the batch |
| filter | its group's channels, some filters | are concatenated on channels |
| space | a tile with its halo, all filters | are concatenated on space |
| channel | some channels of every filter | are summed |

All but the last are exact: each output is summed from the same terms in the same order as without the cut. A cut has a
number of parts along each of these dimensions; a piece is one cell of that grid. Filters and channels are cut inside a
group, so only where each part has one group.

A chain of steps is cut along what all its steps share: the batch, space (each step computes the range that the next one
needs, so halos accumulate) and the common groups (towers). Its shards exchange nothing between the steps.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from groupconv.convolution import cost
from groupconv.convolution.cuts import AXES, NOTHING
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.plan import Range
from groupconv_server.planner.halo import Axis
from groupconv_worker.contract import Problem


class Cut(NamedTuple):
    """Numbers of parts along each dimension. `space` has one number for each spatial axis; () means uncut.

    Example:
        >>> Cut(group=2, space=(4, 1)).words(2), Cut(group=2, space=(4, 1)).parts
        ('group × rows', 8)
    """

    group: int = 1
    batch: int = 1
    filter: int = 1
    space: tuple[int, ...] = ()
    channel: int = 1

    @property
    def grid(self) -> tuple[int, ...]:
        """The parts along every dimension, outermost first."""
        return (self.group, self.batch, self.filter, *self.space, self.channel)

    @property
    def parts(self) -> int:
        """Number of pieces."""
        return math.prod(self.grid)

    def words(self, rank: int) -> str:
        """The dimensions that are cut, for people; "nothing" for one piece."""
        grid = self.grid if self.space else Cut(*self[:3], (1,) * rank, self.channel).grid
        return " × ".join(name for name, n in zip(dimensions(rank), grid, strict=True) if n > 1) or NOTHING


def dimensions(rank: int) -> tuple[str, ...]:
    """Names of the dimensions of a convolution of this rank, in the order of `Cut.grid`."""
    return ("group", "batch", "filter", *AXES[rank], "channel")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a step that one worker computes.

    Attributes:
        problem: of the piece.
        input, kernel, output: a range for each dimension of the step's arrays.
        partial: the output is a term of a sum, in the accumulator's dtype, without bias and activation.
    """

    problem: Problem
    input: tuple[Range, ...]
    kernel: tuple[Range, ...]
    output: tuple[Range, ...]
    partial: bool

    @property
    def kernel_bytes(self) -> int:
        """Bytes of its filters."""
        return cost.nbytes(self.problem.geometry.weight_shape, self.problem.types.weight)

    @property
    def input_bytes(self) -> int:
        """Bytes of its input."""
        return cost.nbytes(self.problem.geometry.input_shape, self.problem.types.input)


def split(extent: int, shares: Sequence[float]) -> list[Range] | None:
    """`extent` cells in ranges with lengths in proportion to `shares`; None if a range would be empty.

    Example:
        >>> [str(r) for r in split(8, [1, 1, 1])], [str(r) for r in split(8, [3, 1])]
        (['0:3', '3:5', '5:8'], ['0:6', '6:8'])
    """
    parts = len(shares)
    if parts > extent:
        return None
    total, reached, start, ranges = sum(shares), 0.0, 0, []
    for i, share in enumerate(shares, 1):
        reached += share
        stop = max(start + 1, min(round(extent * reached / total), extent - (parts - i)))
        ranges.append(Range(start, stop))
        start = stop
    return ranges


def split_axis(axis: Axis, shares: Sequence[float]) -> list[Range] | None:
    """The outputs of an axis in ranges. A transposed axis is cut where an input cell begins, to share few cells."""
    if not axis.transposed or axis.stride == 1:
        return split(axis.output, shares)
    lead = axis.padding[0] % axis.stride
    blocks = split(-(-(axis.output + lead) // axis.stride), shares)
    if blocks is None:
        return None
    edge = [max(0, b.start * axis.stride - lead) for b in blocks] + [axis.output]
    return [Range(a, b) for a, b in itertools.pairwise(edge)]


def common_groups(chain: Sequence[Geometry]) -> int:
    """The number of common groups of a chain: the greatest common divisor of its steps' groups."""
    return math.gcd(*(g.groups for g in chain))
