"""Progress of a stream, and a bar that shows it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from groupconv.errors import InvalidArgumentError, Words


@dataclass(frozen=True)
class Progress:
    """Progress of a stream.

    Attributes:
        rows: output rows that have arrived. Of a stream through a network: windows. While a network is loaded: bytes of
            it that were sent.
        of: all of them.
        received: bytes of output that have arrived. While a network is loaded: bytes of it that were sent.
        seconds: since the stream began.
    """

    rows: int
    of: int
    received: int
    seconds: float


ProgressCallback = Callable[[Progress], None]
"""A function that is called after each band."""


class Bar:
    """A tqdm bar on stderr: percentage, bytes, time left, throughput.

    Args:
        size: bytes of the whole output, to scale the bar; 0 takes the bytes that travel.

    Raises:
        InvalidArgumentError: tqdm is not installed.
    """

    def __init__(self, size: int = 0) -> None:
        self._size, self._text = size, ""
        try:
            from tqdm import tqdm
        except ImportError:
            raise InvalidArgumentError(
                "progress", "the package tqdm for progress=True: pip install 'groupconv[progress]'", Words("no tqdm")
            ) from None
        self._bar: Any = tqdm(unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True)

    def __call__(self, progress: Progress) -> None:
        """Update the bar."""
        if self._text:
            self.show("")
        total = self._size or progress.received * progress.of // progress.rows
        self._bar.total = total
        self._bar.update(total * progress.rows // progress.of - self._bar.n)

    def show(self, text: str) -> None:
        """Show a text after the bar until the next band arrives."""
        self._text = text
        self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Stop updating the bar and leave it on screen."""
        self._bar.close()


def callback(progress: ProgressCallback | bool | None) -> ProgressCallback | None:
    """The callback for a function's `progress=` argument: True is a `Bar`, False and None are no callback."""
    if progress is True:
        return Bar()
    if progress and not callable(progress):
        raise InvalidArgumentError("progress", "a function, True, False or None", progress)
    return progress or None


def close(progress: ProgressCallback | None) -> None:
    """Close a callback that is a bar, or has a `close` of its own."""
    end = getattr(progress, "close", None)
    if end is not None:
        end()


@contextmanager
def reported(
    messages: Callable[[], Iterator[bytes]], size: int, progress: ProgressCallback | bool | None
) -> Iterator[Callable[[], Iterator[bytes]]]:
    """Messages that call a callback after each one that was sent. A bar is closed at the end.

    Args:
        messages: gives the messages from the first one on.
        size: bytes of what they carry, without headers.
        progress: as of `callback`.
    """
    report = callback(progress)
    if report is None:
        yield messages
        return

    def sent() -> Iterator[bytes]:
        start, done = time.monotonic(), 0
        for message in messages():
            yield message
            done = min(size, done + len(message))
            report(Progress(done, size, done, time.monotonic() - start))

    try:
        yield sent
    finally:
        close(report)
