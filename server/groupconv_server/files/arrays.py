"""The arrays that files are opened and created as: feature maps (N, C, *spatial) with their metadata."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from groupconv_server.files.axes import Axis
from groupconv_server.files.metadata import UNKNOWN, Metadata


class Readable(Protocol):
    """A feature map that is read by [n, :, rows]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, *spatial)."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of its values."""

    def __getitem__(self, key: Any) -> Any:
        """Rows of a sample: (C, rows, …)."""


class Writable(Protocol):
    """A feature map that is written by [n, :, rows]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, *spatial)."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of its values."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write rows of a sample: (C, rows, …)."""


@dataclass(frozen=True)
class Opened:
    """An array that is read from a file.

    Attributes:
        array: a `View` or a `BlockReader` (N, C, *spatial).
        metadata: of the array.
        notes: lines for the user: which of several images was read, and what reading changed.
    """

    array: Any
    metadata: Metadata = UNKNOWN
    notes: tuple[str, ...] = ()

    @property
    def alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return bool(self.metadata.alpha)


@dataclass(frozen=True)
class Created:
    """An array that is written to a file.

    Attributes:
        array: (N, C, *spatial).
        axes: of the array in the file.
        notes: lines for the user about metadata that the format cannot hold.
        left_out: lines for the user about values that the format cannot hold.
    """

    array: Writable
    axes: tuple[Axis, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
