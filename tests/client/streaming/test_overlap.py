"""An output that lies where the input does: what arrives must not replace rows that are still read."""

import numpy as np
import pytest

from groupconv import ConvSpec, Step, calls
from groupconv.errors import InvalidArgumentError
from groupconv.streaming.npy import create_npy, open_npy
from groupconv.streaming.overlap import overlaps
from groupconv.streaming.stream import transfer

STEPS = [Step(np.ones((1, 1, 3, 3), np.float32), None, ConvSpec(padding=1))]


def shifted(memory):
    return memory[:4096].reshape(1, 1, 64, 64), memory[64:].reshape(1, 1, 64, 64)


def test_views_of_the_same_memory_overlap():
    x, out = shifted(np.zeros(4096 + 64, np.float32))
    assert overlaps(x, out)
    assert overlaps(x, x[..., ::-1])
    assert overlaps(x, np.zeros_like(x)) is False
    assert overlaps([x], None) is False


def test_maps_of_one_file_overlap(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), np.float32))
    np.save(tmp_path / "y.npy", np.zeros((1, 1, 8, 8), np.float32))
    (tmp_path / "link.npy").symlink_to("x.npy")
    x, y, link = (np.load(tmp_path / f"{name}.npy", mmap_mode="r+") for name in ("x", "y", "link"))
    assert overlaps(x, link[:, :, 1:])
    assert not overlaps(x, y)


def test_arrays_of_one_file_that_is_opened_twice_overlap(tmp_path):
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["b"] = np.zeros((2, 1, 8, 8), np.float32)
        assert overlaps(file["a"], file["/a"])
        assert not overlaps(file["a"], file["b"])
    zarr.create_array(str(tmp_path / "x.zarr"), shape=(1, 8, 8), dtype="f4")
    assert overlaps(*(zarr.open_array(str(tmp_path / "x.zarr"), mode="r+") for _ in range(2)))


def test_a_stream_refuses_an_output_that_is_its_input():
    x, out = shifted(np.zeros(4096 + 64, np.float32))
    for other in (x, out):
        with pytest.raises(InvalidArgumentError, match="out: expected an array apart from the input"):
            transfer(x, STEPS, out=other)


def test_a_new_file_in_the_place_of_an_input_leaves_that_readable(tmp_path):
    old = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    np.save(tmp_path / "x.npy", old)
    (tmp_path / "link.npy").symlink_to("x.npy")
    with open_npy(tmp_path / "x.npy") as x, create_npy(tmp_path / "link.npy", x.shape) as y:
        assert not overlaps(x, y)
        y[:] = x[:] * 2
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), old * 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.npy", "x.npy"]
    with pytest.raises(OSError, match=r"\[Errno"):
        create_npy(tmp_path / "x.npy", (2**60,))  # no disk has so much
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), old * 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.npy", "x.npy"]


def test_a_convolution_in_place_that_becomes_a_stream_reads_a_copy():
    """Small ones are messages, so that in place is allowed; large ones have to give the same."""
    x = np.arange(1.0, 2**21 + 1, dtype=np.float32).reshape(1, 1, 2**11, 2**10)
    with pytest.raises(StopIteration) as end:
        next(calls.output(None, x, STEPS, {"out": x}))
    row = x[0, :, 7].copy()
    x[...] = 0
    np.testing.assert_array_equal(end.value.value.source.rows(7, 8)[0], row)
