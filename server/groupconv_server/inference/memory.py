"""Tensors in the regions that clients registered: host memory in place, device memory through a copy."""

import numpy as np

from groupconv.errors import FailedPreconditionError
from groupconv.requests import Array
from groupconv_server.inference.tensors import Place
from groupconv_server.shared_memory import SharedMemory


class Regions:
    """The regions of a server as `tensors.Memory`.

    Args:
        system: host memory; None where the operator has not allowed it.
    """

    def __init__(self, system: SharedMemory | None) -> None:
        self._system = system

    @property
    def system(self) -> SharedMemory:
        """Host memory.

        Raises:
            FailedPreconditionError: it is not allowed.
        """
        if self._system is None:
            raise FailedPreconditionError(
                "shared memory is off on this server; it is started with --allow-shared-memory"
            )
        return self._system

    def array(self, place: Place, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
        """A view of the elements; a copy if they are not aligned, which vector instructions need."""
        x = np.frombuffer(self.system.view(place.region, place.offset, place.size), dtype=dtype).reshape(shape)
        return x if x.flags.aligned else x.copy()

    def room(self, place: Place, dtype: np.dtype, shape: tuple[int, ...]) -> Array | None:
        """A view to be filled; None if the place is not aligned."""
        count = int(np.prod(shape, dtype=np.int64))
        view = self.system.view(place.region, place.offset, count * dtype.itemsize)
        y = np.frombuffer(view, dtype=dtype).reshape(shape)
        return y if y.flags.aligned else None

    def store(self, place: Place, y: Array) -> None:
        """Copy the elements there."""
        self.system.view(place.region, place.offset, y.nbytes)[:] = y.tobytes()
