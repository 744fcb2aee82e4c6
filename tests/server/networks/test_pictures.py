"""Pictures in and out of networks."""

import warnings

import numpy as np
import pytest
from PIL import Image

from groupconv.errors import InvalidArgumentError
from groupconv.networks.tensors import TensorInfo
from groupconv_server.networks.pictures import output_picture, picture_input

INFO = TensorInfo("x", np.dtype("f4"), (1, 3, "h", "w"))
RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def given(path):
    return picture_input(path, INFO, [0], [1], None)[0]


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_a_picture_is_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(RGB).save(tmp_path / f"x.{suffix}", exif=exif, **options)
    want = np.rot90(RGB, -1).transpose(2, 0, 1)
    np.testing.assert_allclose(given(tmp_path / f"x.{suffix}") * 255, want, atol=1e-3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_picture_of_16_bits_is_not_clipped(tmp_path, suffix):
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 257).save(tmp_path / f"x.{suffix}")
    np.testing.assert_allclose(given(tmp_path / f"x.{suffix}")[1] * 255, RGB[..., 0], atol=1e-3)


def test_what_is_no_whole_picture_is_refused(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "x.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "x.png").read_bytes()[:60])
    Image.fromarray(RGB[..., 0].astype(np.float32)).save(tmp_path / "f.tif")
    for name, words in [("cut.png", r"complete, got .cut\.png \("), ("f.tif", "8 or 16 bits, .*got .one of floats")]:
        with pytest.raises(InvalidArgumentError, match=f"x: expected a picture .*{words}"):
            given(tmp_path / name)


def test_nan_is_black():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = output_picture(np.array([[[[np.nan, 1, np.inf]]]], np.float32))
    assert np.asarray(shown).tolist() == [[0, 255, 255]]
