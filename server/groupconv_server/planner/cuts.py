"""The cuts themselves: which slices of input, kernel and output make one piece.

| cut along | a piece reads | and its results |
| --- | --- | --- |
| group | its channels, its filters | are concatenated on channels |
| batch | its samples, all filters | are concatenated on the batch |
| filter | its group's channels, some filters | are concatenated on channels |
| space | a tile with its halo, all filters | are concatenated on space |
| channel | some channels of every filter | are summed |

All but the last are exact: every output is summed from the same terms in the same order as without the cut. They
combine: a cut is a number of parts along each, a piece one cell of that grid. Filters and channels are cut within a
group, so only where each part has one group.

A chain of steps is cut by what all its steps share: batch, space (each step's range is what the next one needs, so
halos accumulate) and the groups they have in common (towers). Nothing then meets between its steps.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from groupconv.convolution import cost
from groupconv.convolution.dtypes import Types
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.plan import Range
from groupconv_server.planner.halo import Axis, AxisPart, axis_of, part
from groupconv_worker.contract import Problem

AXES = {1: ("width",), 2: ("rows", "columns"), 3: ("slices", "rows", "columns")}
"""What people call the spatial axes."""


class Cut(NamedTuple):
    """Parts along each dimension; `space` has one number per spatial axis, none meaning uncut.

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
        """What is cut, in words; "nothing" for one piece."""
        names = ("group", "batch", "filter", *AXES[rank][: len(self.space)], "channel")
        return " × ".join(name for name, n in zip(names, self.grid, strict=True) if n > 1) or "nothing"


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of one step.

    Attributes:
        problem: of the piece.
        input, kernel, output: a range per dimension of the whole's arrays.
        partial: its output is one term of a sum, in the accumulator's dtype, without bias and activation.
    """

    problem: Problem
    input: tuple[Range, ...]
    kernel: tuple[Range, ...]
    output: tuple[Range, ...]
    partial: bool

    @property
    def kernel_bytes(self) -> int:
        """Of the filters it uses."""
        return cost.nbytes(self.problem.geometry.weight_shape, self.problem.types.weight)

    @property
    def input_bytes(self) -> int:
        """Of the feature map it reads."""
        return cost.nbytes(self.problem.geometry.input_shape, self.problem.types.input)


def split(extent: int, shares: Sequence[float]) -> list[Range] | None:
    """`extent` cells in ranges as long as `shares` are large, none empty; None if there are too few cells.

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
    """The outputs of an axis in ranges; a transposed one is cut where an input cell begins, which shares fewest."""
    if not axis.transposed or axis.stride == 1:
        return split(axis.output, shares)
    lead = axis.padding[0] % axis.stride
    blocks = split(-(-(axis.output + lead) // axis.stride), shares)
    if blocks is None:
        return None
    edge = [max(0, b.start * axis.stride - lead) for b in blocks] + [axis.output]
    return [Range(a, b) for a, b in itertools.pairwise(edge)]


def common_groups(chain: Sequence[Geometry]) -> int:
    """Groups that every step of a chain keeps apart: the greatest common divisor."""
    return math.gcd(*(g.groups for g in chain))


def pieces(chain: Sequence[Problem], cut: Cut, shares: Sequence[float] | None = None) -> list[tuple[Piece, ...]] | None:
    """Cut a chain of steps: for each shard, one piece of every step.

    Args:
        chain: one step, or several that share the cut.
        cut: parts along each dimension.
        shares: how large each shard is to be; None means equal.

    Returns:
        `cut.parts` tuples, outermost dimension first; None where the chain cannot be cut so.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> g = resolve(ConvSpec(groups=2, padding=2), (1, 96, 27, 27), (256, 48, 5, 5))
        >>> problem = Problem(g, types_of(np.dtype("float32"), np.dtype("float32")))
        >>> [[str(r) for r in p.input] for p, in pieces([problem], Cut(group=2, space=(2, 1)))][1]
        ['0:1', '0:48', '12:27', '0:27']
    """
    try:
        return list(_Cutter(chain, cut).pieces(shares))
    except _CannotError:
        return None


class _CannotError(Exception):
    """The chain cannot be cut so."""


class _Cutter:
    """Cuts one chain; equal parts are made once and shared."""

    def __init__(self, chain: Sequence[Problem], cut: Cut) -> None:
        self.chain = [(p.geometry, p.types) for p in chain]
        self.groups = common_groups([p.geometry for p in chain])
        self.rank = chain[0].geometry.rank
        self.cut = cut
        self.space = cut.space or (1,) * self.rank
        self.axes = [[axis_of(g, k) for g, _ in self.chain] for k in range(self.rank)]
        self.problems: dict[object, tuple[Problem, ...]] = {}
        self.parts: dict[object, tuple[AxisPart, ...]] = {}
        within = cut.filter > 1 or cut.channel > 1
        if within and (cut.group != self.groups or len(chain) > 1):
            raise _CannotError  # the slices would not be ranges, or the steps would have to meet

    def pieces(self, shares: Sequence[float] | None) -> Iterator[tuple[Piece, ...]]:
        first, last = self.chain[0][0], self.chain[-1][0]
        per_group = last.out_channels // last.groups, first.in_channels // first.groups
        ways: list[Callable[[Sequence[float]], list[Range] | None]] = [
            lambda s: split(self.groups, s),
            lambda s: split(first.batch, s),
            lambda s: split(per_group[0], s),
            *(lambda s, axes=axes: split_axis(axes[-1], s) for axes in self.axes),
            lambda s: split(per_group[1], s),
        ]
        counts = (self.cut.group, self.cut.batch, self.cut.filter, *self.space, self.cut.channel)
        for group, batch, filters, *space, channels in _grid(ways, counts, shares):
            yield self._shard(group, batch, filters, tuple(space), channels)

    def _shard(
        self, group: Range, batch: Range, filters: Range, space: tuple[Range, ...], channels: Range
    ) -> tuple[Piece, ...]:
        parts = [self._along(k, r) for k, r in enumerate(space)]  # per axis, per step
        made = []
        problems = self._problems(group, batch, filters, parts, channels)
        for i, ((g, _), problem) in enumerate(zip(self.chain, problems, strict=True)):
            inputs, outputs, kernel = self._channels(g, group, filters, channels)
            made.append(
                Piece(
                    problem=problem,
                    input=(batch, inputs, *(p[i].input for p in parts)),
                    kernel=kernel,
                    output=(batch, outputs, *(p[i].output for p in parts)),
                    partial=self.cut.channel > 1,
                )
            )
        return tuple(made)

    def _along(self, k: int, outputs: Range) -> tuple[AxisPart, ...]:
        """Every step's part of axis k, the last making `outputs`, each making what the next one needs."""
        if (k, outputs) in self.parts:
            return self.parts[k, outputs]
        found: list[AxisPart] = []
        wanted = outputs
        for axis in reversed(self.axes[k]):
            one = part(axis, wanted)
            if one is None or (found and wanted.stop > axis.output):
                raise _CannotError
            found.append(one)
            wanted = one.input
        self.parts[k, outputs] = tuple(reversed(found))
        return self.parts[k, outputs]

    def _channels(
        self, g: Geometry, group: Range, filters: Range, channels: Range
    ) -> tuple[Range, Range, tuple[Range, ...]]:
        """Input channels, output channels and kernel ranges of a piece of one step."""
        c, m = g.in_channels // self.groups, g.out_channels // self.groups  # of one common group
        inputs, outputs = Range(group.start * c, group.stop * c), Range(group.start * m, group.stop * m)
        some_in, some_out = Range(0, g.in_channels // g.groups), Range(0, g.out_channels // g.groups)
        if self.cut.filter > 1:
            outputs, some_out = Range(outputs.start + filters.start, outputs.start + filters.stop), filters
        if self.cut.channel > 1:
            inputs, some_in = Range(inputs.start + channels.start, inputs.start + channels.stop), channels
        first, second = (inputs, some_out) if g.transposed else (outputs, some_in)
        return inputs, outputs, (first, second, *(Range(0, k) for k in g.kernel))

    def _problems(
        self, group: Range, batch: Range, filters: Range, parts: Sequence[tuple[AxisPart, ...]], channels: Range
    ) -> tuple[Problem, ...]:
        slopes = any(g.activation and len(g.activation.slope) > 1 for g, _ in self.chain)
        key = (
            (group, filters) if slopes else (_len(group), _len(filters)),
            _len(batch),
            _len(channels),
            tuple(
                (_len(p.input), _len(p.output), p.stride, p.padding, p.output_padding) for axis in parts for p in axis
            ),
        )
        if key not in self.problems:
            self.problems[key] = tuple(
                self._problem(g, types, group, batch, filters, [p[i] for p in parts], channels)
                for i, (g, types) in enumerate(self.chain)
            )
        return self.problems[key]

    def _problem(
        self,
        g: Geometry,
        types: Types,
        group: Range,
        batch: Range,
        filters: Range,
        parts: Sequence[AxisPart],
        channels: Range,
    ) -> Problem:
        inputs, outputs, _ = self._channels(g, group, filters, channels)
        partial = self.cut.channel > 1
        activation = None if partial else g.activation and g.activation.channels(outputs.start, outputs.stop)
        geometry = replace(
            g,
            batch=_len(batch),
            in_channels=_len(inputs),
            out_channels=_len(outputs),
            groups=_len(group) * (g.groups // self.groups),
            input=tuple(_len(p.input) for p in parts),
            output=tuple(_len(p.output) for p in parts),
            stride=tuple(p.stride for p in parts),
            padding=tuple(p.padding for p in parts),
            output_padding=tuple(p.output_padding for p in parts),
            activation=activation,
        )
        return Problem(geometry, types._replace(output=types.accumulate) if partial else types)


def _grid(
    ways: Sequence[Callable[[Sequence[float]], list[Range] | None]],
    counts: Sequence[int],
    shares: Sequence[float] | None,
) -> Iterator[tuple[Range, ...]]:
    """Every cell of the grid; along each dimension a part is as long as the shares of the cells in it."""
    if shares is None:
        yield from itertools.product(*(_or_refuse(way([1.0] * n)) for way, n in zip(ways, counts, strict=True)))
        return
    if not ways:
        yield ()
        return
    inner = len(shares) // counts[0]
    blocks = [shares[i * inner : (i + 1) * inner] for i in range(counts[0])]
    for range_, block in zip(_or_refuse(ways[0]([sum(b) for b in blocks])), blocks, strict=True):
        for rest in _grid(ways[1:], counts[1:], block):
            yield (range_, *rest)


def _or_refuse(ranges: list[Range] | None) -> list[Range]:
    if ranges is None:
        raise _CannotError
    return ranges


def _len(r: Range) -> int:
    return r.stop - r.start
