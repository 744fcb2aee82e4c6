"""Photographs as feature maps and back."""

import numpy as np
import pytest

from groupconv.errors import InvalidArgumentError
from groupconv_server import images


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_png_goes_through_unchanged(tmp_path, shape):
    import imageio.v3 as iio

    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    iio.imwrite(tmp_path / "in.png", pixels)
    photo = images.read(tmp_path / "in.png")
    assert photo.pixels.shape == (1, 1 if len(shape) == 2 else 3, 5, 7)
    images.write(tmp_path / "out.png", photo.pixels.astype(np.float32) + 0.25, photo)
    np.testing.assert_array_equal(iio.imread(tmp_path / "out.png"), pixels)


def test_results_are_saturated_to_the_depth_of_the_photograph():
    y = np.array([-np.inf, -1, 0.4, 65534.6, 1e9, np.nan])
    assert images.saturate(y, np.dtype("uint16")).tolist() == [0, 0, 0, 65535, 65535, 0]


def test_what_is_no_image_is_refused_with_its_name(tmp_path):
    (tmp_path / "x.png").write_text("not a picture")
    with pytest.raises(InvalidArgumentError, match=r"photo: expected an image file.*x\.png"):
        images.read(tmp_path / "x.png")
    with pytest.raises(InvalidArgumentError, match="output: expected a format"):
        images.write(tmp_path / "y.nothing", np.zeros((1, 1, 2, 2)), images.from_pixels(np.zeros((2, 2), np.uint8)))
