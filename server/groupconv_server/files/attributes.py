"""Lines for the user about what an input says of its values and an output does not."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

PACKED = ("scale_factor", "add_offset")
NO_DATA = ("_FillValue", "missing_value")
"""Attributes of the conventions of netCDF: how values are packed, and which values mark pixels without data."""
INTERNAL = ("_ARRAY_DIMENSIONS", "CLASS", "NAME", "DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST", "coordinates")
INTERNAL_PREFIXES = ("_Netcdf4", "_NC", "MATLAB_", "H5PATH", "multiscales", "omero", "ome", "image-label")
"""Attributes that describe how an array is stored, or that are read elsewhere."""
LISTED = 8
"""Largest number of attributes in a line."""


def not_kept(words: Iterable[str]) -> tuple[str, ...]:
    """A line about what the output loses, or no line.

    Example:
        >>> not_kept(["XMP", "comment"]), not_kept([])
        (('the output does not keep: XMP, comment',), ())
    """
    found = list(words)
    more = f" and {len(found) - LISTED} more" * (len(found) > LISTED)
    return (f"the output does not keep: {', '.join(found[:LISTED])}{more}",) if found else ()


def attribute_notes(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Lines about the attributes of an array in Zarr or HDF5.

    Example:
        >>> attribute_notes({"scale_factor": 0.01, "units": "K"})
        ('scale_factor 0.01: values are computed as they are stored', 'the output does not keep: units')
    """
    packed = [f"{name} {_shown(attributes[name])}" for name in PACKED if name in attributes]
    notes = [f"{', '.join(packed)}: values are computed as they are stored"] if packed else []
    values = dict.fromkeys(_shown(attributes[name]) for name in NO_DATA if name in attributes)
    notes += [
        f"pixels of the no-data value {value} are computed like any others; the output does not mark them"
        for value in values
    ]
    read = (*PACKED, *NO_DATA, *INTERNAL)
    others = [name for name in attributes if name not in read and not name.startswith(INTERNAL_PREFIXES)]
    return (*notes, *not_kept(others))


def _shown(value: Any) -> str:
    return str(np.asarray(value).ravel()[0]) if np.size(value) == 1 else str(value)
