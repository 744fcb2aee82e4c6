"""Weights that are being sent: counted as they come, before a layer or a network is made of them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from groupconv.errors import ResourceExhaustedError
from groupconv.text import human_bytes

RETRY = 1.0
"""Seconds after which a load may be tried again, if other loads have taken the memory."""


class Uploads:
    """The weights of all loads that are under way. Safe to use from several threads.

    Args:
        capacity: bytes that they may have together.

    Example:
        >>> uploads = Uploads(capacity=100)
        >>> with uploads.arriving() as arriving:
        ...     arriving.add(60)
        ...     uploads.bytes
        60
        >>> uploads.bytes
        0

    Attributes:
        bytes: that have come.
        elsewhere: bytes that have come to the server's other processes, which have the same limit.
    """

    elsewhere: int = 0

    def __init__(self, capacity: int) -> None:
        self.capacity, self.bytes = capacity, 0
        self._lock = threading.Lock()

    @contextmanager
    def arriving(self) -> Iterator["Upload"]:
        """Count the weights of one load until the block ends.

        A header reserves nothing: only bytes that came are counted.
        """
        upload = Upload(self._add)
        try:
            yield upload
        finally:
            with self._lock:
                self.bytes -= upload.bytes

    def _add(self, size: int) -> None:
        with self._lock:
            self.bytes += size  # before the others are looked at, who do the same
            if self.bytes + self.elsewhere > self.capacity:
                self.bytes -= size
                raise ResourceExhaustedError(
                    f"chunk: the weights of all layers and networks that are being loaded may have "
                    f"{human_bytes(self.capacity)} together; try again when other loads have ended",
                    retry_after=RETRY,
                )


class Upload:
    """The weights of one load.

    Attributes:
        bytes: that have come.
    """

    def __init__(self, count: Callable[[int], None]) -> None:
        self.bytes, self._count = 0, count

    def add(self, size: int) -> None:
        """Count a part that has come.

        Raises:
            ResourceExhaustedError: the weights of all loads are over the limit.
        """
        self._count(size)
        self.bytes += size
