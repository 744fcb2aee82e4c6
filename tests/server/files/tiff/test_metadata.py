"""What a TIFF says about its values, read and written."""

import itertools

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from groupconv_server import files
from groupconv_server.files.values import Fitted, as_request_dtype

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DRAWN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


def drawn(shape, dtype=np.uint8):
    """A picture with flat areas and edges, so that lossy formats keep it nearly."""
    coarse = RNG.integers(0, np.iinfo(dtype).max, (4, 5, *shape[2:]), dtype=dtype, endpoint=True)
    return np.repeat(np.repeat(coarse, -(-shape[0] // 4), 0), -(-shape[1] // 5), 1)[: shape[0], : shape[1]]


PHOTOMETRICS = {
    "minisblack": [1, 2, 3, 4, 5],
    "miniswhite": [1, 2],
    "rgb": [3, 4, 5, 6],
    "separated": [4, 5],
    "palette": [1],
}


@DRAWN
@given(
    photometric=st.sampled_from(sorted(PHOTOMETRICS)),
    dtype=st.sampled_from(["u1", ">u2", "<u2", "<f4", ">f4", "i2", "u4"]),
    planar=st.booleans(),
    alpha=st.sampled_from(["unspecified", "assocalpha", "unassalpha"]),
    orientation=st.integers(1, 8),
    layout=st.sampled_from([{}, {"tile": (16, 16)}, {"rowsperstrip": 5, "compression": "zlib"}, {"bigtiff": True}]),
    data=st.data(),
)
def test_a_tiff_has_the_same_values_and_says_the_same(
    tmp_path, photometric, dtype, planar, alpha, orientation, layout, data
):
    samples = data.draw(st.sampled_from(PHOTOMETRICS[photometric]))
    dtype = np.dtype(dtype)
    if photometric == "palette":
        dtype, planar = np.dtype("u1"), False
    elif photometric == "miniswhite":
        dtype = np.dtype(data.draw(st.sampled_from(["u1", ">u2", "u4"])))
    colors = {"rgb": 3, "separated": 4}.get(photometric, 1)
    x = drawn((37, 29, samples), np.dtype(dtype.newbyteorder("=").name.replace("float32", "int16"))).astype(dtype)
    big = dtype.byteorder == ">"
    layout = dict(layout)
    options = {"photometric": photometric, "extratags": [(274, 3, 1, orientation, True)], "resolution": (300, 150)}
    options |= {"iccprofile": SRGB, "resolutionunit": "INCH", "metadata": None}
    if samples > colors:
        options["extrasamples"] = ["unspecified"] * (samples - colors - 1) + [alpha]
    if samples > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    if photometric == "palette":
        options["colormap"] = RNG.integers(0, 256, (3, 256)).astype("u2") * 257
    stored = x.transpose(2, 0, 1) if planar and samples > 1 else x[..., 0] if samples == 1 else x
    path, made = tmp_path / "x.tif", tmp_path / "y.tif"
    with tifffile.TiffWriter(path, byteorder=">" if big else "<", bigtiff=layout.pop("bigtiff", False)) as file:
        file.write(np.ascontiguousarray(stored), **layout, **options)
    copied(path, made)
    want = x
    if photometric == "miniswhite":
        want = np.iinfo(x.dtype).max - x
    elif photometric == "palette":
        want = (options["colormap"].T[x[..., 0]] // 257).astype("u1")
    want = oriented(want, orientation)
    with tifffile.TiffFile(made) as file:
        page = file.pages[0]
        got = page.asarray()
        got = got.transpose(1, 2, 0) if planar and samples > 1 else got.reshape(want.shape)
        np.testing.assert_array_equal(got, want)
        turned = orientation >= 5
        assert page.photometric.name == {"miniswhite": "MINISBLACK", "palette": "RGB"}.get(
            photometric, photometric.upper()
        )
        assert [e.name.lower() for e in page.extrasamples] == options.get("extrasamples", [])
        assert samples == 1 or int(page.planarconfig) == (2 if planar else 1)
        assert page.iccprofile == SRGB
        assert page.get_resolution("INCH") == ((150, 300) if turned else (300, 150))


def oriented(pixels, orientation):
    """By Pillow: (Y, X, C) upright."""
    positions = np.arange(pixels.shape[0] * pixels.shape[1], dtype=np.int32).reshape(pixels.shape[:2])
    image = Image.fromarray(positions)
    image.getexif()[0x0112] = orientation
    moved = np.asarray(ImageOps.exif_transpose(image))
    return pixels.reshape(-1, *pixels.shape[2:])[moved]


@pytest.mark.parametrize("target", ["y.tif", "y.ome.tif", "y.ome.zarr"])
def test_the_distance_of_planes_goes_along(tmp_path, target):
    x = drawn((20, 30, 1), np.uint16)[..., 0]
    about = {"axes": "ZYX", "unit": "um", "spacing": 2.5}
    tifffile.imwrite(tmp_path / "x.tif", np.stack([x] * 4), imagej=True, resolution=(4, 8), metadata=about)
    _, created = copied(tmp_path / "x.tif", tmp_path / target)
    assert created.notes == ()
    with files.open_input(tmp_path / target) as again:
        sizes = again.metadata.pixel_sizes
        assert {a: sizes[a][1] for a in "ZYX"} == dict.fromkeys("ZYX", "µm")
        np.testing.assert_allclose([sizes[a][0] for a in "ZYX"], [2.5, 0.125, 0.25], rtol=1e-6)
    if target == "y.tif":
        with tifffile.TiffFile(tmp_path / target) as file:
            assert file.imagej_metadata["spacing"] == 2.5
            np.testing.assert_array_equal(file.asarray(), [x] * 4)


GEO = [
    (33550, "d", 3, (10.0, 10.0, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 300000.0, 5000000.0, 0.0), True),
    (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), True),
    (34737, "s", 0, "UTM zone 33N|", True),
]


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"planarconfig": "separate"}])
@pytest.mark.parametrize("name", ["y.tif", "y.ome.tif"])
def test_a_geotiff_keeps_its_georeference(tmp_path, samples, options, name):
    if samples == 1:
        options = {k: v for k, v in options.items() if k != "planarconfig"}
    shape = (samples, 40, 50) if "planarconfig" in options else (40, 50, samples) if samples > 1 else (40, 50)
    x = RNG.integers(0, 4000, shape, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", x, photometric="minisblack", extratags=GEO, **options)
    _, created = copied(tmp_path / "x.tif", tmp_path / name)
    assert created.notes == ()
    with tifffile.TiffFile(tmp_path / name) as file:
        assert [file.pages[0].tags[tag[0]].value for tag in GEO] == [tag[3] for tag in GEO]


def test_a_georeference_that_is_not_kept_is_named(tmp_path):
    x = RNG.integers(0, 4000, (40, 50), dtype=np.uint16)
    tags = [*GEO, (42113, "s", 0, "-9999", True)]
    tifffile.imwrite(tmp_path / "x.tif", x, photometric="minisblack", extratags=tags)
    opened, created = copied(tmp_path / "x.tif", tmp_path / "y.npy")
    assert created.notes == (".npy holds no georeference: left out",)
    assert [note for note in opened.notes if "no-data value -9999" in note]
    assert opened.metadata.filtered(1, 1, 2).georeference == ()
    tifffile.imwrite(tmp_path / "turned.tif", x, photometric="minisblack", extratags=[*GEO, (274, "H", 1, 6, True)])
    opened, _ = copied(tmp_path / "turned.tif", tmp_path / "y.tif")
    assert [note for note in opened.notes if "georeference does not fit" in note]


def test_what_a_tiff_says_and_no_output_holds_is_told(tmp_path):
    x = RNG.integers(0, 99, (2, 3, 9, 10), dtype="u2")
    plain = {
        "description": "exposure 10 ms",
        "datetime": True,
        "extratags": [(42112, 2, None, "<GDALMetadata/>", True)],
    }
    tifffile.imwrite(tmp_path / "plain.tif", x[0, 0], **plain)
    about = {"axes": "TCYX", "Info": "scope", "finterval": 2.5, "unit": "um", "Labels": ["a"] * 6}
    tifffile.imwrite(tmp_path / "ij.tif", x, imagej=True, resolution=(5, 5), metadata=about)
    channel = {"Name": ["a", "b", "c"], "Color": [255, 65280, 7]}
    about = {"axes": "TCYX", "Description": "cells", "Channel": channel, "Plane": {"DeltaT": [0.1] * 6}}
    tifffile.imwrite(tmp_path / "x.ome.tif", x, metadata=about)
    tifffile.imwrite(tmp_path / "nothing.tif", x[0, 0])
    want = {
        "plain.tif": "ImageDescription, DateTime, GDAL metadata",
        "ij.tif": "ImageJ's Info, ImageJ's Labels",
        "x.ome.tif": "OME's Image Description, OME's Pixels Plane, OME's Channel Color",
    }
    for name, words in want.items():
        with files.open_input(tmp_path / name) as opened:
            assert opened.notes == (f"the output does not keep: {words}",)
    with files.open_input(tmp_path / "nothing.tif") as opened:
        assert opened.notes == ()


def test_the_time_between_frames_is_kept(tmp_path):
    x = RNG.integers(0, 99, (4, 9, 10), dtype="u2")
    about = {"axes": "TYX", "finterval": 2.5, "unit": "um"}
    tifffile.imwrite(tmp_path / "x.tif", x, imagej=True, resolution=(5, 5), metadata=about)
    copied(tmp_path / "x.tif", tmp_path / "y.tif")
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        assert file.imagej_metadata["finterval"] == 2.5
