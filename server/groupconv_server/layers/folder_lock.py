"""One server to a folder: an advisory lock that names its holder."""

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

from groupconv.errors import FailedPreconditionError

log = logging.getLogger(__name__)

NAME = ".lock"
"""The lock's file in the folder."""
LONGEST = 4096
"""Bytes read of who holds it."""
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class FolderLock:
    """Holds a folder for this process until `release`, or until the process ends, however it ends.

    Args:
        folder: an existing folder.
        holder: what another server is told, for example the address.

    Attributes:
        writable: False if this process may not write in the folder. It then holds no lock and must change nothing.

    Raises:
        FailedPreconditionError: another server holds the folder; the message has its pid, host and address.
        OSError: the lock's file cannot be opened.

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
            log.warning("%s cannot be written (%s): its layers are loaded, none is kept there", folder, error.strerror)
            return
        try:
            self._lock(folder)
            self.tell(holder)
        except BaseException:
            self.release()
            raise

    def tell(self, holder: str) -> None:
        """Replace what another server is told about the holder."""
        if self._file >= 0:
            text = f"pid {os.getpid()} on host {socket.gethostname()}, address {holder}\n"
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)

    def release(self) -> None:
        """Let another server have the folder. The file stays: removing it would race with one that waits for it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lock(self, folder: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, LONGEST, 0).decode("utf-8", "backslashreplace").strip()
            raise FailedPreconditionError(
                f"{folder} is in use by another server ({holder or 'which has not said who it is'}): "
                "give each server a --layer-dir of its own"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning("%s cannot be locked (%s): see that no other server uses it", folder, error.strerror)
