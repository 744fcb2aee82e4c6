"""The axes of an array in a file, and the array seen as a feature map (N, C, *spatial)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np

from groupconv.errors import GroupconvError, InvalidArgumentError
from groupconv.wire.requests import Array
from groupconv_server.files.metadata import UNKNOWN, Metadata

WORDS = {
    "N": """n t time times date datetime day month year hour minute second season frame frames step sample
        samples batch index member realization ensemble run repetition series position scene view angle phase mosaic
        tile valid_time forecast_time reference_time lead_time""",
    "C": """c s ch channel channels band bands color colors colour colours rgb rgba wavelength lambda spectral component
        components feature features polarization""",
    "Z": """z d depth level levels lev altitude alt elevation elev pressure plev slice slices plane planes layer layers
        section isobaric bottom_top""",
    "Y": "y h row rows line lines lat latitude height northing south_north rlat projection_y_coordinate yc",
    "X": "x w col cols column columns lon long longitude width easting west_east rlon projection_x_coordinate xc",
}
"""Names of axes that are understood, by what they are to a convolution: samples, channels, or an axis of space."""
KINDS = {word: kind for kind, words in WORDS.items() for word in words.split()}


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


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of an array in a file.

    Attributes:
        name: as the file has it, or a letter.
        kind: N samples, C channels, or Z, Y, X.
        size: its extent.
    """

    name: str
    kind: str
    size: int


def kind_of(name: str) -> str | None:
    """What an axis is by its name; None for a name that is not known.

    Example:
        >>> kind_of("Latitude"), kind_of("time_2"), kind_of("date"), kind_of("dim_0")
        ('Y', 'N', 'N', None)
    """
    word = re.sub(r"[^a-z0-9]+", "_", name.strip().lower())
    return KINDS.get(word) or KINDS.get(re.sub(r"_?[0-9]+$", "", word))


def axes_of(shape: Sequence[int], names: Sequence[str] | None = None, asked: str | None = None) -> tuple[Axis, ...]:
    """The axes of an array.

    Args:
        shape: of the array.
        names: as the file has them; None is a file that does not name them.
        asked: as the caller names them, letters or words with commas between; None believes the file, or guesses.

    Raises:
        InvalidArgumentError: names that are not known, or no two axes Y and X.

    Example:
        >>> [axis.kind for axis in axes_of((5, 24, 32), ["date", "lat", "lon"])]
        ['N', 'Y', 'X']
        >>> axes_of((5, 24, 32), ["dim_0", "lat", "lon"])
        Traceback (most recent call last):
        ...
        groupconv.errors.InvalidArgumentError: axes: expected names that are known; if they fit, --axes nyx, got ...
    """
    said = _words(asked) if asked else names or list(guessed(shape).lower())
    if len(said) != len(shape):
        raise InvalidArgumentError("axes", f"{len(shape)} axes, one for each of {tuple(shape)}", ", ".join(said))
    kinds = [kind_of(name) for name in said]
    if kinds.count("Y") == 2 and "Z" not in kinds:  # of weather: height, lat, lon
        kinds = ["Z" if name.lower() == "height" else kind for name, kind in zip(said, kinds, strict=True)]
    if None in kinds or not _fits(kinds):
        known = "names that are known" if None in kinds else "one Y, one X, at most one Z"
        raise InvalidArgumentError("axes", f"{known}; if they fit, --axes {_fitting(kinds)}", ", ".join(said))
    kept = names if names and asked else said
    return tuple(Axis(n, k or "", size) for n, k, size in zip(kept, kinds, shape, strict=True))


def guessed(shape: Sequence[int]) -> str:
    """The axes of an array that does not say them.

    Raises:
        InvalidArgumentError: no image and no volume.

    Example:
        >>> guessed((480, 640, 3)), guessed((64, 480, 640)), guessed((1, 64, 480, 640))
        ('YXC', 'CYX', 'NCYX')
    """
    if not 2 <= len(shape) <= 5:
        expected = "2 to 5 axes, or more with their names (--axes)"
        raise InvalidArgumentError("input", expected, tuple(shape))
    if len(shape) == 3:
        return "YXC" if shape[2] <= 4 else "CYX"
    return {2: "YX", 4: "NCYX", 5: "NCZYX"}[len(shape)]


@dataclass(frozen=True)
class Layout:
    """How an array in a file is a feature map.

    Axes that a kernel does not touch may be samples: it makes bands small, and the order of the file is kept.

    Attributes:
        axes: in the order of the file.
        fold: kinds of axes, of C and Z, that become samples where they can. Channels can where they come before Y:
            otherwise a pixel's channels lie together.
        first: the axis of space along which bands go; "" is the first of Z, Y, X that there is.
    """

    axes: tuple[Axis, ...]
    fold: str = ""
    first: str = ""

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Of the array in the file."""
        return tuple(axis.size for axis in self.axes)

    @property
    def kinds(self) -> str:
        """Of the axes, as letters."""
        return "".join(axis.kind for axis in self.axes)

    @property
    def channel(self) -> int | None:
        """The axis of channels; of two the last. None where there is none, or it is folded."""
        at = self.kinds.rfind("C")
        return None if at < 0 or ("C" in self.fold and at < self.kinds.index("Y")) else at

    @property
    def spatial(self) -> str:
        """Axes of the feature map after N and C; a Z of one plane is a sample too."""
        deep = "Z" in self.kinds and "Z" not in self.fold and self.axes[self.kinds.index("Z")].size > 1
        order = "ZYX" if deep else "YX"
        return self.first + order.replace(self.first, "") if self.first in order else order

    @property
    def samples(self) -> tuple[int, ...]:
        """The axes that are samples."""
        return tuple(i for i, kind in enumerate(self.kinds) if kind not in self.spatial and i != self.channel)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, *spatial)."""
        sizes = self.array_shape
        n = math.prod(sizes[i] for i in self.samples)
        channels = 1 if self.channel is None else sizes[self.channel]
        return (n, channels, *(sizes[self.kinds.index(a)] for a in self.spatial))

    def described(self) -> str:
        """The extents and names of the axes.

        Example:
            >>> Layout(axes_of((1, 3, 480, 640))).described()
            '1×3×480×640 (n, c, y, x)'
        """
        return described(self.axes)

    def after(self, shape: tuple[int, ...]) -> Self:
        """The same layout of an output (N, M, *spatial); several channels get an axis if there is none."""
        sizes = dict(zip(self.spatial, shape[2:], strict=True))
        axes = [replace(axis, size=sizes.get(axis.kind, axis.size)) for axis in self.axes]
        if self.channel is not None:
            axes[self.channel] = replace(axes[self.channel], size=shape[1])
        elif shape[1] > 1:
            axes.append(Axis("c", "C", shape[1]))
        return replace(self, axes=tuple(axes))

    def in_file(self, n: int, rows: slice) -> tuple[Any, ...]:
        """The index of some rows of a sample in the array of the file."""
        where = np.unravel_index(n, [self.array_shape[i] for i in self.samples]) if self.samples else ()
        at = dict(zip(self.samples, map(int, where), strict=True))
        return tuple(at.get(i, rows if k == self.spatial[0] else slice(None)) for i, k in enumerate(self.kinds))

    @property
    def order(self) -> list[int]:
        """Of the axes that `in_file` leaves, as (C, *spatial)."""
        left = [i for i in range(len(self.axes)) if i not in self.samples]
        wanted = [] if self.channel is None else [self.channel]
        return [left.index(i) for i in (*wanted, *(self.kinds.index(a) for a in self.spatial))]


class View:
    """`array` as a feature map (N, C, *spatial).

    Args:
        array: of a file.
        layout: of its axes, or their letters.

    Example:
        >>> view = View(np.zeros((480, 640, 3)), "YXC")
        >>> view.shape, view[0, :, 10:12].shape
        ((1, 3, 480, 640), (3, 2, 640))
    """

    def __init__(self, array: Any, layout: Layout | str) -> None:
        self.layout = Layout(axes_of(array.shape, asked=layout)) if isinstance(layout, str) else layout
        self._array = array
        self.shape, self.dtype = self.layout.shape, np.dtype(array.dtype)
        self._order, self._back = self.layout.order, np.argsort(self.layout.order)

    @property
    def axis_in_file(self) -> int:
        """The axis along which bands go."""
        return self.layout.kinds.index(self.layout.spatial[0])

    def arranged(self, fold: str, first: str = "") -> "View":
        """The same array in another layout; see `Layout`."""
        return View(self._array, replace(self.layout, fold=fold, first=first))

    def __getitem__(self, key: Any) -> Array:
        n, _, rows = key
        part: Array = self._read(self.layout.in_file(n, rows)).transpose(self._order)
        return part[None] if self.layout.channel is None else part

    def samples(self, n: int, count: int) -> Array:
        """`count` whole samples from `n`, (count, C, *spatial), which differ along the last axis of samples alone."""
        axes, last = range(len(self.layout.axes)), self.layout.samples[-1]
        index = list(self.layout.in_file(n, slice(None)))
        index[last] = slice(index[last], index[last] + count)
        left = [i for i in axes if i not in self.layout.samples or i == last]
        part = np.moveaxis(self._read(tuple(index)), left.index(last), 0)
        part = part.transpose(0, *(1 + i for i in self._order))
        return part[:, None] if self.layout.channel is None else part

    def _read(self, index: tuple[Any, ...]) -> Array:
        try:
            return np.asarray(self._array[index])
        except (GroupconvError, OSError, MemoryError):
            raise
        except Exception as error:  # codecs raise errors of many kinds
            raise InvalidArgumentError("input", "values that can be decoded", str(error)) from error

    def __setitem__(self, key: Any, value: Array) -> None:
        n, _, rows = key
        part = value[0] if self.layout.channel is None else value
        self._array[self.layout.in_file(n, rows)] = part.transpose(self._back)


@dataclass(frozen=True)
class Opened:
    """An input.

    Attributes:
        array: (N, C, *spatial), with its `layout`; `arranged` gives another one.
        metadata: what the file says about the array.
        notes: what a reader should know, a line each: which of several images was taken, what reading changed.
    """

    array: Any
    metadata: Metadata = UNKNOWN
    notes: tuple[str, ...] = ()

    @property
    def alpha(self) -> bool:
        """Whether the last channel says how opaque a pixel is."""
        return bool(self.metadata.alpha)


@dataclass(frozen=True)
class Created:
    """An output that waits for its rows.

    Attributes:
        array: (N, C, *spatial).
        axes: of the array in the file.
        notes: lines about what the format cannot hold of the metadata.
        left_out: lines about values that it cannot hold.
    """

    array: Writable
    axes: tuple[Axis, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def described(axes: Sequence[Axis]) -> str:
    """The extents and names of axes.

    Example:
        >>> described([Axis("lat", "Y", 480), Axis("lon", "X", 640)])
        '480×640 (lat, lon)'
    """
    return f"{'×'.join(str(axis.size) for axis in axes)} ({', '.join(axis.name for axis in axes)})"


def _words(asked: str) -> list[str]:
    """Axes as a caller names them: letters, or words with commas between."""
    return [word.strip() for word in asked.split(",")] if "," in asked else list(asked.lower())


def _fits(kinds: Sequence[str | None]) -> bool:
    return kinds.count("Y") == kinds.count("X") == 1 and kinds.count("Z") <= 1


def _fitting(kinds: Sequence[str | None]) -> str:
    """Letters for axes of which some are not known, or meet: the last ones are Y and X if these are missing."""
    letters: list[str] = []
    for kind in reversed(kinds):
        free = next((a for a in "XY" if a not in letters and a not in kinds), "N")
        letters.append(kind if kind and (kind in "NC" or kind not in letters) else free)
    return "".join(reversed(letters)).lower()
