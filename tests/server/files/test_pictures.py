"""Pictures keep their look: what Pillow and tifffile see in a copy is what they see in the original.

The copy is made as `groupconv conv` makes it, without the convolution: rows are read, travel and are written.
"""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from groupconv.errors import InvalidArgumentError
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


def look(path, mode="RGBA"):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert(mode)).astype(int)


def drawn(shape, dtype=np.uint8):
    """A picture with flat areas and edges, so that lossy formats keep it nearly."""
    coarse = RNG.integers(0, np.iinfo(dtype).max, (4, 5, *shape[2:]), dtype=dtype, endpoint=True)
    return np.repeat(np.repeat(coarse, -(-shape[0] // 4), 0), -(-shape[1] // 5), 1)[: shape[0], : shape[1]]


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"]
TOLERANCE = {"JPEG": 30, "GIF": 30}


@DRAWN
@given(
    mode=st.sampled_from(MODES),
    source=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]),
    target=st.sampled_from([".png", ".tif", ".webp", ".bmp", ".jpg", ".gif"]),
    orientation=st.integers(1, 8),
    transparent=st.booleans(),
)
def test_a_picture_of_pillow_looks_the_same(tmp_path, mode, source, target, orientation, transparent):
    pixels = drawn((29, 23, 4))
    image = Image.fromarray(pixels[..., 0].astype("u2") * 257) if mode == "I;16" else Image.fromarray(pixels)
    if mode not in ("I;16", "RGBA"):
        image = image.convert("LA" if mode == "LA" else "RGB").convert(mode)
    options = {"dpi": (300, 150)}
    if source in ("PNG", "JPEG", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    if mode == "P" and transparent:
        options["transparency"] = 3
    if source == "JPEG":
        options |= {"quality": 98, "subsampling": 0}
    path = tmp_path / f"x.{source.lower()}"
    try:
        image.save(path, source, **options)
    except (OSError, ValueError, KeyError):
        assume(False)
    try:
        _, created = copied(path, tmp_path / f"y{target}")
    except InvalidArgumentError as error:
        if (error.field, mode) != ("output", "I;16") and (error.field, mode, source) != ("input", "PA", "TIFF"):
            raise
        return  # refused by name
    want, got = look(path), look(tmp_path / f"y{target}")
    if mode == "I;16":  # Pillow shows these only as 8 bits, clipped
        want, got = (look(p, "I") // 257 for p in (path, tmp_path / f"y{target}"))
    assert want.shape == got.shape
    if any("alpha" in line for line in created.left_out):
        want[..., 3] = 255
    opaque = want[..., 3] > 0 if want.ndim == 3 else np.ones(want.shape, bool)
    lossy = max(TOLERANCE.get(source, 0), TOLERANCE.get({".jpg": "JPEG", ".gif": "GIF"}.get(target), 0))
    allowed = 255 if target == ".gif" else max(2, lossy)
    if want.ndim == 3 and target != ".gif":
        np.testing.assert_allclose(got[..., 3], want[..., 3], atol=2)
    assert np.abs(got - want)[opaque].max() <= allowed
    if target == ".gif":
        assert np.abs(got - want)[opaque].mean() < 12
    with Image.open(tmp_path / f"y{target}") as made:
        assert getattr(made, "n_frames", 1) == 1


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


@DRAWN
@given(channels=st.integers(1, 4), data=st.data())
def test_sixteen_bits_of_png_stay(tmp_path, channels, data):
    import imagecodecs

    x = (
        drawn((12, 14, channels), np.uint16)
        if data.draw(st.booleans())
        else RNG.integers(0, 65536, (12, 14, channels)).astype("u2")
    )
    path = tmp_path / "x.png"
    path.write_bytes(imagecodecs.png_encode(x[..., 0] if channels == 1 else x))
    target = data.draw(st.sampled_from(["y.png", "y.tif", "y.npy"]))
    opened, created = copied(path, tmp_path / target)
    assert opened.alpha == (channels in (2, 4))
    assert not created.left_out
    if target == "y.npy":
        np.testing.assert_array_equal(np.load(tmp_path / target)[0].transpose(1, 2, 0), x)
    else:
        read = (
            tifffile.imread(tmp_path / target)
            if target == "y.tif"
            else imagecodecs.png_decode((tmp_path / target).read_bytes())
        )
        np.testing.assert_array_equal(read.reshape(x.shape), x)


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


@pytest.mark.parametrize("source", ["gif", "png", "webp"])
@pytest.mark.parametrize("target", ["gif", "png", "webp", "tif"])
def test_frames_of_an_animation_stay(tmp_path, source, target):
    frames = [Image.fromarray(drawn((16, 20, 3)) // 64 * 64) for _ in range(3)]
    options = {"save_all": True, "append_images": frames[1:], "duration": [100, 200, 300], "loop": 0}
    frames[0].save(tmp_path / f"x.{source}", **options, **({"lossless": True} if source == "webp" else {}))
    copied(tmp_path / f"x.{source}", tmp_path / f"y.{target}")
    with Image.open(tmp_path / f"x.{source}") as before, Image.open(tmp_path / f"y.{target}") as after:
        assert after.n_frames == 3
        for n in range(3):
            before.seek(n), after.seek(n)
            before.load(), after.load()
            np.testing.assert_allclose(
                np.asarray(after.convert("RGBA")).astype(int), np.asarray(before.convert("RGBA")), atol=2
            )
            if target != "tif":
                assert after.info["duration"] == before.info["duration"] == 100 * (n + 1)
    with pytest.raises(InvalidArgumentError, match="output: expected"):
        copied(tmp_path / f"x.{source}", tmp_path / "y.jpg")


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


def test_a_broken_picture_is_one_line(tmp_path):
    image = Image.fromarray(drawn((200, 300, 3)))
    for suffix, kind in [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"), (".gif", "GIF"), (".bmp", "BMP")]:
        data = io.BytesIO()
        image.save(data, kind)
        path = Path(tmp_path / f"x{suffix}")
        path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
        with pytest.raises(InvalidArgumentError, match="input: expected an image file"):
            files.open_input(path).__enter__()


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


def test_colors_that_are_multiplied_by_alpha_look_the_same(tmp_path):
    x = drawn((20, 30, 4))
    x[..., :3] = x[..., :3].astype(int) * x[..., 3:] // 255
    tifffile.imwrite(tmp_path / "x.tif", x, photometric="rgb", extrasamples=["assocalpha"])
    copied(tmp_path / "x.tif", tmp_path / "y.png")
    want, got = look(tmp_path / "x.tif"), look(tmp_path / "y.png")
    np.testing.assert_array_equal(got[..., 3], want[..., 3])
    np.testing.assert_allclose(got[want[..., 3] > 0], want[want[..., 3] > 0], atol=1)
