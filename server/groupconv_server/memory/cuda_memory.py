"""Memory of GPUs that clients on this machine register.

An engine of this process on that device reads and writes tensors there in place. For other workers the server
copies them between the device and the host.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from groupconv.errors import FailedPreconditionError, InvalidArgumentError, UnimplementedError
from groupconv.gpu.driver import UUID_BYTES
from groupconv_server.memory.regions import Region, Regions, check_region
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.ipc import DeviceMemory, DeviceTensor

CLIENTS_CAPACITY = 2**40
"""Limit of the bytes that clients of the SDK register on devices: it is high because the memory is theirs."""
ALIGNMENT = 16
"""Bytes to which a tensor must be aligned to be used in place: kernels load so many at once."""


@dataclass(eq=False)
class DeviceRegion(Region):
    """An open allocation of a client on a device.

    Attributes:
        device: the ordinal of the device.
    """

    device: int
    memory: DeviceMemory = field(repr=False)


class CudaMemory(Regions[DeviceRegion]):
    """The device memory registered with a server. The arguments are those of `Regions`.

    Attributes:
        in_place: the devices on which this process computes, by their numbers.
    """

    in_place: Mapping[int, Device] = MappingProxyType({})

    def register(self, name: str, handle: bytes, device: int, size: int, *, owner: str) -> None:
        """Open `size` bytes of another process's allocation through its IPC handle.

        Raises:
            UnimplementedError: this process has no GPU.
            InvalidArgumentError: the name, handle, device or size is invalid.
            AlreadyExistsError: a connected client has a region of that name.
            ResourceExhaustedError: more regions or bytes than allowed.
        """
        from groupconv_worker.cuda.engine import open_memory, why_unavailable

        if reason := why_unavailable():
            raise UnimplementedError(f"CudaSharedMemory needs a GPU where the server runs: {reason}")
        check_region(name, 0, size)
        self._add(name, size, lambda: DeviceRegion(name, size, owner, device, open_memory(handle, device, size)))

    def adopt(self, handle: bytes, uuid: bytes, size: int, *, owner: str) -> str:
        """Open an allocation of an SDK client under a random name.

        Args:
            handle: CUDA's IPC handle of the allocation. Whoever has it may open the allocation.
            uuid: of the device; its ordinal in the client may be another one than here.
            size: of the allocation, in bytes.
            owner: the client's connection.

        Returns:
            The region's name. It is a secret: whoever knows it may use the region.

        Raises:
            FailedPreconditionError: this process does not see that GPU.
            InvalidArgumentError: the handle, UUID or size is invalid.
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
        name = secrets.token_hex(16)
        try:
            self.register(name, handle, device, size, owner=owner)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(error.field.removeprefix("raw_"), error.expected, error.got) from None
        return name

    def tensor(self, region: DeviceRegion, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> DeviceTensor | None:
        """A tensor at `offset` of a region, in place; None if this process cannot compute on it there."""
        device = self.in_place.get(region.device)
        if device is None or offset % ALIGNMENT:
            return None
        return region.memory.tensor(offset, dtype, shape, device)
