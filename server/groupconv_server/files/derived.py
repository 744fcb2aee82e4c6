"""Arrays whose values or axes change as they are read.

Each class wraps an array of a file and can be indexed like it; a `layout.View` can be laid over it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from groupconv.convolution.steps import Array

MIRRORED_Y, MIRRORED_X, SWAPPED = (3, 4, 7, 8), (2, 3, 6, 7), (5, 6, 7, 8)
"""Orientations of TIFF and EXIF in which an axis is mirrored, or the axes are swapped. Swapping comes first."""


class Derived(ABC):
    """An array computed from another array, part by part.

    Args:
        array: has `shape` and `dtype`, takes an integer or a slice for each axis, and may have `chunks`.
        shape: of the derived array, which may have more axes at the end.
        dtype: of the derived array.
    """

    def __init__(self, array: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.array, self.shape, self.dtype = array, tuple(shape), np.dtype(dtype)
        chunks = getattr(array, "shards", None) or getattr(array, "chunks", None)
        self.chunks = chunks and (*chunks, *shape[len(chunks) :])

    def __getitem__(self, key: Any) -> Array:
        """Integers become slices of length 1, so that `_part` sees all axes."""
        slices = tuple(k if isinstance(k, slice) else slice(k, k + 1) for k in key)
        ranges = tuple(slice(*s.indices(size)[:2]) for s, size in zip(slices, self.shape, strict=True))
        return self._part(ranges)[tuple(slice(None) if isinstance(k, slice) else 0 for k in key)]

    @abstractmethod
    def _part(self, ranges: tuple[slice, ...]) -> Array:
        """The values in one range for each axis."""


class Mapped(Derived):
    """Each value converted by `convert` to `dtype`."""

    def __init__(self, array: Any, dtype: np.dtype, convert: Callable[[Array], Array]) -> None:
        super().__init__(array, array.shape, dtype)
        self._convert = convert

    def _part(self, ranges: tuple[slice, ...]) -> Array:
        return self._convert(np.asarray(self.array[ranges]))


class Mirrored(Derived):
    """Some axes reversed.

    Example:
        >>> Mirrored(np.arange(6).reshape(2, 3), [1])[0, slice(0, 2)].tolist()
        [2, 1]
    """

    def __init__(self, array: Any, axes: Sequence[int]) -> None:
        super().__init__(array, array.shape, array.dtype)
        self._axes = set(axes)

    def _part(self, ranges: tuple[slice, ...]) -> Array:
        mirrored = tuple(
            slice(size - r.stop, size - r.start) if axis in self._axes else r
            for axis, (r, size) in enumerate(zip(ranges, self.shape, strict=True))
        )
        return np.flip(np.asarray(self.array[mirrored]), tuple(sorted(self._axes)))


class PaletteColors(Derived):
    """Indices replaced by their colors in `table` (colors, indices). The colors are a new last axis.

    Example:
        >>> PaletteColors(np.array([[0, 1]]), np.array([[10, 11], [20, 21]]))[0, :, :].tolist()
        [[10, 20], [11, 21]]
    """

    def __init__(self, array: Any, table: Array) -> None:
        super().__init__(array, (*array.shape, len(table)), table.dtype)
        self._table = table

    def _part(self, ranges: tuple[slice, ...]) -> Array:
        colors: Array = self._table.T[np.asarray(self.array[ranges[:-1]])]
        return colors[..., ranges[-1]]


class Recolored(Derived):
    """The first three channels converted together, for example from YCbCr to RGB.

    Args:
        array: of uint8.
        axis: of the channels.
        convert: maps (…, 3) to (…, 3).
    """

    def __init__(self, array: Any, axis: int, convert: Callable[[Array], Array]) -> None:
        super().__init__(array, array.shape, array.dtype)
        self._axis, self._convert = axis, convert

    def _part(self, ranges: tuple[slice, ...]) -> Array:
        every = tuple(slice(0, self.shape[i]) if i == self._axis else r for i, r in enumerate(ranges))
        stored = np.moveaxis(np.asarray(self.array[every]), self._axis, -1)
        recolored = np.concatenate([self._convert(stored[..., :3]), stored[..., 3:]], axis=-1)
        return np.moveaxis(recolored[..., ranges[self._axis]], -1, self._axis)


class Swapped(Derived):
    """Two axes exchanged.

    Example:
        >>> Swapped(np.arange(6).reshape(2, 3), 0, 1)[0:3, 0].tolist()
        [0, 1, 2]
    """

    def __init__(self, array: Any, first: int, second: int) -> None:
        self._order = list(range(len(array.shape)))
        self._order[first], self._order[second] = second, first
        super().__init__(array, tuple(array.shape[i] for i in self._order), array.dtype)
        if self.chunks:
            self.chunks = tuple(self.chunks[i] for i in self._order)

    def _part(self, ranges: tuple[slice, ...]) -> Array:
        swapped = tuple(ranges[i] for i in self._order)
        return np.asarray(self.array[swapped]).transpose(self._order)


def upright(array: Any, axes: str, orientation: int) -> Any:
    """A picture turned and mirrored into its upright orientation.

    Args:
        array: with the axes `axes`.
        axes: letters, with Y and X.
        orientation: of the stored picture, as in TIFF and EXIF: 1 to 8. Other values count as 1, upright.

    Example:
        >>> upright(np.arange(6).reshape(2, 3), "YX", 6)[:, :].tolist()
        [[3, 0], [4, 1], [5, 2]]
    """
    y, x = axes.index("Y"), axes.index("X")
    if orientation in SWAPPED:
        array = Swapped(array, y, x)
    mirrored = [axis for axis, o in ((y, MIRRORED_Y), (x, MIRRORED_X)) if orientation in o]
    return Mirrored(array, mirrored) if mirrored else array
