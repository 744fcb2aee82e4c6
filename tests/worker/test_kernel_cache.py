"""Compiled kernels on disk, which processes that compile at the same time share."""

import os
import subprocess
import sys

COMPILE = """
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from groupconv_worker.kernels import layout, rows
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
