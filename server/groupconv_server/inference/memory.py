"""Tensors in the regions that clients registered: in place, or device memory through a copy."""

import math
from collections.abc import Callable
from typing import cast

import numpy as np

from groupconv.errors import FailedPreconditionError, NotFoundError
from groupconv.wire.requests import Array
from groupconv_server.inference.tensors import RegionReference
from groupconv_server.memory.cuda_memory import CudaMemory
from groupconv_server.memory.shared_memory import OFF, SharedMemory


class RegisteredMemory:
    """The regions of a server as `tensors.Memory`.

    Args:
        system: host memory; None where the operator has not allowed it.
        cuda: device memory; likewise.
    """

    def __init__(self, system: SharedMemory | None, cuda: CudaMemory | None) -> None:
        self._system, self._cuda = system, cuda

    @property
    def system(self) -> SharedMemory:
        """Host memory.

        Raises:
            FailedPreconditionError: it is not allowed.
        """
        if self._system is None:
            raise FailedPreconditionError(OFF)
        return self._system

    @property
    def cuda(self) -> CudaMemory:
        """Device memory.

        Raises:
            FailedPreconditionError: it is not allowed.
        """
        if self._cuda is None:
            raise FailedPreconditionError(OFF)
        return self._cuda

    def array(self, place: RegionReference, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
        """The elements in place; a copy if this process does not compute there, or they are not aligned."""
        if self._on_device(place):
            return cast("Array", self.cuda.source(place.region, place.offset, dtype, shape))  # as far as a run asks
        x = np.frombuffer(self.system.view(place.region, place.offset, place.size), dtype=dtype).reshape(shape)
        return x if x.flags.aligned else x.copy()

    def room(self, place: RegionReference, dtype: np.dtype, shape: tuple[int, ...]) -> Array | None:
        """The place itself, to be filled; None if that is not to be: `store` copies then."""
        if self._on_device(place):
            return cast("Array | None", self.cuda.room(place.region, place.offset, dtype, shape))
        size = math.prod(shape) * dtype.itemsize
        view = self.system.view(place.region, place.offset, size)
        y = np.frombuffer(view, dtype=dtype).reshape(shape)
        return y if y.flags.aligned else None

    def store(self, place: RegionReference, size: int) -> Callable[[Array], None]:
        """What copies an answer of so many bytes there; it holds the memory."""
        if self._on_device(place):
            memory = self.cuda.part(place.region, place.offset, size).memory
            return lambda y: memory.write(place.offset, y)
        view = self.system.view(place.region, place.offset, size)

        def copy(y: Array) -> None:
            view[:] = y.tobytes()

        return copy

    def _on_device(self, place: RegionReference) -> bool:
        """Whether the region's name is one of device memory; host memory comes first."""
        try:
            self.system.regions(place.region)
        except NotFoundError:
            return any(r.name == place.region for r in self.cuda.regions())
        return False
