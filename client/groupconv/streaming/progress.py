"""How far a stream is, and a bar that shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groupconv.errors import InvalidArgumentError


@dataclass(frozen=True)
class Progress:
    """How far a stream is.

    Attributes:
        rows, of: output rows that are there, and all.
        received: bytes of output.
        seconds: since it began.
    """

    rows: int
    of: int
    received: int
    seconds: float


Shown = Callable[[Progress], None]
"""What is called after each band."""


class Bar:
    """A bar of tqdm on stderr: part done, bytes, time left, throughput.

    Raises:
        InvalidArgumentError: tqdm is not installed.
    """

    def __init__(self) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            raise InvalidArgumentError(
                "progress", "the package tqdm for progress=True: pip install 'groupconv[progress]'", "no such package"
            ) from None
        self._bar: Any = tqdm(unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True)

    def __call__(self, progress: Progress) -> None:
        """Move on."""
        self._bar.total = progress.received * progress.of // progress.rows
        self._bar.update(progress.received - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def shown(progress: Shown | bool | None) -> Shown | None:
    """What `progress=` of a function means: True is a `Bar`, False and None are nothing."""
    if progress is True:
        return Bar()
    return progress or None
