"""HDF5 and the formats on top of it."""

import h5py
import numpy as np
import pytest

from groupconv.errors import InvalidArgumentError
from groupconv_server import files

RNG = np.random.default_rng(3)


def read(path, axes=None):
    with files.open_input(path, axes) as opened:
        layout = opened.array.layout
        samples = [opened.array[n, :, 0 : opened.array.shape[2]] for n in range(opened.array.shape[0])]
        return np.stack(samples), "".join(axis.kind for axis in layout.axes), " ".join(opened.notes)


def refused(path, *words):
    with pytest.raises(InvalidArgumentError) as raised:
        read(path)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("suffix", ["nc", "mat", "ims", "he5", "nc4", "h5"])
def test_hdf5_has_many_names(tmp_path, suffix):
    x = RNG.standard_normal((6, 7)).astype("f4")
    with h5py.File(tmp_path / f"x.{suffix}", "w", userblock_size=512 if suffix == "mat" else 0) as file:
        file["group/one"] = x
        if suffix == "mat":
            file["group/one"].attrs["MATLAB_class"] = np.bytes_("single")
            file["#refs#/a"] = x
    got, kinds, _ = read(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(got[0, 0], x.T if suffix == "mat" else x)
    assert kinds == ("XY" if suffix == "mat" else "YX")
    with h5py.File(tmp_path / f"x.{suffix}", "a") as file:
        file["group/two"] = x
    refused(tmp_path / f"x.{suffix}", f"HDF5 with x.{suffix}:/group/one, x.{suffix}:/group/two")
    refused(f"{tmp_path}/x.{suffix}:/group", f"HDF5 with x.{suffix}:/group/one")


@pytest.mark.parametrize("suffix", ["nc", "mat", "ims"])
def test_formats_that_say_more_than_an_array_are_not_written(tmp_path, suffix):
    with pytest.raises(InvalidArgumentError, match=r"HDF5 by its own name, x\.h5"):
        files.create_output(tmp_path / f"x.{suffix}", (1, 1, 4, 5), np.dtype("f4")).__enter__()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "begin", "words"),
    [
        ("x.nc", b"CDF\x01", "nccopy -k nc4"),
        ("x.mat", b"MATLAB 5.0 MAT-file", "-v7.3"),
        ("x.hdf", b"\x0e\x03\x13\x01", "h4toh5"),
        ("x.h5", b"text", "another format"),
        ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(40), "damaged or cut off"),
    ],
)
def test_older_formats_of_the_same_names_are_told_apart(tmp_path, name, begin, words):
    (tmp_path / name).write_bytes(begin + bytes(600))
    refused(tmp_path / name, "HDF5", words)


def test_an_array_without_values_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["empty"] = h5py.Empty("f")
    refused(f"{tmp_path}/x.h5:/empty", "which is empty")
