"""The identity kernel through a real server: values are equal in NumPy, pictures look equal in Pillow."""

import re
import warnings

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from groupconv_server.files.values import saturate

DRAWN = settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DTYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "g"]
CONTAINERS = ["npy", "tif", "h5", "zarr2", "zarr3"]


@pytest.fixture
def identity(conv, tmp_path):
    np.save(tmp_path / "one.npy", np.ones((1, 1), np.float32))
    return lambda source, target, *flags, code=0: conv(
        source, "-k", tmp_path / "one.npy", "-o", target, "--signed", *flags, code=code
    )


def put(path, x, container):
    """Write an array; False where the container has no such dtype."""
    try:
        if container == "npy":
            np.save(path, x)
        elif container == "tif":
            tifffile.imwrite(path, x, byteorder=">" if x.dtype.byteorder == ">" else "<", photometric="minisblack")
            return tifffile.imread(path).shape == x.shape  # it does not read all that it writes
        elif container == "h5":
            with h5py.File(path, "w") as file:
                file["data"] = x
        else:
            version = int(container[-1])
            made = zarr.create_array(
                str(path), shape=x.shape, dtype=x.dtype, chunks=(5, 6), zarr_format=version, overwrite=True
            )
            made[...] = x
    except (ValueError, TypeError, NotImplementedError, KeyError):
        return False
    return True


def got(path):
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return file["data"][...]
    if path.suffix == ".zarr":
        return zarr.open(str(path), mode="r")[...]
    return np.load(path) if path.suffix == ".npy" else tifffile.imread(path)


@DRAWN
@given(
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from("<>"),
    container=st.sampled_from(CONTAINERS),
    target=st.sampled_from(["y.npy", "y.tif", "y.h5", "y.zarr"]),
    same=st.booleans(),
    seed=st.integers(0, 99),
)
@example(dtype="i8", order="<", container="tif", target="y.zarr", same=True, seed=0)
@example(dtype="u8", order="<", container="tif", target="y.zarr", same=True, seed=0)
def test_values_of_any_dtype_and_byte_order_stay(identity, tmp_path, dtype, order, container, target, same, seed):
    dtype, rng = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind == "f":
        x = rng.standard_normal((11, 13)).astype(dtype)
    elif dtype.kind == "b":
        x = rng.random((11, 13)) < 0.5
    else:
        info = np.iinfo(dtype)
        x = rng.integers(max(info.min, -(2**53)), min(info.max, 2**53), (11, 13), dtype=dtype, endpoint=True)
    stored = x.astype(dtype.newbyteorder(order))
    suffix = container if container[0] != "z" else "zarr"
    assume(put(tmp_path / f"x.{suffix}", stored, container))
    held = np.dtype("u1") if dtype.kind == "b" else dtype
    impossible = (
        same and target in ("y.tif", "y.zarr") and (held.itemsize > 8 or (target == "y.tif" and held in ("i8", "u8")))
    )
    # a matter of the output's dtype only
    flags = ["--dtype", "same" if same else "float64"]
    done = identity(tmp_path / f"x.{suffix}", tmp_path / target, *flags, code=2 if impossible else 0)
    if impossible:
        assert re.search("dtype|data type", done.stderr)
        return
    want = x.astype(np.float64) * (255 if dtype.kind == "b" else 1)
    y = got(tmp_path / target)
    assert y.dtype == (held if same else np.float64)
    np.testing.assert_array_equal(y.squeeze(), want.astype(held) if same else want)
    if dtype.kind == "b":
        assert "bool: read as 0 and 255 of uint8" in done.stderr
    if dtype.itemsize == 8 and dtype.kind in "iu":
        assert "exact up to 2**53" in done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"wrote {tmp_path / target}: 11×13 (y, x) of {y.dtype.name}, ")


REFUSED = {
    "c8": "complex64",
    "c16": "complex128",
    "M8[s]": r"datetime64\[s\]",
    "m8[ms]": r"timedelta64\[ms\]",
    "U3": "strings",
    "S3": "strings",
    "O": "objects",
    "V4": "raw bytes",
}


@pytest.mark.parametrize("dtype", [*REFUSED, "records"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_other_dtypes_are_refused_by_name(identity, tmp_path, dtype, container):
    x = np.zeros((6, 7), [("a", "f4"), ("b", "i2")]) if dtype == "records" else np.zeros((6, 7), dtype)
    if dtype == "O":
        x[...] = "a"
    suffix = container if container[0] != "z" else "zarr"
    source = tmp_path / f"x.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Zarr, about dtypes without a specification
        if not put(source, x, container):
            pytest.skip("the container has no such dtype")
    (tmp_path / "y.npy").write_text("old")
    source = f"{source}:/data" if container == "h5" else source
    done = identity(source, tmp_path / "y.npy", code=2)
    name = "records with the fields a, b" if dtype == "records" else REFUSED[dtype].replace("\\", "")
    assert done.stderr.startswith("groupconv: input.dtype: expected bool, integers or floats")
    assert name in done.stderr or (container == "h5" and dtype in ("U3", "O")) or "strings" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "y.npy").read_text() == "old"


def test_integers_of_64_bits_saturate_exactly(identity, tmp_path):
    for dtype in ("int64", "uint64", "int32", "uint8"):
        info = np.iinfo(dtype)
        np.save(tmp_path / "x.npy", np.array([[-(2.0**70), 2.0**70, np.inf, -np.inf, np.nan, 5.5]]))
        identity(tmp_path / "x.npy", tmp_path / "y.npy", "--dtype", dtype)
        assert np.load(tmp_path / "y.npy").tolist() == [[info.min, info.max, info.max, info.min, 0, 6]]
        assert saturate(np.array([float(info.max), float(info.min)]), np.dtype(dtype)).tolist() == [info.max, info.min]


@DRAWN
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"]),
    source=st.sampled_from(["png", "jpg", "webp", "tif", "bmp"]),
    target=st.sampled_from(["png", "tif", "webp"]),
    orientation=st.integers(1, 8),
)
def test_pictures_look_equal(identity, tmp_path, mode, source, target, orientation):
    rng = np.random.default_rng(orientation)
    blocks = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    image = Image.fromarray(np.repeat(np.repeat(blocks, 8, 0), 6, 1))
    image = image if mode == "RGBA" else image.convert("LA" if mode == "LA" else "RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, made = tmp_path / f"x.{source}", tmp_path / f"y.{target}"
    try:
        image.save(path, exif=exif) if source in ("png", "jpg", "webp") else image.save(path)
    except (OSError, ValueError):
        assume(False)
    done = identity(path, made)
    with Image.open(path) as before, Image.open(made) as after:
        want, have = (np.asarray(ImageOps.exif_transpose(p).convert("RGBA")).astype(int) for p in (before, after))
    opaque = want[..., 3] > 0
    np.testing.assert_array_equal(have[..., 3], want[..., 3])
    np.testing.assert_allclose(have[opaque], want[opaque], atol=2)
    height, width = want.shape[:2]
    assert f"wrote {made}: {height}×{width}" in done.stdout


def test_what_a_format_cannot_hold_is_an_exit_code(identity, tmp_path):
    Image.new("RGBA", (20, 10), (10, 20, 30, 40)).save(tmp_path / "x.png", dpi=(300, 300))
    done = identity(tmp_path / "x.png", tmp_path / "y.jpg", code=1)
    assert done.stderr == "groupconv: JPEG holds no alpha: left out\n"
    assert done.stdout.startswith(f"wrote {tmp_path}/y.jpg: 10×20×3 (y, x, c) of uint8, ")
    done = identity(tmp_path / "x.png", tmp_path / "y.npy")
    assert done.stderr == "groupconv: .npy holds no resolution: left out\n"
    assert identity(tmp_path / "none.png", tmp_path / "y.npy", code=2).stderr == (
        f"groupconv: {tmp_path}/none.png: No such file or directory\n"
    )
