"""A lock that keeps a layer folder to one server, and names that server."""

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

from groupconv.errors import FailedPreconditionError

log = logging.getLogger(__name__)

NAME = ".lock"
"""The lock file in the folder."""
LONGEST = 4096
"""Bytes read of the holder's description."""
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class FolderLock:
    """Locks a folder until `release`, or until the process ends.

    Args:
        folder: an existing folder.
        holder: this server's address, for the errors of other servers.

    Attributes:
        writable: False if this process may not write to the folder. It then holds no lock and must change nothing.

    Raises:
        FailedPreconditionError: another server holds the folder; the message has its pid, host and address.
        OSError: the lock file cannot be opened.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> lock = FolderLock(Path(folder.name), "127.0.0.1:50051")
        >>> lock.writable; lock.release(); folder.cleanup()
        True
    """

    def __init__(self, folder: Path, holder: str) -> None:
        self._path, self._file, self.writable = folder / NAME, -1, True
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._file = os.open(self._path, flags, 0o644)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            self.writable = False
            log.warning(
                "%s cannot be written (%s): its layers are loaded, but no changes are kept", folder, error.strerror
            )
            return
        try:
            self._lock(folder)
            self.record(holder)
        except BaseException:
            self.release()
            raise

    def record(self, holder: str) -> None:
        """Replace the holder's address."""
        if self._file >= 0:
            text = f"pid {os.getpid()} on host {socket.gethostname()}, address {holder}\n"
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)

    def release(self) -> None:
        """Release the folder. The lock file stays: removing it would race with a server that is about to lock it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lock(self, folder: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, LONGEST, 0).decode("utf-8", "backslashreplace").strip()
            raise FailedPreconditionError(
                f"{folder} is in use by another server ({holder or 'unknown'}): "
                "give each server a --layer-dir of its own"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning("%s cannot be locked (%s): make sure that no other server uses it", folder, error.strerror)
