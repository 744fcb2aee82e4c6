"""POSIX shared memory that clients on this machine register. Tensors are read and written there in place.

A client creates an object in /dev/shm and registers a part of it under a name. Its requests then carry that name, an
offset and a size in place of bytes. Each number is checked against the object as it is now.

Clients of the Open Inference Protocol choose the names of their regions, and any client may list them. An SDK client
first proves that it can read the object, and then receives a secret random name.

An object is mapped only for its owner, even if this process could read other users' objects, as root can.

A view stays valid until it is dropped, even if its region is unregistered: the memory is unmapped with the last view.
"""

import contextlib
import errno
import hmac
import mmap
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from groupconv.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from groupconv.text import human_bytes
from groupconv_server.memory.connections import user_of
from groupconv_server.memory.regions import Region, Regions, check_region, shown

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
RESERVED = ("groupconv-server-", "groupconv-client-", "plasma", "sem.")
"""Prefixes of keys that clients may not use: this service's objects, Ray's object store, POSIX semaphores."""
PROOF = 32
"""First bytes of an object. A client sends them to prove that it can read the object."""
_KEY = re.compile(r"/?[A-Za-z0-9_.-]{1,255}")
_SDK_NAME = re.compile(r"groupconv-client-[0-9a-f]{32}")
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14
_POPULATE_BYTES = 4 * 2**20
"""Populated in one call, which takes about a millisecond."""


@dataclass(eq=False)
class HostRegion(Region):
    """A mapped part of a shared memory object.

    Attributes:
        key: the object's name, as the client sent it.
        offset: of the region in the object, in bytes.
    """

    key: str
    offset: int
    memory: mmap.mmap = field(repr=False)


@dataclass(frozen=True, slots=True)
class RegionAbout:
    """A region that is not mapped yet. The other attributes are those of `HostRegion`.

    Attributes:
        populated: whether the page table is filled, so that requests have no page faults.
    """

    name: str
    size: int
    owner: str
    key: str
    offset: int
    populated: bool = False


class SharedMemory(Regions[HostRegion]):
    """The shared memory registered with a server. The arguments are those of `Regions`.

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
            InvalidArgumentError: the name, key, offset or size is invalid. The message never shows the key.
            NotFoundError: there is no such object, this process may not write it, or its owner is not the client's
                user (this process's user where the client's is unknown).
            AlreadyExistsError: a connected client has a region of that name.
            ResourceExhaustedError: there are too many regions or bytes, or /dev/shm is full.
        """
        check_region(name, offset, size)
        handle = _opened(name, _path(name, key))
        try:
            facts = os.fstat(handle)
            user = user_of(owner)
            if facts.st_uid != (os.geteuid() if user is None else user):
                raise _no_memory(name)
            _check(name, facts, offset, size)
            self._add_object(handle, RegionAbout(name, size, owner, key, offset))
        finally:
            os.close(handle)

    def adopt(self, name: str, size: int, proof: bytes, *, owner: str) -> str:
        """Map a whole object of an SDK client under a random name, and remove its file.

        Args:
            name: of the object: "groupconv-client-" and 32 hexadecimal digits.
            size: of the object, in bytes.
            proof: the object's first bytes. Every user can list /dev/shm, but only the owner can read the object.
            owner: the client's connection.

        Returns:
            The region's name. It is a secret: whoever knows it may use the region.

        Raises:
            InvalidArgumentError: the name, size or proof is invalid.
            FailedPreconditionError: there is no such object, this process may not write it, or the proof is wrong.
            ResourceExhaustedError: there are too many regions or bytes, or /dev/shm is full.
        """
        if not _SDK_NAME.fullmatch(name):
            raise InvalidArgumentError(
                "name", "'groupconv-client-' and 32 hexadecimal digits", f"{len(name)} other characters"
            )
        if len(proof) != PROOF:
            raise InvalidArgumentError("proof", f"{PROOF} bytes", len(proof))
        region = secrets.token_hex(16)
        check_region(region, 0, size)
        path = FOLDER / name
        try:
            handle = _opened(region, path)
        except NotFoundError:
            raise _elsewhere() from None
        try:
            facts = os.fstat(handle)
            if user_of(owner) not in (None, facts.st_uid):
                raise _elsewhere()
            if not stat.S_ISREG(facts.st_mode) or not hmac.compare_digest(os.pread(handle, PROOF, 0), proof):
                raise _elsewhere()
            path.unlink(missing_ok=True)
            _check(region, facts, 0, size)
            self._add_object(handle, RegionAbout(region, size, owner, name, 0, populated=True))
        finally:
            os.close(handle)
        return region

    def _add_object(self, handle: int, about: RegionAbout) -> None:
        """Put a region in the table.

        Raises:
            AlreadyExistsError, ResourceExhaustedError: as of `register`.
        """
        self._add(about.name, about.size, lambda: mapped_region(handle, about))

    def view(self, name: str, offset: int, size: int, *, owner: str | None = None) -> memoryview:
        """`size` writable bytes at `offset` of a region; they stay mapped while the view is held.

        Args:
            name: of the region.
            offset: in bytes.
            size: in bytes.
            owner: the connection that owns the region from now on; None leaves the owner as it is.

        Raises:
            NotFoundError: there is no region of that name.
            InvalidArgumentError: the bytes are outside the region, or the client has made the object smaller.
        """
        region = self.part(name, offset, size, owner=owner)
        if region.memory.size() < region.offset + region.size:  # touching a removed page would kill the process
            raise InvalidArgumentError(
                "shared_memory_region", f"an object that still holds region {shown(name)}", "a smaller one"
            )
        start = region.offset + offset
        return memoryview(region.memory)[start : start + size]


def _path(name: str, key: str) -> Path:
    """The file of an object. A key is a name in one folder, never a path."""
    bare = key.removeprefix("/")
    if not _KEY.fullmatch(key) or bare in (".", "..") or bare.startswith(RESERVED):
        expected = f"for region {shown(name)} one '/', then letters, digits, '.', '_', '-', and no reserved name"
        raise InvalidArgumentError("key", expected, f"{len(key)} other characters")
    return FOLDER / bare


def _opened(name: str, path: Path) -> int:
    """Open an object for reading and writing."""
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise _no_memory(name) from None


def _check(name: str, facts: os.stat_result, offset: int, size: int) -> None:
    """Check that an object is a regular file with `size` bytes at `offset`."""
    if not stat.S_ISREG(facts.st_mode):
        raise _no_memory(name)
    if offset >= facts.st_size:
        raise InvalidArgumentError("offset", f"less than {facts.st_size}, the object's bytes", offset)
    if size > facts.st_size - offset:
        expected = f"at most {facts.st_size - offset}, the object's bytes from offset {offset}"
        raise InvalidArgumentError("byte_size", expected, size)


def _no_memory(name: str) -> NotFoundError:
    return NotFoundError(f"key: there is no shared memory that this server may read and write for region {shown(name)}")


def _elsewhere() -> FailedPreconditionError:
    return FailedPreconditionError(
        "name: this server cannot read and write the client's shared memory: it is on another machine, in another "
        "container or of another user"
    )


def mapped_region(handle: int, about: RegionAbout) -> HostRegion:
    """Map a part of an object.

    Raises:
        ResourceExhaustedError: the machine has not so much shared memory left.
    """
    memory = _populated(handle, about.size) if about.populated else _mapped(handle, about.offset, about.size)
    return HostRegion(about.name, about.size, about.owner, about.key, about.offset, memory)


def _mapped(handle: int, offset: int, size: int) -> mmap.mmap:
    """Map an object from its beginning to the region's end, with all pages of the region allocated."""
    _reserve(handle, offset, size)
    return mmap.mmap(handle, offset + size)


def _populated(handle: int, size: int) -> mmap.mmap:
    """Map a whole object and fill the page table, so that requests have no page faults."""
    memory = _mapped(handle, 0, size)
    with contextlib.suppress(OSError):  # an older Linux maps pages as they are touched
        for start in range(0, size, _POPULATE_BYTES):  # mmap.madvise holds the GIL while it runs
            memory.madvise(_POPULATE_WRITE, start, min(_POPULATE_BYTES, size - start))
    return memory


def _reserve(handle: int, offset: int, size: int) -> None:
    """Allocate all pages now. Writing a page that the machine cannot provide would kill the process."""
    try:
        os.posix_fallocate(handle, offset, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
            raise
        raise ResourceExhaustedError(
            f"byte_size: {human_bytes(size)} of shared memory are not left on this machine"
        ) from None
