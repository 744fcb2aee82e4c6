"""Device memory of a client that its server has opened, without the transport: what is asked, what is remembered.

An allocation is told of once, and used by every request whose arrays lie in it. CUDA keeps freed memory for as long as
the server has it open, so the server is told when an allocation has gone.
"""

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

from groupconv.device import Allocation, DeviceArray, driver
from groupconv.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
    UnimplementedError,
)
from groupconv.memory.regions import let_go
from groupconv.transport.exchange import Exchange, Request
from groupconv.v1 import memory_pb2

log = logging.getLogger(__name__)

MOST = 256
"""Allocations that a server has open for one client; the least recently used ones are let go."""
REFUSED = 4096
"""Allocations that the server could not open which are remembered."""
PAUSE = 1.0
"""Seconds for which a server that has no room for more memory is not asked again."""
HOLD = 60.0
"""Seconds for which an array is kept that the server may write late: its memory would else be given to another one."""
_REGISTER = "/groupconv.v1.MemoryService/RegisterDeviceMemory"


class Exports:
    """The allocations of one client that its server knows. Safe to use from several threads."""

    def __init__(self) -> None:
        self._regions: OrderedDict[int, tuple[str, Allocation]] = OrderedDict()  # by the allocation's id
        self._refused: set[int] = set()
        self._off: set[int] = set()  # devices that the server does not have, by their ordinals here
        self._not_before = 0.0
        self._held: deque[tuple[float, Any]] = deque()
        self._process = os.getpid()
        self._lock = threading.Lock()

    def can(self, array: DeviceArray) -> bool:
        """Whether the server may be given the memory of an array, as far as is known."""
        found = array.allocation
        return found is not None and found.ordinal not in self._off and found.id not in self._refused

    def place(self, array: DeviceArray) -> Exchange[tuple[str, int] | None]:
        """Region and offset of an array, whose owner's queued work is done; None if it must go through the host."""
        self._release()
        allocation = array.allocation
        if allocation is None or not self.can(array):
            return None
        with self._lock:
            known = self._regions.get(allocation.id)
            if known is not None:
                self._regions.move_to_end(allocation.id)
        region = (yield from self._told(allocation)) if known is None else known[0]
        if region is None:
            return None
        array.wait(allocation)
        return region, array.pointer - allocation.base

    def hold(self, owner: Any) -> None:
        """Keep an array for a while."""
        self._held.append((time.monotonic() + HOLD, owner))

    def forget(self, regions: Iterable[str]) -> None:
        """The server does not know them any more: it was started anew, or let them go."""
        with self._lock:
            gone = set(regions)
            for id_, (region, _) in list(self._regions.items()):
                if region in gone:
                    del self._regions[id_]

    def close(self) -> list[str]:
        """The regions, which the server can close now."""
        with self._lock:
            regions = [region for region, _ in self._regions.values()]
            self._regions.clear()
        return regions if os.getpid() == self._process else []

    def _release(self) -> None:
        with self._lock:
            while self._held and self._held[0][0] < time.monotonic():
                self._held.popleft()

    def _told(self, allocation: Allocation) -> Exchange[str | None]:
        """The region that the server makes of an allocation; None if it cannot."""
        yield from self._let_go()
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
        except (ResourceExhaustedError, UnavailableError):  # the call itself may be tried again, this is not
            self._not_before = time.monotonic() + PAUSE
            return None
        except (FailedPreconditionError, UnimplementedError, PermissionDeniedError) as error:
            log.info("arrays on GPU %d go by the host: %s", allocation.ordinal, error)
            self._off.add(allocation.ordinal)
            return None
        except InvalidArgumentError as error:
            log.info("arrays in %d bytes of GPU %d go by the host: %s", allocation.size, allocation.ordinal, error)
            self._refuse(allocation)
            return None
        region = memory_pb2.RegisterDeviceMemoryResponse.FromString(raw).region
        with self._lock:
            kept = self._regions.setdefault(allocation.id, (region, allocation))[0]
        if kept != region:  # another thread was faster
            yield from let_go(region)
        return kept

    def _refuse(self, allocation: Allocation) -> None:
        if len(self._refused) >= REFUSED:
            self._refused.clear()
        self._refused.add(allocation.id)

    def _let_go(self) -> Exchange[None]:
        """Make room: what has been freed, and what was not used for longest."""
        with self._lock:
            gone = [id_ for id_, (_, a) in self._regions.items() if driver().allocation(a.base) != a]
            gone += [id_ for id_ in self._regions if id_ not in gone][
                : max(0, len(self._regions) - len(gone) - MOST + 1)
            ]
            regions = [self._regions.pop(id_)[0] for id_ in gone]
        for region in regions:
            yield from let_go(region)
