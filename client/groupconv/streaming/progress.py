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

    Args:
        size: bytes of the whole output as its reader counts them; 0 is those that travel.

    Raises:
        InvalidArgumentError: tqdm is not installed.
    """

    def __init__(self, size: int = 0) -> None:
        self._size, self._said = size, ""
        try:
            from tqdm import tqdm
        except ImportError:
            raise InvalidArgumentError(
                "progress", "the package tqdm for progress=True: pip install 'groupconv[progress]'", "no such package"
            ) from None
        self._bar: Any = tqdm(unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True)

    def __call__(self, progress: Progress) -> None:
        """Move on."""
        if self._said:
            self.say("")
        total = self._size or progress.received * progress.of // progress.rows
        self._bar.total = total
        self._bar.update(total * progress.rows // progress.of - self._bar.n)

    def say(self, text: str) -> None:
        """Show a text behind the bar, until the next band."""
        self._said = text
        self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def shown(progress: Shown | bool | None) -> Shown | None:
    """What `progress=` of a function means: True is a `Bar`, False and None are nothing."""
    if progress is True:
        return Bar()
    return progress or None
