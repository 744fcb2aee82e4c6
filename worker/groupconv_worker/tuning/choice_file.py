"""A file of measured choices, which processes of one user share."""

import contextlib
import fcntl
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from groupconv_worker.job import current

TRIES, PAUSE = 500, 0.01
"""How often, and after how many seconds again, it is seen whether another process still measures."""
KEPT = 4
"""Versions whose choices are kept, those that were written last."""
CHOICES = 4096
"""Choices of a version that are kept, those that were made last: some 250 bytes each, in memory and on disk."""


class ChoiceFile:
    """The choices of one version of what computes; those of others lie beside them.

    A file that cannot be read is empty, and one that cannot be written stays as it is: a choice is then measured again.

    Args:
        path: of the file; None keeps nothing.
        version: of what computes: the machine, the code, its libraries.
    """

    def __init__(self, path: Path | None, version: str) -> None:
        self.path, self.version = path, version

    def read(self) -> dict[str, str]:
        """The choices, those that were made last at the end."""
        return self._versions().get(self.version, {})

    def add(self, key: str, choice: str) -> None:
        """Write one choice beside those of other processes."""
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            by_version = self._versions()
            by_version[self.version] = newest(by_version.pop(self.version, {}) | {key: choice})
            merged = dict(list(by_version.items())[-KEPT:])
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
                json.dump(merged, file, indent=0)
            Path(file.name).replace(self.path)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the file, so that one process at a time measures. Goes on without it after `TRIES`."""
        with contextlib.ExitStack() as stack:
            if self.path is not None:
                with contextlib.suppress(OSError):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    lock = stack.enter_context(self.path.with_suffix(".lock").open("w"))
                    for _ in range(TRIES):
                        with contextlib.suppress(BlockingIOError):
                            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                            break
                        current().check()
                        time.sleep(PAUSE)
            yield

    def _versions(self) -> dict[str, dict[str, str]]:
        if self.path is None:
            return {}
        try:
            content = json.loads(self.path.read_text())
        except (OSError, ValueError, RecursionError):  # damaged: measured again, and written anew
            return {}
        versions = content.items() if isinstance(content, dict) else ()
        return {v: {str(k): str(n) for k, n in choices.items()} for v, choices in versions if isinstance(choices, dict)}


def newest(choices: dict[str, str]) -> dict[str, str]:
    """The choices that were made last, as many as are kept.

    Example:
        >>> newest({"a": "direct"})
        {'a': 'direct'}
    """
    return dict(list(choices.items())[-CHOICES:])
