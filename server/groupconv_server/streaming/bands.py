"""The bands of a stream: which output rows are computed together, and which input rows they need.

A feature map is streamed sample by sample, and in a sample along its first axis of space. Row n·H + h of the stream is
row h of sample n. A band is a range of rows of one sample or, where samples are small, several whole samples. This file
decides where bands end; `planner.halo` has the rows that a range of outputs needs, through all steps of a chain.

Some ranges are no convolution by themselves: they read only padding, reflect rows outside the range, or begin between
the inputs of a transposed step. Such a band grows until it is one. The rows after a band must be a convolution by
themselves too, or the band takes them all; so a stream can resume at the end of any band.

Circular padding along the streamed axis needs both ends of a sample at once. Each sample is then one band.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from groupconv.convolution.plan import Range
from groupconv_server.planner.halo import AxisPart, axis_of, chain_parts, trimmed
from groupconv_worker.contract import Problem

Chain = tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """A range of output rows, and what computing it takes.

    Attributes:
        input, output: rows of the stream.
        problems: the steps on this band.
    """

    input: Range
    output: Range
    problems: Chain

    @property
    def nbytes(self) -> int:
        """Bytes of its input, its output and the arrays between the steps."""
        first = self.problems[0]
        size = math.prod(first.geometry.input_shape) * first.types.input.itemsize
        return size + sum(math.prod(p.geometry.output_shape) * p.types.output.itemsize for p in self.problems)


class Bands:
    """The bands of a stream.

    Args:
        problems: the steps on the whole input.
        rows: output rows of a band.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> g = resolve(ConvSpec(padding=1), (1, 1, 9, 9), (1, 1, 3, 3))
        >>> problem = Problem(g, types_of(np.dtype("float32"), np.dtype("float32")))
        >>> [(str(b.input), str(b.output)) for b in Bands((problem,), 4).after(0)]
        [('0:5', '0:4'), ('3:9', '4:8'), ('7:9', '8:9')]
    """

    def __init__(self, problems: Sequence[Problem], rows: int) -> None:
        self.problems, self.rows = tuple(problems), rows
        first, last = self.problems[0].geometry, self.problems[-1].geometry
        self.samples, self.height, self.out_height = first.batch, first.input[0], last.output[0]
        self._axes = [axis_of(p.geometry, 0) for p in self.problems]
        self._wraps = any(a.mode == "circular" and a.padding != (0, 0) for a in self._axes)
        self._chains: dict[object, Chain] = {}

    @property
    def whole(self) -> int:
        """Samples in a band; 0 if a band is a part of a sample."""
        if self.rows >= self.out_height or self._wraps:
            return max(1, min(self.samples, self.rows // self.out_height))
        return 0

    def first(self, row: int) -> int:
        """The first output row of a band that has `row`."""
        if row >= self.samples * self.out_height:
            return self.samples * self.out_height
        sample, within = divmod(row, self.out_height)
        if self.whole:
            return sample * self.out_height
        start, back = within, self.rows
        while start > 0 and self._parts(Range(start, self.out_height)) is None:
            start, back = max(0, start - back), back * 2
        while (stop := self._grown(start)[0].stop) <= within:  # it may have gone back too far
            start = stop
        return sample * self.out_height + start

    def after(self, row: int) -> Iterator[Band]:
        """The bands from output row `row` on, which is the first row of a band."""
        sample, start = divmod(row, self.out_height)
        if self.whole:
            for n in range(sample, self.samples, self.whole):
                yield self._samples(Range(n, min(self.samples, n + self.whole)))
            return
        for n in range(sample, self.samples):
            while start < self.out_height:
                outputs, parts = self._grown(start)
                yield self._rows(n, outputs, parts)
                start = outputs.stop
            start = 0

    def widest(self) -> Band:
        """A band to estimate memory with: the first, or one in the middle with both halos.

        A band that had to grow may be larger, so `Stream` checks each one.
        """
        if self.whole:
            return self._samples(Range(0, self.whole))
        middle = self.first(self.out_height // 2)
        return max((self._rows(0, *self._grown(row)) for row in (0, middle)), key=lambda b: b.nbytes)

    def _grown(self, start: int) -> tuple[Range, tuple[AxisPart, ...]]:
        step, stop = self.rows, start
        while True:
            stop, step = min(self.out_height, stop + step), step * 2
            outputs = Range(start, stop)
            parts = self._parts(outputs)
            rest = stop == self.out_height or self._parts(Range(stop, self.out_height)) is not None
            if parts is not None and rest:
                return outputs, parts
            if stop == self.out_height:  # impossible: the rows after a band are a convolution, and so are all rows
                raise AssertionError(f"rows {outputs} of {self._axes} cannot be computed")

    def _parts(self, outputs: Range) -> tuple[AxisPart, ...] | None:
        """Each step's part of the streamed axis, if the last step computes `outputs`; None if that is impossible.

        Rows that reach no output are left out if the steps before can then still be cut.
        """
        parts = chain_parts(self._axes, outputs, trimmed) or chain_parts(self._axes, outputs)
        return None if parts is None or parts[0].input.stop > self.height else parts

    def _rows(self, sample: int, outputs: Range, parts: tuple[AxisPart, ...]) -> Band:
        key = tuple((p.input.length, p.output.length, p.stride, p.padding, p.output_padding) for p in parts)
        if key not in self._chains:
            self._chains[key] = tuple(_on(p, its) for p, its in zip(self.problems, parts, strict=True))
        above, below = sample * self.height, sample * self.out_height
        rows = parts[0].input
        return Band(
            Range(above + rows.start, above + rows.stop),
            Range(below + outputs.start, below + outputs.stop),
            self._chains[key],
        )

    def _samples(self, samples: Range) -> Band:
        batch = samples.length
        if batch not in self._chains:
            self._chains[batch] = tuple(replace(p, geometry=p.geometry.with_batch(batch)) for p in self.problems)
        return Band(_times(samples, self.height), _times(samples, self.out_height), self._chains[batch])


def _on(problem: Problem, part: AxisPart) -> Problem:
    """A step on one sample and on `part` of its first axis."""
    g = problem.geometry
    geometry = replace(
        g,
        batch=1,
        input=(part.input.length, *g.input[1:]),
        output=(part.output.length, *g.output[1:]),
        stride=(part.stride, *g.stride[1:]),
        padding=(part.padding, *g.padding[1:]),
        output_padding=(part.output_padding, *g.output_padding[1:]),
    )
    return replace(problem, geometry=geometry)


def _times(r: Range, rows: int) -> Range:
    return Range(r.start * rows, r.stop * rows)
