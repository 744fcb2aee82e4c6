"""Feature maps to the device and back, chunk by chunk, so that copies and kernels overlap.

A run is cut into chunks along the batch, and along groups where one sample is large. Three staging buffers take turns;
each has device memory for one chunk, and pinned host memory unless the caller's arrays are page-locked:

    chunk   copy in      compute      copy out
    i       ████
    i+1         ████     ████ i
    i+2             ████     ████ i+1 ████ i

Events order the streams; the host waits only when it needs a buffer again.
"""

import math
from functools import cached_property
from itertools import cycle
from typing import Any

from groupconv_worker.contract import Array
from groupconv_worker.cuda.chain import Kernel
from groupconv_worker.cuda.chunks import Chunk, Maps, chunk_size, chunks
from groupconv_worker.cuda.device import Device, RunStreams, storage
from groupconv_worker.job import current

IN_FLIGHT = 3
"""Chunks at a time: one arrives, one is computed, one leaves."""


class StagingBuffer:
    """Memory for one chunk on the device and, pinned, on the host, with events of its copies and kernels."""

    def __init__(self, device: Device, maps: Maps, chunk: Chunk) -> None:
        samples, groups = (s.stop - s.start for s in (chunk.samples, chunk.groups))
        self._device, self._maps, (x_shape, y_shape) = device, maps, maps.shapes(samples, groups)
        self.x = device.cupy.empty(x_shape, storage(maps.x_dtype))
        self.y = device.cupy.empty(y_shape, storage(maps.y_dtype))
        self.loaded, self.computed, self.fetched = (device.cupy.cuda.Event(disable_timing=True) for _ in range(3))
        self._leaving: tuple[Array, Array] | None = None  # the caller's array, and where the device writes it

    @cached_property
    def _pinned_x(self) -> Array:
        return self._device.pinned_array(self.x.shape, self._maps.x_dtype)

    @cached_property
    def _pinned_y(self) -> Array:
        return self._device.pinned_array(self.y.shape, self._maps.y_dtype)

    def load(self, x: Array, stream: Any) -> Any:
        """Put the copy of x to the device on a stream; return where it goes. Called once the buffer is free."""
        on_device, host = _part(self.x, x.shape), x
        if not self._device.page_locked.holds(x):
            host = _part(self._pinned_x, x.shape)
            self._device.copy(host, x)
        on_device.set(host.view(storage(self._maps.x_dtype)), stream=stream)
        self.loaded.record(stream)
        return on_device

    def store(self, y: Any, out: Array, stream: Any) -> None:
        """Put the copy of y, which is on the device, to `out` on a stream; `finish` completes it."""
        host = out if self._device.page_locked.holds(out) else _part(self._pinned_y, out.shape)
        y.get(stream=stream, out=host.view(storage(self._maps.y_dtype)), blocking=False)
        self.fetched.record(stream)
        self._leaving = out, host

    def finish(self) -> None:
        """Wait until the chunk that uses this buffer is in the caller's array. Then all of the buffer is free."""
        if self._leaving is not None:
            self.fetched.synchronize()
            out, host = self._leaving
            if host is not out:
                self._device.copy(out, host)
            self._leaving = None


def stream_through(
    device: Device, streams: RunStreams, kernel: Kernel, maps: Maps, x: Array, out: Array, target: int, budget: int
) -> None:
    """Run `kernel` on host arrays in chunks of about `target` bytes.

    Args:
        device: where.
        streams: of this run.
        kernel: what to run.
        maps: its input and output.
        x: (N, C, *input), any strides.
        out: (N, M, *output), any strides; written.
        target: bytes of a chunk.
        budget: bytes of workspace for the kernel.

    Raises:
        cupy.cuda.memory.OutOfMemoryError: smaller chunks may fit.
        DeadlineExceededError, CancelledError: the job of this thread is over. The queued work may still run.
    """
    samples, groups = chunk_size(len(x), maps.groups, maps.nbytes, target)
    plan = list(chunks(len(x), maps.groups, samples, groups))
    buffers = [StagingBuffer(device, maps, plan[0]) for _ in plan[:IN_FLIGHT]]  # the first chunk is the largest
    for chunk, buffer in zip(plan, cycle(buffers), strict=False):
        current().check()
        buffer.finish()  # the chunk of three turns before
        device_x = buffer.load(x[chunk.channels(maps.x[0])], streams.copy_in)
        here = out[chunk.channels(maps.y[0])]
        device_y = _part(buffer.y, here.shape)
        streams.compute.wait_event(buffer.loaded)
        kernel.run(device_x, device_y, chunk.groups.start, budget)
        buffer.computed.record(streams.compute)
        streams.copy_out.wait_event(buffer.computed)
        buffer.store(device_y, here, streams.copy_out)
    for buffer in buffers:
        buffer.finish()


def _part(memory: Any, shape: tuple[int, ...]) -> Any:
    """The beginning of `memory` as a contiguous array of `shape`: the last chunk may be smaller."""
    return memory if memory.shape == shape else memory.reshape(-1)[: math.prod(shape)].reshape(shape)
