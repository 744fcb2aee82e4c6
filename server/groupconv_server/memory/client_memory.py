"""The memory that clients share with the server, as requests refer to it: a region, an offset and a size.

Both protocols, our own and the Open Inference Protocol, read inputs and write outputs through `ClientMemory`.
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import FailedPreconditionError
from groupconv_server.memory.cuda_memory import CudaMemory
from groupconv_server.memory.shared_memory import SharedMemory
from groupconv_worker.cuda.ipc import DeviceTensor

OFF = "shared memory is off on this server; it is started with --allow-shared-memory"


@dataclass(frozen=True, slots=True)
class RegionReference:
    """A part of a region.

    Attributes:
        region: the region's name.
        offset, size: in bytes.
        channels_last: whether the second axis of the tensor is the last one in memory.
    """

    region: str
    offset: int
    size: int
    channels_last: bool = False

    def extents(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The extents of a tensor of this shape in the order of memory.

        Example:
            >>> RegionReference("a", 0, 120, channels_last=True).extents((1, 3, 5, 2))
            (1, 5, 2, 3)
        """
        return (shape[0], *shape[2:], shape[1]) if self.channels_last else shape


@dataclass(frozen=True, slots=True)
class RegionOutput:
    """An output in a region: fill `array`, then call `store`.

    Attributes:
        array: the region's memory, or an ordinary array where the region cannot be written in place.
        copy: copies `array` into the region; None where `array` is the region's memory.
    """

    array: Array
    copy: Callable[[Array], None] | None

    def store(self) -> None:
        """Have the output in the region."""
        if self.copy is not None:
            self.copy(self.array)


class ClientMemory:
    """The regions of a server's clients, on the host and on devices.

    Args:
        host: regions on the host; None where the operator has not allowed shared memory.
        device: regions on devices; None where the operator has not allowed shared memory.
    """

    def __init__(self, host: SharedMemory | None = None, device: CudaMemory | None = None) -> None:
        self._host, self._device = host, device

    @property
    def host(self) -> SharedMemory:
        """Regions on the host.

        Raises:
            FailedPreconditionError: shared memory is not allowed.
        """
        if self._host is None:
            raise FailedPreconditionError(OFF)
        return self._host

    @property
    def device(self) -> CudaMemory:
        """Regions on devices.

        Raises:
            FailedPreconditionError: shared memory is not allowed.
        """
        if self._device is None:
            raise FailedPreconditionError(OFF)
        return self._device

    def on_device(self, region: str) -> bool:
        """Whether a region is on a device. Of two regions of one name, requests mean the one on the host."""
        return region not in self.host and region in self.device

    def array(
        self,
        at: RegionReference,
        dtype: np.dtype,
        shape: tuple[int, ...],
        *,
        owner: str | None = None,
        in_place: bool = True,
    ) -> Array:
        """A tensor in a region: the region's own memory where possible, else a copy.

        Args:
            at: the tensor's bytes, as many as its shape and dtype need.
            dtype: of the tensor.
            shape: of the tensor.
            owner: the connection that owns the region from now on; None leaves the owner as it is.
            in_place: whether a tensor on a device may stay there, if this process computes there.

        Raises:
            FailedPreconditionError: shared memory is not allowed.
            NotFoundError: there is no such region.
            InvalidArgumentError: the bytes are outside the region.
        """
        if self.on_device(at.region):
            region = self.device.part(at.region, at.offset, at.size, owner=owner)
            on_device = self.device.tensor(region, at.offset, dtype, at.extents(shape)) if in_place else None
            if on_device is not None:  # it has what a run needs of an array
                return cast("Array", on_device.channels_first() if at.channels_last else on_device)
            x = np.empty(at.extents(shape), dtype)
            region.memory.read(at.offset, x)
        else:
            x = np.frombuffer(self.host.view(at.region, at.offset, at.size, owner=owner), dtype)
            x = x.reshape(at.extents(shape))
        if at.channels_last:
            return np.ascontiguousarray(np.moveaxis(x, -1, 1))
        return x if x.flags.aligned else x.copy()

    def output(
        self,
        at: RegionReference,
        dtype: np.dtype,
        shape: tuple[int, ...],
        inputs: Iterable[Array],
        *,
        owner: str | None = None,
    ) -> RegionOutput | None:
        """An output in a region; None if the bytes are fewer than the output has.

        The region's memory stays there until the output is dropped, even if the region is unregistered.

        Args:
            at: where the client wants the output.
            dtype: of the output.
            shape: of the output.
            inputs: arrays that are read while the output is written; it is copied where it overlaps one of them, or is
                on another device than one of them.
            owner: the connection that owns the region from now on; None leaves the owner as it is.

        Raises:
            FailedPreconditionError: shared memory is not allowed.
            NotFoundError: there is no such region.
            InvalidArgumentError: the bytes are outside the region.
        """
        size = math.prod(shape) * dtype.itemsize
        fits = at.size >= size
        on_device: Array | DeviceTensor | None
        if self.on_device(at.region):
            region = self.device.part(at.region, at.offset, at.size, owner=owner)
            on_device = self.device.tensor(region, at.offset, dtype, at.extents(shape)) if fits else None
            on_device = on_device.channels_first() if on_device is not None and at.channels_last else on_device
            copy: Callable[[Array], None] = functools.partial(region.memory.write, at.offset)
        else:
            view = self.host.view(at.region, at.offset, at.size, owner=owner)[:size]
            on_device = np.frombuffer(view, dtype).reshape(shape) if fits and not at.channels_last else None
            copy = functools.partial(_fill, view)
        if at.channels_last:
            write = copy
            copy = lambda y: write(np.moveaxis(y, 1, -1))  # noqa: E731
        if not fits:
            return None
        if (
            on_device is None
            or not _aligned(on_device)
            or any(_apart(on_device, x) or overlap(on_device, x) for x in inputs)
        ):
            return RegionOutput(np.empty(shape, dtype), copy)
        return RegionOutput(cast("Array", on_device), None)


def overlap(y: Array | DeviceTensor, x: Array | DeviceTensor) -> bool:
    """Whether two arrays may share memory."""
    if isinstance(y, DeviceTensor) and isinstance(x, DeviceTensor):
        return y.overlaps(x)
    if isinstance(y, DeviceTensor) or isinstance(x, DeviceTensor):
        return False
    return bool(np.may_share_memory(y, x))


def _apart(y: Array | DeviceTensor, x: Array | DeviceTensor) -> bool:
    """Whether two arrays are on two devices."""
    return isinstance(y, DeviceTensor) and isinstance(x, DeviceTensor) and y.device.ordinal != x.device.ordinal


def _aligned(y: Array | DeviceTensor) -> bool:
    return isinstance(y, DeviceTensor) or y.flags.aligned


def _fill(view: memoryview, y: Array) -> None:
    view[:] = y.tobytes()
