"""Arrays that are written to files and read again, and files of other programs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from groupconv.errors import DataLossError, InvalidArgumentError
from groupconv_server import files
from groupconv_server.files import npy
from groupconv_server.files.metadata import Metadata

RNG = np.random.default_rng(0)


def pixels(shape, dtype):
    if np.dtype(dtype).kind == "f":
        return RNG.standard_normal(shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def write(path: Path, x, rows=37, *, alpha=False):
    with files.create_output(path, x.shape, x.dtype, Metadata(alpha="unassociated" if alpha else "")) as out:
        for n in range(x.shape[0]):
            for at in range(0, x.shape[2], rows):
                stop = min(x.shape[2], at + rows)
                out.array[n, :, at:stop] = x[n, :, at:stop]


def whole(array):
    return np.stack([array[n, :, 0 : array.shape[2]] for n in range(array.shape[0])])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 300, 270), (1, 3, 513, 40), (2, 5, 260, 257), (1, 2, 7, 30, 300)])
@pytest.mark.parametrize("name", ["x.tif", "x.ome.tif", "x.zarr", "x.h5", "x.npy"])
def test_every_format_gives_back_what_it_took(tmp_path, name, shape, dtype):
    x = pixels(shape, dtype)
    write(tmp_path / name, x)
    with files.open_input(tmp_path / name) as opened:
        assert (opened.array.shape, opened.array.dtype, opened.alpha) == (shape, x.dtype, False)
        np.testing.assert_array_equal(whole(opened.array), x)
        np.testing.assert_array_equal(opened.array[0, :, 3:5], x[0, :, 3:5])


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_photograph_keeps_its_alpha(tmp_path, name, channels):
    x = pixels((1, channels, 50, 40), "uint8")
    write(tmp_path / name, x, alpha=channels in (2, 4))
    with files.open_input(tmp_path / name) as opened:
        assert opened.alpha == (channels in (2, 4))
        np.testing.assert_array_equal(whole(opened.array), x)


def test_a_tiff_is_what_others_read(tmp_path):
    """Pillow and tifffile's own reader, a BigTIFF, tiles, and the axes of OME."""
    import imageio.v3 as iio
    import tifffile

    x = pixels((1, 3, 600, 500), "uint8")
    write(tmp_path / "x.tif", x)
    np.testing.assert_array_equal(iio.imread(tmp_path / "x.tif", plugin="pillow"), x[0].transpose(1, 2, 0))
    v = pixels((1, 1, 4, 20, 30), "uint16")
    write(tmp_path / "v.ome.tif", v)
    with tifffile.TiffFile(tmp_path / "v.ome.tif") as file:
        assert (file.is_ome, file.series[0].axes, file.pages[0].is_tiled) == (True, "ZYX", True)
        np.testing.assert_array_equal(file.asarray(), v[0, 0])


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (64, 64), "compression": "lzw"},
        {"tile": (128, 64), "compression": "jpeg", "bigtiff": True},
        {"rowsperstrip": 10, "compression": "zlib"},
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
    ],
)
def test_tiffs_of_others_are_read(tmp_path, options):
    import tifffile

    x = pixels((333, 210, 3), "uint8" if options.get("compression") == "jpeg" else "uint16")
    tifffile.imwrite(tmp_path / "x.tif", x, photometric="rgb", **options)
    want = tifffile.imread(tmp_path / "x.tif")
    with files.open_input(tmp_path / "x.tif") as opened:
        np.testing.assert_array_equal(whole(opened.array)[0].transpose(1, 2, 0), want)


def test_zarr_and_hdf5_of_others_are_read(tmp_path):
    import h5py
    import zarr

    x = pixels((5, 40, 30), "float32")
    group = zarr.create_group(tmp_path / "image.zarr")
    group.create_array("0", data=x, chunks=(1, 16, 16), shards=(1, 32, 32))
    group.create_array("1", data=x[:, ::2, ::2])
    axes = [{"name": a, "type": "space"} for a in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]}
    zarr.create_array(tmp_path / "old.zarr", data=x, zarr_format=2)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/raw"], file["a/other"] = x, x + 1
    for name, axes, shape in [
        ("image.zarr", None, (1, 1, 5, 40, 30)),
        ("image.zarr/1", "zyx", (1, 1, 5, 20, 15)),
        ("old.zarr", None, (1, 5, 40, 30)),
        ("x.h5:/a/raw", "tyx", (5, 1, 40, 30)),
    ]:
        with files.open_input(tmp_path / name, axes) as opened:
            assert opened.array.shape == shape
            want = x[:, ::2, ::2] if name.endswith("/1") else x
            np.testing.assert_array_equal(whole(opened.array).reshape(want.shape), want)
    with pytest.raises(InvalidArgumentError, match=r"HDF5 with x\.h5:/a/other, x\.h5:/a/raw"):
        files.open_input(tmp_path / "x.h5").__enter__()
    with pytest.raises(InvalidArgumentError, match="a new path, or a Zarr array"):
        files.create_output(tmp_path / "image.zarr" / "", (1, 1, 4, 4), np.dtype("f4")).__enter__()


@pytest.mark.parametrize("shape", ["(99999999999999999999, 9)", "(True, 80)", "(-1, 80)", "(4611686018427387904, 1)"])
def test_a_kernel_with_a_bad_header_is_refused(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    (tmp_path / "k.npy").write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(640))
    with pytest.raises(InvalidArgumentError, match=r"kernel: expected an array saved by numpy.save, got .*k\.npy"):
        npy.whole(tmp_path / "k.npy", "kernel")


def test_what_is_no_image_is_refused_with_its_name(tmp_path):
    for name in ("x.png", "x.tif", "x.npy"):
        (tmp_path / name).write_text("not a picture")
        with pytest.raises(InvalidArgumentError, match=rf"input: expected .*{name}"):
            files.open_input(tmp_path / name).__enter__()
    with pytest.raises(FileNotFoundError, match=r"none\.zarr"):
        files.open_input(tmp_path / "none.zarr")
    with pytest.raises(InvalidArgumentError, match="output: expected a known format"):
        write(tmp_path / "y.nothing", np.zeros((1, 1, 2, 2)))
    with pytest.raises(InvalidArgumentError, match=r"output: .*float64.*PNG"):
        write(tmp_path / "y.png", np.zeros((1, 1, 2, 2)))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", ["x.npy", "x.tif"])
def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(tmp_path, name, orientation):
    """Reading the lost pages of its memory map would end the process by SIGBUS."""
    import tifffile

    x, path = pixels((300, 270), "float32"), tmp_path / name
    if name == "x.npy":
        np.save(path, x)
    else:
        tifffile.imwrite(path, x, extratags=[(274, 3, 1, orientation, True)], metadata=None)
    with files.open_input(path) as opened:
        assert opened.array[0, :, 0:2].shape[1] == 2
        os.truncate(path, 1000)
        with pytest.raises(
            DataLossError, match=rf"input: expected \d+ bytes in {path}, got 1000: the file became shorter"
        ):
            opened.array[0, :, 200:210]


CUT = """
import os, sys
from pathlib import Path
from groupconv_server import files

path = Path(sys.argv[1])
try:
    with files.open_input(path) as opened:
        opened.array[0, :, 0:2]
        for part in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and p.suffix != ".json"]:
            os.truncate(part, part.stat().st_size // 3)
        opened.array[0, :, 3000:4000]
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["x.tif", "z.tif", "x.zarr", "x.h5"])
def test_chunks_that_are_lost_while_a_file_is_read_are_one_error(tmp_path, name):
    """Of many chunks that are read at once, all fail; the library would print the others when the process ends."""
    import tifffile

    x, path = np.random.default_rng(0).integers(0, 255, (4000, 4000), dtype=np.uint8), tmp_path / name
    if path.suffix == ".tif":
        tifffile.imwrite(path, x, tile=(128, 128), compression="zlib" if name == "z.tif" else None)
    else:
        write(path, x[None, None])
    done = subprocess.run([sys.executable, "-c", CUT, path], capture_output=True, text=True, timeout=60, check=True)
    expected = rf"values that can be decoded, got {name} \(.*\)"
    if name == "x.h5":  # it reads zeros
        expected = rf"\d+ bytes in {path}, got \d+: the file became shorter while it was read"
    assert re.fullmatch(rf"input: expected {expected}\n", done.stdout)
    assert not done.stderr


def test_an_empty_npy_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    path.touch()
    with pytest.raises(InvalidArgumentError, match=r"an array saved by numpy\.save"), files.open_input(path):
        pass
