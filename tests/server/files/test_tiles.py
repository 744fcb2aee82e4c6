"""Tiles that a TIFF is written in."""

import numpy as np
import pytest

from groupconv_server import files

RNG = np.random.default_rng(0)


def pixels(shape, dtype):
    if np.dtype(dtype).kind == "f":
        return RNG.standard_normal(shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def test_a_tiff_that_ends_early_ends_its_thread(tmp_path):
    import threading

    x = pixels((1, 1, 600, 300), "uint8")

    def begun():
        with files.create_output(tmp_path / "x.tif", x.shape, x.dtype) as out:
            out.array[0, :, 0:300] = x[0, :, 0:300]
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        begun()
    assert not [t for t in threading.enumerate() if t.name == "tiff"]
