"""Memory that a kernel takes for itself is its own until it ends, when all threads share one heap, as a server's do."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import threading
import numpy as np
from compiled_networks import compiled, model
from onnx import helper

x, w = np.ones((16, 512), np.float32), np.ones((512, 640), np.float32)
network = compiled(model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": x.shape}, {"w": w}), {"x": x.shape})
over = threading.Event()

def spoil():
    while not over.is_set():
        for size in range(8, 1024, 8):
            np.full(size, np.nan, np.float32)

threads = [threading.Thread(target=spoil) for _ in range(2)]
for thread in threads:
    thread.start()
wrong = sum(not (network.run({"x": x})["y"] == 512).all() for _ in range(400))
over.set()
print("wrong:", wrong)
"""


def test_sums_of_a_product_are_not_written_by_others() -> None:
    tests = Path(__file__).parents[3]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tests), *filter(None, sys.path)]),
        "MALLOC_ARENA_MAX": "1",
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # what is free is anyone's at once
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "wrong: 0\n", done.stderr[-2000:]
