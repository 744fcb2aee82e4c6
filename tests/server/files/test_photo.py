"""Pictures of all modes of Pillow, read and written."""

import io
import itertools
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from groupconv.errors import InvalidArgumentError
from groupconv_server import files
from groupconv_server.files.values import Fitted, as_request_dtype

RNG = np.random.default_rng(0)
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


def leave_out_alpha(pixels, created):
    """Change the alpha of pixels to what a format keeps of it."""
    if any("alpha" in line for line in created.left_out):
        pixels[..., 3] = 255
    if any("alpha is rounded" in line for line in created.notes):
        pixels[..., 3] = np.where(pixels[..., 3] < 128, 0, 255)


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
    leave_out_alpha(want, created)
    opaque = want[..., 3] > 0 if want.ndim == 3 else np.ones(want.shape, bool)
    lossy = max(TOLERANCE.get(source, 0), TOLERANCE.get({".jpg": "JPEG", ".gif": "GIF"}.get(target), 0))
    allowed = 255 if target == ".gif" else max(2, lossy)
    if want.ndim == 3:
        np.testing.assert_allclose(got[..., 3], want[..., 3], atol=2)
    assert np.abs(got - want)[opaque].max() <= allowed
    if target == ".gif" and opaque.any():
        assert np.abs(got - want)[opaque].mean() < 12
    with Image.open(tmp_path / f"y{target}") as made:
        assert getattr(made, "n_frames", 1) == 1


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


def test_a_broken_picture_is_one_line(tmp_path):
    image = Image.fromarray(drawn((200, 300, 3)))
    for suffix, kind in [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"), (".gif", "GIF"), (".bmp", "BMP")]:
        data = io.BytesIO()
        image.save(data, kind)
        path = Path(tmp_path / f"x{suffix}")
        path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
        with pytest.raises(InvalidArgumentError, match="input: expected an image file"):
            files.open_input(path).__enter__()


DEEP = np.full((6, 8, 3), 1000, np.uint16) + np.arange(8, dtype=np.uint16)[:, None] * 20
SGI = struct.pack(">hbbHHHHii4x80si404x", 474, 0, 2, 3, 8, 6, 3, 0, 65535, b"", 0)


def netpbm(kind, most, pixels):
    return f"{kind} 8 6 {most}\n".encode() + pixels.astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("name", "data", "want"),
    [
        ("x.ppm", netpbm("P6", 65535, DEEP), DEEP),
        ("x.ppm", netpbm("P6", 4095, DEEP), DEEP),
        ("x.pgm", netpbm("P5", 4095, DEEP[..., 0]), DEEP[..., 0]),
        ("x.pgm", netpbm("P5", 65535, DEEP[..., 0]), DEEP[..., 0]),
        ("x.jp2", imagecodecs.jpeg2k_encode(DEEP, level=0, codecformat="jp2"), DEEP),
        ("x.j2k", imagecodecs.jpeg2k_encode(DEEP, level=0, codecformat="j2k", bitspersample=12), DEEP),
        ("x.avif", imagecodecs.avif_encode(DEEP, level=100, bitspersample=12), DEEP),
        ("x.sgi", SGI + DEEP[::-1].transpose(2, 0, 1).astype(">u2").tobytes(), None),
        ("x.ppm", b"P3 1 1 65535 1000 1001 1002", None),
    ],
)
def test_no_bit_of_a_deep_picture_is_lost(tmp_path, name, data, want):
    (tmp_path / name).write_bytes(data)
    if want is None:
        with pytest.raises(InvalidArgumentError, match=f"input: expected 8 bits .*, got {name}, of more than 8 bits"):
            files.open_input(tmp_path / name).__enter__()
        return
    with files.open_input(tmp_path / name) as opened:
        assert opened.array.dtype == np.uint16
        got = opened.array[0, :, 0:6]
    want = want[None] if want.ndim == 2 else want.transpose(2, 0, 1)
    np.testing.assert_allclose(got.astype(int), want, atol=1)


def test_a_deep_picture_that_is_cut_off_is_refused(tmp_path):
    (tmp_path / "x.ppm").write_bytes(netpbm("P6", 65535, DEEP)[:-1])
    with pytest.raises(InvalidArgumentError, match=r"x\.ppm \(image file is truncated\)"):
        files.open_input(tmp_path / "x.ppm").__enter__()


def test_what_a_picture_says_and_no_output_holds_is_told(tmp_path):
    said = PngImagePlugin.PngInfo()
    said.add_text("Description", "a cell")
    said.add_text("XML:com.adobe.xmp", "<x/>")
    said.add(b"gAMA", struct.pack(">I", 100000))
    picture = Image.fromarray(drawn((6, 8, 3)))
    picture.save(tmp_path / "x.png", pnginfo=said)
    picture.save(tmp_path / "x.jpg", xmp=b"<x/>", comment=b"hello")
    picture.save(tmp_path / "plain.png")
    want = {
        "x.png": ("the output does not keep: XMP, text (Description), gamma 1",),
        "x.jpg": ("the output does not keep: XMP, comment",),
        "plain.png": (),
    }
    for name, notes in want.items():
        with files.open_input(tmp_path / name) as opened:
            assert opened.notes == notes


def test_an_animation_stays_one_in_a_gif(tmp_path):
    frames = [Image.fromarray(np.roll(drawn((9, 12, 3)), i, 1)) for i in range(3)]
    for name in ("x.gif", "x.avif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=[100, 50, 70])
        _, created = copied(tmp_path / name, tmp_path / "y.gif")
        assert created.left_out == ()
        with files.open_input(tmp_path / "y.gif") as opened:
            assert opened.metadata.durations == (100, 50, 70)


@pytest.mark.parametrize(("name", "words"), [("x.npz", "numpy.save"), ("x.czi", "bioformats2raw"), ("x.nii.gz", ".h5")])
def test_formats_of_others_are_refused_with_what_to_make_of_them(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(InvalidArgumentError, match=f"input: expected an image file, or .*{words}.*, got .{name}"):
        files.open_input(tmp_path / name).__enter__()
