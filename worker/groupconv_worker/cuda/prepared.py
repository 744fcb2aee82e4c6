"""A prepared convolution, whose feature maps may lie on the host or on the device."""

import functools
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from groupconv.errors import GroupconvError, ResourceExhaustedError
from groupconv_worker.contract import Array
from groupconv_worker.cuda.captured_runs import CapturedRuns
from groupconv_worker.cuda.chain import ChainedKernel, Kernel, KernelChain
from groupconv_worker.cuda.chunks import Maps
from groupconv_worker.cuda.device import Device, RunStreams, storage
from groupconv_worker.cuda.transfer import stream_through

CUDA_DEVICE = 2
"""kDLCUDA. Source: DLPack, dlpack.h."""


class CudaPrepared:
    """Runs a kernel, or several that follow one another; safe to call from several threads, each with its own streams.

    Host arrays are copied in chunks while others are computed. Device arrays (anything that supports DLPack) are used
    in place, and nothing passes through the host: the work begins after what the caller queued on its current stream,
    and is done when the call returns. Where the channels of a device array are its last axis in memory, a kernel that
    wants that reads or writes it as it lies, and for others it is transposed on the device.

    Args:
        device: where.
        links: what to run.
    """

    def __init__(self, device: Device, *links: ChainedKernel) -> None:
        self._device, self._links = device, links
        self._kernel: Kernel = links[0].kernel if len(links) == 1 else KernelChain(device, links)
        self._maps = functools.reduce(Maps.then, (link.maps for link in links))
        self._captured = CapturedRuns(device, self._kernel, self._maps)
        self._chains: WeakKeyDictionary[CudaPrepared, CudaPrepared] = WeakKeyDictionary()  # by what follows
        self.algorithm = self._kernel.algorithm

    def then(self, other: "CudaPrepared") -> "CudaPrepared":
        """This convolution, and another one on its output, which stays on the device. The same object each time."""
        if (chain := self._chains.get(other)) is None:
            joined = CudaPrepared(self._device, *self._links, *other._links)  # noqa: SLF001 - of its own kind
            chain = self._chains.setdefault(other, joined)
        return chain

    @property
    def nbytes(self) -> int:
        """Bytes of device memory. The device's `graph_cache` counts, and bounds, captured graphs."""
        return self._kernel.nbytes

    def run(self, x: Any, out: Any) -> None:
        """Convolve as `Prepared.run` does; x and out may be device arrays, both or one of them.

        Raises:
            ResourceExhaustedError: not even one group of one sample fits the device's memory; names the bytes.
            DeviceLostError: the device failed; the process must be replaced.
        """
        if not x.shape[0]:
            return
        if _on_device(x) or _on_device(out):
            self._run_resident(x, out)
        elif not self._captured.run(x, out):
            self._run_streaming(x, out)

    def _run_streaming(self, x: Array, out: Array) -> None:
        """In chunks, which become smaller until they fit."""
        least = self._maps.nbytes
        target, budget = self._maps.chunk_bytes(self._device.options.chunk), self._device.options.workspace
        memory = self._device.cupy.cuda.memory
        with self._device.streams() as streams:
            while True:
                try:
                    stream_through(self._device, streams, self._kernel, self._maps, x, out, target, budget)
                except GroupconvError:
                    streams.synchronize()  # the queued work still uses the memory that is freed now
                    raise
                except memory.OutOfMemoryError as error:
                    streams.synchronize()
                    if self._device.make_room():
                        continue
                    if target <= least and budget <= 1:
                        raise ResourceExhaustedError(self._needed(str(error))) from error
                else:
                    return
                # first less workspace, which only saves time; then smaller chunks
                if budget > least:
                    budget //= 4
                else:
                    target, budget = max(least, target // 2), (budget if target > least else 1)

    def _needed(self, reason: str) -> str:
        arrays, workspace = self._maps.nbytes, self._kernel.workspace(1, 1)
        limit = self._device.memory_limit
        return (
            f"cuda: one group of one sample needs {arrays + workspace} bytes of device memory "
            f"({arrays} for input and output, {workspace} of workspace) beside the weights"
            f"{f', and the limit is {limit}' if limit else ''}: {reason}"
        )

    def _run_resident(self, x: Any, out: Any) -> None:
        """x or out, or both, are on the device."""
        cupy, maps = self._device.cupy, self._maps
        with self._device.current():  # each device has a current stream
            caller = cupy.cuda.get_current_stream()
        with self._device.streams() as streams:
            # after the work that the caller queued
            streams.compute.wait_event(caller.record())
            device_x = cupy.from_dlpack(x) if _on_device(x) else self._device.upload(x)
            device_x = device_x.view(storage(maps.x_dtype))
            if not (self._links[0].kernel.channels_last and _channels_last(device_x)):
                device_x = cupy.ascontiguousarray(device_x)
            device_out = cupy.from_dlpack(out).view(storage(maps.y_dtype)) if _on_device(out) else None
            last = self._links[-1].kernel.channels_last
            direct = device_out is not None and (device_out.flags.c_contiguous or (last and _channels_last(device_out)))
            y: Any = device_out if direct else cupy.empty(out.shape, storage(maps.y_dtype))
            self._launch(streams, device_x, y)
            if device_out is None:
                np.copyto(out, y.get().view(maps.y_dtype))
            elif not direct:
                device_out[...] = y

    def _launch(self, streams: RunStreams, x: Any, y: Any) -> None:
        """All at once: device arrays are not cut into chunks."""
        budget = self._device.options.workspace
        while True:
            try:
                return self._kernel.run(x, y, 0, budget)
            except self._device.cupy.cuda.memory.OutOfMemoryError as error:
                streams.synchronize()
                if self._device.make_room():
                    continue
                if budget <= 1:
                    needed = self._kernel.workspace(x.shape[0], self._maps.groups)
                    raise ResourceExhaustedError(
                        f"cuda: the device has no room for {needed} bytes of workspace, "
                        f"or for the input in the dtype of the kernel: {error}"
                    ) from error
                budget //= 4


def _channels_last(array: Any) -> bool:
    """Whether channels are the last axis of an array (N, C, *spatial) in memory, which has no gaps."""
    return bool(array.transpose((0, *range(2, array.ndim), 1)).flags.c_contiguous)


def _on_device(array: Any) -> bool:
    """Whether an array lies on a CUDA device."""
    if isinstance(array, np.ndarray):
        return False
    where = getattr(array, "__dlpack_device__", None)
    return where is not None and where()[0] == CUDA_DEVICE
