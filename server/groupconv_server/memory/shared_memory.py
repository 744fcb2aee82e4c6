"""POSIX shared memory that clients of this machine register: tensors are read and written there in place.

A client makes an object in /dev/shm, registers a part of it under a name, and from then on says name, offset and size
where it would send bytes. What it says is not trusted: every number is checked against the object as it is now.

Clients of the Open Inference Protocol choose the names of their regions, and anyone may ask for them. A client of
this service's own API is told a name that nobody can guess, once it has shown that it can read the object.

An object is mapped only for the user it belongs to, whatever this process itself may read: as root, that is everything.

A view that a running request holds stays valid however its region ends: the memory is unmapped when the last view is
dropped.
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

OFF = "shared memory is off on this server; it is started with --allow-shared-memory"
FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
RESERVED = ("groupconv-server-", "groupconv-client-", "plasma", "sem.")
"""Beginnings of keys no client may name: this service's own objects, Ray's object store, POSIX semaphores."""
PROOF = 32
"""Bytes at the beginning of an object that show who can read it."""
_KEY = re.compile(r"/?[A-Za-z0-9_.-]{1,255}")
_OWN = re.compile(r"groupconv-client-[0-9a-f]{32}")
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14
_AT_ONCE = 4 * 2**20
"""Bytes populated in one call, about a millisecond."""


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
            NotFoundError: no object of that key, none this process may read and write, or another user's: the object's
                owner is the user at the other end of the connection, and this process's where that is not known.
            AlreadyExistsError: the name is taken by a client that is still there.
            ResourceExhaustedError: more regions or bytes than allowed, or the memory of the object cannot be had.
        """
        check_region(name, offset, size)
        handle = _opened(name, _path(name, key))
        try:
            facts = os.fstat(handle)
            user = user_of(owner)
            if facts.st_uid != (os.geteuid() if user is None else user):
                raise _no_memory(name)
            _check(name, facts, offset, size)
            self._add(name, size, lambda: HostRegion(name, size, owner, key, offset, _mapped(handle, offset, size)))
        finally:
            os.close(handle)

    def adopt(self, name: str, size: int, proof: bytes, *, owner: str) -> str:
        """Map a whole object of a client that can read it, and remove its file.

        Args:
            name: of the object, "groupconv-client-" and 32 hexadecimal digits.
            size: of the object, in bytes.
            proof: its first bytes. Anyone here can list /dev/shm and name what is there, but not read it.
            owner: the connection.

        Returns:
            The name of its region, at random: to know it is the right to use it.

        Raises:
            InvalidArgumentError: a name, size or proof that cannot be.
            FailedPreconditionError: no such object, or none this process may read and write, or another proof.
            ResourceExhaustedError: more regions or bytes than allowed, or the memory of the object cannot be had.
        """
        if not _OWN.fullmatch(name):
            raise InvalidArgumentError("name", "'groupconv-client-' and 32 hexadecimal digits", f"{len(name)} others")
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
            self._add(region, size, lambda: HostRegion(region, size, owner, name, 0, _populated(handle, size)))
        finally:
            os.close(handle)
        return region

    def view(self, name: str, offset: int, size: int, *, owner: str | None = None) -> memoryview:
        """`size` writable bytes at `offset` of a region; they stay mapped while the view is held.

        Args:
            name: of the region.
            offset: in bytes.
            size: likewise.
            owner: the connection the region belongs to from now on; None leaves it as it is.

        Raises:
            NotFoundError: no region of that name.
            InvalidArgumentError: bytes outside the region, or the client has made the object smaller.
        """
        region = self.part(name, offset, size)
        if owner is not None:
            region.owner = owner
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


def _elsewhere() -> FailedPreconditionError:
    return FailedPreconditionError(
        "name: this server cannot read and write the client's shared memory: it is on another machine, in another "
        "container or of another user"
    )


def _mapped(handle: int, offset: int, size: int) -> mmap.mmap:
    """The object from its beginning to the region's end, every page of the region there."""
    _reserve(handle, offset, size)
    return mmap.mmap(handle, offset + size)


def _populated(handle: int, size: int) -> mmap.mmap:
    """The whole object, with every page in this process's page table, so that requests need not fault them in."""
    memory = _mapped(handle, 0, size)
    with contextlib.suppress(OSError):  # an older Linux maps pages as they are touched
        for start in range(0, size, _AT_ONCE):  # mmap.madvise holds the interpreter while it runs
            memory.madvise(_POPULATE_WRITE, start, min(_AT_ONCE, size - start))
    return memory


def _reserve(handle: int, offset: int, size: int) -> None:
    """Have every page there: one the machine cannot give would end the process when it is written."""
    try:
        os.posix_fallocate(handle, offset, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
            raise
        raise ResourceExhaustedError(f"byte_size: no {human_bytes(size)} of shared memory are left") from None
