"""Device memory of a client that its server may use: which allocations are registered, and their regions.

An allocation is registered once and serves every request whose arrays are in it. CUDA cannot reuse freed memory while
the server has it open, so freed allocations are unregistered.
"""

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

from groupconv.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from groupconv.gpu.arrays import DeviceArray
from groupconv.gpu.driver import Allocation, driver
from groupconv.memory.regions import unregister
from groupconv.transport.exchange import Exchange, Request
from groupconv.v1 import memory_pb2

log = logging.getLogger(__name__)

MAX_ALLOCATIONS = 256
"""Allocations that a server has open for one client. Beyond this the least recently used one is unregistered."""
MAX_REFUSED = 4096
"""Number of refused allocations to remember; then the list starts over."""
PAUSE = 1.0
"""Seconds without another attempt after the server had no capacity for more memory."""
HOLD = 60.0
"""Seconds to keep an array that the server may still write to, so that its memory is not reused meanwhile."""
_REGISTER = "/groupconv.v1.MemoryService/RegisterDeviceMemory"


class Exports:
    """The allocations of one client that are registered with its server. Safe to use from several threads."""

    def __init__(self) -> None:
        self._regions: OrderedDict[int, tuple[str, Allocation]] = OrderedDict()  # by the allocation's id
        self._refused: set[int] = set()
        self._off: set[int] = set()  # ordinals of devices that the server cannot use
        self._channels_last = False  # whether the server reads such arrays, as it says with each region
        self._not_before = 0.0
        self._held: deque[tuple[float, Any]] = deque()
        self._process = os.getpid()
        self._lock = threading.Lock()

    def can_register(self, array: DeviceArray) -> bool:
        """False if the server is known to be unable to use the array's memory."""
        allocation = array.allocation
        return allocation is not None and allocation.ordinal not in self._off and allocation.id not in self._refused

    def reference(self, array: DeviceArray) -> Exchange[tuple[str, int] | None]:
        """Region and offset of an array, after the owner's queued work is done; None if it must go through the host."""
        self._release()
        allocation = array.allocation
        if allocation is None or not self.can_register(array):
            return None
        with self._lock:
            known = self._regions.get(allocation.id)
            if known is not None:
                self._regions.move_to_end(allocation.id)
        region = (yield from self._register(allocation)) if known is None else known[0]
        if region is None or (array.innermost is not None and not (self._channels_last and array.innermost == 1)):
            return None
        array.wait(allocation)
        return region, array.pointer - allocation.base

    def hold(self, owner: Any) -> None:
        """Keep an array that the server may still write to."""
        self._held.append((time.monotonic() + HOLD, owner))

    def forget(self, regions: Iterable[str]) -> None:
        """Drop regions that the server no longer has, for example after a restart."""
        with self._lock:
            gone = set(regions)
            for id_, (region, _) in list(self._regions.items()):
                if region in gone:
                    del self._regions[id_]

    def close(self) -> list[str]:
        """Drop all regions, and return those that the server should release."""
        with self._lock:
            regions = [region for region, _ in self._regions.values()]
            self._regions.clear()
        return regions if os.getpid() == self._process else []

    def _release(self) -> None:
        with self._lock:
            while self._held and self._held[0][0] < time.monotonic():
                self._held.popleft()

    def _register(self, allocation: Allocation) -> Exchange[str | None]:
        """Register an allocation: its region, or None if the server cannot use it."""
        yield from self._make_space()
        if time.monotonic() < self._not_before:
            return None
        handle = driver().handle(allocation)
        if handle is None:
            self._refuse(allocation)
            return None
        request = memory_pb2.RegisterDeviceMemoryRequest(
            handle=handle, device_uuid=driver().uuid(allocation.ordinal), byte_size=allocation.size
        )
        try:
            raw = yield Request(_REGISTER, request.SerializeToString())
        except (ResourceExhaustedError, UnavailableError):  # the caller's request goes on through the host
            self._not_before = time.monotonic() + PAUSE
            return None
        except (FailedPreconditionError, UnimplementedError, PermissionDeniedError) as error:
            log.info("arrays on GPU %d go through the host: %s", allocation.ordinal, error)
            self._off.add(allocation.ordinal)
            return None
        except InvalidArgumentError as error:
            log.info(
                "arrays in an allocation of %d bytes on GPU %d go through the host: %s",
                allocation.size,
                allocation.ordinal,
                error,
            )
            self._refuse(allocation)
            return None
        answer = memory_pb2.RegisterDeviceMemoryResponse.FromString(raw)
        region, self._channels_last = answer.region, answer.channels_last
        with self._lock:
            registered = self._regions.setdefault(allocation.id, (region, allocation))[0]
        if registered != region:  # another thread registered it first
            yield from unregister(region)
        return registered

    def _refuse(self, allocation: Allocation) -> None:
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()
        self._refused.add(allocation.id)

    def _make_space(self) -> Exchange[None]:
        """Unregister freed allocations, and the least recently used ones beyond `MAX_ALLOCATIONS`."""
        with self._lock:
            gone = [id_ for id_, (_, a) in self._regions.items() if driver().allocation(a.base) != a]
            gone += [id_ for id_ in self._regions if id_ not in gone][
                : max(0, len(self._regions) - len(gone) - MAX_ALLOCATIONS + 1)
            ]
            regions = [self._regions.pop(id_)[0] for id_ in gone]
        for region in regions:
            yield from unregister(region)
