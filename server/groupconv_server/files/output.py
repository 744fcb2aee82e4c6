"""Outputs that are complete or absent: each is written beside its target and moved there at the end.

The move is one system call, so a process that is killed leaves either the old output or the new one. It may also leave
a hidden folder `.NAME.….part`, which the next output of that name removes.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from groupconv.errors import InvalidArgumentError

AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""Constants of renameat2(2), which Python does not wrap."""
NAME_BYTES = 120
"""Bytes of the target's name in that of the hidden folder: file systems allow 255 bytes in all."""
TOO_LARGE = {errno.EFBIG, errno.EINVAL, errno.ENOMEM}
OF_THE_TARGET = {errno.ENOSPC, errno.EDQUOT, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY} | TOO_LARGE
"""Errors of writing that name no file, or one in the hidden folder.

File systems differ in how they refuse a file of too many bytes.
"""


@contextmanager
def replaced(target: Path, *, copy: bool = False) -> Iterator[Path]:
    """A new path for a file or folder that replaces `target` when the context ends without an error.

    After an error, Ctrl-C included, the target is unchanged and the new file is removed. If the target is a symbolic
    link, the file that it points to is replaced. Other hard links to the target keep the old file.

    Args:
        target: a file or a folder; it need not exist.
        copy: whether the new file begins as a copy of the target, if there is one.

    Raises:
        InvalidArgumentError: the target's folder does not exist.
        OSError: the target cannot be replaced, or the disk is full.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with replaced(Path(folder) / "a.txt") as path:
        ...         _ = path.write_text("done")
        ...     [(p.name, p.read_text()) for p in Path(folder).iterdir()]
        [('a.txt', 'done')]
    """
    target = target.resolve()
    if not target.parent.is_dir():
        raise InvalidArgumentError("output", "a path in a folder that exists", str(target))
    if target.is_file() and not os.access(target, os.W_OK):
        raise PermissionError(13, "Permission denied", str(target))
    folder, lock = _folder_beside(target)
    try:
        new = folder / target.name
        if copy and target.exists():
            shutil.copyfile(target, new)
        yield new
        _move(new, target)
    except OSError as error:
        if error.errno not in OF_THE_TARGET:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _folder_beside(target: Path) -> tuple[Path, int]:
    """A new hidden folder beside the target, and the descriptor that locks it. Removes those of killed processes."""
    name = target.name.encode()[:NAME_BYTES].decode(errors="ignore")
    for leftover in target.parent.iterdir():
        if leftover.name.startswith(f".{name}.") and leftover.name.endswith(".part"):
            with suppress(OSError):  # in use, or already removed
                lock = _locked(leftover)
                shutil.rmtree(leftover, ignore_errors=True)
                os.close(lock)
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=target.parent))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target.parent)) from None
        try:
            return folder, _locked(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process removed it as a leftover before it was locked
        except OSError:  # a file system without locks, where leftovers stay
            return folder, os.open(folder, os.O_RDONLY)


def _locked(folder: Path) -> int:
    """A descriptor that locks a folder until it is closed.

    Raises:
        OSError: it is locked or removed, or the file system has no locks.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
    except OSError:
        os.close(lock)
        raise
    return lock


def allocate(path: Path, size: int | None = None) -> None:
    """Reserve the disk space of a file before it is filled.

    A full disk is an error here. Later it would kill the process, by a signal from a memory map or inside HDF5.

    Args:
        path: of a file, which is created if there is none.
        size: in bytes; None means the size of the file, which may be sparse.

    Raises:
        OSError: the disk is too full.
    """
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, file.tell() if size is None else size)


def _move(new: Path, target: Path) -> None:
    if new.is_dir():
        _move_folder(new, target)
        return
    with new.open("rb") as file:
        os.fsync(file.fileno())  # some file systems report a full disk only here
    with suppress(FileNotFoundError):
        old = target.stat()
        new.chmod(old.st_mode & 0o7777)
        with suppress(PermissionError):
            os.chown(new, old.st_uid, old.st_gid)
    new.replace(target)


def _move_folder(new: Path, target: Path) -> None:
    """Exchange two folders, since a rename cannot replace a folder that is not empty."""
    if not target.exists():
        new.rename(target)
        return
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    if rename(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE) == 0:
        return
    # On a file system without exchange, such as NFS, there is neither folder for a moment.
    old = new.parent / "old"
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise


def check_space(new: Path, size: int) -> None:
    """Check that the disk has room for a file. HDF5 would crash on a full disk.

    Args:
        new: the file, which may exist already.
        size: bytes that will be added.

    Raises:
        OSError: the disk is too full.
    """
    space = new.with_name("space")
    allocate(space, size + (new.stat().st_size if new.exists() else 0))
    space.unlink()
