"""Outputs that are complete or absent: each is written beside its target and moved there at the end.

The move is one system call, so a process that is killed at any moment leaves the old output or the new one. It may also
leave its hidden folder `.NAME.….part` behind; the next output of that name removes it.
"""

import ctypes
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
"""Of the target's name that the hidden folder repeats: file systems allow 255 bytes in all."""


@contextmanager
def replaced(target: Path, *, copy: bool = False) -> Iterator[Path]:
    """A path to write a file or a folder to, which replaces `target` once the context ends without an error.

    An error, Ctrl-C included, leaves the target as it was and removes what was written. A symbolic link stays one: the
    file that it points to is replaced. Other hard links to the target keep the old file.

    Args:
        target: a file or a folder, or nothing yet.
        copy: whether the new file begins as a copy of the target, where there is one.

    Raises:
        InvalidArgumentError: a target whose folder does not exist.
        OSError: a target that cannot be replaced, or a full disk.

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
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _folder_beside(target: Path) -> tuple[Path, int]:
    """A new hidden folder in the target's folder and the descriptor that locks it; those of killed processes go."""
    name = target.name.encode()[:NAME_BYTES].decode(errors="ignore")
    for leftover in target.parent.iterdir():
        if leftover.name.startswith(f".{name}.") and leftover.name.endswith(".part"):
            with suppress(OSError):  # in use, or gone
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
            continue  # another process took it for a leftover before it was locked
        except OSError:  # no locks here: leftovers stay, too
            return folder, os.open(folder, os.O_RDONLY)


def _locked(folder: Path) -> int:
    """A descriptor that locks a folder until it is closed.

    Raises:
        OSError: it is locked, it is gone, or the file system has no locks.
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

    A full disk is an error here. Later it would end the process: by a signal from a memory map, or within HDF5.

    Args:
        path: of a file; it is made where there is none.
        size: in bytes; None is the size of the file, which may be sparse.

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
    """Exchange the two folders: a rename cannot replace a folder that is not empty."""
    if not target.exists():
        new.rename(target)
        return
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    if rename(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE) == 0:
        return
    # A file system without the exchange, such as NFS: for a moment there is neither folder.
    old = new.parent / "old"
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise


def check_space(new: Path, size: int) -> None:
    """Fail now if the disk is too full for what a file will hold. HDF5 crashes where it meets a full disk itself.

    Args:
        new: the file, which may be there already.
        size: bytes that will be added.

    Raises:
        OSError: the disk is too full.
    """
    space = new.with_name("space")
    allocate(space, size + (new.stat().st_size if new.exists() else 0))
    space.unlink()
