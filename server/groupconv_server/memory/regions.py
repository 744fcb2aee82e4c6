"""Memory that clients register under a name: whose it is, how much it may be, and when it is let go.

A region whose owner's connection is gone is let go, unless a request has used it within the grace period.

Requests look regions up under a lock. Nothing that takes its time is done under it: memory is mapped before a region is
known, and unmapped once it no longer is.
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
"""Bytes of all regions unless told otherwise."""
MAX_REGIONS = 1024
MAX_NAME = 256
INT64_MAX = 2**63 - 1


@dataclass(eq=False)
class Region:
    """Some memory of a client's.

    Attributes:
        name: what requests call it.
        size: in bytes.
        owner: the connection that registered it, as gRPC calls a peer.
        used: when a request last used it, on the clock of time.monotonic().
    """

    name: str
    size: int
    owner: str
    used: float = field(default_factory=time.monotonic, init=False)


R = TypeVar("R", bound=Region)


class Regions(Generic[R]):
    """Regions by name. Safe to use from several threads.

    Args:
        capacity: bytes of all regions together.
        grace: seconds a region stays after its owner's connection has gone and nothing has used it.
        interval: seconds between looks at who is still there.
        gone: of some owners those that are not connected any more.
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
        self._coming: dict[str, int] = {}  # bytes of regions that are being made
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="shared-memory", daemon=True)
        self._watcher.start()

    def unregister(self, name: str) -> None:
        """Let a region go; requests that use it end with it. One that is not there is gone already."""
        with self._lock:
            region = self._regions.pop(name, None)
        del region  # unmapped here, unless a request uses it

    def unregister_all(self, owner: str) -> None:
        """Let every region go that `owner` registered, and no other."""
        self._let_go(lambda region: region.owner == owner)

    def regions(self, name: str = "") -> Sequence[R]:
        """Every region by name, or the one of that name.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._lock:
            if name:
                return [self._get(name)]
            return [self._regions[n] for n in sorted(self._regions)]

    def part(self, name: str, offset: int, size: int) -> R:
        """The region that has `size` bytes at `offset`, for a request that uses it now.

        Raises:
            NotFoundError: no region of that name.
            InvalidArgumentError: bytes outside the region.
        """
        with self._lock:
            region = self._get(name)
            region.used = time.monotonic()
        if not 0 <= offset < region.size:
            raise InvalidArgumentError(
                "shared_memory_offset", f"0 to {region.size - 1} in region {shown(name)}", offset
            )
        if not 0 <= size <= region.size - offset:
            expected = f"0 to {region.size - offset} bytes at offset {offset} of region {shown(name)}"
            raise InvalidArgumentError("shared_memory_byte_size", expected, size)
        return region

    def close(self) -> None:
        """Let every region go."""
        self._stopping.set()
        self._watcher.join()
        self._let_go(lambda _: True)

    def _add(self, name: str, size: int, make: Callable[[], R]) -> None:
        """A new region, made once it is known that it may be. Others use theirs meanwhile.

        Raises:
            AlreadyExistsError: the name is taken by a client that is still there.
            ResourceExhaustedError: more regions or bytes than allowed.
        """
        with self._lock:
            full = self._taken(name) or self._too_much(size)
            owners = {r.owner for r in self._regions.values()}
        if full:  # those who are gone may make room
            gone = self._gone(owners)
            self._let_go(lambda region: region.owner in gone)
        with self._lock:
            if self._taken(name):
                raise AlreadyExistsError(f"name: a region {shown(name)} is registered; unregister it first")
            if self._too_much(size):
                raise ResourceExhaustedError(
                    f"byte_size: {human_bytes(size)} more than the {MAX_REGIONS} regions and "
                    f"{human_bytes(self.capacity)} of shared memory that this server allows"
                )
            self._coming[name] = size
        try:
            region = make()
            with self._lock:
                if not self._stopping.is_set():
                    self._regions[name] = region
        finally:
            with self._lock:
                del self._coming[name]

    def _get(self, name: str) -> R:
        region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"shared_memory_region: none is registered as {shown(name)}")
        return region

    def _let_go(self, which: Callable[[R], bool]) -> None:
        with self._lock:
            ended = [region for region in self._regions.values() if which(region)]
            for region in ended:
                del self._regions[region.name]
        del ended  # unmapped here, where no lock is held, unless requests use them

    def _taken(self, name: str) -> bool:
        return name in self._regions or name in self._coming

    def _too_much(self, size: int) -> bool:
        bound = sum(r.size for r in self._regions.values()) + sum(self._coming.values())
        return len(self._regions) + len(self._coming) >= MAX_REGIONS or bound + size > self.capacity

    def _watch(self) -> None:
        while not self._stopping.wait(self._interval):
            with self._lock:
                owners = {r.owner for r in self._regions.values()}
            if not owners:
                continue
            self._let_go_of_idle(self._gone(owners), time.monotonic() - self._grace)

    def _let_go_of_idle(self, gone: set[str], since: float) -> None:
        self._let_go(lambda region: region.owner in gone and region.used < since)


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
    """A name for a message: never 10 KB of what came."""
    return repr(name if len(name) <= MAX_NAME else f"{name[:40]}…")


def _not_connected(owners: set[str]) -> set[str]:
    return owners - connected(owners)
