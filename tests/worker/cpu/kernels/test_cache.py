"""Compiled kernels on disk: used again, made again if they are damaged, and never a reason to fail."""

import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import groupconv_worker
from groupconv_worker.cpu.kernels import cache

COMPILE = """
import logging
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from groupconv_worker.cpu.kernels import layout, rows

logging.basicConfig()
for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
    layout.weave(dtype)
with ThreadPoolExecutor(4) as pool:
    asked = [pool.submit(rows.kernel, np.dtype(np.float32), 1, 1, 1, 1, 1 + i % 2, 1, 1, 1, 1, 0) for i in range(8)]
    assert len({one.result() for one in asked}) == 2
"""


def run(folder, program=COMPILE, **options):
    """What the program writes to its log, with kernels in this folder."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "GROUPCONV_TUNE": "off"}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, **options)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


def kernels(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob(f"*{cache.SUFFIX}")}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder of kernels, to be copied."""
    folder = tmp_path_factory.mktemp("compiled")
    assert "WARNING" not in run(folder)
    return folder


@pytest.fixture
def folder(compiled, tmp_path):
    shutil.copytree(compiled, tmp_path / "cache")
    return tmp_path / "cache"


def test_each_kernel_has_a_file_which_is_used_again(folder):
    first = kernels(folder)
    names = [path.name for path in first]
    assert len([name for name in names if name.startswith("layout.weave_")]) == 2
    assert len([name for name in names if name.startswith("rows.rows_")]) == 2
    run(folder)
    assert kernels(folder) == first


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: os.truncate(path, 40),
    "last byte gone": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a bit of the machine code": lambda path: flip(path, -1000),
    "a bit of the checksum": lambda path: flip(path, 0),
    "another kernel's checksum is right but no kernel": lambda path: path.write_bytes(
        cache.hashlib.sha256(b"x").digest() + b"x"
    ),
    "pickle of another thing": lambda path: path.write_bytes(
        cache.hashlib.sha256(pickle.dumps(1)).digest() + pickle.dumps(1)
    ),
}


def test_what_is_damaged_is_made_again(folder):
    """Each damage to another kernel, in one process: what it compiles does not depend on the others."""
    paths = sorted(kernels(folder))
    assert len(paths) >= 4
    for number, damage in enumerate(DAMAGE.values()):
        damage(paths[number % 4])
        if number % 4 == 3 or number == len(DAMAGE) - 1:
            said = run(folder)
            assert said.count("is damaged") == number % 4 + 1
            assert "is damaged" not in run(folder)
            assert sorted(kernels(folder)) == paths


def test_a_folder_in_a_kernels_place_is_left_alone(folder):
    path = min(kernels(folder))
    path.unlink()
    path.mkdir()
    assert run(folder).count("kept in memory alone") == 1


@pytest.mark.parametrize("where", [pytest.param("/dev/null/none", marks=pytest.mark.slow), "/proc/none"])
def test_where_no_folder_can_be_made_kernels_are_compiled_in_memory_and_one_line_says_so(where):
    assert run(where).count("compiled kernels are kept in memory alone") == 1


def test_a_disk_that_is_full_keeps_none_and_is_said_once(tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    assert run(tmp_path, preexec_fn=small_files).count("compiled kernels are kept in memory alone") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_others_may_write_to_is_neither_read_nor_written(folder):
    """What it holds is code that would run as this user."""
    (inside,) = folder.iterdir()
    inside.chmod(0o777)
    first = kernels(folder)
    for path in first:
        path.write_bytes(b"x")
    said = run(folder)
    assert "is damaged" not in said
    assert said.count("can be written by other users") == 1


def test_kernels_that_came_with_the_installation_are_used_and_left_as_they_are(folder, tmp_path):
    (inside,), first, own = folder.iterdir(), kernels(folder), tmp_path / "own"
    shipped = f"""
from pathlib import Path
from groupconv_worker.cpu.kernels import cache
cache.SHIPPED = Path({str(inside)!r})
"""
    run(own, shipped + COMPILE)
    assert not kernels(own)
    damaged = min(first)
    flip(damaged, -1000)
    assert run(own, shipped + COMPILE).count("is damaged") == 1
    assert [path.name for path in kernels(own)] == [damaged.name]


def test_the_folder_is_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CAPACITY", 1000)
    for number in range(20):
        path = tmp_path / f"{number}{cache.SUFFIX}"
        cache._write(path, b"x" * 90)
        os.utime(path, ns=(number, number))
        cache._make_room(tmp_path)
    assert sorted(int(path.stem) for path in tmp_path.iterdir()) == list(range(9, 20))


WEAVE = """
import numpy as np
from groupconv_worker.cpu.kernels import layout
layout.weave(np.dtype(np.float32))
"""


def test_a_kernel_is_compiled_again_when_another_file_it_is_built_from_changed(tmp_path, monkeypatch):
    package = tmp_path / "groupconv_worker"
    shutil.copytree(Path(groupconv_worker.__file__).parent, package)  # with its compiled modules: it keeps their times
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "cache"
    run(folder, WEAVE)
    first = kernels(folder)
    run(folder, WEAVE)
    assert kernels(folder) == first
    with (package / "cpu/kernels/simd.py").open("a") as file:
        file.write("\n# changed\n")
    run(folder, WEAVE)
    assert len(kernels(folder)) == 2 * len(first)
