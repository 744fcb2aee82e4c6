"""`groupconv conv` leaves an old output alone until the new one is complete, however it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from groupconv_server import files
from groupconv_server.config import Config
from groupconv_server.server import Server
from waiting import until

RNG = np.random.default_rng(0)
FORMATS = ["y.npy", "y.tif", "y.zarr", "y.h5", "y.png"]
OLD, NEW = 7, 9


def command(source, output, address, *flags):
    return [
        *(sys.executable, "-m", "groupconv_server", "conv", source, "-o", output, "-t", address),
        *("-k", "gaussian:3", "--dtype", "same", *flags),
    ]


def put(path, value, shape=(1, 1, 1200, 1100)):
    with files.create_output(path, shape, np.dtype("u1")) as out:
        out.array[0, :, 0 : shape[2]] = np.full(shape[1:], value, np.uint8)


def values(path):
    """Those in the file, read whole: a file that is damaged is an error."""
    with files.open_input(path) as opened:
        x = np.asarray(opened.array[0, :, 0 : opened.array.shape[2]])
    return x.shape, np.unique(x).tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_a_server_that_does_not_answer_and_a_wrong_kernel_leave_the_old_output(tmp_path, name):
    put(tmp_path / name, OLD)
    np.save(tmp_path / "x.npy", np.full((50, 40), NEW, np.uint8))
    from typer.testing import CliRunner

    from groupconv_server.cli.app import app

    for address, kernel, code in [("localhost:1", "gaussian:2", 1), ("localhost:1", "nothing", 2)]:
        arguments = ["conv", tmp_path / "x.npy", "-k", kernel, "-o", tmp_path / name, "-t", address, "--timeout", "1"]
        assert CliRunner().invoke(app(), [str(a) for a in arguments]).exit_code == code
        assert values(tmp_path / name) == ((1, 1200, 1100), [OLD])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["x.npy", name])


@pytest.fixture(scope="module")
def slow_server():
    """One that needs minutes for what the test's own server does in seconds: a signal always comes in time."""
    with Server(Config(port=0, executor="local", workers=1, engine="reference")) as server:
        yield server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_old_output_and_nothing_else(slow_server, tmp_path, number):
    put(tmp_path / "y.zarr", OLD)
    np.save(tmp_path / "x.npy", np.full((40_000, 4000), NEW, np.uint8))
    address = slow_server.address
    process = subprocess.Popen(command(tmp_path / "x.npy", tmp_path / "y.zarr", address), stderr=subprocess.PIPE)
    until(lambda: list(tmp_path.glob(".y.zarr.*.part/y.zarr")), seconds=60)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert values(tmp_path / "y.zarr") == ((1, 1200, 1100), [OLD])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy", "y.zarr"]


def kill_at_random(server, folder, name, times, seed):
    """Kill the command at random moments of its run; the target is always the old or the new output."""
    source, target = folder / "x.npy", folder / name
    np.save(source, np.full((1200, 1100), NEW, np.uint8))
    began = time.monotonic()
    subprocess.run(command(source, target, server.address), check=True, capture_output=True)
    took = time.monotonic() - began
    new = values(target)
    for moment in np.random.default_rng(seed).uniform(0.3, 1.2, times) * took:
        put(target, OLD)
        old = values(target)
        process = subprocess.Popen(
            command(source, target, server.address), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert values(target) in (old, new)
    subprocess.run(command(source, target, server.address), check=True, capture_output=True)
    assert values(target) == new
    assert sorted(p.name for p in folder.iterdir()) == sorted(["x.npy", name])  # leftovers are gone


def test_a_killed_command_leaves_no_damaged_output(server, tmp_path):
    kill_at_random(server, tmp_path, "y.zarr", 2, 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FORMATS)
def test_twenty_killed_commands_leave_no_damaged_output(server, tmp_path, name):
    kill_at_random(server, tmp_path, name, 20, 1)


@pytest.mark.parametrize("name", ["x.npy", "x.tif", "x.zarr", "x.h5", "x.h5:/data", "x.png"])
@pytest.mark.parametrize("way", ["same", "relative", "symbolic", "hard"])
def test_an_output_may_be_its_input(conv, tmp_path, monkeypatch, name, way):
    file, colon, inside = name.partition(":")
    x = RNG.integers(0, 255, (1, 1, 300, 260), dtype=np.uint8)
    with files.create_output(tmp_path / name, x.shape, x.dtype) as out:
        out.array[0, :, 0:300] = x[0]
    monkeypatch.chdir(tmp_path)
    other = tmp_path / f"other{(tmp_path / file).suffix}"
    if way == "symbolic":
        other.symlink_to(file)
    elif way == "hard" and file == "x.zarr":
        return  # folders have no hard links
    elif way == "hard":
        other.hardlink_to(tmp_path / file)
    output = {"same": tmp_path / name, "relative": f"../{tmp_path.name}/./{name}"}.get(way, f"{other}{colon}{inside}")
    conv(tmp_path / name, "-k", "gaussian:0.1", "-o", output, "--dtype", "same")
    with files.open_input(Path(output)) as opened:
        np.testing.assert_array_equal(opened.array[0, :, 0:300], x[0])


def test_other_arrays_of_a_file_stay(conv, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["raw"], file["labels"] = np.full((32, 33), OLD, "f4"), np.arange(5)
    group = zarr.create_group(tmp_path / "x.zarr")
    group.create_array("raw", data=np.full((32, 33), OLD, "f4"))
    for output in ("x.h5:/soft", "x.h5:/raw", "x.h5", "x.zarr/soft"):
        source = "x.h5:/raw" if ".h5" in output else "x.zarr/raw"
        conv(tmp_path / source, "-k", "gaussian:1", "-o", tmp_path / output)
    with h5py.File(tmp_path / "x.h5") as file:
        assert sorted(file) == ["data", "labels", "raw", "soft"]
        assert np.allclose(file["raw"][...], OLD)
        np.testing.assert_array_equal(file["labels"], np.arange(5))
    assert sorted(name for name, _ in zarr.open(str(tmp_path / "x.zarr")).arrays()) == ["raw", "soft"]
