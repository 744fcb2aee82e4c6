"""NumPy's .npy, read and written through memory maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv_server.files.arrays import Created, Opened
from groupconv_server.files.axes import axes_of
from groupconv_server.files.layout import Layout, View
from groupconv_server.files.metadata import Metadata, missing
from groupconv_server.files.output import allocate, replaced
from groupconv_server.files.values import READABLE

SUFFIXES = (".npy",)
ANY_ORDER = True


@contextmanager
def open_input(path: Path, axes: str | None) -> Iterator[Opened]:
    """See `files.open_input`."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        if "objects" in str(error):
            raise InvalidArgumentError("input.dtype", READABLE, "objects") from None
        raise InvalidArgumentError("input", "an array saved by numpy.save", f"{path.name} ({error})") from None
    layout = Layout(axes_of(array.shape, requested=axes))
    alpha = axes is None and layout.kinds == "YXC" and array.shape[2] in (2, 4)
    yield Opened(View(array, layout), Metadata(alpha="unassociated" if alpha else ""))


@contextmanager
def create_output(path: Path, layout: Layout, dtype: np.dtype, metadata: Metadata) -> Iterator[Created]:
    """See `files.create_output`."""
    with replaced(path) as new:
        out = np.lib.format.open_memmap(new, "w+", dtype, layout.array_shape)
        allocate(new)
        yield Created(View(out, layout), layout.axes, missing(".npy", metadata.left_out()))
        out.flush()
