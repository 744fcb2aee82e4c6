"""The bands of a stream: which output rows are computed together, and which input rows they need.

A feature map is streamed sample by sample, within a sample along its first spatial axis; row n·H + h is row h of sample
n. A band is a range of rows of one sample, or, where samples are small, a run of whole ones. What a range of outputs
needs, through every step of a chain, is `planner.halo`'s; here it is only decided where bands end.

Some ranges cannot be a convolution of their own: they see nothing but padding, mirror rows beyond them, or begin
between the inputs of a transposed step. Such a band is made longer until it can be. The rest after a band must always
be able to stand alone too, or the band takes it along; so a stream may begin at the end of any band: that is resuming.

Circular padding of the banded axis needs both ends of a sample at once: each sample is then one band, which the memory
of a stream must hold.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from groupconv.convolution.plan import Range
from groupconv_server.planner.halo import Axis, AxisPart, axis_of, part, trimmed
from groupconv_worker.contract import Problem

Chain = tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """A band of the output and what it takes.

    Attributes:
        input, output: rows of the stream.
        problems: the steps as they are on this band.
    """

    input: Range
    output: Range
    problems: Chain

    @property
    def nbytes(self) -> int:
        """Of its input, its output and what lies between the steps."""
        first = self.problems[0]
        size = math.prod(first.geometry.input_shape) * first.types.input.itemsize
        return size + sum(math.prod(p.geometry.output_shape) * p.types.output.itemsize for p in self.problems)


class Bands:
    """How the chain `problems` of a whole stream is cut into bands.

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
        self._made: dict[object, Chain] = {}

    @property
    def whole(self) -> int:
        """Samples in a band; 0 where a band is part of one."""
        if self.rows >= self.out_height or self._wraps:
            return max(1, min(self.samples, self.rows // self.out_height))
        return 0

    def first(self, row: int) -> int:
        """An output row, `row` or one before it, from which the rest can stand alone and whose band holds `row`."""
        if row >= self.samples * self.out_height:
            return self.samples * self.out_height
        sample, within = divmod(row, self.out_height)
        if self.whole:
            return sample * self.out_height
        start, back = within, self.rows
        while start > 0 and self._parts(Range(start, self.out_height)) is None:
            start, back = max(0, start - back), back * 2
        while (stop := self._grown(start)[0].stop) <= within:  # the steps back may have been too long
            start = stop
        return sample * self.out_height + start

    def after(self, row: int) -> Iterator[Band]:
        """The bands from output row `row`, which `first` gave, to the last."""
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
        """The band that stands for all when memory is counted: the first, or one from the middle with both its halos.

        A band that had to grow may be larger; `Stream` checks each as it comes.
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
            if stop == self.out_height:  # cannot be: the rest after a band stands alone, and the whole does
                raise AssertionError(f"rows {outputs} of {self._axes} cannot be computed")

    def _parts(self, outputs: Range) -> tuple[AxisPart, ...] | None:
        """Every step's part of the banded axis, the last making `outputs`, each making what the next one needs.

        Without the rows that are cropped whole, where that can be: the rows between two steps that are left then may
        begin in a gap between inputs. The whole with all its rows always can be.
        """
        return self._chained(trimmed, outputs) or self._chained(part, outputs)

    def _chained(self, on: Callable[[Axis, Range], AxisPart | None], outputs: Range) -> tuple[AxisPart, ...] | None:
        found: list[AxisPart] = []
        for axis in reversed(self._axes):
            one = on(axis, outputs)
            if one is None or one.input.stop > axis.input:
                return None
            found.append(one)
            outputs = one.input
        return tuple(reversed(found))

    def _rows(self, sample: int, outputs: Range, parts: tuple[AxisPart, ...]) -> Band:
        key = tuple((_len(p.input), _len(p.output), p.stride, p.padding, p.output_padding) for p in parts)
        if key not in self._made:
            self._made[key] = tuple(_on(p, one) for p, one in zip(self.problems, parts, strict=True))
        above, below = sample * self.height, sample * self.out_height
        rows = parts[0].input
        return Band(
            Range(above + rows.start, above + rows.stop),
            Range(below + outputs.start, below + outputs.stop),
            self._made[key],
        )

    def _samples(self, samples: Range) -> Band:
        batch = _len(samples)
        if batch not in self._made:
            self._made[batch] = tuple(replace(p, geometry=p.geometry.with_batch(batch)) for p in self.problems)
        return Band(_times(samples, self.height), _times(samples, self.out_height), self._made[batch])


def _on(problem: Problem, part: AxisPart) -> Problem:
    """A step of one sample as it is on `part` of its first axis."""
    g = problem.geometry
    geometry = replace(
        g,
        batch=1,
        input=(_len(part.input), *g.input[1:]),
        output=(_len(part.output), *g.output[1:]),
        stride=(part.stride, *g.stride[1:]),
        padding=(part.padding, *g.padding[1:]),
        output_padding=(part.output_padding, *g.output_padding[1:]),
    )
    return replace(problem, geometry=geometry)


def _len(r: Range) -> int:
    return r.stop - r.start


def _times(r: Range, rows: int) -> Range:
    return Range(r.start * rows, r.stop * rows)
