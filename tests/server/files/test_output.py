"""Outputs are complete or absent, whatever happens while they are written."""

import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import zarr

from groupconv.errors import InvalidArgumentError
from groupconv_server import files
from groupconv_server.files.output import replaced

FORMATS = ["y.npy", "y.tif", "y.ome.tif", "y.zarr", "y.h5", "y.png"]


def write(path, x, rows=64):
    with files.create_output(path, x.shape, x.dtype) as out:
        for at in range(0, x.shape[2], rows):
            stop = min(x.shape[2], at + rows)
            out.array[0, :, at:stop] = x[0, :, at:stop]


def read(path):
    with files.open_input(path) as opened:
        return np.asarray(opened.array[0, :, 0 : opened.array.shape[2]])


@pytest.mark.parametrize("name", FORMATS)
def test_an_error_leaves_the_old_output_and_nothing_else(tmp_path, name):
    old = np.full((1, 1, 300, 270), 7, np.uint8)
    write(tmp_path / name, old)

    def begun():
        with files.create_output(tmp_path / name, old.shape, old.dtype) as out:
            out.array[0, :, 0:256] = old[0, :, 0:256] + 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begun()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(read(tmp_path / name), old[0])


@pytest.mark.parametrize("name", FORMATS)
def test_an_output_replaces_its_own_input(tmp_path, name):
    x = np.random.default_rng(0).integers(0, 200, (1, 1, 300, 270), dtype=np.uint8)
    write(tmp_path / name, x)
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / name
    link.symlink_to(f"../{name}")
    with (
        files.open_input(tmp_path / name) as opened,
        files.create_output(link, x.shape, x.dtype) as out,
    ):
        for at in range(0, 300, 50):
            out.array[0, :, at : at + 50] = opened.array[0, :, at : at + 50] + 1
    np.testing.assert_array_equal(read(tmp_path / name), x[0] + 1)
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", name]


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_an_error_that_leaves_the_old_output(tmp_path, name):
    """A limit on the size of files stands for the disk: both are an OSError of the write."""
    noise = np.random.default_rng(0).integers(0, 255, (1, 1, 1200, 1000), dtype=np.uint8)
    write(tmp_path / name, noise[:, :, :100])
    program = f"""
import resource, sys, numpy as np
from pathlib import Path
from groupconv_server import files
noise = np.random.default_rng(0).integers(0, 255, (1, 1, 1200, 1000), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000) if {name!r} == "y.zarr" else (300_000, 300_000))
try:
    with files.create_output(Path({str(tmp_path / name)!r}), noise.shape, noise.dtype) as out:
        for at in range(0, 1200, 100):
            out.array[0, :, at:at + 100] = noise[0, :, at:at + 100]
except OSError as error:
    sys.exit(f"refused: {{error}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:9]) == (1, "refused: "), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(read(tmp_path / name), noise[0, :, :100])


def test_an_array_in_an_hdf5_file_leaves_the_others(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["raw"], file["group/labels"] = np.ones((8, 9), "f4"), np.arange(6)
        file["raw"].attrs["unit"] = "counts"
    x = np.full((1, 1, 8, 9), 3, np.float32)
    for inside in ("soft", "group/soft", "raw"):
        write(f"{tmp_path}/x.h5:/{inside}", x)
    with h5py.File(tmp_path / "x.h5") as file:
        assert sorted(file) == ["group", "raw", "soft"]
        np.testing.assert_array_equal(file["group/labels"], np.arange(6))
        assert all((file[name][...] == 3).all() for name in ("soft", "group/soft", "raw"))
    size = (tmp_path / "x.h5").stat().st_size
    write(f"{tmp_path}/x.h5:/soft", x)
    assert (tmp_path / "x.h5").stat().st_size <= size + 4096  # the space of the old array is used again
    for inside in ("group", "raw/below"):
        with pytest.raises(InvalidArgumentError, match="output: expected a new path in the file"):
            write(f"{tmp_path}/x.h5:/{inside}", x)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InvalidArgumentError, match="output: expected an HDF5 file"):
        write(tmp_path / "text.h5", x)
    assert (tmp_path / "text.h5").read_text() == "no HDF5"


def test_a_target_keeps_its_mode_and_a_new_one_has_the_usual_one(tmp_path):
    old, new = tmp_path / "old.npy", tmp_path / "new.npy"
    old.touch(0o640)
    for path in (old, new):
        write(path, np.zeros((1, 1, 4, 4), np.uint8))
    mask = os.umask(0)
    os.umask(mask)
    assert [path.stat().st_mode & 0o777 for path in (old, new)] == [0o640, 0o666 & ~mask]


def test_what_cannot_be_replaced_is_refused_before_anything_is_written(tmp_path):
    x = np.zeros((1, 1, 4, 4), np.uint8)
    with pytest.raises(InvalidArgumentError, match="output: expected a path in a folder that exists"):
        write(tmp_path / "none" / "y.npy", x)
    (tmp_path / "y.npy").mkdir()
    with pytest.raises(IsADirectoryError, match=r"y\.npy"):
        write(tmp_path / "y.npy", x)
    (tmp_path / "y.zarr").touch()
    with pytest.raises(InvalidArgumentError, match="a new path, or a Zarr array"):
        write(tmp_path / "y.zarr", x)


def test_what_lies_in_or_around_a_zarr_array_is_kept(tmp_path):
    x = np.zeros((1, 1, 4, 4), np.uint8)
    write(tmp_path / "array.zarr", x)
    with pytest.raises(InvalidArgumentError, match="output: expected a path in a folder or a Zarr group"):
        write(tmp_path / "array.zarr" / "inside", x)
    write(tmp_path / "image.ome.zarr", x)
    write(tmp_path / "image.ome.zarr", x + 1)
    zarr.open_group(tmp_path / "image.ome.zarr").create_group("labels")
    with pytest.raises(InvalidArgumentError, match="output: expected a new path"):
        write(tmp_path / "image.ome.zarr", x)
    assert read(tmp_path / "image.ome.zarr").max() == 1


def test_the_leftovers_of_a_killed_process_go_and_those_in_use_stay(tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from groupconv_server.files.output import replaced
with replaced(Path({str(tmp_path / "y.npy")!r})) as path:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    (killed,) = tmp_path.iterdir()
    with replaced(tmp_path / "y.npy") as first:
        assert not killed.exists()
        first.write_text("first")
        with replaced(tmp_path / "y.npy") as second:
            second.write_text("second")
        assert (tmp_path / "y.npy").read_text() == "second"
        assert first.exists()
    assert (tmp_path / "y.npy").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["y.npy"]


def test_a_folder_is_exchanged_where_the_file_system_can_and_moved_where_not(tmp_path, monkeypatch):
    from groupconv_server.files import output

    x = np.zeros((1, 1, 4, 4), np.uint8)
    write(tmp_path / "y.zarr", x)
    monkeypatch.setattr(output, "RENAME_EXCHANGE", 1 << 30)  # a flag that no file system knows: EINVAL
    write(tmp_path / "y.zarr", x + 1)
    assert zarr.open(str(tmp_path / "y.zarr"))[...].max() == 1
    assert [p.name for p in tmp_path.iterdir()] == ["y.zarr"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_output(tmp_path, number):
    with pytest.raises(OSError, match=r"out\.npy") as raised, replaced(tmp_path / "out.npy"):
        raise OSError(number, os.strerror(number))
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "out.npy"))


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "out.png").mkdir()
    with pytest.raises(OSError, match=r"out\.png") as raised, replaced(tmp_path / "out.png") as new:
        new.write_text("done")
    assert (raised.value.filename, raised.value.filename2) == (str(tmp_path / "out.png"), None)


def test_a_file_that_no_disk_holds_is_an_error_with_its_name(tmp_path):
    with pytest.raises(OSError, match=r"y\.npy") as raised:
        files.create_output(tmp_path / "y.npy", (1, 1, 10**8, 10**10), np.dtype("f4")).__enter__()
    assert raised.value.filename == str(tmp_path / "y.npy")
    assert list(tmp_path.iterdir()) == []
