"""A program for the emulator: `groupconv serve` in a process of its own, and one call that it answers."""

import os
import signal
import subprocess
import sys

import numpy as np

import groupconv
from groupconv import ConvSpec, resolve
from groupconv_worker.reference import convolve

SERVE = (
    *("-m", "groupconv_server", "serve", "--port", "0", "--executor", "local", "--workers", "1", "--threads", "2"),
    *("--engine", "cpu"),
)


def main() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 8, 20, 20), np.float32), rng.standard_normal((8, 2, 3, 3), np.float32)
    spec = ConvSpec(padding=1, groups=4)
    with subprocess.Popen([sys.executable, *SERVE], stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            with groupconv.connect(address, timeout=120) as client:
                got, device = client.convolve(x, w, spec=spec), client.status().workers[0].device
            server.send_signal(signal.SIGTERM)
            assert server.wait(120) == 0
        finally:
            server.kill()
    np.testing.assert_allclose(got, convolve(x, w, None, resolve(spec, x.shape, w.shape)), atol=1e-4)
    print("served by", device)


if __name__ == "__main__":
    main()
