"""POSIX shared memory that clients of this machine register: tensors are read and written there in place.

A client makes an object in /dev/shm, registers a part of it under a name, and from then on says name, offset and size
where it would send bytes. What it says is not trusted: every number is checked against the object as it is now.

A view that a running request holds stays valid however its region ends: the memory is unmapped when the last view is
dropped.
"""

import errno
import mmap
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from groupconv.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from groupconv.explain import human_bytes
from groupconv_server.regions import Region, Regions, check_region, shown

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
RESERVED = ("groupconv-server-", "plasma", "sem.")
"""Beginnings of keys no client may name: this service's own objects, Ray's object store, POSIX semaphores."""
_KEY = re.compile(r"/?[A-Za-z0-9_.-]{1,255}")


@dataclass(eq=False)
class HostRegion(Region):
    """A part of a shared memory object, mapped.

    Attributes:
        key: of the object, as the client gave it.
        offset: of the region in the object, in bytes.
    """

    key: str
    offset: int
    memory: mmap.mmap = field(repr=False)


class SharedMemory(Regions[HostRegion]):
    """The shared memory registered with a server. Safe to use from several threads; arguments as of `Regions`.

    Example:
        >>> from multiprocessing.shared_memory import SharedMemory as Object
        >>> shared, theirs = SharedMemory(), Object(create=True, size=4096)
        >>> shared.register("frames", theirs.name, 0, 4096, owner="ipv4:127.0.0.1:1")
        >>> shared.view("frames", 8, 2)[:] = b"ab"
        >>> bytes(theirs.buf[8:10])
        b'ab'
        >>> shared.unregister("frames"); shared.close(); theirs.close(); theirs.unlink()
    """

    def register(self, name: str, key: str, offset: int, size: int, *, owner: str) -> None:
        """Map `size` bytes at `offset` of the object `key`.

        Raises:
            InvalidArgumentError: a name, key, offset or size that cannot be; messages name the region, never a key.
            NotFoundError: no object of that key, or none this process may read and write.
            AlreadyExistsError: the name is taken by a client that is still there.
            ResourceExhaustedError: more regions or bytes than allowed, or the memory of the object cannot be had.
        """
        check_region(name, offset, size)
        handle = _opened(name, _path(name, key))
        try:
            _check(name, os.fstat(handle), offset, size)
            self._add(name, size, lambda: HostRegion(name, size, owner, key, offset, _mapped(handle, offset, size)))
        finally:
            os.close(handle)

    def view(self, name: str, offset: int, size: int) -> memoryview:
        """`size` writable bytes at `offset` of a region; they stay mapped while the view is held.

        Raises:
            NotFoundError: no region of that name.
            InvalidArgumentError: bytes outside the region, or the client has made the object smaller.
        """
        region = self.part(name, offset, size)
        if region.memory.size() < region.offset + region.size:  # to touch a page that is gone would end the process
            raise InvalidArgumentError(
                "shared_memory_region", f"an object that still holds region {shown(name)}", "a smaller one"
            )
        start = region.offset + offset
        return memoryview(region.memory)[start : start + size]


def _path(name: str, key: str) -> Path:
    """The file of an object: a name in one folder, never a path."""
    bare = key.removeprefix("/")
    if not _KEY.fullmatch(key) or bare in (".", "..") or bare.startswith(RESERVED):
        expected = f"for region {shown(name)} one '/', then letters, digits, '.', '_', '-', and no reserved name"
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
    return NotFoundError(f"key: no shared memory to read and write for region {shown(name)}")


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
