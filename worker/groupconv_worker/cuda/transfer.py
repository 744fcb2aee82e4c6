"""Feature maps to the device and back, chunk by chunk, so that copies and kernels overlap.

A run is cut into chunks along the batch, and along groups where one sample is large. Three staging buffers take turns;
each has pinned host memory and device memory for one chunk:

    chunk   copy in      compute      copy out
    i       ████
    i+1         ████     ████ i
    i+2             ████     ████ i+1 ████ i

Events order the streams; the host waits only when it needs a buffer again.
"""

import math
from itertools import cycle
from typing import Any

from groupconv.convolution.dtypes import Types
from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.chunks import Chunk, chunk_size, chunks, group_bytes
from groupconv_worker.cuda.device import Device, RunStreams, storage
from groupconv_worker.job import current

IN_FLIGHT = 3
"""Chunks at a time: one arrives, one is computed, one leaves."""


class StagingBuffer:
    """Memory for one chunk, on the host and on the device, and events of its copies and kernels."""

    def __init__(self, device: Device, g: Geometry, types: Types, chunk: Chunk) -> None:
        samples, groups = (s.stop - s.start for s in (chunk.samples, chunk.groups))
        x_shape = (samples, groups * (g.in_channels // g.groups), *g.input)
        y_shape = (samples, groups * (g.out_channels // g.groups), *g.output)
        self.host_x, self.host_y = (
            device.pinned_array(shape, dtype) for shape, dtype in ((x_shape, types.input), (y_shape, types.output))
        )
        empty = device.cupy.empty
        self.x, self.y = empty(x_shape, storage(types.input)), empty(y_shape, storage(types.output))
        self.loaded, self.computed, self.fetched = (device.cupy.cuda.Event(disable_timing=True) for _ in range(3))
        self.chunk: Chunk | None = None


def stream_through(
    device: Device,
    streams: RunStreams,
    kernel: DeviceKernel,
    problem: Problem,
    x: Array,
    out: Array,
    target: int,
    budget: int,
) -> None:
    """Run `kernel` on host arrays in chunks of about `target` bytes.

    Args:
        device: where.
        streams: of this run.
        kernel: what to run.
        problem: its geometry, and the dtypes of x and out.
        x: (N, C, *input), any strides.
        out: (N, M, *output), any strides; written.
        target: bytes of a chunk.
        budget: bytes of workspace for the kernel.

    Raises:
        cupy.cuda.memory.OutOfMemoryError: smaller chunks may fit.
        DeadlineExceededError, CancelledError: the job of this thread is over. The queued work may still run.
    """
    g, types = problem.geometry, problem.types
    batch, per_x, per_y = x.shape[0], g.in_channels // g.groups, g.out_channels // g.groups
    samples, groups = chunk_size(batch, g.groups, group_bytes(g, types), target)
    plan = list(chunks(batch, g.groups, samples, groups))
    buffers = [StagingBuffer(device, g, types, plan[0]) for _ in plan[:IN_FLIGHT]]  # the first chunk is the largest

    def fetch(buffer: StagingBuffer) -> None:
        if buffer.chunk is not None:
            buffer.fetched.synchronize()
            target_view = out[buffer.chunk.channels(per_y)]
            device.copy(target_view, _part(buffer.host_y, target_view.shape))
            buffer.chunk = None

    for chunk, buffer in zip(plan, cycle(buffers), strict=False):
        current().check()
        fetch(buffer)  # the chunk of three turns before; now all its memory is free
        source = x[chunk.channels(per_x)]
        y_shape = out[chunk.channels(per_y)].shape
        host_x, host_y = _part(buffer.host_x, source.shape), _part(buffer.host_y, y_shape)
        device_x, device_y = _part(buffer.x, source.shape), _part(buffer.y, y_shape)
        device.copy(host_x, source)
        device_x.set(host_x.view(storage(types.input)), stream=streams.copy_in)
        buffer.loaded.record(streams.copy_in)
        streams.compute.wait_event(buffer.loaded)
        kernel.run(device_x, device_y, chunk.groups.start, budget)
        buffer.computed.record(streams.compute)
        streams.copy_out.wait_event(buffer.computed)
        device_y.get(stream=streams.copy_out, out=host_y.view(storage(types.output)), blocking=False)
        buffer.fetched.record(streams.copy_out)
        buffer.chunk = chunk
    for buffer in buffers:
        fetch(buffer)


def _part(memory: Any, shape: tuple[int, ...]) -> Any:
    """The beginning of `memory` as a contiguous array of `shape`: the last chunk may be smaller."""
    return memory if memory.shape == shape else memory.reshape(-1)[: math.prod(shape)].reshape(shape)
