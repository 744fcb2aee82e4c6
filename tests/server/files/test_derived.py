"""Derived arrays, read in parts, equal NumPy's operations on the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from groupconv_server.files.derived import Mapped, Mirrored, PaletteColors, Recolored, Swapped, upright

ARRAY = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
TABLE = np.arange(180, dtype=np.uint8).reshape(3, 60)
DERIVED = {
    "mapped": (Mapped(ARRAY, np.dtype(float), np.sqrt), np.sqrt(ARRAY.astype(float))),
    "mirrored": (Mirrored(ARRAY, [0, 2]), ARRAY[::-1, :, ::-1]),
    "palette": (PaletteColors(ARRAY, TABLE), np.moveaxis(TABLE[:, ARRAY], 0, -1)),
    "recolored": (Recolored(ARRAY, 2, lambda part: part[..., ::-1]), ARRAY[..., ::-1]),
    "swapped": (Swapped(ARRAY, 0, 2), ARRAY.transpose(2, 1, 0)),
}


@given(name=st.sampled_from(sorted(DERIVED)), data=st.data())
def test_any_part_is_that_of_the_whole(name, data):
    derived, whole = DERIVED[name]
    assert derived.shape == whole.shape
    index = []
    for extent in whole.shape:
        start = data.draw(st.integers(0, extent - 1))
        index.append(data.draw(st.sampled_from([start, slice(start, data.draw(st.integers(start + 1, extent)))])))
    np.testing.assert_allclose(derived[tuple(index)], whole[tuple(index)], rtol=1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_shows(orientation):
    image = Image.fromarray(ARRAY[..., 0])
    image.getexif()[0x0112] = orientation
    seen = upright(ARRAY[..., 0], "YX", orientation)
    np.testing.assert_array_equal(seen[:, :], np.asarray(ImageOps.exif_transpose(image)))
