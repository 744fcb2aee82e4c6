"""`groupconv conv`: every format in and out, against SciPy."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from groupconv.convolution.kernels import gaussian, kernel_named
from groupconv_server import files

RNG = np.random.default_rng(0)


def photo(path, shape=(40, 50, 3), dtype="uint8"):
    pixels = RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, tile=(16, 16), photometric="rgb" if shape[-1] == 3 else "minisblack")
    else:
        iio.imwrite(path, pixels)
    return pixels


def read(path):
    with files.open_input(path) as opened:
        return np.stack([opened.array[n, :, 0 : opened.array.shape[2]] for n in range(opened.array.shape[0])])


def blurred(x, sigma):
    """By SciPy, with the edge pixel repeated, of (..., H, W)."""
    taps = gaussian(sigma)
    for axis in (-2, -1):
        x = ndimage.correlate1d(x.astype(np.float64), taps, axis=axis, mode="nearest")
    return x


def saturated(y, dtype):
    return np.clip(np.rint(y), 0, np.iinfo(dtype).max)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("output", ["y.zarr", "y.tif", "y.h5", "y.npy", "y.png"])
def test_a_tiled_tiff_is_blurred_into_any_format(conv, tmp_path, dtype, output):
    x = photo(tmp_path / "x.tif", dtype=dtype).transpose(2, 0, 1)
    done = conv(tmp_path / "x.tif", "-k", "gaussian:2", "-o", tmp_path / output, "--dtype", "same", "--progress")
    assert f"y.{output[2:]}: 40×50×3 (y, x, c) of {dtype}, " in done.stdout.splitlines()[-1]
    y = read(tmp_path / output)[0]
    assert y.dtype == dtype
    want = blurred(x, 2)
    np.testing.assert_allclose(y, want, atol=0.51 if dtype == "uint8" else 0.6)  # rounded to integers


def test_values_stay_as_computed_unless_the_file_is_a_picture(conv, tmp_path):
    x = photo(tmp_path / "x.png").transpose(2, 0, 1)
    kept = dict.fromkeys(("y.npy", "y.zarr"), "float32") | dict.fromkeys(("y.tif", "y.png", "y.ppm"), "uint8")
    for name, dtype in kept.items():
        conv(tmp_path / "x.png", "-k", "sharpen", "-o", tmp_path / name)
        y = read(tmp_path / name)[0]
        want = np.stack([ndimage.correlate(c.astype(float), kernel_named("sharpen"), mode="nearest") for c in x])
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, want if dtype == "float32" else saturated(want, dtype))


def test_each_channel_has_its_kernel_and_alpha_is_carried_along(conv, tmp_path):
    x = photo(tmp_path / "x.png", (30, 31, 4)).transpose(2, 0, 1)
    conv(tmp_path / "x.png", "-k", "gaussian:1,gaussian:3,sharpen", "-o", tmp_path / "y.png")
    y = read(tmp_path / "y.png")[0]
    np.testing.assert_array_equal(y[3], x[3])
    for c, sigma in enumerate((1, 3)):
        np.testing.assert_allclose(y[c], blurred(x[c], sigma), atol=0.51)
    want = ndimage.correlate(x[2].astype(float), kernel_named("sharpen"), mode="nearest")
    np.testing.assert_array_equal(y[2], saturated(want, "uint8"))


def test_depthwise_separable_mixes_the_channels(conv, tmp_path):
    x = photo(tmp_path / "x.png", (30, 31, 4)).transpose(2, 0, 1)
    np.save(tmp_path / "mix.npy", [[0.5, 0.25, 0.25], [0, 0, 1]])
    flags = ("-k", "gaussian:1", "--depthwise-separable")
    conv(tmp_path / "x.png", *flags, tmp_path / "mix.npy", "-o", tmp_path / "y.npy")
    conv(tmp_path / "x.png", *flags, "luma", "-o", tmp_path / "grey.png")
    y, grey, soft = np.load(tmp_path / "y.npy").transpose(2, 0, 1), read(tmp_path / "grey.png")[0], blurred(x[:3], 1)
    np.testing.assert_allclose(y[0], np.tensordot([0.5, 0.25, 0.25], soft, 1), atol=1e-2)
    np.testing.assert_allclose(y[1], soft[2], atol=1e-2)
    np.testing.assert_array_equal(y[2], x[3])
    np.testing.assert_allclose(grey[0], np.tensordot([0.299, 0.587, 0.114], soft, 1), atol=0.52)
    np.testing.assert_array_equal(grey[1], x[3])


@pytest.mark.parametrize("output", ["y.ome.tif", "y.zarr", "y.h5"])
def test_volumes_are_blurred_along_three_axes(conv, tmp_path, output):
    v = RNG.standard_normal((9, 20, 22)).astype(np.float32)
    np.save(tmp_path / "v.npy", v)
    conv(tmp_path / "v.npy", "--axes", "zyx", "-k", "gaussian:1", "-o", tmp_path / output)
    want = ndimage.correlate1d(blurred(v, 1), gaussian(1), axis=0, mode="nearest")
    np.testing.assert_allclose(read(tmp_path / output)[0, 0], want, atol=1e-5)
    conv(tmp_path / "v.npy", "--axes", "zyx", "-k", "sobel-x", "-o", tmp_path / "planes.npy", "--signed")
    want = np.stack([ndimage.correlate(plane, kernel_named("sobel-x"), mode="nearest") for plane in v])
    np.testing.assert_allclose(np.load(tmp_path / "planes.npy"), want, atol=1e-5)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(server, tmp_path):
    """A BigTIFF twice as tall takes no more anonymous memory; what is mapped from files is the kernel's."""
    most = []
    for height in (14000, 30000):  # both long enough for what is in flight to be at its most
        row = np.arange(6000 * 3, dtype=np.uint8).reshape(1, 6000, 3)
        tiles = (np.broadcast_to(row[:, :256], (256, 256, 3)) for _ in range(-(-height // 256) * 24))
        tifffile.imwrite(
            tmp_path / "x.tif", tiles, shape=(height, 6000, 3), dtype=np.uint8, tile=(256, 256), bigtiff=True
        )
        command = [sys.executable, "-m", "groupconv_server", "conv", tmp_path / "x.tif", "-k", "gaussian:1"]
        command += ["-o", tmp_path / "y.zarr", "--dtype", "same", "-t", server.address]
        process, seen = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0
        while process.poll() is None:
            time.sleep(0.02)
            with contextlib.suppress(OSError, IndexError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                seen = max(seen, int(status.split("RssAnon:")[1].split()[0]))
        assert process.returncode == 0
        most.append(seen / 1024)
    assert most[1] < most[0] + 60, most  # MiB; the larger image has 515, 2.1 GiB as float32


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-k", "blur"], "groupconv: kernel: expected one of sobel-x"),
        (["-k", "sharpen,sharpen"], "groupconv: kernel: expected one name, or one for each of 3 channels"),
        (
            ["-k", "sharpen", "--depthwise-separable", "{}/w.npy"],
            "groupconv: depthwise-separable: expected shape (M, 3)",
        ),
        (["-k", "sharpen", "--dtype", "blue"], "groupconv: --dtype: expected same, or a dtype of numbers"),
        (["-k", "sharpen", "--axes", "yxq"], "groupconv: axes"),
        (["-k", "{}/w.npy"], "groupconv: kernel: expected shape (K, K), (C, K, K) or (M, C/g, K, K) for 3 channels"),
        (["-k", "sharpen", "--padding-mode", "wrap"], "groupconv: padding_mode"),
    ],
)
def test_mistakes_are_one_line(conv, tmp_path, flags, message):
    photo(tmp_path / "x.png")
    np.save(tmp_path / "w.npy", np.ones((5,)))
    flags = [flag.format(tmp_path) for flag in flags]
    done = conv(tmp_path / "x.png", "-o", tmp_path / "y.png", *flags, code=2)
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "y.png").exists()
