"""Compiled kernels on disk, which processes that compile at the same time share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import groupconv_worker

COMPILE = """
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from groupconv_worker.cpu.kernels import layout, rows
for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
    layout.weave(dtype)
with ThreadPoolExecutor(4) as pool:
    asked = [pool.submit(rows.kernel, np.dtype(np.float32), 1, 1, 1, 1, 1 + i % 2, 1, 1, 1, 1, 0) for i in range(8)]
    assert len({one.result() for one in asked}) == 2
"""


def test_no_two_kernels_share_an_index(tmp_path):
    """Numba's index of several is written without a lock: of two processes, one would call the other's kernel."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True, timeout=300)
    indices, kernels = list(tmp_path.rglob("*.nbi")), list(tmp_path.rglob("*.nbc"))
    assert len([index for index in indices if "weave" in index.name]) == 2
    assert len([index for index in indices if "kernel.locals.rows" in index.name]) == 2
    assert len(indices) == len(kernels)


WEAVE = """
import numpy as np
from groupconv_worker.cpu.kernels import layout
layout.weave(np.dtype(np.float32))
"""


def test_a_kernel_is_compiled_again_when_another_file_it_is_built_from_changed(tmp_path):
    package = tmp_path / "groupconv_worker"
    shutil.copytree(Path(groupconv_worker.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def compiled() -> dict[Path, int]:
        subprocess.run([sys.executable, "-c", WEAVE], env=environment, check=True, timeout=300)
        found = list(package.rglob("*.nbc"))
        assert any("weave" in path.name for path in found)
        return {path: path.stat().st_mtime_ns for path in found}

    first = compiled()
    assert compiled() == first
    with (package / "cpu/kernels/simd.py").open("a") as file:
        file.write("\n# changed\n")
    again = compiled()
    assert again.keys() == first.keys()
    assert all(again[path] > first[path] for path in first)
