"""Bounded reads and atomic writes of files, in folders that other processes may write to."""

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groupconv.errors import DataLossError

log = logging.getLogger(__name__)

LONGEST = 500
"""Limit of the characters of an error about a damaged file."""


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Does not block on a pipe.

    Args:
        path: links are followed, since mounted volumes have them.
        most: bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file, or it is larger.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a pipe would wait for its writer
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):  # os.fdopen refuses a folder, too, and leaves it open
        os.close(handle)
        raise ValueError("expected a regular file, got a folder, pipe, socket or device")
    with os.fdopen(handle, "rb") as file:
        if facts.st_size > most:
            raise ValueError(f"expected at most {most} bytes, got {facts.st_size}")
        data = file.read(most + 1)  # the extra byte shows a file that grows meanwhile
    if len(data) > most:
        raise ValueError(f"expected at most {most} bytes, got more")
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file. After a crash it has all of the old content or all of the new.

    Raises:
        OSError: the disk is full or unavailable; the old content stays.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        part = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def printable(path: Path) -> str:
    r"""The name of a file as one printable line. Names on disk need not be UTF-8.

    Example:
        >>> print(printable(Path(os.fsdecode(bytes([0x61, 0xFF, 0x0A])))))
        a\xff\n
    """
    text = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def remove_parts(folder: Path) -> None:
    """Remove partial files of a process that crashed. Files that cannot be removed are logged."""
    for left in folder.iterdir():
        if left.suffix == ".part":
            try:
                left.unlink()
            except OSError as error:
                log.warning("%s in %s cannot be removed: %s", printable(left), folder, error.strerror)


def remove_older(folder: Path, pattern: str, keep: Path | None = None) -> None:
    """Remove files whose names match `pattern`, other than `keep`. Those that cannot be removed are logged.

    They are no longer named by any description, so what was done about those does not fail with them.
    """
    for old in folder.glob(pattern):
        if old != keep:
            try:
                old.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s in %s cannot be removed: %s", printable(old), folder, error.strerror)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn all errors into DataLossError. json and protobuf also raise RecursionError and SystemError."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        text = f"{type(error).__name__}: {error}"[:LONGEST].encode("utf-8", "backslashreplace").decode()
        raise DataLossError(f"{printable(path)}: {text}") from None
