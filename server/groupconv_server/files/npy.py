"""NumPy's .npy: read by parts or whole, and written through a memory map."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.streaming.npy import open_npy
from groupconv_server.files.arrays import Created, Opened
from groupconv_server.files.axes import axes_of
from groupconv_server.files.layout import Layout, View
from groupconv_server.files.metadata import Metadata, missing
from groupconv_server.files.output import allocate, replaced

SUFFIXES = (".npy",)
ANY_ORDER = True
NUMBERS = "biuf"
"""Kinds of dtypes that are read whole."""


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    with open_npy(path) as array:
        layout = Layout(axes_of(array.shape, requested=axes))
        alpha = axes is None and layout.kinds == "YXC" and array.shape[2] in (2, 4)
        yield Opened(View(array, layout), Metadata(alpha="unassociated" if alpha else ""))


def whole(path: Path, field: str) -> Array:
    """The array in a file.

    Args:
        path: of the file.
        field: that an error names.

    Raises:
        InvalidArgumentError: it is no array of numbers, or not complete.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            array = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except (ValueError, TypeError, OverflowError, MemoryError, EOFError) as error:  # by the shape of a bad header
        raise InvalidArgumentError(field, "an array saved by numpy.save", f"{path.name} ({error})") from None
    if array.dtype.kind not in NUMBERS:
        raise InvalidArgumentError(f"{field}.dtype", "bool, integers or floats", str(array.dtype))
    return array


@contextmanager
def create_output(path: Path, layout: Layout, dtype: np.dtype, metadata: Metadata) -> Iterator[Created]:
    """See `files.create_output`."""
    with replaced(path) as new:
        out = np.lib.format.open_memmap(new, "w+", dtype, layout.array_shape)
        allocate(new)
        yield Created(View(out, layout), layout.axes, missing(".npy", metadata.left_out()))
        out.flush()
