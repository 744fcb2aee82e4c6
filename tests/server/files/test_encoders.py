"""What each format of pictures keeps of metadata and alpha."""

import itertools

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from groupconv.errors import InvalidArgumentError
from groupconv_server import files
from groupconv_server.files.values import Fitted, as_request_dtype

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def copied(source, target):
    """What was read and what was created."""
    with files.open_input(source) as opened:
        x = as_request_dtype(opened.array)
        held = np.dtype("u1") if opened.array.dtype == bool else opened.array.dtype.newbyteorder("=")
        with files.create_output(target, x.shape, held, opened.metadata.filtered(x.shape[1], x.shape[1], 1)) as created:
            out = Fitted(created.array, x.dtype, absolute=False)
            for n, at in itertools.product(range(x.shape[0]), range(0, x.shape[2], 7)):
                rows = slice(at, min(x.shape[2], at + 7))
                out[n, :, rows] = x[n, :, rows]
    return opened, created


def look(path, mode="RGBA"):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert(mode)).astype(int)


def drawn(shape, dtype=np.uint8):
    """A picture with flat areas and edges, so that lossy formats keep it nearly."""
    coarse = RNG.integers(0, np.iinfo(dtype).max, (4, 5, *shape[2:]), dtype=dtype, endpoint=True)
    return np.repeat(np.repeat(coarse, -(-shape[0] // 4), 0), -(-shape[1] // 5), 1)[: shape[0], : shape[1]]


@pytest.mark.parametrize("target", ["y.png", "y.jpg", "y.tif", "y.webp"])
@pytest.mark.parametrize("deep", [False, True])
def test_profile_and_resolution_go_along(tmp_path, target, deep):
    import imagecodecs

    path = tmp_path / "x.png"
    Image.fromarray(drawn((20, 30, 3))).save(path, icc_profile=SRGB, dpi=(300, 300))
    if deep:
        tifffile.imwrite(
            tmp_path / "x.tif",
            drawn((20, 30, 3), np.uint16),
            photometric="rgb",
            iccprofile=SRGB,
            resolution=(300, 300),
            resolutionunit="INCH",
        )
        path = tmp_path / "x.tif"
        if target in ("y.jpg", "y.webp"):
            with pytest.raises(InvalidArgumentError, match=r"output: .*uint16"):
                copied(path, tmp_path / target)
            return
    _, created = copied(path, tmp_path / target)
    with Image.open(tmp_path / target) as made:
        assert made.info["icc_profile"] == SRGB
        if target == "y.webp":
            assert created.notes == ("WEBP holds no resolution: left out",)
        else:
            assert tuple(round(float(d)) for d in made.info["dpi"]) == (300, 300)
    if deep and target == "y.png":
        assert imagecodecs.png_decode((tmp_path / target).read_bytes()).dtype == np.uint16
    (line,) = copied(path, tmp_path / "y.npy")[1].notes
    assert line == ".npy holds no resolution, ICC profile: left out"


@pytest.mark.parametrize(
    ("target", "line"), [("y.jpg", "JPEG holds no alpha: left out"), ("y.bmp", "BMP holds no alpha: left out")]
)
def test_alpha_that_a_format_cannot_hold_is_named(tmp_path, target, line):
    Image.fromarray(drawn((20, 30, 4))).save(tmp_path / "x.png")
    _, created = copied(tmp_path / "x.png", tmp_path / target)
    assert created.left_out == (line,)
    assert look(tmp_path / target, "RGB").shape == (20, 30, 3)


@pytest.mark.parametrize("target", ["y.ome.tif", "y.tif", "y.png"])
@pytest.mark.parametrize("source", ["x.ome.tif", "x.tif"])
def test_sizes_of_pixels_go_along(tmp_path, source, target):
    """Of OME and of ImageJ, as sizes or as a resolution; what a format cannot hold is named."""
    x = drawn((20, 30, 1), np.uint16)[..., 0]
    if source == "x.ome.tif":
        sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
        tifffile.imwrite(tmp_path / source, x, metadata={"axes": "YX", **sizes})
    else:
        tifffile.imwrite(tmp_path / source, x, imagej=True, resolution=(2, 4), metadata={"unit": "micron"})
    opened, created = copied(tmp_path / source, tmp_path / target)
    assert created.notes == ()
    inch = opened.metadata.pixels_per_inch()
    np.testing.assert_allclose(inch, (50800, 101600))
    if target == "y.png":
        with Image.open(tmp_path / target) as made:
            np.testing.assert_allclose(made.info["dpi"], inch, rtol=1e-3)
        return
    with files.open_input(tmp_path / target) as again:
        np.testing.assert_allclose(again.metadata.pixels_per_inch(), inch, rtol=1e-6)
        if target == "y.ome.tif":
            assert dict(again.metadata.pixel_sizes) == dict(opened.metadata.pixel_sizes)
