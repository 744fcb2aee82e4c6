"""Pictures of all modes of Pillow, read and written."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

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
