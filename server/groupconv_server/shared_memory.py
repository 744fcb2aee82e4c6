"""Regions of POSIX shared memory that clients of this machine register: tensors are read and written there in place.

A client makes an object in /dev/shm, registers a part of it under a name, and from then on says name, offset and size
where it would send bytes. What it says is not trusted: every number is checked against the object as it is now.

A region whose owner's connection is gone is let go, unless a request has used it within the grace period. A view that
a running request holds stays valid however its region ends: the memory is unmapped when the last view is dropped.
"""

import errno
import mmap
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from groupconv.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from groupconv.explain import human_bytes
from groupconv_server.connections import connected

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
RESERVED = ("groupconv-server-", "plasma", "sem.")
"""Beginnings of keys no client may name: this service's own objects, Ray's object store, POSIX semaphores."""
CAPACITY = 4 * 2**30
"""Bytes of all regions unless told otherwise."""
MAX_REGIONS = 1024
MAX_NAME = 256
_KEY = re.compile(r"/?[A-Za-z0-9_.-]{1,255}")
_INT64_MAX = 2**63 - 1


@dataclass(eq=False)
class Region:
    """A part of a shared memory object, mapped.

    Attributes:
        name: what requests call it.
        key: of the object, as the client gave it.
        offset, size: of the region in the object, in bytes.
        owner: the connection that registered it, as gRPC calls a peer.
        used: when a request last used it, on the clock of time.monotonic().
    """

    name: str
    key: str
    offset: int
    size: int
    owner: str
    memory: mmap.mmap = field(repr=False)
    used: float = field(default_factory=time.monotonic)


class SharedMemory:
    """The regions registered with a server. Safe to use from several threads.

    Args:
        capacity: bytes of all regions together.
        grace: seconds a region stays after its owner's connection has gone and nothing has used it.
        interval: seconds between looks at who is still there.
        gone: of some owners those that are not connected any more.

    Example:
        >>> from multiprocessing.shared_memory import SharedMemory as Object
        >>> shared, theirs = SharedMemory(), Object(create=True, size=4096)
        >>> shared.register("frames", theirs.name, 0, 4096, owner="ipv4:127.0.0.1:1")
        >>> shared.view("frames", 8, 2)[:] = b"ab"
        >>> bytes(theirs.buf[8:10])
        b'ab'
        >>> shared.unregister("frames"); shared.close(); theirs.close(); theirs.unlink()
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
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="shared-memory", daemon=True)
        self._watcher.start()

    def register(self, name: str, key: str, offset: int, size: int, *, owner: str) -> None:
        """Map `size` bytes at `offset` of the object `key`.

        Raises:
            InvalidArgumentError: a name, key, offset or size that cannot be; messages name the region, never a key.
            NotFoundError: no object of that key, or none this process may read and write.
            AlreadyExistsError: the name is taken by a client that is still there.
            ResourceExhaustedError: more regions or bytes than allowed, or the memory of the object cannot be had.
        """
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidArgumentError("name", f"1 to {MAX_NAME} printable characters", name)
        for what, value, least in (("offset", offset, 0), ("byte_size", size, 1)):
            if not least <= value <= _INT64_MAX:
                raise InvalidArgumentError(what, f"at least {least} and below 2^63", value)
        handle = _opened(name, _path(name, key))
        try:
            _check(name, os.fstat(handle), offset, size)
            with self._lock:
                self._admit(name, size)
                self._regions[name] = Region(name, key, offset, size, owner, _mapped(handle, offset, size))
        finally:
            os.close(handle)

    def unregister(self, name: str) -> None:
        """Let a region go; requests that use it end with it. One that is not there is gone already."""
        with self._lock:
            self._regions.pop(name, None)

    def unregister_all(self, owner: str) -> None:
        """Let every region go that `owner` registered, and no other."""
        with self._lock:
            for region in [r for r in self._regions.values() if r.owner == owner]:
                del self._regions[region.name]

    def regions(self, name: str = "") -> Sequence[Region]:
        """Every region by name, or the one of that name.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._lock:
            if name:
                return [self._get(name)]
            return [self._regions[n] for n in sorted(self._regions)]

    def view(self, name: str, offset: int, size: int) -> memoryview:
        """`size` writable bytes at `offset` of a region; they stay mapped while the view is held.

        Raises:
            NotFoundError: no region of that name.
            InvalidArgumentError: bytes outside the region, or the client has made the object smaller.
        """
        with self._lock:
            region = self._get(name)
            region.used = time.monotonic()
        if not 0 <= offset < region.size:
            raise InvalidArgumentError(
                "shared_memory_offset", f"0 to {region.size - 1} in region {_shown(name)}", offset
            )
        if not 0 <= size <= region.size - offset:
            expected = f"0 to {region.size - offset} bytes at offset {offset} of region {_shown(name)}"
            raise InvalidArgumentError("shared_memory_byte_size", expected, size)
        if region.memory.size() < region.offset + region.size:  # to touch a page that is gone would end the process
            raise InvalidArgumentError(
                "shared_memory_region", f"an object that still holds region {_shown(name)}", "a smaller one"
            )
        start = region.offset + offset
        return memoryview(region.memory)[start : start + size]

    def close(self) -> None:
        """Let every region go."""
        self._stopping.set()
        self._watcher.join()
        with self._lock:
            self._regions.clear()

    def _get(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"shared_memory_region: none is registered as {_shown(name)}")
        return region

    def _admit(self, name: str, size: int) -> None:
        """Refuse a name that is taken and what is too much, after those who are gone have made room."""
        if name in self._regions or self._too_much(size):
            for owner in self._gone({r.owner for r in self._regions.values()}):
                for region in [r for r in self._regions.values() if r.owner == owner]:
                    del self._regions[region.name]
        if name in self._regions:
            raise AlreadyExistsError(f"name: a region {_shown(name)} is registered; unregister it first")
        if self._too_much(size):
            raise ResourceExhaustedError(
                f"byte_size: {human_bytes(size)} more than the {MAX_REGIONS} regions and "
                f"{human_bytes(self.capacity)} of shared memory that this server allows"
            )

    def _too_much(self, size: int) -> bool:
        bound = sum(r.size for r in self._regions.values())
        return len(self._regions) >= MAX_REGIONS or bound + size > self.capacity

    def _watch(self) -> None:
        while not self._stopping.wait(self._interval):
            with self._lock:
                owners = {r.owner for r in self._regions.values()}
            if not owners:
                continue
            gone = self._gone(owners)
            idle = time.monotonic() - self._grace
            with self._lock:
                for region in [r for r in self._regions.values() if r.owner in gone and r.used < idle]:
                    del self._regions[region.name]


def _path(name: str, key: str) -> Path:
    """The file of an object: a name in one folder, never a path."""
    bare = key.removeprefix("/")
    if not _KEY.fullmatch(key) or bare in (".", "..") or bare.startswith(RESERVED):
        expected = f"for region {_shown(name)} one '/', then letters, digits, '.', '_', '-', and no reserved name"
        raise InvalidArgumentError("key", expected, f"{len(key)} characters that are not that")
    return FOLDER / bare


def _opened(name: str, path: Path) -> int:
    """A descriptor of an object."""
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise _no_memory(name) from None


def _check(name: str, facts: os.stat_result, offset: int, size: int) -> None:
    """Refuse what is no plain object, and one that does not have `size` bytes at `offset`."""
    if not stat.S_ISREG(facts.st_mode):
        raise _no_memory(name)
    if offset >= facts.st_size:
        raise InvalidArgumentError("offset", f"less than {facts.st_size}, the object's bytes", offset)
    if size > facts.st_size - offset:
        expected = f"at most {facts.st_size - offset}, the object's bytes from offset {offset}"
        raise InvalidArgumentError("byte_size", expected, size)


def _no_memory(name: str) -> NotFoundError:
    return NotFoundError(f"key: no shared memory to read and write for region {_shown(name)}")


def _mapped(handle: int, offset: int, size: int) -> mmap.mmap:
    """The object from its beginning to the region's end, every page of the region there."""
    try:
        # A page the object promises but the machine cannot give would end the process when it is written.
        os.posix_fallocate(handle, offset, size)
        return mmap.mmap(handle, offset + size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
            raise
        raise ResourceExhaustedError(f"byte_size: no {human_bytes(size)} of shared memory are left") from None


def _not_connected(owners: set[str]) -> set[str]:
    return owners - connected(owners)


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_NAME else f"{name[:40]}…")
