"""An array of any order of axes as a feature map (N, C, *spatial)."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv.wire.requests import Array

NAMES = {"N": "N", "T": "N", "I": "N", "C": "C", "S": "C", "Z": "Z", "D": "Z", "Y": "Y", "H": "Y", "X": "X", "W": "X"}
"""Letters of axes that are understood; those of NumPy's users and those of microscopes."""


class Readable(Protocol):
    """A feature map that is read by [n, :, rows]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, *spatial)."""

    @property
    def dtype(self) -> np.dtype:
        """Of its values."""

    def __getitem__(self, key: Any) -> Any:
        """(C, rows, …)."""


class Writable(Protocol):
    """A feature map that is written by [n, :, rows]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, *spatial)."""

    @property
    def dtype(self) -> np.dtype:
        """Of its values."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Put (C, rows, …)."""


@dataclass(frozen=True)
class Opened:
    """An input.

    Attributes:
        array: (N, C, *spatial).
        alpha: whether the last channel says how opaque a pixel is.
    """

    array: Readable
    alpha: bool = False


def guessed(shape: tuple[int, ...]) -> str:
    """The axes of an array that does not say them.

    Raises:
        InvalidArgumentError: no image and no volume.

    Example:
        >>> guessed((480, 640, 3)), guessed((64, 480, 640)), guessed((1, 64, 480, 640))
        ('YXC', 'CYX', 'NCYX')
    """
    if not 2 <= len(shape) <= 5:
        raise InvalidArgumentError("input", "an image or a volume: 2 to 5 axes", shape)
    if len(shape) == 3:
        return "YXC" if shape[2] <= 4 else "CYX"
    return {2: "YX", 4: "NCYX", 5: "NCZYX"}[len(shape)]


class View:
    """`array`, whose axes are `axes`, as (N, C, *spatial); what it lacks is of extent 1.

    Raises:
        InvalidArgumentError: axes that are not known, twice there, or not as many as the array has.

    Example:
        >>> view = View(np.zeros((480, 640, 3)), "YXC")
        >>> view.shape, view[0, :, 10:12].shape
        ((1, 3, 480, 640), (3, 2, 640))
    """

    def __init__(self, array: Any, axes: str) -> None:
        known = [NAMES.get(letter, "?") for letter in axes.upper()]
        if "?" in known or len(set(known)) != len(known) or len(known) != len(array.shape) or not {*"YX"} <= {*known}:
            expected = f"{len(array.shape)} different axes of N C Z Y X, with Y and X (--axes)"
            raise InvalidArgumentError("axes", expected, f"{axes} for {tuple(array.shape)}")
        self._array, self._axes = array, known
        spatial = "ZYX" if "Z" in known else "YX"
        self.shape = tuple(array.shape[known.index(a)] if a in known else 1 for a in "NC" + spatial)
        self.dtype = np.dtype(array.dtype)
        self.banded, self.axis_in_file = spatial[0], known.index(spatial[0])
        without_sample = [a for a in known if a != "N"]
        self._order = [without_sample.index(a) for a in "C" + spatial if a in without_sample]

    def __getitem__(self, key: Any) -> Array:
        part: Array = np.asarray(self._array[self._within(key)]).transpose(self._order)
        return part if "C" in self._axes else part[None]

    def __setitem__(self, key: Any, value: Array) -> None:
        part = value if "C" in self._axes else value[0]
        self._array[self._within(key)] = part.transpose(np.argsort(self._order))

    def _within(self, key: Any) -> tuple[Any, ...]:
        n, _, rows = key
        return tuple({"N": n, self.banded: rows}.get(a, slice(None)) for a in self._axes)
