"""The .npy files of streams: opened, created, refused."""

import errno
import os
import resource

import numpy as np
import pytest

import groupconv
from groupconv.errors import DataLossError, InvalidArgumentError


@pytest.mark.parametrize("x", [np.arange(24.0).reshape(2, 3, 4), np.arange(24, dtype=">u2").reshape(2, 12).T])
def test_a_file_is_read_by_parts(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    with groupconv.open_npy(str(tmp_path / "x.npy")) as array:
        assert (array.shape, array.dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(array[1, 1:3], x[1, 1:3])
        np.testing.assert_array_equal(np.asarray(array), x)
        os.truncate(tmp_path / "x.npy", 140)
        with pytest.raises(DataLossError, match="became shorter"):
            array[:]


def test_a_file_is_created_and_filled_by_parts(tmp_path):
    path = tmp_path / "y.npy"
    with groupconv.create_npy(path, (2, 3, 4), ">i2") as y:
        y[1, :, 1:3] = np.arange(6).reshape(3, 2)
        np.testing.assert_array_equal(y[1, 2], [0, 4, 5, 0])
    wanted = np.zeros((2, 3, 4), ">i2")
    wanted[1, :, 1:3] = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(np.load(path), wanted, strict=True)


@pytest.mark.parametrize(
    "array",
    [np.array([None]), np.zeros(2, [("a", "u1")]), np.zeros(2, [("é", "u1")])],
    ids=["objects", "fields", "unicode fields"],
)
def test_what_is_no_array_of_numbers_is_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InvalidArgumentError):
        groupconv.open_npy(tmp_path / "x.npy")


def test_what_is_no_file_of_numpy_is_refused(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"hello")
    with pytest.raises(InvalidArgumentError, match=r"saved by numpy.save, got 'x.npy \("):
        groupconv.open_npy(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError):
        groupconv.open_npy(tmp_path / "none.npy")


def test_a_file_that_the_disk_does_not_hold_is_an_error_before_it_is_written(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            groupconv.create_npy(tmp_path / "y.npy", (2**21,), "u1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
