"""Device memory that clients of this machine register: tensors are used where they lie, or copied by the server.

An engine on the same device, in this process, reads and writes them in place; for any other worker they are copied to
the host and from it here, which spares the wire alone.
"""

import secrets
from dataclasses import dataclass, field

import numpy as np

from groupconv.device import UUID_BYTES
from groupconv.errors import FailedPreconditionError, InvalidArgumentError, UnimplementedError
from groupconv.wire.requests import Array
from groupconv_server.memory.regions import Region, Regions, check_region
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.ipc import DeviceMemory, DeviceTensor

CLIENTS_CAPACITY = 2**40
"""Bytes of the allocations that clients of the own API have opened: they take none of the server's memory."""
ALIGNMENT = 16
"""Bytes that an array in place begins at a multiple of: kernels read so many at a time."""
_PREFIX = "device-"


@dataclass(eq=False)
class DeviceRegion(Region):
    """An allocation on a device, opened.

    Attributes:
        device: where it is.
    """

    device: int
    memory: DeviceMemory = field(repr=False)


class CudaMemory(Regions[DeviceRegion]):
    """The device memory registered with a server. Safe to use from several threads; arguments as of `Regions`.

    Attributes:
        in_place: the device whose memory this process computes on where it lies; None if it does on none.
    """

    in_place: Device | None = None

    def register(self, name: str, handle: bytes, device: int, size: int, *, owner: str) -> None:
        """Open `size` bytes of another process's allocation through its IPC handle.

        Raises:
            UnimplementedError: this process has no GPU.
            InvalidArgumentError: a name, handle, device or size that cannot be.
            AlreadyExistsError: the name is taken by a client that is still there.
            ResourceExhaustedError: more regions or bytes than allowed.
        """
        from groupconv_worker.cuda.engine import open_memory, why_unavailable

        if reason := why_unavailable():
            raise UnimplementedError(f"CudaSharedMemory needs a GPU where the server runs: {reason}")
        check_region(name, 0, size)
        self._add(name, size, lambda: DeviceRegion(name, size, owner, device, open_memory(handle, device, size)))

    def adopt(self, handle: bytes, uuid: bytes, size: int, *, owner: str) -> str:
        """Open an allocation of a client that knows its handle.

        Args:
            handle: for CUDA's IPC, by which whoever has it may open the allocation.
            uuid: of the device, whose ordinal may be another one in the client.
            size: of the allocation, in bytes.
            owner: the connection.

        Returns:
            The name of its region, at random: to know it is the right to use it.

        Raises:
            FailedPreconditionError: this process has no GPU, or not that one.
            InvalidArgumentError: a handle, UUID or size that cannot be.
            ResourceExhaustedError: more regions or bytes than allowed.
        """
        from groupconv_worker.cuda.engine import device_with, why_unavailable

        if len(uuid) != UUID_BYTES:
            raise InvalidArgumentError("device_uuid", f"{UUID_BYTES} bytes", len(uuid))
        if reason := why_unavailable():
            raise FailedPreconditionError(f"device_uuid: this server has no GPU: {reason}")
        device = device_with(uuid)
        if device is None:
            raise FailedPreconditionError("device_uuid: this server does not see that device")
        name = _PREFIX + secrets.token_hex(16)
        try:
            self.register(name, handle, device, size, owner=owner)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(error.field.removeprefix("raw_"), error.expected, error.got) from None
        return name

    def source(self, name: str, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Array | DeviceTensor:
        """A tensor at `offset` of a region: where it lies, or a copy on the host.

        Raises:
            NotFoundError, InvalidArgumentError: as `part`.
        """
        found = self.room(name, offset, dtype, shape)
        return self.read(name, offset, dtype, shape) if found is None else found

    def room(self, name: str, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> DeviceTensor | None:
        """A tensor at `offset` of a region, where it lies; None if this process does not compute there.

        Raises:
            NotFoundError, InvalidArgumentError: as `part`.
        """
        region = self.part(name, offset, int(np.prod(shape, dtype=object)) * dtype.itemsize)
        if self.in_place is None or region.device != self.in_place.ordinal or offset % ALIGNMENT:
            return None
        return region.memory.tensor(offset, dtype, shape, self.in_place)

    def read(self, name: str, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
        """A host copy of a tensor at `offset` of a region.

        Raises:
            NotFoundError, InvalidArgumentError: as `part`.
        """
        x = np.empty(shape, dtype)
        self.part(name, offset, x.nbytes).memory.read(offset, x)
        return x


def is_device_region(name: str) -> bool:
    """Whether a name is one that `adopt` gave."""
    return name.startswith(_PREFIX)


def overlap(y: Array | DeviceTensor, x: Array | DeviceTensor) -> bool:
    """Whether what is written could be what is read."""
    if isinstance(y, DeviceTensor) and isinstance(x, DeviceTensor):
        return y.overlaps(x)
    if isinstance(y, DeviceTensor) or isinstance(x, DeviceTensor):
        return False
    return bool(np.may_share_memory(y, x))
