"""The folder of this user for what may be made again: measured choices, compiled kernels."""

import os
import stat
from pathlib import Path

import platformdirs


def cache_folder(name: str = "") -> Path | None:
    """A folder below the user's cache directory; it need not exist. None where the user has no home.

    Example:
        >>> folder = cache_folder("kernels")
        >>> folder is None or (folder.name, folder.is_absolute())
        ('kernels', True)
    """
    folder = Path(platformdirs.user_cache_dir("groupconv"), name)
    return folder if folder.is_absolute() else None  # "~" stays where the user is in no table of users


def make_private(folder: Path) -> None:
    """Make a folder that this user alone writes to, if it is not there.

    Raises:
        OSError: it cannot be made.
        PermissionError: it is there, and others may write to it: what it holds would be run as this user.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(folder)


def check_private(folder: Path) -> None:
    """See that this user alone writes to a folder.

    Raises:
        OSError: it is not there.
        PermissionError: it is another user's, or others may write to it.
    """
    facts = folder.stat()
    if facts.st_uid not in (os.geteuid(), 0) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} can be written by other users")
