"""Device memory that clients of this machine register: tensors are copied from it and to it, without the wire."""

from dataclasses import dataclass, field

import numpy as np

from groupconv.errors import UnimplementedError
from groupconv.requests import Array
from groupconv_server.regions import Region, Regions, check_region
from groupconv_worker.cuda.ipc import DeviceMemory


@dataclass(eq=False)
class DeviceRegion(Region):
    """An allocation on a device, opened.

    Attributes:
        device: where it is.
    """

    device: int
    memory: DeviceMemory = field(repr=False)


class CudaMemory(Regions[DeviceRegion]):
    """The device memory registered with a server. Safe to use from several threads; arguments as of `Regions`."""

    def register(self, name: str, handle: bytes, device: int, size: int, *, owner: str) -> None:
        """Open `size` bytes of another process's allocation through its IPC handle.

        Raises:
            UnimplementedError: this process has no GPU.
            InvalidArgumentError: a name, handle, device or size that cannot be.
            AlreadyExistsError: the name is taken by a client that is still there.
            ResourceExhaustedError: more regions or bytes than allowed.
        """
        from groupconv_worker.engines.cuda import open_memory, why_unavailable

        if reason := why_unavailable():
            raise UnimplementedError(f"CudaSharedMemory needs a GPU where the server runs: {reason}")
        check_region(name, 0, size)
        self._add(name, size, lambda: DeviceRegion(name, size, owner, device, open_memory(handle, device, size)))

    def read(self, name: str, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
        """A host copy of a tensor at `offset` of a region.

        Raises:
            NotFoundError, InvalidArgumentError: as `part`.
        """
        x = np.empty(shape, dtype)
        self.part(name, offset, x.nbytes).memory.read(offset, x)
        return x

    def write(self, name: str, offset: int, y: Array) -> None:
        """Put a tensor at `offset` of a region.

        Raises:
            NotFoundError, InvalidArgumentError: as `part`.
        """
        self.part(name, offset, y.nbytes).memory.write(offset, y)
