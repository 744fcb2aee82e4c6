"""The parts of a plan: ranges, shards, alternatives, and the plan of one step."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from groupconv.convolution.totals import Window, field_of

Shape = tuple[int, ...]


class Range(NamedTuple):
    """Indices from `start` to `stop` (exclusive) along one dimension.

    A stop beyond the dimension wraps around: with circular padding a shard reads from both ends.
    """

    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """The range as a slice."""
        return slice(self.start, self.stop)

    @property
    def length(self) -> int:
        """The number of indices."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of one step that one worker runs.

    Attributes:
        index: position in its step.
        worker: id of the worker that runs it.
        input, kernel, output: a range per dimension of the step's input (N, C, …), kernel and output (N, M, …).
        bytes_in: input and kernel sent to the worker. bytes_out: output returned.
        multiply_adds: of this shard.
        seconds: predicted time in the engine.
        partial: whether the output is one term of a sum over the shards with the same output range.
    """

    index: int
    worker: str
    input: tuple[Range, ...]
    kernel: tuple[Range, ...]
    output: tuple[Range, ...]
    bytes_in: int
    bytes_out: int
    multiply_adds: int
    seconds: float = 0.0
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another cut that the planner considered.

    Attributes:
        cut: the dimension to cut along.
        shards: number of shards.
        seconds: predicted time, or the measured one.
        measured: whether the cut has run, so that its time was measured.
    """

    cut: str
    shards: int
    seconds: float
    measured: bool = False


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How one step is cut into shards, and why.

    Attributes:
        variant: the kind of convolution, such as "grouped" or "depthwise".
        input_shape, kernel_shape, output_shape, groups: of the step.
        cut: the dimension that is cut. reason: why the planner chose it.
        shards: in order.
        seconds: predicted time from dispatch to merged output, or the measured one; for a joined step, the time that
            it adds.
        alternatives: other cuts that were considered, cheapest first.
        joined: whether each shard continues on its own part of the previous step's output, on the same worker.
        stride, dilation: one per axis. transposed: of the step.
        measured: whether the cut has run, so that its time was measured.
    """

    variant: str
    input_shape: Shape
    kernel_shape: Shape
    output_shape: Shape
    groups: int
    cut: str
    reason: str
    shards: tuple[Shard, ...]
    seconds: float = 0.0
    alternatives: tuple[Alternative, ...] = ()
    joined: bool = False
    stride: Shape = ()
    dilation: Shape = ()
    transposed: bool = False
    measured: bool = False

    @property
    def windows(self) -> tuple[Window, ...]:
        """Its window, for `groupconv.receptive_field`; none in the plan of an older server."""
        if not self.stride:
            return ()
        return (Window(self.kernel_shape[2:], self.stride, self.dilation, self.transposed),)

    @property
    def weights(self) -> int:
        """Number of kernel weights without the bias."""
        return math.prod(self.kernel_shape)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the step as a whole; its shards may repeat some, for halos."""
        spatial = self.input_shape if self.transposed else self.output_shape
        return self.output_shape[0] * self.weights * math.prod(spatial[2:])

    @property
    def receptive_field(self) -> Shape:
        """Input elements per axis that one output depends on, from the first to the last."""
        return field_of(self.windows)
