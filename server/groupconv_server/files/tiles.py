"""Tiles of a TIFF from rows: results come as rows, and tifffile pulls tiles."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import CancelledError

TILE = 256
"""Rows and columns of a tile."""


class Tiles:
    """Takes rows in order, and gives tiles to a writer that runs in another thread.

    Args:
        shape: (N, C, *spatial).
        dtype: of the pixels.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        n, channels, *spatial = shape
        self.shape, self.dtype = (n, *spatial, channels), dtype
        self._rows: queue.Queue[Array | None] = queue.Queue(2)
        self._taken = 0
        self._failed: list[BaseException] = []
        self._ended = threading.Event()

    def __setitem__(self, _: Any, value: Array) -> None:
        self._taken += len(value)
        self._put(value.copy())  # the caller reuses the buffer

    def __iter__(self) -> Iterator[Array]:
        """Tiles (rows, columns[, samples]) from the top left, plane by plane."""
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
        """Run `write`, which iterates over the tiles, in a thread. Its error is raised here."""

        def run() -> None:
            try:
                write()
            except BaseException as error:  # noqa: BLE001 - raised by the other thread
                self._failed.append(error)
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
                raise self._failed.pop()  # it knows this frame, and so the rows

    def _put(self, value: Array | None) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._rows.put(value, timeout=0.2)
                return
        if value is not None and self._failed:
            raise self._failed.pop()
