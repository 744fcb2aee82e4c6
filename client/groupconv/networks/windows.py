"""How a map is streamed through a network: the windows it is cut into, and where their outputs go."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from groupconv.networks.tensors import TensorInfo
from groupconv.text import counted, human_bytes

Slices = tuple[slice, ...]


class OutputPart(NamedTuple):
    """What one window gives of an axis of an output.

    Attributes:
        start, stop: the indices in the whole output.
        origin: index in the whole output of the window's first element; what lies outside of the part is not the
            whole's.
    """

    start: int
    stop: int
    origin: int


@dataclass(frozen=True, slots=True)
class OutputAxis:
    """An axis of an output, cut like the input's.

    Attributes:
        axis: of the output.
        parts: one for each window of the input; empty where a window gives nothing.
    """

    axis: int
    parts: tuple[OutputPart, ...]


@dataclass(frozen=True, slots=True)
class WindowAxis:
    """An axis of the inputs that is cut.

    Attributes:
        axis: of the inputs.
        step: input elements by which windows may differ, the product of the network's strides.
        receptive_field: input elements that an element of an output depends on, at most.
        ranges: start and stop of each window.
        outputs: for each output the axis that follows.
    """

    axis: int
    step: int
    receptive_field: int
    ranges: tuple[tuple[int, int], ...]
    outputs: Mapping[str, OutputAxis]


class Window(NamedTuple):
    """One window.

    Attributes:
        inputs: index of the window in the inputs that are cut.
        taken: for each output, the index of its part in what the window gives.
        placed: for each output, the index of this part in the whole output.
    """

    inputs: Slices
    taken: dict[str, Slices]
    placed: dict[str, Slices]


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """How a map is streamed through a network; `print(plan)` says it in words.

    Attributes:
        version: of the network.
        maps: names of the inputs that are cut; the others go along with each window.
        shape: of the maps.
        outputs: with the extents of the whole.
        axes: that are cut. All windows have the same extents.
        window_bytes: that a worker and the server hold for one window; an estimate.
        stream_bytes: that the windows under way take in one process of the server; an estimate.
        recomputed: work on windows over that on the whole, less 1.
        in_flight: windows to have under way at a time.
    """

    version: int
    maps: tuple[str, ...]
    shape: tuple[int, ...]
    outputs: tuple[TensorInfo, ...]
    axes: tuple[WindowAxis, ...]
    window_bytes: int
    stream_bytes: int
    recomputed: float
    in_flight: int

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(len(axis.ranges) for axis in self.axes)

    def window_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of each window of a map of this shape."""
        extents = {axis.axis: axis.ranges[0][1] - axis.ranges[0][0] for axis in self.axes}
        return tuple(extents.get(i, extent) for i, extent in enumerate(shape))

    def windows(self) -> Iterator[Window]:
        """The windows in the order of the file: the last axis changes fastest."""
        for numbers in itertools.product(*(range(len(axis.ranges)) for axis in self.axes)):
            at = {axis.axis: slice(*axis.ranges[i]) for axis, i in zip(self.axes, numbers, strict=True)}
            taken, placed = {}, {}
            for info in self.outputs:
                parts = {
                    axis.outputs[info.name].axis: axis.outputs[info.name].parts[i]
                    for axis, i in zip(self.axes, numbers, strict=True)
                }
                rank = range(len(info.shape))
                placed[info.name] = tuple(slice(*parts[i][:2]) if i in parts else slice(None) for i in rank)
                taken[info.name] = tuple(_within(parts[i]) if i in parts else slice(None) for i in rank)
            yield Window(tuple(at.get(i, slice(None)) for i in range(len(self.shape))), taken, placed)

    def __str__(self) -> str:
        window, whole = ("×".join(map(str, shape)) for shape in (self.window_shape(self.shape), self.shape))
        memory = [human_bytes(n) for n in (self.window_bytes, self.stream_bytes)]
        lines = [
            f"{counted(self.count, 'window')} of {window} from {whole}, {self.in_flight} at a time",
            f"about {memory[0]} for a window, {memory[1]} for all at a time in one process of the server",
            f"{self.recomputed:.1%} more work than on the whole, at the borders of windows",
        ]
        lines += [
            f"axis {axis.axis}: {counted(len(axis.ranges), 'window')}, "
            f"receptive field {axis.receptive_field}, step {axis.step}"
            for axis in self.axes
        ]
        lines += [f"output {info.name}: {'×'.join(map(str, info.shape))} {info.dtype}" for info in self.outputs]
        return "\n".join(lines)


def _within(part: OutputPart) -> slice:
    return slice(part.start - part.origin, part.stop - part.origin)
