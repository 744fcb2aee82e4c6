"""Rows to tiles: files are written by rows as they come, and TIFF's library pulls tiles."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from groupconv.errors import CancelledError
from groupconv.wire.requests import Array

TILE = 256
"""Rows and columns."""


class Tiles:
    """Takes rows in order and gives tiles, in a thread of its own: the library wants to pull.

    Args:
        shape: (N, C, *spatial).
        dtype: of the pixels.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        n, channels, *spatial = shape
        self.shape, self.dtype = (n, *spatial, channels), dtype
        self._rows: queue.Queue[Array | None] = queue.Queue(2)
        self._taken = 0
        self._failed: BaseException | None = None
        self._ended = threading.Event()

    def __setitem__(self, _: Any, value: Array) -> None:
        self._taken += len(value)
        self._put(value.copy())  # the buffer that it lies in is filled again

    def __iter__(self) -> Iterator[Array]:
        """Tiles of (rows, columns[, samples]), plane by plane, from the top left."""
        while (value := self._rows.get()) is not None:
            for plane in value if len(self.shape) == 5 else [value]:
                for top in range(0, plane.shape[0], TILE):
                    for left in range(0, plane.shape[1], TILE):
                        tile = plane[top : top + TILE, left : left + TILE]
                        yield np.ascontiguousarray(tile if tile.shape[-1] > 1 else tile[..., 0])
        if self._taken < self.shape[0] * self.shape[1]:
            raise CancelledError("the image is not complete")

    @contextmanager
    def written_by(self, write: Any) -> Iterator[None]:
        """Run `write`, which iterates, in a thread; its error is raised here."""

        def run() -> None:
            try:
                write()
            except BaseException as error:  # noqa: BLE001 - raised by the other thread
                self._failed = error
            finally:
                self._ended.set()

        thread = threading.Thread(target=run, name="tiff", daemon=True)
        thread.start()
        complete = False
        try:
            yield
            complete = True
        finally:
            self._put(None)
            thread.join()
            if complete and self._failed:
                raise self._failed

    def _put(self, value: Array | None) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._rows.put(value, timeout=0.2)
                return
        if value is not None and self._failed:
            raise self._failed
