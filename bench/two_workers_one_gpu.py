"""Two workers on one GPU: do both compute, is memory shared out as promised, and what do two give for many requests?

    python bench/two_workers_one_gpu.py [--layer alexnet_conv2] [--batch 32] [--seconds 5]

Needs a GPU, CuPy and Ray. A server with `--workers 1`, then one with `--workers 2 --worker-gpus 0.5`; four callers.
"""

import argparse
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

import groupconv
from groupconv_server.layers.catalogue import layer_named
from groupconv_worker.cuda.engine import why_unavailable

CALLERS = 4


def main() -> None:
    """Print a line for each server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", default="alexnet_conv2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--dry-run", action="store_true", help="only read the options")
    options = parser.parse_args()
    if options.dry_run:
        return
    if reason := why_unavailable() or ("" if find_spec("ray") else "Ray is not installed"):
        print(f"skipped: {reason}")
        return
    for arguments in (("--workers", "1"), ("--workers", "2", "--worker-gpus", "0.5")):
        with serving(*arguments) as address, groupconv.connect(address, timeout=60) as client:
            devices = [worker.device for worker in client.status().workers]
            rate = requests_a_second(client, options)
            print(f"{' '.join(arguments)}: {rate:.1f} requests/s; {'; '.join(devices)}; {client.status().trouble}")


@contextmanager
def serving(*arguments: str) -> Any:
    """The address of a server."""
    command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--engine", "cuda"]
    command += ["--executor", "ray", *arguments]  # workers of the local executor share one process, and its memory
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"\S+:\d+$", process.stdout.readline().strip())
        assert found is not None, "the server did not start"
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)


def requests_a_second(client: groupconv.Client, options: argparse.Namespace) -> float:
    """Answers of a resident layer to several callers at once."""
    layer = layer_named(options.layer)
    x, w, b = layer.arrays()
    x = np.concatenate([x] * options.batch)
    counts = [0] * CALLERS
    with client.load_layer("two-workers", w, b, layer.spec) as loaded:
        for _ in range(4):
            loaded(x)
        until = time.perf_counter() + options.seconds

        def call(i: int) -> None:
            while time.perf_counter() < until:
                loaded(x)
                counts[i] += 1

        threads = [threading.Thread(target=call, args=(i,)) for i in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(counts) / options.seconds


if __name__ == "__main__":
    main()
