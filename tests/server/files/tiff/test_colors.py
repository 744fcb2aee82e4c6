"""TIFF's photometric interpretations."""

import itertools

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from groupconv.errors import InvalidArgumentError
from groupconv_server import files
from groupconv_server.files.values import Fitted, as_request_dtype

RNG = np.random.default_rng(0)


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


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("inverted", [False, True])
def test_few_bits_look_as_in_pillow(tmp_path, bits, kind, inverted):
    levels = RNG.integers(0, 2**bits, (13, 17), dtype=np.uint8)
    if kind == "png":
        import imagecodecs

        if inverted:
            return
        image = Image.fromarray(levels)
        image.putpalette([value * 255 // (2**bits - 1) for value in range(2**bits) for _ in range(3)])
        image.save(tmp_path / "x.png", bits=bits)
        assert imagecodecs.png_decode((tmp_path / "x.png").read_bytes()) is not None
    else:
        photometric = "miniswhite" if inverted else "minisblack"
        data = levels.astype(bool) if bits == 1 else levels
        tifffile.imwrite(tmp_path / "x.tif", data, photometric=photometric, bitspersample=bits)
    copied(tmp_path / f"x.{kind}", tmp_path / "y.png")
    np.testing.assert_array_equal(look(tmp_path / "y.png", "L"), look(tmp_path / f"x.{kind}", "L"))


@pytest.mark.parametrize("name", ["YCBCR", "CIELAB", "ICCLAB", "CFA", "LOGLUV"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_other_photometric_interpretations_are_read_or_refused_by_name(tmp_path, name, dtype):
    x = drawn((20, 30, 3), np.dtype(dtype))
    kind = {"photometric": "cfa"} if name == "CFA" else {"photometric": "rgb"}
    if name == "YCBCR":
        kind["extratags"] = [(530, 3, 2, (1, 1), True)]  # no subsampling
    tifffile.imwrite(tmp_path / "x.tif", x[..., 0] if name == "CFA" else x, **kind)
    data = bytearray((tmp_path / "x.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        tag = file.pages[0].tags["PhotometricInterpretation"]
        at, code = tag.valueoffset, int(tifffile.PHOTOMETRIC[name])
    data[at : at + 2] = code.to_bytes(2, "little")
    (tmp_path / "x.tif").write_bytes(data)
    if dtype == "u1" and name in ("YCBCR", "CIELAB", "ICCLAB"):
        copied(tmp_path / "x.tif", tmp_path / "y.png")
        if name != "ICCLAB":  # Pillow does not read it
            np.testing.assert_allclose(look(tmp_path / "y.png", "RGB"), look(tmp_path / "x.tif", "RGB"), atol=2)
    else:
        with pytest.raises(InvalidArgumentError, match=f"input: .*photometric interpretation.*{name}"):
            files.open_input(tmp_path / "x.tif").__enter__()


def test_colors_that_are_multiplied_by_alpha_look_the_same(tmp_path):
    x = drawn((20, 30, 4))
    x[..., :3] = x[..., :3].astype(int) * x[..., 3:] // 255
    tifffile.imwrite(tmp_path / "x.tif", x, photometric="rgb", extrasamples=["assocalpha"])
    copied(tmp_path / "x.tif", tmp_path / "y.png")
    want, got = look(tmp_path / "x.tif"), look(tmp_path / "y.png")
    np.testing.assert_array_equal(got[..., 3], want[..., 3])
    np.testing.assert_allclose(got[want[..., 3] > 0], want[want[..., 3] > 0], atol=1)
