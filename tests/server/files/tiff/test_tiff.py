"""TIFFs with several images, levels and axes."""

import numpy as np
import pytest
import tifffile

from groupconv.errors import InvalidArgumentError
from groupconv_server import files

RNG = np.random.default_rng(3)


def read(path, axes=None):
    with files.open_input(path, axes) as opened:
        layout = opened.array.layout
        samples = [opened.array[n, :, 0 : opened.array.shape[2]] for n in range(opened.array.shape[0])]
        return np.stack(samples), "".join(axis.kind for axis in layout.axes), " ".join(opened.notes)


def refused(path, *words):
    with pytest.raises(InvalidArgumentError) as raised:
        read(path)
    for word in words:
        assert word in str(raised.value)


def test_a_tiff_of_several_images_says_which_one_it_takes(tmp_path):
    first, second = RNG.integers(0, 99, (2, 30, 40), dtype="u1")
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(first)
        file.write(second[:20])
    got, _, note = read(tmp_path / "x.tif")
    np.testing.assert_array_equal(got[0, 0], first)
    assert note == "x.tif: took image 0 of 2; for another one, x.tif:1"
    got, _, note = read(tmp_path / "x.tif:1")
    np.testing.assert_array_equal(got[0, 0], second[:20])
    assert not note
    refused(tmp_path / "x.tif:2", "(:IMAGE/LEVEL): :0/0, :1/0")


def test_a_level_of_a_pyramid_in_a_tiff(tmp_path):
    x = RNG.integers(0, 99, (64, 96), dtype="u1")
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(x, subifds=1, tile=(16, 16))
        file.write(x[::2, ::2], subfiletype=1, tile=(16, 16))
    got, _, note = read(tmp_path / "x.tif")
    np.testing.assert_array_equal(got[0, 0], x)
    assert note == "x.tif: took level 0 of 2; for another one, x.tif:0/1"
    got, _, note = read(tmp_path / "x.tif:0/1")
    np.testing.assert_array_equal(got[0, 0], x[::2, ::2])
    assert not note


@pytest.mark.parametrize("axes", ["QQYX", "TCYXS", "IYX", "ZCYX"])
def test_axes_of_a_tiff_that_are_not_known_are_samples(tmp_path, axes):
    x = RNG.integers(0, 99, [3 if a == "S" else 2 for a in axes], dtype="u1")
    options = {"photometric": "rgb"} if axes[-1] == "S" else {}
    tifffile.imwrite(tmp_path / "x.tif", x, metadata={"axes": axes}, **options)
    got, kinds, _ = read(tmp_path / "x.tif")
    assert got.size == x.size
    assert kinds == {"QQYX": "NNYX", "TCYXS": "NCYXC", "IYX": "NYX", "ZCYX": "ZCYX"}[axes]
