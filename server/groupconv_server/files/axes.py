"""The axes of an array in a file: their names, and what each is to a convolution."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from groupconv.errors import InvalidArgumentError

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
"""Known names of axes: of samples (N), channels (C) and the axes of space."""
KINDS = {word: kind for kind, words in WORDS.items() for word in words.split()}


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of an array in a file.

    Attributes:
        name: the file's name of it, or a letter.
        kind: N (samples), C (channels), Z, Y or X.
        size: in elements.
    """

    name: str
    kind: str
    size: int


def kind_of(name: str) -> str | None:
    """The kind of an axis, by its name; None if the name is unknown.

    Example:
        >>> kind_of("Latitude"), kind_of("time_2"), kind_of("date"), kind_of("dim_0")
        ('Y', 'N', 'N', None)
    """
    word = re.sub(r"[^a-z0-9]+", "_", name.strip().lower())
    return KINDS.get(word) or KINDS.get(re.sub(r"_?[0-9]+$", "", word))


def axes_of(shape: Sequence[int], names: Sequence[str] | None = None, requested: str | None = None) -> tuple[Axis, ...]:
    """The axes of an array.

    Args:
        shape: of the array.
        names: from the file; None if the file has none.
        requested: the caller's names, as letters or as words separated by commas. They replace the file's names. None
            means the file's names or, if it has none, a guess from the shape.

    Raises:
        InvalidArgumentError: a name is unknown, or there is not one Y and one X.

    Example:
        >>> [axis.kind for axis in axes_of((5, 24, 32), ["date", "lat", "lon"])]
        ['N', 'Y', 'X']
        >>> axes_of((5, 24, 32), ["dim_0", "lat", "lon"])
        Traceback (most recent call last):
        ...
        groupconv.errors.InvalidArgumentError: axes: expected known names; perhaps --axes nyx, got 'dim_0, lat, lon'
    """
    used = _words(requested) if requested else names or list(guess_axes(shape).lower())
    if len(used) != len(shape):
        raise InvalidArgumentError("axes", f"{len(shape)} axes, one for each of {tuple(shape)}", ", ".join(used))
    kinds = [kind_of(name) for name in used]
    if kinds.count("Y") == 2 and "Z" not in kinds:  # weather models: height, lat, lon
        kinds = ["Z" if name.lower() == "height" else kind for name, kind in zip(used, kinds, strict=True)]
    if None in kinds or not _fits(kinds):
        known = "known names" if None in kinds else "one Y, one X, at most one Z"
        raise InvalidArgumentError("axes", f"{known}; perhaps --axes {_suggested(kinds)}", ", ".join(used))
    chosen = names if names and requested else used
    return tuple(Axis(n, k or "", size) for n, k, size in zip(chosen, kinds, shape, strict=True))


def guess_axes(shape: Sequence[int]) -> str:
    """Likely axes of an array without names, as letters.

    Raises:
        InvalidArgumentError: the array has less than 2 axes, or more than 5.

    Example:
        >>> guess_axes((480, 640, 3)), guess_axes((64, 480, 640)), guess_axes((1, 64, 480, 640))
        ('YXC', 'CYX', 'NCYX')
    """
    if not 2 <= len(shape) <= 5:
        expected = "2 to 5 axes, or more with their names (--axes)"
        raise InvalidArgumentError("input", expected, tuple(shape))
    if len(shape) == 3:
        return "YXC" if shape[2] <= 4 else "CYX"
    return {2: "YX", 4: "NCYX", 5: "NCZYX"}[len(shape)]


def described(axes: Sequence[Axis]) -> str:
    """The extents and names of axes, for messages.

    Example:
        >>> described([Axis("lat", "Y", 480), Axis("lon", "X", 640)])
        '480×640 (lat, lon)'
    """
    return f"{'×'.join(str(axis.size) for axis in axes)} ({', '.join(axis.name for axis in axes)})"


def _words(text: str) -> list[str]:
    """Names from the caller's text: letters, or words separated by commas."""
    return [word.strip() for word in text.split(",")] if "," in text else list(text.lower())


def _fits(kinds: Sequence[str | None]) -> bool:
    return kinds.count("Y") == kinds.count("X") == 1 and kinds.count("Z") <= 1


def _suggested(kinds: Sequence[str | None]) -> str:
    """Letters for axes of which some are unknown or repeated: missing Y and X are the last of these."""
    letters: list[str] = []
    for kind in reversed(kinds):
        free = next((a for a in "XY" if a not in letters and a not in kinds), "N")
        letters.append(kind if kind and (kind in "NC" or kind not in letters) else free)
    return "".join(reversed(letters)).lower()
