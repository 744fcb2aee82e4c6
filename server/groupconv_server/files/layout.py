"""An array of any axes seen as a feature map (N, C, *spatial)."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import GroupconvError, InvalidArgumentError, Words
from groupconv_server.files.axes import Axis, axes_of, described


@dataclass(frozen=True)
class Layout:
    """Which axes of an array are the samples, the channels and the space of a feature map.

    Axes that a kernel does not touch may become samples: bands are then smaller, and the file keeps its order.

    Attributes:
        axes: in the order of the file.
        fold: which of C and Z become samples. C only does where it comes before Y: after Y, the channels of a pixel are
            stored together.
        first: the axis of space along which the array is cut into bands; "" means the first of Z, Y and X.
    """

    axes: tuple[Axis, ...]
    fold: str = ""
    first: str = ""

    @property
    def array_shape(self) -> tuple[int, ...]:
        """The shape of the array in the file."""
        return tuple(axis.size for axis in self.axes)

    @property
    def kinds(self) -> str:
        """The kinds of the axes, as letters."""
        return "".join(axis.kind for axis in self.axes)

    @property
    def channel(self) -> int | None:
        """Index of the axis of channels (the last one if there are two); None if there is none, or it is folded."""
        at = self.kinds.rfind("C")
        return None if at < 0 or ("C" in self.fold and at < self.kinds.index("Y")) else at

    @property
    def spatial(self) -> str:
        """The kinds of the axes of space, in the order of the feature map. A Z of one plane becomes a sample."""
        deep = "Z" in self.kinds and "Z" not in self.fold and self.axes[self.kinds.index("Z")].size > 1
        order = "ZYX" if deep else "YX"
        return self.first + order.replace(self.first, "") if self.first in order else order

    @property
    def samples(self) -> tuple[int, ...]:
        """Indices of the axes that are samples."""
        return tuple(i for i, kind in enumerate(self.kinds) if kind not in self.spatial and i != self.channel)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the feature map: (N, C, *spatial)."""
        sizes = self.array_shape
        n = math.prod(sizes[i] for i in self.samples)
        channels = 1 if self.channel is None else sizes[self.channel]
        return (n, channels, *(sizes[self.kinds.index(a)] for a in self.spatial))

    def described(self) -> str:
        """The extents and names of the axes, for messages.

        Example:
            >>> Layout(axes_of((1, 3, 480, 640))).described()
            '1×3×480×640 (n, c, y, x)'
        """
        return described(self.axes)

    def of_output(self, shape: tuple[int, ...]) -> Self:
        """The layout of an output (N, M, *spatial). Several channels get a new axis where there was none."""
        sizes = dict(zip(self.spatial, shape[2:], strict=True))
        axes = [replace(axis, size=sizes.get(axis.kind, axis.size)) for axis in self.axes]
        if self.channel is not None:
            axes[self.channel] = replace(axes[self.channel], size=shape[1])
        elif shape[1] > 1:
            axes.append(Axis("c", "C", shape[1]))
        return replace(self, axes=tuple(axes))

    def file_index(self, n: int, *ranges: slice) -> tuple[Any, ...]:
        """The index of a part of sample `n` in the array of the file: `ranges` of the first axes of space."""
        where = np.unravel_index(n, [self.array_shape[i] for i in self.samples]) if self.samples else ()
        at = dict(zip(self.samples, map(int, where), strict=True))
        cut = dict(zip(self.spatial, ranges, strict=False))
        return tuple(at.get(i, cut.get(k, slice(None))) for i, k in enumerate(self.kinds))

    @property
    def order(self) -> list[int]:
        """The permutation that makes (C, *spatial) of the axes that `file_index` leaves."""
        left = [i for i in range(len(self.axes)) if i not in self.samples]
        wanted = [] if self.channel is None else [self.channel]
        return [left.index(i) for i in (*wanted, *(self.kinds.index(a) for a in self.spatial))]


class View:
    """An array of a file as a feature map (N, C, *spatial), read and written by [n, :, rows].

    It is read by [n, :, rows, columns] too: an array in one piece of a file then reads no more than that window.

    Args:
        array: with `shape`, `dtype` and slicing.
        layout: of the array, or the letters of its axes.
        name: of the file, for errors.

    Example:
        >>> view = View(np.zeros((480, 640, 3)), "YXC")
        >>> view.shape, view[0, :, 10:12].shape
        ((1, 3, 480, 640), (3, 2, 640))
    """

    def __init__(self, array: Any, layout: Layout | str, name: str = "the file") -> None:
        self.layout = Layout(axes_of(array.shape, requested=layout)) if isinstance(layout, str) else layout
        self._array, self._name = array, name
        self.shape, self.dtype = self.layout.shape, np.dtype(array.dtype)
        self._order, self._back = self.layout.order, np.argsort(self.layout.order)

    @property
    def axis_in_file(self) -> int:
        """Index in the file of the axis along which the array is cut into bands."""
        return self.layout.kinds.index(self.layout.spatial[0])

    def arranged(self, fold: str, first: str = "") -> "View":
        """The same array in another layout; arguments as of `Layout`."""
        return View(self._array, replace(self.layout, fold=fold, first=first), self._name)

    def __getitem__(self, key: Any) -> Array:
        n, _, *ranges = key
        part: Array = self._read(self.layout.file_index(n, *ranges)).transpose(self._order)
        return part[None] if self.layout.channel is None else part

    def samples(self, n: int, count: int) -> Array:
        """`count` samples from `n` on, (count, C, *spatial). They differ along the last axis of samples only."""
        axes, last = range(len(self.layout.axes)), self.layout.samples[-1]
        index = list(self.layout.file_index(n, slice(None)))
        index[last] = slice(index[last], index[last] + count)
        left = [i for i in axes if i not in self.layout.samples or i == last]
        part = np.moveaxis(self._read(tuple(index)), left.index(last), 0)
        part = part.transpose(0, *(1 + i for i in self._order))
        return part[:, None] if self.layout.channel is None else part

    def _read(self, index: tuple[Any, ...]) -> Array:
        try:
            return np.asarray(self._array[index])
        except (GroupconvError, MemoryError):
            raise
        except Exception as error:  # codecs raise many types of errors, HDF5 an OSError without a number
            if isinstance(error, OSError) and error.errno:
                raise
            got = Words(f"{self._name} ({error})")
            raise InvalidArgumentError("input", "values that can be decoded", got) from error

    def __setitem__(self, key: Any, value: Array) -> None:
        n, _, rows = key
        part = value[0] if self.layout.channel is None else value
        self._array[self.layout.file_index(n, rows)] = part.transpose(self._back)
