"""Regions: memory that clients register under a name, within a limit, until their connection ends.

A region is dropped once its owner's connection has ended and no request has used it for the grace period.

Requests look regions up under a lock. Slow work happens outside it: memory is mapped before its region is in the table,
and unmapped after the region has left it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from groupconv.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from groupconv.text import human_bytes
from groupconv_server.memory.connections import connected

CAPACITY = 4 * 2**30
"""Default limit of the bytes of all regions."""
MAX_REGIONS = 1024
MAX_NAME = 256
INT64_MAX = 2**63 - 1


@dataclass(eq=False)
class Region:
    """Memory that a client has registered.

    Attributes:
        name: by which requests refer to it.
        size: in bytes.
        owner: the connection that registered it, as gRPC names a peer.
        used: when a request last used it, by time.monotonic().
    """

    name: str
    size: int
    owner: str
    used: float = field(default_factory=time.monotonic, init=False)


R = TypeVar("R", bound=Region)


class Regions(Generic[R]):
    """A table of regions by name. Safe to use from several threads.

    Args:
        capacity: limit of the bytes of all regions.
        grace: seconds that a region stays after its last use, once its owner's connection has ended.
        interval: seconds between checks of the owners' connections.
        gone: returns those of a set of owners whose connections have ended.
    """

    def __init__(
        self,
        *,
        capacity: int = CAPACITY,
        grace: float = 10.0,
        interval: float = 1.0,
        gone: Callable[[set[str]], set[str]] | None = None,
    ) -> None:
        self.capacity, self._grace, self._interval = capacity, grace, interval
        self._gone = gone or _not_connected
        self._regions: dict[str, R] = {}
        self._pending: dict[str, int] = {}  # bytes of regions that are being mapped
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="shared-memory", daemon=True)
        self._watcher.start()

    def unregister(self, name: str) -> None:
        """Drop a region, if there is one of that name. Running requests keep its memory until they end."""
        with self._lock:
            region = self._regions.pop(name, None)
        del region  # unmapped here, unless a request uses it

    def unregister_all(self, owner: str) -> None:
        """Drop every region of one owner."""
        self._drop(lambda region: region.owner == owner)

    def regions(self, name: str = "") -> Sequence[R]:
        """All regions in the order of their names, or only the one called `name`.

        Raises:
            NotFoundError: there is no region of that name.
        """
        with self._lock:
            if name:
                return [self._get(name)]
            return [self._regions[n] for n in sorted(self._regions)]

    def __contains__(self, name: str) -> bool:
        return name in self._regions

    def part(self, name: str, offset: int, size: int, *, owner: str | None = None) -> R:
        """The region `name`, for a request that uses `size` of its bytes from `offset` on.

        Args:
            name: of the region.
            offset: in bytes.
            size: in bytes.
            owner: the connection that owns the region from now on; None leaves the owner as it is.

        Raises:
            NotFoundError: there is no region of that name.
            InvalidArgumentError: the bytes are outside the region.
        """
        with self._lock:
            region = self._get(name)
            region.used = time.monotonic()
        if owner is not None:
            region.owner = owner
        if not 0 <= offset < region.size:
            raise InvalidArgumentError(
                "shared_memory_offset", f"0 to {region.size - 1} in region {shown(name)}", offset
            )
        if not 0 <= size <= region.size - offset:
            expected = f"0 to {region.size - offset} bytes at offset {offset} of region {shown(name)}"
            raise InvalidArgumentError("shared_memory_byte_size", expected, size)
        return region

    def close(self) -> None:
        """Drop every region."""
        self._stopping.set()
        self._watcher.join()
        self._drop(lambda _: True)

    def _add(self, name: str, size: int, make: Callable[[], R]) -> None:
        """Put a new region in the table; see `_reserved`."""
        self._put(self._reserved(name, size, make))

    def _reserved(self, name: str, size: int, make: Callable[[], R]) -> R:
        """A new region whose name and bytes are reserved. `make` maps it after the checks, outside the lock.

        Raises:
            AlreadyExistsError: the name is taken by a client that is still there.
            ResourceExhaustedError: more regions or bytes than allowed.
        """
        with self._lock:
            full = self._taken(name) or self._too_much(size)
            owners = {r.owner for r in self._regions.values()}
        if full:  # regions of clients that have gone may free the name or the bytes
            gone = self._gone(owners)
            self._drop(lambda region: region.owner in gone)
        with self._lock:
            if self._taken(name):
                raise AlreadyExistsError(f"name: region {shown(name)} exists already; unregister it first")
            if self._too_much(size):
                raise ResourceExhaustedError(
                    f"byte_size: this server allows {MAX_REGIONS} regions and {human_bytes(self.capacity)} of shared "
                    f"memory in all; {human_bytes(size)} more would exceed that"
                )
            self._pending[name] = size
        try:
            region = make()
        except BaseException:
            self._release(name)
            raise
        return region

    def _put(self, region: R) -> None:
        """Put a region that was reserved in the table."""
        with self._lock:
            del self._pending[region.name]
            if not self._stopping.is_set():
                self._regions[region.name] = region

    def _release(self, name: str) -> None:
        """Give back a name and its bytes that were reserved and not put."""
        with self._lock:
            del self._pending[name]

    def _get(self, name: str) -> R:
        region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"shared_memory_region: no region is registered as {shown(name)}")
        return region

    def _drop(self, which: Callable[[R], bool]) -> None:
        with self._lock:
            dropped = [region for region in self._regions.values() if which(region)]
            for region in dropped:
                del self._regions[region.name]
        del dropped  # unmapped here, outside the lock, unless requests use them

    def _taken(self, name: str) -> bool:
        return name in self._regions or name in self._pending

    def _too_much(self, size: int) -> bool:
        bound = sum(r.size for r in self._regions.values()) + sum(self._pending.values())
        return len(self._regions) + len(self._pending) >= MAX_REGIONS or bound + size > self.capacity

    def _watch(self) -> None:
        while not self._stopping.wait(self._interval):
            with self._lock:
                owners = {r.owner for r in self._regions.values()}
            if not owners:
                continue
            self._drop_idle(self._gone(owners), time.monotonic() - self._grace)

    def _drop_idle(self, gone: set[str], since: float) -> None:
        self._drop(lambda region: region.owner in gone and region.used < since)


def check_region(name: str, offset: int, size: int) -> None:
    """Validate a region's name, offset and size.

    Raises:
        InvalidArgumentError: naming the field.
    """
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidArgumentError("name", f"1 to {MAX_NAME} printable characters", name)
    for what, value, least in (("offset", offset, 0), ("byte_size", size, 1)):
        if not least <= value <= INT64_MAX:
            raise InvalidArgumentError(what, f"at least {least} and below 2^63", value)


def shown(name: str) -> str:
    """A name as messages show it: quoted, and cut if it is too long to be a name."""
    return repr(name if len(name) <= MAX_NAME else f"{name[:40]}…")


def _not_connected(owners: set[str]) -> set[str]:
    return owners - connected(owners)
