"""Feature maps to the device and back, piece by piece, so that copies and kernels overlap.

A run is cut into pieces along the batch, and along groups where one sample is large. Three slots take turns;
each has pinned host memory and device memory for one piece:

    piece   copy in      compute      copy out
    i       ████
    i+1         ████     ████ i
    i+2             ████     ████ i+1 ████ i

Events order the streams; the host waits only when it needs a slot again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from groupconv.convolution import cost
from groupconv.convolution.dtypes import Types
from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.device import Device, RunStreams, device_types, storage
from groupconv_worker.cuda.kernel import DeviceKernel
from groupconv_worker.job import current

SLOTS = 3
"""One being filled, one computing, one being emptied."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some samples of some groups: x[samples, groups · C/g], y[samples, groups · M/g]."""

    samples: slice
    groups: slice

    def channels(self, per_group: int) -> tuple[slice, slice]:
        """The index of the piece in an array of `per_group` channels per group."""
        return self.samples, slice(self.groups.start * per_group, self.groups.stop * per_group)


def piece_size(batch: int, groups: int, group_bytes: int, target: int) -> tuple[int, int]:
    """Samples and groups of a piece of about `target` bytes: whole samples if one fits, else groups of one.

    Args:
        batch: samples there are.
        groups: groups there are.
        group_bytes: input and output of one group of one sample.
        target: bytes of a piece.

    Example:
        >>> piece_size(64, 32, 1000, 100_000), piece_size(64, 32, 1000, 8_000), piece_size(2, 2, 1000, 1)
        ((3, 32), (1, 8), (1, 1))
    """
    if group_bytes * groups <= target:
        return min(batch, target // (group_bytes * groups)), groups
    return 1, max(1, min(groups, target // group_bytes))


def pieces(batch: int, groups: int, samples: int, some_groups: int) -> Iterator[Chunk]:
    """Pieces of at most `samples` × `some_groups`, and of about the same size, in order.

    Example:
        >>> [(p.samples.stop, p.groups.start) for p in pieces(4, 2, 3, 2)]
        [(2, 0), (4, 0)]
    """
    for some in _even(batch, samples):
        for part in _even(groups, some_groups):
            yield Chunk(some, part)


def _even(count: int, most: int) -> Iterator[slice]:
    parts = -(-count // most)
    for i in range(parts):
        yield slice(-(-count * i // parts), -(-count * (i + 1) // parts))


PIECE_MACS = 2**36
"""Multiply-adds of a piece: 2 to 40 ms. Nothing stops a kernel that runs, so pieces are where a run ends early."""


def bytes_of_a_piece(g: Geometry, types: Types, most: int) -> int:
    """Bytes of a piece: at most `most`, and fewer where the work on them would exceed `PIECE_MACS`; one group at least.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> f32 = np.dtype("float32")
        >>> types = Types(f32, f32, f32, f32)
        >>> bytes_of_a_piece(resolve(ConvSpec(), (32, 64, 10, 10), (64, 64, 1, 1)), types, 600_000)
        600000
        >>> g = resolve(ConvSpec(padding=30), (32, 64, 256, 256), (64, 64, 61, 61))  # 10^12 for each sample
        >>> bytes_of_a_piece(g, types, 2**30) == group_bytes(g, types)
        True
    """
    least = group_bytes(g, types)
    macs = max(1, cost.multiply_adds(g.with_batch(1)) // g.groups)
    return max(least, min(most, PIECE_MACS * least // macs))


def of_a_piece(problem: Problem, target: int) -> Problem:
    """The problem with as many samples as its largest piece has, of about `target` bytes.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> f32 = np.dtype("float32")
        >>> problem = Problem(resolve(ConvSpec(), (32, 64, 10, 10), (64, 64, 1, 1)), Types(f32, f32, f32, f32))
        >>> of_a_piece(problem, 600_000).geometry.batch  # 51,200 bytes a sample, and three pieces
        11
    """
    g, types = problem.geometry, problem.types
    samples, groups = piece_size(g.batch, g.groups, group_bytes(g, types), bytes_of_a_piece(g, types, target))
    first = next(pieces(g.batch, g.groups, samples, groups)).samples  # no smaller than any
    return problem if first.stop == g.batch else Problem(replace(g, batch=first.stop), types)


class StagingBuffer:
    """Memory for one piece, on the host and on the device, and where it stands."""

    def __init__(self, device: Device, g: Geometry, types: Types, piece: Chunk) -> None:
        samples, groups = (s.stop - s.start for s in (piece.samples, piece.groups))
        x_shape = (samples, groups * (g.in_channels // g.groups), *g.input)
        y_shape = (samples, groups * (g.out_channels // g.groups), *g.output)
        self.host_x, self.host_y = (
            device.pinned_array(shape, dtype) for shape, dtype in ((x_shape, types.input), (y_shape, types.output))
        )
        empty = device.cupy.empty
        self.x, self.y = empty(x_shape, storage(types.input)), empty(y_shape, storage(types.output))
        self.loaded, self.computed, self.fetched = (device.cupy.cuda.Event(disable_timing=True) for _ in range(3))
        self.piece: Chunk | None = None


def stream_through(
    device: Device,
    lane: RunStreams,
    kernel: DeviceKernel,
    g: Geometry,
    types: Types,
    x: Array,
    out: Array,
    target: int,
    budget: int,
) -> None:
    """Run `kernel` on host arrays in pieces of about `target` bytes.

    Args:
        device: where.
        lane: whose streams to use.
        kernel: what to run.
        g: its geometry.
        types: its dtypes, those of x and out.
        x: (N, C, *input), any strides.
        out: (N, M, *output), any strides; written.
        target: bytes of a piece.
        budget: bytes of workspace for the kernel.

    Raises:
        cupy.cuda.memory.OutOfMemoryError: smaller pieces may fit.
        DeadlineExceededError, CancelledError: the job of this thread is over. What was queued may still run.
    """
    batch, per_x, per_y = x.shape[0], g.in_channels // g.groups, g.out_channels // g.groups
    samples, groups = piece_size(batch, g.groups, group_bytes(g, types), target)
    plan = list(pieces(batch, g.groups, samples, groups))
    slots = [StagingBuffer(device, g, types, plan[0]) for _ in plan[:SLOTS]]  # the first is no smaller than any

    def fetch(slot: StagingBuffer) -> None:
        if slot.piece is not None:
            slot.fetched.synchronize()
            target_view = out[slot.piece.channels(per_y)]
            device.copy(target_view, _part(slot.host_y, target_view.shape))
            slot.piece = None

    for piece, slot in zip(plan, cycle(slots), strict=False):
        current().check()
        fetch(slot)  # its piece of three turns ago; from here on all its memory is free
        source = x[piece.channels(per_x)]
        y_shape = out[piece.channels(per_y)].shape
        host_x, host_y = _part(slot.host_x, source.shape), _part(slot.host_y, y_shape)
        device_x, device_y = _part(slot.x, source.shape), _part(slot.y, y_shape)
        device.copy(host_x, source)
        device_x.set(host_x.view(storage(types.input)), stream=lane.copy_in)
        slot.loaded.record(lane.copy_in)
        lane.compute.wait_event(slot.loaded)
        compute(kernel, types, device_x, device_y, piece.groups.start, budget)
        slot.computed.record(lane.compute)
        lane.copy_out.wait_event(slot.computed)
        device_y.get(stream=lane.copy_out, out=host_y.view(storage(types.output)), blocking=False)
        slot.fetched.record(lane.copy_out)
        slot.piece = piece
    for slot in slots:
        fetch(slot)


def compute(kernel: DeviceKernel, types: Types, x: Any, y: Any, first_group: int, budget: int) -> None:
    """Launch `kernel`, an integer input of a float kernel widened before."""
    kernel.launch(x.astype(storage(device_types(types).input), copy=False), y, first_group, budget)


def group_bytes(g: Geometry, types: Types) -> int:
    """Input and output of one group of one sample."""
    x = g.in_channels // g.groups * math.prod(g.input) * types.input.itemsize
    y = g.out_channels // g.groups * math.prod(g.output) * types.output.itemsize
    return x + y


def _part(memory: Any, shape: tuple[int, ...]) -> Any:
    """The beginning of `memory` as a contiguous array of `shape`: the last piece may be a smaller one."""
    return memory if memory.shape == shape else memory.reshape(-1)[: math.prod(shape)].reshape(shape)
