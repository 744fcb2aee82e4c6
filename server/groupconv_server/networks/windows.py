"""The windows that a map is cut into: all of the same extents, as large as memory allows, with little done twice."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError, Words
from groupconv.networks.windows import OutputAxis, OutputPart, WindowAxis
from groupconv.text import human_bytes
from groupconv_server.coordinator.footprint import IN_MESSAGE
from groupconv_worker.contract import Array
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.needed.cutting import CutAxis
from groupconv_worker.graph.needed.table import reads

CALL = 4 * 2**20
"""Bytes of tensors whose computation takes about as long as a call takes beside it."""
RUNTIME = 3
"""An estimate: how many times the bytes of the tensors that are alive at once onnxruntime holds, as it reorders tensors
for its kernels. It held 2.8 times for a U-Net of 4 levels and two workers in a process; other networks differ."""
SIZES = 24
"""Numbers of windows that are considered for each axis."""
MOST_WINDOWS = 2**16
"""Along an axis. Each takes about 1 KiB of the server while it plans, and some bytes of the answer."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Extents of windows.

    Attributes:
        cores: for each axis, the steps whose outputs a window gives.
        window_bytes: that one window takes; an estimate.
        stream_bytes: that the windows under way take in one process; an estimate.
        recomputed: work on windows over that on the whole, less 1.
        in_flight: windows at a time.
    """

    cores: tuple[int, ...]
    window_bytes: int
    stream_bytes: int
    recomputed: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class Allowed:
    """What windows may take.

    Attributes:
        stream_bytes: of the windows of a stream, in one process, by estimate.
        message_bytes: of the inputs of one window, and of its outputs.
        tensor_bytes: of one tensor.
        workers: that windows are for.
        together: workers that share the process of the server; 1 if each has its own.
    """

    stream_bytes: int
    message_bytes: int
    tensor_bytes: int
    workers: int
    together: int = 1


def choose(graph: Graph, axes: Sequence[CutAxis], allowed: Allowed, window_bytes: int = 0) -> Chosen:
    """Choose extents: those with the least work for the worker that has most of it.

    Args:
        graph: bound to the shapes of the whole.
        axes: that may be cut.
        allowed: limits.
        window_bytes: that one window may take, if not 0.

    Raises:
        ResourceExhaustedError: the smallest window is too large, or there would be too many.
    """
    cores = [_sizes(axis) for axis in axes]
    grid = np.meshgrid(*cores, indexing="ij", sparse=True)
    steps = [np.minimum(core + axis.front + axis.back, axis.steps) for core, axis in zip(grid, axes, strict=True)]
    shape = tuple(len(c) for c in cores)
    sizes = {name: np.broadcast_to(_nbytes(graph, name, axes, steps), shape) for name in graph.tensors}
    inputs = sum((sizes[name] for name in graph.inputs), np.zeros(shape))
    outputs = sum((sizes[name] for name in graph.outputs), np.zeros(shape))
    running, messages = RUNTIME * _peak(graph, sizes), inputs + IN_MESSAGE * outputs
    footprint = running + messages
    largest = np.max([size for name, size in sizes.items() if name not in graph.constants], axis=0)
    numbers = [
        np.where(length == axis.steps, 1, -(-axis.steps // np.maximum(core, 1)))
        for length, core, axis in zip(steps, grid, axes, strict=True)
    ]
    count = math.prod(numbers)
    touched = [name for node in graph.nodes for name in (*node.inputs, *node.outputs) if name]
    work = sum((sizes[name] for name in touched), np.zeros(shape))
    fits = (np.maximum(inputs, outputs) <= allowed.message_bytes) & (largest <= allowed.tensor_bytes)
    few = np.max(np.broadcast_arrays(*numbers), axis=0) <= MOST_WINDOWS
    best: tuple[float, int, tuple[int, ...]] | None = None
    for in_flight in range(1, allowed.workers + 2):
        taken = min(in_flight, allowed.together) * running + in_flight * messages
        usable = few & fits & (taken <= allowed.stream_bytes) & (footprint <= (window_bytes or np.inf))
        if not usable.any():
            break
        rounds = np.ceil(count / min(in_flight, allowed.workers))
        cost = np.where(usable, rounds * (work + CALL), np.inf)
        at = np.unravel_index(int(cost.argmin()), shape)
        if best is None or cost[at] <= best[0]:
            best = float(cost[at]), in_flight, tuple(map(int, at))
    if best is None:
        most = min(window_bytes or allowed.stream_bytes, allowed.stream_bytes)
        if (fits & (footprint <= most)).any():
            raise ResourceExhaustedError(
                f"windows of at most {human_bytes(most)} (window_bytes, --network-stream-mib) would be more than "
                f"{MOST_WINDOWS} along an axis"
            )
        raise ResourceExhaustedError(
            f"the smallest window takes {human_bytes(int(footprint.min()))}, the limits are {human_bytes(most)} for a "
            f"window (--network-stream-mib), {human_bytes(allowed.tensor_bytes)} for a tensor, and "
            f"{human_bytes(allowed.message_bytes)} for a message"
        )
    _, in_flight, place = best
    whole = sum(graph.tensors[name].nbytes for name in touched)
    total = float(np.broadcast_to(count, shape)[place]) * float(work[place])
    return Chosen(
        tuple(int(c[i]) for c, i in zip(cores, place, strict=True)),
        int(footprint[place]),
        int(min(in_flight, allowed.together) * running[place] + in_flight * messages[place]),
        max(0.0, total / max(whole, 1) - 1),
        in_flight,
    )


def window_axis(graph: Graph, cut: CutAxis, core: int, source: str, field: int) -> WindowAxis:
    """The windows of one axis.

    Args:
        graph: bound to the shapes of the whole.
        cut: how the axis may be cut.
        core: steps whose outputs a window gives.
        source: an input that is cut.
        field: the receptive field.
    """
    length = min(core + cut.front + cut.back, cut.steps)
    core = cut.steps if length == cut.steps else core
    read = cut.tensors[source]
    ranges: list[tuple[int, int]] = []
    parts: dict[str, list[OutputPart]] = {name: [] for name in graph.outputs}
    for first in range(0, max(cut.steps, 1), max(core, 1)):
        start = min(max(0, first - cut.front), cut.steps - length)
        by_output = {}
        for name in graph.outputs:
            followed = cut.tensors[name]
            extent = followed.extent(cut.steps)
            stop = extent if first + core >= cut.steps else min((first + core) * followed.step, extent)
            by_output[name] = OutputPart(min(first * followed.step, stop), stop, start * followed.step)
        if any(part.start < part.stop for part in by_output.values()):
            ranges.append((start * read.step, start * read.step + read.extent(length)))
            for name, part in by_output.items():
                parts[name].append(part)
    outputs = {name: OutputAxis(cut.tensors[name].axis, tuple(output_parts)) for name, output_parts in parts.items()}
    return WindowAxis(cut.axis, read.step, field, tuple(ranges), outputs)


def check_window(whole: Graph, window: Graph, axes: Sequence[CutAxis], cores: Sequence[int]) -> None:
    """Check that the network treats a window as it treats the whole map: the same nodes, and the expected extents.

    Raises:
        InvalidArgumentError: naming a node that does not, as one whose extents are fixed.
    """
    lengths = [min(core + axis.front + axis.back, axis.steps) for core, axis in zip(cores, axes, strict=True)]
    for a, b in itertools.zip_longest(whole.nodes, window.nodes):
        if a is None or b is None or (a.op, a.outputs) != (b.op, b.outputs):
            raise InvalidArgumentError("network", "the same nodes for every extent", Words("others for a window"))
        if reads(a, whole) != reads(b, window):
            raise InvalidArgumentError(
                f"network.node ({a.op} {a.name!r})", "the same operator for every extent", Words("another for a window")
            )
        for name in filter(None, a.outputs):
            wanted = list(whole.tensors[name].shape)
            for axis, length in zip(axes, lengths, strict=True):
                if name in axis.tensors:
                    wanted[axis.tensors[name].axis] = axis.tensors[name].extent(length)
            if tuple(wanted) != window.tensors[name].shape:
                raise InvalidArgumentError(
                    f"network.node ({a.op} {a.name!r})",
                    f"an output of {wanted} for a window",
                    list(window.tensors[name].shape),
                )


def _sizes(axis: CutAxis) -> Array:
    """Steps that a window may give, from 1 to all of them."""
    counts = np.unique(np.geomspace(1, max(axis.steps, 1), SIZES).astype(int))
    sizes: Array = np.unique(-(-axis.steps // counts))
    return sizes if axis.steps else np.array([0])


def _nbytes(graph: Graph, name: str, axes: Sequence[CutAxis], steps: Sequence[Array]) -> Array:
    """Bytes of a tensor for each choice of extents."""
    tensor = graph.tensors[name]
    extents: dict[int, Array | int] = dict(enumerate(tensor.shape))
    for axis, length in zip(axes, steps, strict=True):
        if name in axis.tensors:
            followed = axis.tensors[name]
            extents[followed.axis] = np.maximum(length * followed.step + followed.rest, 0)
    size: Array = np.array(tensor.dtype.itemsize, np.float64)
    for extent in extents.values():
        size = size * extent
    return size


def _peak(graph: Graph, sizes: Mapping[str, Array]) -> Array:
    """Bytes that are alive at once, where each tensor lives from its node to the last one that reads it."""
    last = {name: i for i, node in enumerate(graph.nodes) for name in (*node.outputs, *node.inputs) if name}
    permanent = {*graph.outputs, *graph.constants, *graph.inputs}
    alive = sum((sizes[name] for name in graph.inputs), np.zeros(()))
    peak = alive
    for i, node in enumerate(graph.nodes):
        alive = alive + sum(sizes[name] for name in node.outputs if name)
        peak = np.maximum(peak, alive)
        for name in {*node.inputs, *node.outputs}:
            if name and name not in permanent and last[name] == i:
                alive = alive - sizes[name]
    return peak
