"""Cutting a chain of steps into the pieces that its shards run."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from groupconv.convolution.dtypes import Types
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.plan import Range
from groupconv_server.planner.cuts import Cut, Piece, common_groups, split, split_axis
from groupconv_server.planner.halo import AxisPart, axis_of, chain_parts
from groupconv_worker.contract import Problem

T = TypeVar("T")


def pieces(chain: Sequence[Problem], cut: Cut, shares: Sequence[float] | None = None) -> list[tuple[Piece, ...]] | None:
    """Cut a chain of steps.

    Args:
        chain: one step, or several that share the cut.
        cut: parts along each dimension.
        shares: the relative size of each shard; None means equal.

    Returns:
        For each shard one piece of each step, in the order of `Cut.grid`; None if the cut is impossible.

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
    except _ImpossibleCutError:
        return None


class _ImpossibleCutError(Exception):
    """A chain cannot be cut like this."""


class _Cutter:
    """Cuts one chain. Shards of equal shape share one `Problem`."""

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
            raise _ImpossibleCutError  # slices would not be ranges, or shards would need each other's results

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
        parts = [self._along(k, r) for k, r in enumerate(space)]
        shard = []
        problems = self._problems(group, batch, filters, parts, channels)
        for (g, _), problem, *steps in zip(self.chain, problems, *parts, strict=True):
            inputs, outputs, kernel = self._channels(g, group, filters, channels)
            ins, outs = (batch, inputs, *(s.input for s in steps)), (batch, outputs, *(s.output for s in steps))
            shard.append(Piece(problem, ins, kernel, outs, partial=self.cut.channel > 1))
        return tuple(shard)

    def _along(self, k: int, outputs: Range) -> tuple[AxisPart, ...]:
        """The part of axis k of each step, if the last step makes `outputs`."""
        if (k, outputs) not in self.parts:
            self.parts[k, outputs] = _or_refuse(chain_parts(self.axes[k], outputs))
        return self.parts[k, outputs]

    def _channels(
        self, g: Geometry, group: Range, filters: Range, channels: Range
    ) -> tuple[Range, Range, tuple[Range, ...]]:
        """Input channels, output channels and kernel ranges of a piece of a step."""
        c, m = g.in_channels // self.groups, g.out_channels // self.groups  # in a common group
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
            (group, filters) if slopes else (group.length, filters.length),
            batch.length,
            channels.length,
            tuple(
                (p.input.length, p.output.length, p.stride, p.padding, p.output_padding) for axis in parts for p in axis
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
            batch=batch.length,
            in_channels=inputs.length,
            out_channels=outputs.length,
            groups=group.length * (g.groups // self.groups),
            input=tuple(p.input.length for p in parts),
            output=tuple(p.output.length for p in parts),
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
    """The cells of the grid. The length of a part is in proportion to the shares of its cells."""
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


def _or_refuse(value: T | None) -> T:
    if value is None:
        raise _ImpossibleCutError
    return value
